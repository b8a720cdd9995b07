"""Gathers a reply that arrives in chunks, and writes an edited one in chunks again."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from typing import Any, Self

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables.utils import AddableDict

from langchain_metaaligner.editing.conversation import block_text

# LangChain merges blocks of one index; this one is nobody else's.
_TEXT_INDEX = "lc_metaaligner_text"
_ADDED = (str, AIMessageChunk, AddableDict)


class UntilStopped:
    """An iterator that ends when it is stopped.

    LangChain reads a step's input to its end even where the step's consumer has gone; a model
    that nobody listens to any more would go on.

    Args:
        pieces: What to iterate over.
    """

    def __init__(self, pieces: Iterator[Any]) -> None:
        self._pieces = pieces
        self._stopped = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._stopped:
            raise StopIteration
        return next(self._pieces)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and close what the pieces come from."""
        self._stopped = True
        if (close := getattr(self._pieces, "close", None)) is not None:
            close()


class Gathered:
    """The whole of what has arrived so far.

    Pieces are joined when the whole is asked for: chunk by chunk, a long reply's text would be
    copied once for every chunk of it.
    """

    def __init__(self) -> None:
        self._pieces: list[Any] = []
        self._kind: type | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing has arrived."""
        return not self._pieces

    @property
    def value(self) -> Any:
        """Chunks of one message merged, text joined, a dict's keys gathered; else the newest."""
        if self.empty:
            return None
        first, *rest = self._pieces
        if self._kind is str:
            first, rest = "".join(self._pieces), []
        if self._kind is AddableDict:
            return functools.reduce(operator.add, rest, first)
        return first + rest if rest else first

    def add(self, piece: Any) -> None:
        """Take the next piece."""
        kind = next((one for one in _ADDED if isinstance(piece, one)), None)
        if kind is None or kind is not self._kind:
            self._pieces.clear()
        self._pieces.append(piece)
        self._kind = kind


class TextWriter:
    """Writes an edited text."""

    def __init__(self) -> None:
        self.started = False

    def write(self, piece: str) -> Iterator[Any]:
        """The pieces to send for a piece of the edit."""
        self.started = True
        yield piece

    def end(self, settled: Any) -> Iterator[Any]:
        """What is left to send once it is known what becomes of the reply."""
        if not self.started:
            yield settled


class MessageWriter:
    """Writes an edited message with at most one block of text.

    What stands before the text is sent with its first piece; all else, with usage and
    provenance, on the last chunk.
    """

    def __init__(self, reply: AIMessage) -> None:
        self.started = False
        self._id = reply.id
        self._before: list[Any] = []
        self._after: list[Any] = []
        self._block: dict[str, Any] | None = None
        if isinstance(reply.content, list):
            at = next(i for i, block in enumerate(reply.content) if block_text(block) is not None)
            block = reply.content[at]
            self._before, self._after = reply.content[:at], reply.content[at + 1 :]
            self._block = {"type": "text", "index": _TEXT_INDEX}
            if isinstance(block, dict):
                self._block.update(block)

    @staticmethod
    def can_write(reply: AIMessage) -> bool:
        """Whether a message has no more than one text; several are shared out at the end."""
        return isinstance(reply.content, str) or (
            sum(block_text(block) is not None for block in reply.content) == 1
        )

    def write(self, piece: str) -> Iterator[Any]:
        """The chunks to send for a piece of the edit."""
        content: Any = piece
        if self._block is not None:
            if self.started:
                content = [{"type": "text", "text": piece, "index": self._block["index"]}]
            else:
                content = [*self._before, {**self._block, "text": piece}]
        self.started = True
        yield AIMessageChunk(content=content, id=self._id)

    def end(self, settled: AIMessage) -> Iterator[Any]:
        """What is left to send once it is known what becomes of the reply."""
        if self.started:
            yield as_chunk(settled, "" if self._block is None else self._after)
        else:
            yield as_chunk(settled, settled.content)


def as_chunk(message: AIMessage, content: Any) -> AIMessageChunk:
    """The last chunk of a message, with other content and all else that the message has."""
    known = AIMessageChunk.model_fields
    fields = {name: value for name, value in message.__dict__.items() if name in known}
    fields.pop("type", None)
    return AIMessageChunk(**{**fields, "content": content, "chunk_position": "last"})
