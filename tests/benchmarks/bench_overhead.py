"""What the package costs without a model: `python -m tests.benchmarks.bench_overhead`.

Every figure is a difference of medians of CPU time, taken in turns in one process: a chain with a
no-op aligner against the same chain with an identity lambda, and a chain without an aligner
before and after the capture is in place.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tracers import context as tracing

from langchain_metaaligner import Edit, MetaAlignerRunnable, Request
from langchain_metaaligner.integrations import capture as capturing

REPLY = "A fine answer of twenty words that goes on for a little while and then comes to its end."
CALLS, ROUNDS = 200, 30
INVOKE = "aligner over identity lambda, invoke"
STREAM = "aligner over identity lambda, stream"
CAPTURE = "the capture, in a chain without an aligner"
CHAIN = "a chain of two steps, invoke"


class Echo:
    """Gives every draft back."""

    def edit(self, requests: Sequence[Request]) -> list[Edit]:
        return [Edit(request.draft) for request in requests]

    async def aedit(self, requests: Sequence[Request]) -> list[Edit]:
        return self.edit(requests)

    def stream(self, request: Request) -> Iterator[str]:
        yield request.draft


def microseconds(call: Callable[[], object]) -> float:
    start = time.thread_time()
    for _ in range(CALLS):
        call()
    return (time.thread_time() - start) / CALLS * 1e6


def measure() -> dict[str, list[float]]:
    """Microseconds of CPU time: quartiles of the differences, and what a plain chain takes."""
    llm = FakeListChatModel(responses=[REPLY])
    plain: Runnable = llm | RunnableLambda(lambda reply: reply)
    aligned: Runnable = llm | MetaAlignerRunnable(engine=Echo())
    hooks = list(tracing._configure_hooks)
    without = [hook for hook in hooks if hook[0] is not capturing._hook]

    def streamed(chain: Runnable) -> Callable[[], object]:
        return lambda: list(chain.stream("hi"))

    cases: dict[str, tuple[list[object], Callable[[], object]]] = {
        "plain, no capture": (without, lambda: plain.invoke("hi")),
        "plain": (hooks, lambda: plain.invoke("hi")),
        "aligned": (hooks, lambda: aligned.invoke("hi")),
        "plain streamed": (hooks, streamed(plain)),
        "aligned streamed": (hooks, streamed(aligned)),
    }
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, (active, call) in cases.items():
            tracing._configure_hooks[:] = active
            taken[name].append(microseconds(call))
    tracing._configure_hooks[:] = hooks

    def difference(one: str, other: str) -> list[float]:
        pairs = [b - a for a, b in zip(taken[one], taken[other], strict=True)]
        return statistics.quantiles(pairs, n=4)

    return {
        INVOKE: difference("plain", "aligned"),
        STREAM: difference("plain streamed", "aligned streamed"),
        CAPTURE: difference("plain, no capture", "plain"),
        CHAIN: statistics.quantiles(taken["plain"], n=4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="where the figures go, as JSON")
    given = parser.parse_args()
    found = measure()
    if given.out:
        given.out.write_text(json.dumps(found), encoding="utf-8")
        return
    for name, (low, mid, high) in found.items():
        print(f"{name:44} {mid:6.1f} µs  (quartiles {low:.1f} to {high:.1f})")


if __name__ == "__main__":
    main()
