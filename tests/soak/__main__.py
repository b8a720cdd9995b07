"""Forks, kills, cancelled tasks and closed loops against a tiny model, and what is left of them."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import HumanMessage

from langchain_metaaligner import Aligner, MetaAlignerRunnable
from langchain_metaaligner.errors import MetaAlignerError, OverloadedError
from tests.unit_tests.tiny import WORDS, save

CHILD = 60  # seconds in which a forked process must have edited
# What grows first was seen in `overload` alone: the kept prefixes and the tokenizer's own cache,
# which each prompt fills, refused or not. Both are filled up before anything is measured. After
# that, eight rounds of 300 tasks left Python's objects as they were and added 6 MiB to the C
# library's heap and 10 MiB to the resident memory. The limit is three times that.
FULL = 6000  # prompts that fill the tokenizer's cache
GROWTH = 32 << 10  # KiB of memory that may be kept


class Soak:
    """What is done to one aligner, again and again, and how often it went well or failed.

    Args:
        checkpoint: The folder of a tiny model.
        seed: Decides what is done, in which order.
    """

    def __init__(self, checkpoint: Path, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self._random = random.Random(seed)
        options = {
            "model": str(checkpoint),
            "family": "hh-rlhf",
            "max_new_tokens": 24,
            "dtype": "float32",
            "max_queue": 32,
            "prefix_cache_bytes": 1 << 19,
        }
        self.aligner = Aligner(**options).load()
        for _ in range(FULL):
            self.aligner.engine.count_tokens(self.aligner.prompt(*self.item()))
        policy = FakeListChatModel(responses=["the answer is that you should not do this " * 4])
        step = MetaAlignerRunnable(**options, on_error="pass")
        self.chain = policy | step
        self.deeds: tuple[Callable[[], None], ...] = (
            self.edit_in_threads,
            self.cancel_tasks,
            self.close_a_loop,
            self.stream_a_chain,
            self.leave_streams,
            self.overload,
            self.fork,
            self.fork_and_kill,
        )

    def run(self, minutes: float) -> None:
        """Do something at random until the time is over."""
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end and not self.faults:
            deed = self._random.choice(self.deeds)
            deed()
            self.counts[deed.__name__] += 1

    def item(self) -> tuple[str, str, str]:
        words = self._random.choices(WORDS, k=12)
        return f"\n\nHuman: {' '.join(words[:6])}?\n\nAssistant:", " ".join(words[6:]), "humour"

    def edit(self) -> None:
        try:
            self.aligner.align(*self.item())
        except MetaAlignerError as error:  # a random model seldom ends its edits
            self.counts[type(error).__name__] += 1

    async def aedit(self) -> None:
        try:
            await self.aligner.aalign(*self.item())
        except MetaAlignerError as error:
            self.counts[type(error).__name__] += 1

    def edit_in_threads(self) -> None:
        threads = [threading.Thread(target=self.edit) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def cancel_tasks(self) -> None:
        async def main() -> None:
            tasks = [asyncio.ensure_future(self.aedit()) for _ in range(12)]
            await asyncio.sleep(self._random.random() * 0.05)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(main())

    def close_a_loop(self) -> None:
        loop = asyncio.new_event_loop()
        tasks = [loop.create_task(self.aedit()) for _ in range(4)]
        loop.run_until_complete(asyncio.sleep(self._random.random() * 0.02))
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()

    def stream_a_chain(self) -> None:
        async def read() -> None:
            async for _ in self.chain.astream([HumanMessage("hello")]):
                pass

        async def main() -> None:
            await asyncio.gather(*(read() for _ in range(6)))

        asyncio.run(main())

    def leave_streams(self) -> None:
        async def main() -> None:
            stream = self.chain.astream([HumanMessage("hello")])
            async for _ in stream:
                break
            edit = self.aligner.astream(*self.item())
            await anext(edit, None)

        asyncio.run(main())
        next(self.aligner.stream(*self.item()), None)

    def overload(self) -> None:
        async def main() -> None:
            await asyncio.gather(*(self.aedit() for _ in range(100)))

        before = self.counts[OverloadedError.__name__]
        asyncio.run(main())
        if self.counts[OverloadedError.__name__] == before:
            self.faults.append("none of 100 tasks was refused by a queue of 32")

    def fork(self) -> None:
        busy = threading.Thread(target=self.edit)
        busy.start()
        child = self._forked(lambda: (asyncio.run(self.aedit()), self.edit(), os._exit(0)))
        busy.join()
        end = time.monotonic() + CHILD
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < end:
            time.sleep(0.01)
        if ended[0] == 0:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            self.faults.append("a forked process did not edit in time")
        elif ended[1]:
            self.faults.append(f"a forked process ended with {ended[1]}")

    def fork_and_kill(self) -> None:
        child = self._forked(self._edit_for_ever)
        time.sleep(self._random.random() * 0.1)
        os.kill(child, self._random.choice((signal.SIGKILL, signal.SIGTERM)))
        os.waitpid(child, 0)

    def _edit_for_ever(self) -> None:
        while True:
            self.edit()

    def _forked(self, work: Callable[[], object]) -> int:
        child = os.fork()
        if not child:
            try:
                work()
            finally:
                os._exit(1)
        return child

    def check(self) -> None:
        """Find what is left, once everything has come to rest."""
        end = time.monotonic() + 10
        stats = self.aligner.engine.stats
        while time.monotonic() < end and (stats.calls or stats.has_thread or ours()):
            time.sleep(0.1)
            stats = self.aligner.engine.stats
        if stats.calls or stats.running or stats.waiting:
            self.faults.append(f"the queue is not empty: {stats}")
        if ours():
            self.faults.append(f"threads are left: {ours()}")


def ours() -> list[str]:
    """Names of this package's threads that are alive."""
    return [one.name for one in threading.enumerate() if one.name.startswith("metaaligner")]


def memory() -> int:
    """Memory of the process now, in KiB, without what only the allocator keeps."""
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 10


def main() -> int:
    """Run it and print what happened.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(save(Path(folder)), given.seed)
        soak.run(given.minutes / 5)  # caches and pools fill up first
        soak.check()
        before = memory()
        soak.run(given.minutes * 4 / 5)
        soak.check()
        grown = memory() - before
    if grown > GROWTH:
        soak.faults.append(f"memory has grown by {grown >> 10} MiB")
    for name, count in sorted(soak.counts.items()):
        print(f"{count:8} {name}")
    print(f"{grown / 1024:8.1f} MiB more memory after the first fifth")
    for fault in soak.faults:
        print(f"FAULT: {fault}", file=sys.stderr)
    return 1 if soak.faults else 0


if __name__ == "__main__":
    sys.exit(main())
