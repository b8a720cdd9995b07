"""A chat model for the examples: it says what it was told to say, so they run without any API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult


class ScriptedModel(BaseChatModel):
    """Gives its replies one after the other, and begins again after the last.

    In your code any chat model stands in its place: `ChatOpenAI(...)`, `init_chat_model(...)`.
    """

    replies: Sequence[AIMessage]
    told: int = 0

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self.bind(**kwargs)

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        reply = self.replies[self.told % len(self.replies)]
        self.told += 1
        return ChatResult(generations=[ChatGeneration(message=reply.model_copy())])


def calls(name: str, **args: Any) -> AIMessage:
    """A reply that calls a tool."""
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"call-{name}"}])
