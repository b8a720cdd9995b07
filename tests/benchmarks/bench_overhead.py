"""What the package costs without a model: `python -m tests.benchmarks.bench_overhead`.

Every figure is a difference of CPU times, taken in turns in one process: a model with an aligner
behind it, whose engine gives answers back, against the model alone; and a chain without an aligner
before and after the capture is in place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tracers import context as tracing

from langchain_metaaligner import Edit, MetaAlignerRunnable, Request
from tests.benchmarks.labels import CAPTURE, CHAIN, CHUNKS, INVOKE, STREAM
from tests.benchmarks.pieces import finish, worker_parser

REPLY = ("A fine answer that goes on for a while. " * CHUNKS)[:CHUNKS]  # a chunk is one character
CALLS, ROUNDS = 50, 30


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
    """Microseconds of CPU time, round by round: differences, and what a plain chain takes."""
    llm = FakeListChatModel(responses=[REPLY])
    without = list(tracing._configure_hooks)  # the first aligner puts the capture in place
    aligned: Runnable = llm | MetaAlignerRunnable(engine=Echo())
    hooks = list(tracing._configure_hooks)
    plain: Runnable = llm | RunnableLambda(lambda reply: reply)

    def streamed(chain: Runnable) -> Callable[[], object]:
        return lambda: list(chain.stream("hi"))

    cases: dict[str, tuple[list[object], Callable[[], object]]] = {
        "alone": (hooks, lambda: llm.invoke("hi")),
        "alone streamed": (hooks, streamed(llm)),
        "plain, no capture": (without, lambda: plain.invoke("hi")),
        "plain": (hooks, lambda: plain.invoke("hi")),
        "aligned": (hooks, lambda: aligned.invoke("hi")),
        "aligned streamed": (hooks, streamed(aligned)),
    }
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, (active, call) in cases.items():
            tracing._configure_hooks[:] = active
            taken[name].append(microseconds(call))
    tracing._configure_hooks[:] = hooks

    def difference(one: str, other: str) -> list[float]:
        return [b - a for a, b in zip(taken[one], taken[other], strict=True)]

    return {
        INVOKE: difference("alone", "aligned"),
        STREAM: difference("alone streamed", "aligned streamed"),
        CAPTURE: difference("plain, no capture", "plain"),
        CHAIN: taken["plain"],
    }


def main() -> None:
    given = worker_parser(__doc__).parse_args()
    finish(given, {"microseconds": measure()})


if __name__ == "__main__":
    main()
