"""An engine that returns scripted edits instead of running a model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

from langchain_metaaligner.engines.base import Edit, Engine, Request
from langchain_metaaligner.engines.processes import Lock
from langchain_metaaligner.errors import EditTimeout

Reply = str | Edit | BaseException
"""The reply to one request: the edited text, a whole `Edit`, or an error to raise."""


class ScriptedEngine(Engine):
    """Returns scripted edits, and records every request.

    ```python
    engine = ScriptedEngine(lambda request: request.draft.replace("stupid", "good"))
    chain = llm | MetaAlignerRunnable(engine=engine)
    ```

    Args:
        reply: The reply to each request: one reply for all requests; a list of replies, one for
            each request in turn, whose last one is repeated; or a function that takes the request
            and returns a reply. By default every answer stays unchanged.
        delay: How long each call takes, in seconds.
        piece: Length of the pieces in a stream, in characters.
        name: The model's name in records.
        window: How many tokens the prompt and the edit may have together; `None` for no limit. A
            token is a word here.

    Attributes:
        requests: All requests so far, in order.
        closed_streams: Number of streams that have ended or were closed.
    """

    keeps_deadlines = True

    def __init__(
        self,
        reply: Reply | Sequence[Reply] | Callable[[Request], Reply] | None = None,
        *,
        delay: float = 0.0,
        piece: int = 8,
        name: str = "scripted",
        window: int | None = None,
    ) -> None:
        self._reply = reply
        self._delay = delay
        self._piece = piece
        self._lock = Lock()
        self.name = name
        self.window = window
        self.requests: list[Request] = []
        self.closed_streams = 0

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=Lock())

    def count_tokens(self, text: str) -> int:
        """Count the words of a text.

        Args:
            text: Any text.

        Returns:
            The number of words.
        """
        return len(text.split())

    def edit(self, requests: Sequence[Request]) -> list[Edit]:
        """Return the scripted edits.

        Args:
            requests: The edits to make.

        Returns:
            An edit for each request, in order.

        Raises:
            EditTimeout: The delay went past the deadline of a request.
        """
        replies = self._take(requests)
        time.sleep(_wait(self._delay, requests))
        return _made(replies, requests)

    async def aedit(self, requests: Sequence[Request]) -> list[Edit]:
        """Return the scripted edits without blocking the event loop; like `edit`."""
        replies = self._take(requests)
        await asyncio.sleep(_wait(self._delay, requests))
        return _made(replies, requests)

    def stream(self, request: Request) -> Generator[str, None, Edit]:
        """Yield one scripted edit in pieces.

        Args:
            request: The edit to make.

        Yields:
            The pieces of the edited text.

        Returns:
            The whole edit.
        """
        try:
            (made,) = self.edit([request])
            for start in range(0, len(made.text), self._piece):
                yield made.text[start : start + self._piece]
            return made
        finally:
            self.closed_streams += 1

    def _take(self, requests: Sequence[Request]) -> list[Reply]:
        with self._lock:
            first = len(self.requests)
            self.requests += requests
        return [self._for(request, first + i) for i, request in enumerate(requests)]

    def _for(self, request: Request, place: int) -> Reply:
        reply = self._reply
        if reply is None:
            return request.draft
        if callable(reply):
            return reply(request)
        if isinstance(reply, Sequence) and not isinstance(reply, str):
            return reply[min(place, len(reply) - 1)]
        return reply


def _wait(delay: float, requests: Sequence[Request]) -> float:
    """Compute the seconds to wait, which end at the earliest deadline."""
    deadlines = [one.deadline for one in requests if one.deadline is not None]
    return min(delay, max(0.0, min(deadlines, default=float("inf")) - time.monotonic()))


def _made(replies: Sequence[Reply], requests: Sequence[Request]) -> list[Edit]:
    if any(one.deadline is not None and one.deadline <= time.monotonic() for one in requests):
        message = (
            "The scripted engine's delay is longer than the edit's timeout. Use a shorter delay=,"
            " or a longer timeout=."
        )
        raise EditTimeout(message)
    return [_edit(reply) for reply in replies]


def _edit(reply: Reply) -> Edit:
    if isinstance(reply, BaseException):
        raise reply
    return Edit(reply) if isinstance(reply, str) else reply
