"""Stops work that is no longer wanted: after a deadline, a cancelled task or a closed stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable
from typing import Any, Self

from langchain_metaaligner.engines.base import Edit, Request
from langchain_metaaligner.engines.processes import Lock
from langchain_metaaligner.engines.waits import Body, Ended, Steps
from langchain_metaaligner.errors import EditTimeout


class Cancelled(Exception):  # noqa: N818 - not an error: nobody is waiting for it
    """The caller no longer wants the result."""


class Cancellation:
    """Tells before each forward pass whether the work is still wanted.

    Args:
        requests: Requests that are worked on together; the earliest deadline applies to all.
        cancelled: An event that the caller sets when the result is no longer wanted.

    Attributes:
        deadline: Time at which the work must stop, in seconds of `time.monotonic()`; `None` for no
            limit.
    """

    def __init__(
        self, requests: Iterable[Request] = (), cancelled: threading.Event | None = None
    ) -> None:
        deadlines = [r.deadline for r in requests if r.deadline is not None]
        self.deadline = min(deadlines, default=None)
        self._cancelled = cancelled or threading.Event()

    @classmethod
    def longest(cls, requests: Iterable[Request]) -> Cancellation:
        """Use the latest deadline, for requests whose deadlines are each checked separately.

        Args:
            requests: The requests.

        Returns:
            The cancellation; it has no deadline if one of the requests has none.
        """
        requests = list(requests)
        last = max(requests, key=lambda one: one.deadline or float("inf"), default=None)
        return cls([last] if last else [])

    def cancel(self) -> None:
        """Record that the result is no longer wanted."""
        self._cancelled.set()

    def check(self, doing: str = "the edit was being made") -> None:
        """Raise an error if the work is no longer wanted.

        Args:
            doing: What is happening now, for the message.

        Raises:
            EditTimeout: The deadline has passed.
            Cancelled: The caller no longer wants the result.
        """
        if self._cancelled.is_set():
            raise Cancelled
        left = self.left()
        if left is not None and left <= 0:
            raise self.too_late(doing)

    @property
    def over(self) -> bool:
        """Whether the work was cancelled or its deadline has passed."""
        left = self.left()
        return self._cancelled.is_set() or (left is not None and left <= 0)

    def left(self) -> float | None:
        """Tell how much time is left.

        Returns:
            Seconds; `None` if there is no deadline.
        """
        return None if self.deadline is None else self.deadline - time.monotonic()

    def too_late(self, doing: str) -> EditTimeout:
        """Make the error for a deadline that has passed.

        Args:
            doing: What was happening, for the message.

        Returns:
            The error.
        """
        return EditTimeout(
            f"The edit reached its time limit while {doing}. Allow more time with timeout=..., or"
            " shorten the answer. A second try may be faster once the model is loaded and idle."
        )


class EditStream(Generator[str, None, Edit]):
    """The pieces of one edit, for `for` or `async for`; any thread may close it.

    Args:
        body: Yields the pieces and what they wait for, and returns the edit.
        cancellation: The cancellation that `body` checks between passes.
    """

    def __init__(self, body: Body[Edit], cancellation: Cancellation) -> None:
        self._body = body
        self._steps = Steps(body)
        self._cancellation = cancellation
        self._busy = Lock()

    def send(self, value: None) -> str:
        """Make the next piece.

        Args:
            value: `None`.

        Returns:
            The piece.
        """
        with self._busy:
            try:
                step = self._steps.advance()
            except Cancelled:
                raise StopIteration from None  # another thread has closed the stream
        if isinstance(step, Ended):
            raise StopIteration(step.value)
        return step

    def throw(self, *error: Any) -> str:
        """Raise an error inside the generator, which ends the edit.

        Args:
            *error: As for any generator.

        Returns:
            Nothing: the error is always raised again.
        """
        with self._busy:
            self._body.throw(*error)
        raise StopIteration

    def close(self) -> None:
        """Stop the work within one forward pass, and wait until it has stopped."""
        self._cancellation.cancel()
        with self._busy:
            self._body.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        try:
            step = await self._steps.aadvance(self._busy)
        except Cancelled:
            raise StopAsyncIteration from None  # another task has closed the stream
        if isinstance(step, Ended):
            raise StopAsyncIteration(step.value)
        return step

    async def aclose(self) -> None:
        """Stop the work within one forward pass, without waiting for it."""
        self.close()
