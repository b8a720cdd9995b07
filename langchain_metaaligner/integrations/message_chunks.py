"""Writes an edited reply in chunks for a consumer."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk

from langchain_metaaligner.editing.content_blocks import is_thought
from langchain_metaaligner.editing.conversation import answer_text, block_text, without_thoughts

# LangChain merges blocks with the same index, so this index must be unique.
_TEXT_INDEX = "lc_metaaligner_text"
# Metadata that tells LangChain how to read the blocks of a chunk; when chunks are merged, it keeps
# one of two equal values, while all other text is joined.
_FORMAT = ("model_provider", "output_version")


class TextWriter:
    """Writes an edited text in pieces."""

    def __init__(self) -> None:
        self.started = False

    def write(self, piece: str) -> list[Any]:
        """Return what to send for a piece of the edit."""
        self.started = True
        return [piece]

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
    """Writes an edited message in chunks.

    The thoughts and all blocks before the text are sent just before its first piece. Everything
    else, such as tool calls, the usage and the provenance, is sent with the last chunk. Several
    texts are written as one; of the blocks before them, only thoughts come first.
    """

    def __init__(self, reply: AIMessage) -> None:
        self.started = False
        self._id = reply.id
        self._before: list[Any] = []
        self._block: dict[str, Any] | None = None
        kept = without_thoughts(reply).additional_kwargs
        self._thoughts = {
            key: value for key, value in reply.additional_kwargs.items() if key not in kept
        }
        self._format = {
            key: value for key, value in reply.response_metadata.items() if key in _FORMAT
        }
        if isinstance(reply.content, list):
            at = next((at for at, one in enumerate(reply.content) if _has_text(one)), 0)
            self._before = reply.content[:at]
            self._block = {"type": "text", "index": _TEXT_INDEX}
            if not self.can_write(reply):
                self._before = [block for block in self._before if is_thought(block)]
            elif isinstance(block := reply.content[at], dict):
                self._block.update(block)

    @staticmethod
    def can_write(reply: AIMessage) -> bool:
        """Whether a message has exactly one text, so that its chunks merge to the message."""
        return isinstance(reply.content, str) or (
            sum(block_text(block) is not None for block in reply.content) == 1
        )

    def write(self, piece: str) -> list[Any]:
        """Return the chunks to send for a piece of the edit; the last one contains the piece."""
        content: Any = piece
        if self.started:
            if self._block is not None:
                content = [{"type": "text", "text": piece, "index": self._block["index"]}]
            return [AIMessageChunk(content=content, id=self._id)]
        self.started = True
        if self._block is not None:
            content = [{**self._block, "text": piece}]
        first = AIMessageChunk(content=content, id=self._id, response_metadata=self._format)
        if not (self._before or self._thoughts):
            return [first]
        # Not in one chunk: LangChain's v3 events tell blocks apart by their place in the chunk.
        before = AIMessageChunk(
            content="" if self._block is None else self._before,
            id=self._id,
            additional_kwargs=self._thoughts,
            response_metadata=self._format,
        )
        return [before, first]

    def end(self, settled: AIMessage) -> list[Any]:
        """Return what is left to send once the final reply is known."""
        if not self.started:
            return [as_chunk(settled, settled.content)]
        content: Any = ""
        if isinstance(settled.content, list):
            content = [block for block in settled.content if not _has_text(block)]
            for block in self._before:
                content.remove(block)
        last = as_chunk(settled, content)
        last.additional_kwargs = {
            key: value for key, value in last.additional_kwargs.items() if key not in self._thoughts
        }
        return [last]


def _has_text(block: Any) -> bool:
    return bool(answer_text(AIMessage(content=[block])))


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
