"""One edit, piece by piece as it is made."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from typing import Any, Self

from langchain_metaaligner.alignment import Alignment
from langchain_metaaligner.engines.base import Edit
from langchain_metaaligner.preparing import Job, skipped

# Seconds that an event loop may be held up without anybody noticing.
_QUICK = 0.02

Pieces = Generator[str, None, Edit]
"""The text of an edit as the engine makes it, and the whole in the end."""


class AlignmentStream:
    """The pieces of one edit, for `for` or `async for`.

    Args:
        answer: What is edited.
        begin: Prepares the edit and begins it; called when the first piece is asked for.

    Attributes:
        alignment: The record of the edit once the pieces have ended well, else `None`.
    """

    def __init__(self, answer: Any, begin: Callable[[], tuple[Job, Pieces]]) -> None:
        self.alignment: Alignment | None = None
        self._pieces = self._run(answer, begin)
        # A generator can't be closed while another thread is inside it.
        self._turn = threading.Lock()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        with self._turn:
            return next(self._pieces)

    def close(self) -> None:
        """Stop the generation; returns when nothing runs any more."""
        with self._turn:
            self._pieces.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        try:
            piece = await asyncio.to_thread(self._next_or_none)
        except asyncio.CancelledError:
            # The step under way ends by itself; nobody may start another.
            threading.Thread(target=self.close, daemon=True).start()
            raise
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Stop the generation; returns when nothing runs any more."""
        closing = threading.Thread(target=self.close, daemon=True)
        closing.start()
        # A loop that shuts down closes all forgotten generators at once, and one that waits there
        # is in the way of those around it: where the close is quick nothing is waited for.
        closing.join(_QUICK)
        if closing.is_alive():
            await asyncio.to_thread(closing.join)

    def _next_or_none(self) -> str | None:
        return next(self, None)

    def _run(
        self, answer: Any, begin: Callable[[], tuple[Job, Pieces]]
    ) -> Generator[str, None, None]:
        if (nothing := skipped(answer)) is not None:
            self.alignment = nothing
            if nothing.text:
                yield nothing.text
            return
        job, pieces = begin()
        # Nothing goes out before there is something to read: an edit of white space alone is none.
        blank: str | None = ""
        try:
            while True:
                try:
                    piece = next(pieces)
                except StopIteration as end:
                    self.alignment = job.finish(end.value)
                    return
                if blank is not None:
                    blank += piece
                    if not blank.strip():
                        continue
                    piece, blank = blank, None
                yield job.prompt.restore(piece)
        finally:
            pieces.close()
