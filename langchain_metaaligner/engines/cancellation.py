"""Stops work that nobody waits for any longer: deadlines, cancelled tasks, closed streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from langchain_metaaligner.engines.base import Edit, Request
from langchain_metaaligner.errors import EditTimeout

_GLANCE = 0.05  # seconds between two looks at whether a caller still waits for a lock


class Cancelled(Exception):  # noqa: N818 - nobody sees it: the caller has left
    """The caller no longer wants the result."""


class Cancellation:
    """Says before each forward pass whether the work is still wanted.

    Args:
        requests: The requests that are worked on together; the first deadline counts for all.
        cancelled: Set when nobody waits any more, where somebody else says so.
    """

    def __init__(
        self, requests: Iterable[Request] = (), cancelled: threading.Event | None = None
    ) -> None:
        deadlines = [r.deadline for r in requests if r.deadline is not None]
        self._deadline = min(deadlines, default=None)
        self._cancelled = cancelled or threading.Event()

    @classmethod
    def longest(cls, requests: Iterable[Request]) -> Cancellation:
        """Go by the last of several deadlines, each of which counts for its request alone.

        Args:
            requests: The requests.

        Returns:
            The cancellation; without an end where one of them has none.
        """
        requests = list(requests)
        last = max(requests, key=lambda one: one.deadline or float("inf"), default=None)
        return cls([last] if last else [])

    def cancel(self) -> None:
        """Note that nobody waits any more."""
        self._cancelled.set()

    def check(self, doing: str = "the edit was being made") -> None:
        """Go on only if the work is still wanted.

        Args:
            doing: What is going on, for the message.

        Raises:
            EditTimeout: The time is up.
            Cancelled: Nobody waits any more.
        """
        if self._cancelled.is_set():
            raise Cancelled
        left = self.left()
        if left is not None and left <= 0:
            raise self.too_late(doing)

    @property
    def over(self) -> bool:
        """Whether nobody waits any more, or the time is up."""
        left = self.left()
        return self._cancelled.is_set() or (left is not None and left <= 0)

    def left(self) -> float | None:
        """Tell how much time is left.

        Returns:
            Seconds, or `None` where nothing limits it.
        """
        return None if self._deadline is None else self._deadline - time.monotonic()

    def too_late(self, doing: str) -> EditTimeout:
        """Make the error for a deadline that has passed.

        Args:
            doing: What is going on, for the message.

        Returns:
            The error.
        """
        return EditTimeout(
            f"The edit's time was up while {doing}. Allow more (timeout=...), or shorten the"
            " answer; a second try may be quicker once the model is loaded and idle."
        )

    @contextmanager
    def holding(self, lock: threading.Lock, doing: str) -> Iterator[None]:
        """Hold a lock; waiting for it ends as the work itself would.

        Args:
            lock: The lock.
            doing: What is going on while it is waited for, for the message.

        Raises:
            EditTimeout: The time is up.
            Cancelled: Nobody waits any more.
        """
        self.check(doing)
        while not lock.acquire(timeout=_GLANCE):
            self.check(doing)
        try:
            yield
        finally:
            lock.release()


class EditStream(Generator[str, None, Edit]):
    """The pieces of one edit, as a generator that any thread may close.

    Args:
        pieces: Makes the pieces and returns the edit.
        cancellation: What `pieces` looks at between passes.
    """

    def __init__(self, pieces: Generator[str, None, Edit], cancellation: Cancellation) -> None:
        self._pieces = pieces
        self._cancellation = cancellation
        self._busy = threading.Lock()

    def send(self, value: None) -> str:
        """Make the next piece.

        Args:
            value: `None`.

        Returns:
            The piece.
        """
        with self._busy:
            try:
                return self._pieces.send(value)
            except Cancelled:
                raise StopIteration from None  # closed meanwhile, by another thread

    def throw(self, *error: Any) -> str:
        """Raise an error where the edit stands, which ends it.

        Args:
            *error: As for any generator.

        Returns:
            Never anything: the error comes out again.
        """
        with self._busy:
            return self._pieces.throw(*error)

    def close(self) -> None:
        """Stop within one forward pass, and return when the model is free."""
        self._cancellation.cancel()
        with self._busy:
            self._pieces.close()
