"""Lets one body of code serve synchronous and asynchronous callers.

A body is a generator. It yields what to wait for and gets the result back; it may also yield
pieces of text for a consumer. It never waits itself.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wait(Generic[T]):
    """Something that takes time.

    Attributes:
        now: Waits for it in the calling thread.
        soon: Waits for it without blocking the event loop.
        repeated: Whether it is waited for again and again, until an `Ended` comes. The pieces
            before that go to the consumer, and the body gets the end's value.
        stop: Stops for good what is waited for, without blocking the event loop.
    """

    now: Callable[[], T]
    soon: Callable[[], Awaitable[T]]
    repeated: bool = False
    stop: Callable[[], Awaitable[None]] | None = None


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
    steps = Steps(body)
    while not isinstance(step := steps.advance(), Ended):
        pass
    return step.value


async def arun(body: Body[T]) -> T:
    """Run a body to its end without blocking the event loop; as `run`."""
    steps = Steps(body)
    while not isinstance(step := await steps.aadvance(), Ended):
        pass
    return step.value


@dataclass(eq=False)
class Steps(Generic[T]):
    """A body that is run from piece to piece."""

    _body: Body[T] = field(repr=False)
    # A repeated wait that has not ended.
    _wait: Wait[Any] | None = field(default=None, init=False, repr=False)
    # Stops what a task has waited for last.
    _stop: Callable[[], Awaitable[None]] | None = field(default=None, init=False, repr=False)

    def advance(self) -> str | Ended[T]:
        """Run the body up to its next piece.

        Returns:
            The piece, or the end.
        """
        body, wait = self._body, self._wait
        move: Callable[[], Any] = body.__next__
        while True:
            try:
                step = move() if wait is None else wait
            except StopIteration as end:
                return Ended(end.value)
            if isinstance(step, str):
                return step
            try:
                made = step.now()
                if step.repeated:
                    if isinstance(made, str):
                        self._wait = step
                        return made
                    made = made.value
                move = partial(body.send, made)
            except BaseException as error:  # noqa: BLE001 - the body decides
                move = partial(body.throw, error)
            wait = self._wait = None

    async def aadvance(self, turn: AbstractContextManager[Any] | None = None) -> str | Ended[T]:
        """Run the body up to its next piece without blocking the event loop; as `advance`.

        Args:
            turn: Held while the body runs, but not while it waits, so that others may close it.

        Returns:
            The piece, or the end.
        """
        held = nullcontext() if turn is None else turn
        body, wait = self._body, self._wait
        move: Callable[[], Any] = body.__next__
        while True:
            try:
                with held:
                    step = move() if wait is None else wait
            except StopIteration as end:
                return Ended(end.value)
            if isinstance(step, str):
                return step
            self._stop = step.stop or self._stop
            try:
                made = await step.soon()
                if step.repeated:
                    if isinstance(made, str):
                        self._wait = step
                        return made
                    made = made.value
                move = partial(body.send, made)
            except BaseException as error:  # noqa: BLE001 - the body decides
                move = partial(body.throw, error)
            wait = self._wait = None

    def close(self) -> None:
        """Close the body, which stops what it waits for."""
        self._wait = None
        self._body.close()


@dataclass(eq=False)
class TextStream(Steps[T]):
    """The pieces of a body, for `for` or `async for`.

    Attributes:
        result: The body's result; `None` until it has ended without an error.
    """

    result: T | None = field(default=None, init=False)
    # A generator can't be closed while another thread is running it.
    _turn: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        with self._turn:
            step = self.advance()
        if isinstance(step, Ended):
            self._ends(step)
            raise StopIteration
        return step

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        step = await self.aadvance(self._turn)
        if isinstance(step, Ended):
            self._ends(step)
            raise StopAsyncIteration
        return step

    def close(self) -> None:
        """Stop the body; returns once it has stopped."""
        with self._turn:
            super().close()

    async def aclose(self) -> None:
        """Stop the body without blocking the event loop; as `close`."""
        if self._stop is not None:
            await self._stop()
        self.close()

    def _ends(self, end: Ended[T]) -> None:
        # A body that has ended or was closed before has no result any more.
        if end.value is not None:
            self.result = end.value
