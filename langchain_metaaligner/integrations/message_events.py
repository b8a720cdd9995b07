"""Writes an edited reply as the events of LangChain's v3 streams."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk

from langchain_metaaligner.integrations._langchain import message_events


class EventWriter:
    """Writes an edited message as events: its thoughts, its text in pieces, and the rest."""

    def __init__(self) -> None:
        self._text = ""
        self._at: int | None = None

    def write(self, piece: str, chunk: AIMessageChunk) -> list[dict[str, Any]]:
        """Return the events for a piece of the edit.

        Args:
            piece: The piece.
            chunk: The same piece as a chunk; the first one also contains what precedes the text.
        """
        events: list[dict[str, Any]] = []
        if self._at is None:
            content = chunk.content
            before = AIMessage(
                content=content[:-1] if isinstance(content, list) else "",
                id=chunk.id,
                additional_kwargs=chunk.additional_kwargs,
                response_metadata=chunk.response_metadata,
            )
            *events, _ = message_events(before)
            self._at = _blocks(events)
            start = {"type": "text", "text": ""}
            events.append({"event": "content-block-start", "index": self._at, "content": start})
        self._text += piece
        delta = {"type": "text-delta", "text": piece}
        events.append({"event": "content-block-delta", "index": self._at, "delta": delta})
        return events

    def end(self, settled: AIMessage) -> list[dict[str, Any]]:
        """Return the events that are left once the final reply is known.

        Args:
            settled: The final reply.
        """
        *events, finish = message_events(settled)
        if settled.additional_kwargs:
            finish = {**finish, "additional_kwargs": settled.additional_kwargs}
        if self._at is None:
            return [*events, finish]
        texts = {
            event["index"]: event["content"]
            for event in events
            if event["event"] == "content-block-finish" and event["content"]["type"] == "text"
        }
        # Several texts were written as one, which is none of their blocks.
        block = next(iter(texts.values())) if len(texts) == 1 else {"type": "text"}
        text = {**block, "text": self._text}
        left = [{"event": "content-block-finish", "index": self._at, "content": text}]
        at = self._at
        for event in events:
            if event.get("index", -1) > min(texts, default=-1) and event["index"] not in texts:
                at += event["event"] == "content-block-start"
                left.append({**event, "index": at})
        return [*left, finish]


def _blocks(events: list[dict[str, Any]]) -> int:
    return sum(event["event"] == "content-block-start" for event in events)
