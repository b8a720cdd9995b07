"""Lets one body of code serve synchronous and asynchronous callers.

A body is a generator. It yields what to wait for and gets the result back; it may also yield
pieces of text for a consumer. It never waits itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wait(Generic[T]):
    """Something that takes time.

    Attributes:
        now: Waits for it in the calling thread.
        soon: Waits for it without blocking the event loop.
    """

    now: Callable[[], T]
    soon: Callable[[], Awaitable[T]]


def at_once(work: Callable[[], T]) -> Wait[T]:
    """Wait for work that takes no time worth speaking of.

    Args:
        work: The function to call.

    Returns:
        The wait, which calls the function.
    """

    async def soon() -> T:
        return work()

    return Wait(work, soon)


@dataclass(frozen=True, slots=True)
class Ended(Generic[T]):
    """The end of a body or of a stream.

    Attributes:
        value: Its result.
    """

    value: T


Body = Generator[Wait[Any] | str, Any, T]
"""Yields what to wait for and pieces of text; returns its result."""


def run(body: Body[T]) -> T:
    """Run a body to its end, wait for whatever it waits for, and discard its pieces.

    Args:
        body: The body.

    Returns:
        Its result.
    """
    while not isinstance(step := advance(body), Ended):
        pass
    return step.value


async def arun(body: Body[T]) -> T:
    """Run a body to its end without blocking the event loop; as `run`."""
    while not isinstance(step := await aadvance(body), Ended):
        pass
    return step.value


def advance(body: Body[T]) -> str | Ended[T]:
    """Run a body up to its next piece.

    Args:
        body: The body.

    Returns:
        The piece, or the end.
    """
    move: Callable[[], Any] = body.__next__
    while True:
        try:
            step = move()
        except StopIteration as end:
            return Ended(end.value)
        if isinstance(step, str):
            return step
        try:
            move = _sending(body, step.now())
        except BaseException as error:  # noqa: BLE001 - the body decides
            move = _throwing(body, error)


async def aadvance(
    body: Body[T], turn: AbstractContextManager[None] | None = None
) -> str | Ended[T]:
    """Run a body up to its next piece without blocking the event loop; as `advance`.

    Args:
        body: The body.
        turn: Held while the body runs, but not while it waits, so that others may close it.

    Returns:
        The piece, or the end.
    """
    held = nullcontext() if turn is None else turn
    move: Callable[[], Any] = body.__next__
    while True:
        try:
            with held:
                step = move()
        except StopIteration as end:
            return Ended(end.value)
        if isinstance(step, str):
            return step
        try:
            move = _sending(body, await step.soon())
        except BaseException as error:  # noqa: BLE001 - the body decides
            move = _throwing(body, error)


def _sending(body: Body[T], result: Any) -> Callable[[], Any]:
    return lambda: body.send(result)


def _throwing(body: Body[T], error: BaseException) -> Callable[[], Any]:
    return lambda: body.throw(error)
