"""A chat model for the examples, with replies from a script, so that they need no API."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult


class ScriptedModel(BaseChatModel):
    """Gives its replies one after the other, and starts again after the last one.

    A question that is a key of `answers` gets that answer instead. In your own code, use any chat
    model in its place: `ChatOpenAI(...)`, `init_chat_model(...)`.
    """

    replies: Sequence[AIMessage] = ()
    answers: Mapping[str, str] = {}
    given: int = 0

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self.bind(**kwargs)

    def _reply(self, messages: Sequence[BaseMessage]) -> AIMessage:
        if messages[-1].text in self.answers:
            return AIMessage(self.answers[messages[-1].text])
        reply = self.replies[self.given % len(self.replies)]
        self.given += 1
        return reply.model_copy()

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._reply(messages))])

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        reply = self._reply(messages)
        calls = [
            {"name": one["name"], "args": json.dumps(one["args"]), "id": one["id"], "index": place}
            for place, one in enumerate(reply.tool_calls)
        ]
        for word in re.findall(r"\s*\S+", reply.text) or [""]:
            message = AIMessageChunk(word, tool_call_chunks=calls)
            calls = []
            chunk = ChatGenerationChunk(message=message)
            if run_manager is not None:
                run_manager.on_llm_new_token(word, chunk=chunk)
            yield chunk


def calls(name: str, **args: Any) -> AIMessage:
    """A reply that calls a tool."""
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"call-{name}"}])
