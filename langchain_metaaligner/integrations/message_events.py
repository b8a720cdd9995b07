"""Writes an edited reply as the events of LangChain's v3 streams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk

from langchain_metaaligner.integrations._langchain import message_events

_FINISH = "content-block-finish"


class EventWriter:
    """Writes an edited message as events: its thoughts, its text in pieces, and the rest."""

    def __init__(self) -> None:
        self._text = ""
        self._at: int | None = None
        self._index: Any = None

    def write(self, piece: str, chunks: Sequence[AIMessageChunk]) -> list[dict[str, Any]]:
        """Return the events for a piece of the edit.

        Args:
            piece: The piece.
            chunks: The same as chunks: what precedes the text, if anything does, and the piece.
        """
        events: list[dict[str, Any]] = []
        if self._at is None:
            first, *rest = chunks
            before = AIMessage(
                # Not empty text: some providers' messages would read it as a block.
                content=(rest and first.content) or [],
                id=first.id,
                additional_kwargs=first.additional_kwargs,
                response_metadata=first.response_metadata,
            )
            *events, _ = message_events(before)
            self._at = sum(event["event"] == "content-block-start" for event in events)
            written: Any = chunks[-1].content
            self._index = written[0]["index"] if isinstance(written, list) else None
            start = {"type": "text", "text": ""}
            events.append({"event": "content-block-start", "index": self._at, "content": start})
        self._text += piece
        delta = {"type": "text-delta", "text": piece}
        events.append({"event": "content-block-delta", "index": self._at, "delta": delta})
        return events

    def end(self, settled: AIMessage, last: AIMessageChunk) -> list[dict[str, Any]]:
        """Return the events that are left once the final reply is known.

        Args:
            settled: The final reply.
            last: What is left of it as a chunk.
        """
        *events, finish = message_events(settled)
        if settled.additional_kwargs:
            finish = {**finish, "additional_kwargs": settled.additional_kwargs}
        if self._at is None:
            return [*events, finish]
        finished = [event["content"] for event in events if event["event"] == _FINISH]
        # Several texts were written as one, which is none of their blocks.
        dress, *more = [block for block in finished if block["type"] == "text"] or [{}]
        text = {**({} if more else dress), "type": "text", "text": self._text}
        changes = {
            "content": [
                block
                for block in last.content or ()
                # What is left of the text's own block is in `text`.
                if isinstance(block, str) or block.get("index") != self._index
            ],
            "additional_kwargs": last.additional_kwargs,
        }
        _, *rest, _ = message_events(settled.model_copy(update=changes))
        return [
            {"event": _FINISH, "index": self._at, "content": text},
            *({**event, "index": event["index"] + self._at + 1} for event in rest),
            finish,
        ]
