"""Makes calls that may hang: several at a time, each within its time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from langchain_metaaligner.engines import threads

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Called(Generic[T]):
    """What came of a call.

    Attributes:
        place: The call's number, from 0.
        result: What it returned; an error if it raised one, `Late` if it went past its time.
        seconds: Time that it took.
    """

    place: int
    result: T | Exception
    seconds: float


def call_each(
    calls: int, call: Callable[[int], T], *, at_once: int, seconds: float | None
) -> Iterator[Called[T]]:
    """Make calls in threads, and yield what came of each as soon as it is known.

    A call that goes past its time keeps its thread, but not its place: the next one begins. When
    the iterator is closed, nothing more is begun, and nothing is waited for.

    Args:
        calls: How many calls.
        call: Makes the call of a number from 0.
        at_once: How many are made at the same time.
        seconds: Time for each; `None` for no limit.

    Yields:
        What came of each call, in the order in which they end.

    Raises:
        BaseException: A call raised what is no `Exception`, such as `KeyboardInterrupt`.
    """
    most = math.inf if seconds is None else seconds
    running: dict[Future[T], tuple[int, float]] = {}
    begun = 0
    while begun < calls or running:
        while begun < calls and len(running) < at_once:
            made = threads.start(partial(call, begun), "metaaligner-judge")
            running[made] = begun, time.monotonic()
            begun += 1
        eldest = min(at for _, at in running.values())
        left = None if seconds is None else max(0.0, eldest + seconds - time.monotonic())
        ended, _ = wait(running, left, FIRST_COMPLETED)
        now = time.monotonic()
        for made in ended or [one for one, (_, at) in running.items() if now - at > most]:
            place, at = running.pop(made)
            yield Called(place, _outcome(made), now - at)


def _outcome(made: Future[Any]) -> Any:
    if not made.done():
        return threads.Late()
    try:
        return made.result()
    except Exception as error:  # noqa: BLE001 - told as the call's result
        return error
