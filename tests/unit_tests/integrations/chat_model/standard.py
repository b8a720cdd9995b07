"""A policy that does what the standard tests ask a chat model to do, for unit and other tests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool


class ToolCallingPolicy(BaseChatModel):
    """Calls the tools it is given with arguments that fit, and talks otherwise."""

    model: str = "scripted-1"

    @property
    def _llm_type(self) -> str:
        return "scripted-standard"

    def bind_tools(self, tools: Sequence[Any], *, tool_choice: Any = None, **kwargs: Any) -> Any:
        formatted = [convert_to_openai_tool(one) for one in tools]
        return self.bind(tools=formatted, tool_choice=tool_choice, **kwargs)

    def _reply(self, messages: list[BaseMessage], stop: Any, kwargs: dict[str, Any]) -> AIMessage:
        given = {
            "usage_metadata": {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12},
            "response_metadata": {"model_name": kwargs.get("model") or self.model},
        }
        tools, choice = kwargs.get("tools"), kwargs.get("tool_choice")
        answered = isinstance(messages[-1], ToolMessage) or messages[-1].type == "ai"
        if tools and (choice or not answered):
            names = [one["function"]["name"] for one in tools]
            chosen = tools[names.index(choice)] if choice in names else tools[0]
            function = chosen["function"]
            args = _arguments(function["parameters"], messages[-1].text)
            call = {"name": function["name"], "args": args, "id": "call_1", "type": "tool_call"}
            return AIMessage("", tool_calls=[call], **given)
        text = "Hello there, you asked for words and here they are."
        for word in stop or ():
            text = text.split(word, maxsplit=1)[0]
        return AIMessage(text, **given)

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        message = self._reply(messages, stop, kwargs)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        reply = self._reply(messages, stop, kwargs)
        for word in re.findall(r"\S+\s*", reply.text):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
        for index, call in enumerate(reply.tool_calls):
            args = json.dumps(call["args"], ensure_ascii=False)
            half = len(args) // 2
            pieces = [(call["name"], call["id"], args[:half]), (None, None, args[half:])]
            for name, call_id, piece in pieces:
                chunk = {"name": name, "args": piece, "id": call_id, "index": index}
                yield ChatGenerationChunk(
                    message=AIMessageChunk(content="", tool_call_chunks=[chunk])
                )
        yield ChatGenerationChunk(
            message=AIMessageChunk(
                content="",
                usage_metadata=reply.usage_metadata,
                response_metadata=reply.response_metadata,
            )
        )


def _arguments(schema: dict[str, Any], question: str) -> dict[str, Any]:
    quoted = re.search(r"'([^']+)'", question)
    text = quoted.group(1) if quoted else "some text"
    made: dict[str, Any] = {}
    for name, field in schema.get("properties", {}).items():
        kind = field.get("type")
        made[name] = {"integer": 3, "number": 3.0, "boolean": True, "array": []}.get(kind, text)
    return made
