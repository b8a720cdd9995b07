"""Gathers a reply that arrives in chunks, and writes an edited one in chunks again."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import AddableDict

from langchain_metaaligner.editing.conversation import block_text

# LangChain merges blocks of one index; this one is nobody else's.
_TEXT_INDEX = "lc_metaaligner_text"
_ADDED = (str, AIMessageChunk, AddableDict)


def gather(pieces: Sequence[Any]) -> Any:
    """The whole of what has arrived.

    Pieces are joined once: chunk by chunk, a long reply's text would be copied for every chunk.

    Args:
        pieces: What has arrived, in order; at least one piece.

    Returns:
        Chunks of one message merged, text joined, a dict's keys gathered; else the newest.
    """
    kind = next((one for one in _ADDED if isinstance(pieces[-1], one)), None)
    if kind is None:
        return pieces[-1]
    start = len(pieces)
    while start and isinstance(pieces[start - 1], kind):
        start -= 1
    first, *rest = pieces[start:]
    if kind is str:
        return "".join(pieces[start:])
    if kind is AddableDict:
        return functools.reduce(operator.add, rest, first)
    return first + rest if rest else first


class TextWriter:
    """Writes an edited text."""

    def __init__(self) -> None:
        self.started = False

    def write(self, piece: str) -> Any:
        """What to send for a piece of the edit."""
        self.started = True
        return piece

    def end(self, settled: Any) -> list[Any]:
        """What is left to send once it is known what becomes of the reply."""
        return [] if self.started else [settled]


def writer_of(reply: AIMessage | str) -> TextWriter | MessageWriter | None:
    """Who writes an edit as it is made; `None` where it has to be written whole.

    Args:
        reply: What is edited.
    """
    if isinstance(reply, str):
        return TextWriter()
    return MessageWriter(reply) if MessageWriter.can_write(reply) else None


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

    def write(self, piece: str) -> Any:
        """The chunk to send for a piece of the edit."""
        content: Any = piece
        if self._block is not None:
            if self.started:
                content = [{"type": "text", "text": piece, "index": self._block["index"]}]
            else:
                content = [*self._before, {**self._block, "text": piece}]
        self.started = True
        return AIMessageChunk(content=content, id=self._id)

    def end(self, settled: AIMessage) -> list[Any]:
        """What is left to send once it is known what becomes of the reply."""
        if not self.started:
            return [as_chunk(settled, settled.content)]
        return [as_chunk(settled, "" if self._block is None else self._after)]


def as_chunk(message: AIMessage, content: Any) -> AIMessageChunk:
    """The last chunk of a message, with other content and all else that the message has."""
    known = AIMessageChunk.model_fields
    fields = {name: value for name, value in message.__dict__.items() if name in known}
    fields.pop("type", None)
    return AIMessageChunk(**{**fields, "content": content, "chunk_position": "last"})
