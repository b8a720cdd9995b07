"""Writes an edited reply in chunks for a consumer."""

from __future__ import annotations

from typing import Any, TypeGuard

from langchain_core.messages import AIMessage, AIMessageChunk

from langchain_metaaligner.editing.content_blocks import block_text
from langchain_metaaligner.editing.reply_message import (
    has_sole_text,
    never_repeats,
    text_blocks,
    thoughts_beside,
)

# LangChain merges blocks with the same index, so this index must be unique.
_TEXT_INDEX = "lc_metaaligner_text"
# What all pieces of a text's block have.
_WRITTEN = {"type", "text", "index"}
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
    return MessageWriter(reply) if MessageWriter.can_write(reply, refusals=refusals) else None


class MessageWriter:
    """Writes an edited message in chunks.

    The thoughts and the blocks before the text are sent just before its first piece, as far as they
    can't repeat the text before the edit. Everything else, such as citations, tool calls, the usage
    and the provenance, is sent with the last chunk. Several texts are written as one.
    """

    def __init__(self, reply: AIMessage) -> None:
        self.started = False
        self._id = reply.id
        self._before: list[Any] = []
        self._block: dict[str, Any] | None = None
        self._thoughts = thoughts_beside(reply) if reply.additional_kwargs else {}
        self._format = {
            key: value for key, value in reply.response_metadata.items() if key in _FORMAT
        }
        if isinstance(reply.content, list):
            texts = text_blocks(reply)
            at = texts[0] if texts else len(reply.content)
            self._before = [block for block in reply.content[:at] if never_repeats(block)]
            self._block = {"type": "text", "index": _TEXT_INDEX}
            block = reply.content[at] if texts else None
            if _is_flat(block):
                kept: dict[str, Any] = {
                    key: block[key] for key in ("type", "index") if key in block
                }
                if _is_index_of_several(kept.get("index"), reply.content):
                    del kept["index"]
                self._block = {"index": _TEXT_INDEX, **kept}

    @staticmethod
    def can_write(reply: AIMessage, *, refusals: bool = False) -> bool:
        """Whether a message has exactly one text, so that its chunks merge to the message."""
        return isinstance(reply.content, str) or has_sole_text(reply, refusals=refusals)

    def write(self, piece: str) -> list[Any]:
        """Return the chunks to send for a piece of the edit; the last one contains the piece."""
        content: Any = piece if self._block is None else [{**self._block, "text": piece}]
        # LangChain reads the block of a chunk by the chunk's own metadata.
        chunk = AIMessageChunk(content=content, id=self._id, response_metadata=self._format)
        if self.started or not (self._before or self._thoughts):
            self.started = True
            return [chunk]
        self.started = True
        # Not in one chunk: LangChain's v3 events tell blocks apart by their place in the chunk.
        before = AIMessageChunk(
            content="" if self._block is None else self._before,
            id=self._id,
            additional_kwargs=self._thoughts,
            response_metadata=self._format,
        )
        return [before, chunk]

    def end(self, settled: AIMessage) -> list[Any]:
        """Return what is left to send once the final reply is known."""
        if not self.started:
            return [as_chunk(settled, settled.content)]
        content = self._left(settled) if isinstance(settled.content, list) else ""
        last = as_chunk(settled, content)
        last.additional_kwargs = {
            key: value for key, value in last.additional_kwargs.items() if key not in self._thoughts
        }
        return [last]

    def _left(self, settled: AIMessage) -> list[Any]:
        """The content that has not been written."""
        sent, left, texts = list(self._before), [], text_blocks(settled)
        for index, block in enumerate(settled.content):
            if sent and block == sent[0]:
                sent.pop(0)
            elif not block_text(block):
                left.append(block)
            elif self._block is not None and texts == [index] and _is_flat(block):
                rest = {**block, "text": "", "index": self._block["index"]}
                left += [rest] if rest.keys() - _WRITTEN else []
        return left


def _is_flat(block: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a block has its text at the top, not in a block inside it."""
    return isinstance(block, dict) and isinstance(block.get("text"), str)


def _is_index_of_several(index: Any, blocks: list[Any]) -> bool:
    """Whether several blocks have an index, as where LangChain has joined a provider's chunks."""
    given = [block["index"] for block in blocks if isinstance(block, dict) and "index" in block]
    return given.count(index) > 1


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
