"""Writes an edited reply in chunks for a consumer."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk

from langchain_metaaligner.editing.content_blocks import kind_of
from langchain_metaaligner.editing.reply_message import sole_text

# LangChain merges blocks with the same index, so this index must be unique.
_TEXT_INDEX = "lc_metaaligner_text"
# What all pieces of a text's block have.
_WRITTEN = {"type", "text", "index"}


class TextWriter:
    """Writes an edited text in pieces."""

    def __init__(self) -> None:
        self.started = False

    def write(self, piece: str) -> Any:
        """Return what to send for a piece of the edit."""
        self.started = True
        return piece

    def end(self, settled: Any) -> list[Any]:
        """Return what is left to send once the final reply is known."""
        return [] if self.started else [settled]


def writer_of(
    reply: AIMessage | str, *, refusals: bool = False
) -> TextWriter | MessageWriter | None:
    """Make the writer for an edit.

    Args:
        reply: The reply that is edited.
        refusals: Whether refusals are edited.

    Returns:
        The writer; `None` if the edit can only be written as a whole.
    """
    if isinstance(reply, str):
        return TextWriter()
    if not MessageWriter.can_write(reply, refusals=refusals):
        return None
    return MessageWriter(reply, refusals=refusals)


class MessageWriter:
    """Writes an edited message with at most one block of text in chunks.

    The blocks before the text are sent with its first piece. All else, which may repeat the text
    before the edit, is sent with the last chunk: the rest of the text's block, all other blocks,
    the usage and the provenance.
    """

    def __init__(self, reply: AIMessage, *, refusals: bool = False) -> None:
        self.started = False
        self._id = reply.id
        self._before: list[Any] = []
        self._block: dict[str, Any] | None = None
        if isinstance(reply.content, list):
            at = sole_text(reply, refusals=refusals) or 0
            block = reply.content[at]
            self._before = reply.content[:at]
            kind = kind_of(block)
            self._block = {"type": "text", "index": _TEXT_INDEX}
            if isinstance(block, dict):
                self._block["type"] = "text" if kind == "refusal" else kind
                self._block["index"] = block.get("index", _TEXT_INDEX)

    @staticmethod
    def can_write(reply: AIMessage, *, refusals: bool = False) -> bool:
        """Whether a message has exactly one text; several texts can only be written at the end."""
        return isinstance(reply.content, str) or sole_text(reply, refusals=refusals) is not None

    def write(self, piece: str) -> Any:
        """Return the chunk to send for a piece of the edit."""
        content: Any = piece
        if self._block is not None:
            content = [{**self._block, "text": piece}]
            if not self.started:
                content = [*self._before, *content]
        self.started = True
        return AIMessageChunk(content=content, id=self._id)

    def end(self, settled: AIMessage) -> list[Any]:
        """Return what is left to send once the final reply is known."""
        if not self.started:
            return [as_chunk(settled, settled.content)]
        if self._block is None:
            return [as_chunk(settled, "")]
        written, *after = list(settled.content)[len(self._before) :]
        rest = {} if isinstance(written, str) else {**written, "text": ""}
        if rest.keys() - _WRITTEN:
            after = [{**rest, "index": self._block["index"]}, *after]
        return [as_chunk(settled, after)]


def as_chunk(message: AIMessage, content: Any) -> AIMessageChunk:
    """Make the last chunk of a message.

    Args:
        message: The message.
        content: The content of the chunk.

    Returns:
        The chunk, with all other fields of the message.
    """
    known = AIMessageChunk.model_fields
    fields = {name: value for name, value in message.__dict__.items() if name in known}
    fields.pop("type", None)
    return AIMessageChunk(**{**fields, "content": content, "chunk_position": "last"})
