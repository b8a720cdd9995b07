"""Agents' models, tools and engines with words that can be told apart wherever they turn up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool

from langchain_metaaligner import MetaAlignerMiddleware
from tests.unit_tests.integrations.streams.scripted import EDITED, RAW, USAGE, Engine

ASKED = {"messages": [HumanMessage("What now?", id="asked")]}
TOOL_TEXT = "toolword00 toolword01"


def final(text: str = RAW, **fields: Any) -> AIMessage:
    return AIMessage(text, usage_metadata=USAGE, **fields)


def calls_tool(name: str = "weather", text: str = TOOL_TEXT, **args: Any) -> AIMessage:
    return AIMessage(
        [
            {"type": "reasoning", "reasoning": "why", "signature": "s1"},
            {"type": "text", "text": text},
        ],
        tool_calls=[
            {"name": name, "args": args or {"city": "Rome"}, "id": "call_1", "type": "tool_call"},
            {"name": name, "args": args or {"city": "Oslo"}, "id": "call_2", "type": "tool_call"},
        ],
        usage_metadata=USAGE,
    )


class Policy(BaseChatModel):
    """Replies with its messages one after the other, the last one again and again.

    Attributes:
        replies: Messages, errors to raise, or functions of the conversation that give one.
        asked: The conversations that it was sent.
        options: What each call was given beside the conversation.
    """

    replies: list[Any] = [final()]  # noqa: RUF012 - pydantic copies defaults
    asked: list[Any] = []  # noqa: RUF012
    options: list[Any] = []  # noqa: RUF012

    @property
    def _llm_type(self) -> str:
        return "scripted-agent-policy"

    def bind_tools(self, tools: Sequence[Any], *, tool_choice: Any = None, **kwargs: Any) -> Any:
        formatted = [convert_to_openai_tool(one) for one in tools]
        return self.bind(tools=formatted, tool_choice=tool_choice, **kwargs)

    def _next(self, messages: list[BaseMessage], options: dict[str, Any]) -> AIMessage:
        self.asked.append(messages)
        self.options.append(options)
        reply = self.replies[min(len(self.asked), len(self.replies)) - 1]
        if callable(reply):
            reply = reply(messages)
        if isinstance(reply, BaseException):
            raise reply
        return reply.model_copy()

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        message = self._next(messages, {"stop": stop, **kwargs})
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        reply = self._next(messages, {"stop": stop, **kwargs})
        if isinstance(reply.content, str) and not reply.tool_calls:
            words = reply.content.split(" ")
            for i, word in enumerate(words):
                text = f" {word}" if i else word
                yield ChatGenerationChunk(message=AIMessageChunk(content=text, id=reply.id))
            fields = {**reply.__dict__, "content": "", "type": "AIMessageChunk"}
        else:
            fields = {**reply.__dict__, "type": "AIMessageChunk"}
        yield ChatGenerationChunk(message=AIMessageChunk(**fields))


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"sunny in {city}"


def agent_of(
    *replies: Any,
    engine: Any = None,
    before: Sequence[Any] = (),
    after: Sequence[Any] = (),
    options: dict[str, Any] | None = None,
    tools: Sequence[Callable[..., Any]] = (weather,),
    policy: Any = None,
    **agent_options: Any,
) -> Any:
    """An agent whose answers are edited.

    Args:
        *replies: What its model replies.
        engine: Who edits.
        before: Middleware before the aligner in the list, so around it.
        after: Middleware after it, so nearer to the model.
        options: Options of the aligner's middleware.
        tools: The agent's tools.
        policy: The agent's model, instead of one made of the replies.
        **agent_options: Options of `create_agent`.
    """
    aligner = MetaAlignerMiddleware(
        ["harmlessness"], engine=Engine() if engine is None else engine, **(options or {})
    )
    return create_agent(
        policy or Policy(replies=list(replies) or [final()]),
        tools=list(tools),
        middleware=[*before, aligner, *after],
        **agent_options,
    )


__all__ = ["ASKED", "EDITED", "RAW", "Engine", "Policy", "agent_of", "calls_tool", "final"]
