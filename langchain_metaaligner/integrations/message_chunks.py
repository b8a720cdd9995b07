"""Writes an edited reply in chunks for a consumer."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk

from langchain_metaaligner.editing.conversation import block_text

# LangChain merges blocks with the same index, so this index must be unique.
_TEXT_INDEX = "lc_metaaligner_text"


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


def writer_of(reply: AIMessage | str) -> TextWriter | MessageWriter | None:
    """Make the writer for an edit.

    Args:
        reply: The reply that is edited.

    Returns:
        The writer; `None` if the edit can only be written as a whole.
    """
    if isinstance(reply, str):
        return TextWriter()
    return MessageWriter(reply) if MessageWriter.can_write(reply) else None


class MessageWriter:
    """Writes an edited message with at most one block of text in chunks.

    The blocks before the text are sent with its first piece. All other blocks, the usage and the
    provenance are sent with the last chunk.
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
        """Whether a message has exactly one text; several texts can only be written at the end."""
        return isinstance(reply.content, str) or (
            sum(block_text(block) is not None for block in reply.content) == 1
        )

    def write(self, piece: str) -> Any:
        """Return the chunk to send for a piece of the edit."""
        content: Any = piece
        if self._block is not None:
            if self.started:
                content = [{"type": "text", "text": piece, "index": self._block["index"]}]
            else:
                content = [*self._before, {**self._block, "text": piece}]
        self.started = True
        return AIMessageChunk(content=content, id=self._id)

    def end(self, settled: AIMessage) -> list[Any]:
        """Return what is left to send once the final reply is known."""
        if not self.started:
            return [as_chunk(settled, settled.content)]
        return [as_chunk(settled, "" if self._block is None else self._after)]


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
