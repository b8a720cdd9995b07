"""Engines and models that do as a test tells them, and handlers that write down what they see."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.llms import BaseLLM
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.outputs import (
    ChatGeneration,
    ChatGenerationChunk,
    ChatResult,
    Generation,
    LLMResult,
)

from langchain_metaaligner import Aligner, Edit, Request


def mark(request: Request) -> str:
    """What the scripted engine makes of an answer unless it is told otherwise."""
    return f"{request.draft} (edited)"


def question_of(request: Request) -> str:
    """The last human turn in a prompt of the HH-RLHF family."""
    context = request.prompt.split(" | Context: ", 1)[1].split(" | Answer: ", 1)[0]
    return context.removesuffix(" \n\nAssistant:").split("\n\nHuman: ")[-1]


class ScriptedEngine:
    """Edits by a function, and keeps every request.

    Args:
        reply: A text, an `Edit`, an error to raise, or a function of the request giving one.
        window: Tokens that prompt and edit share; a token is a word.
    """

    name = "scripted"

    def __init__(self, reply: Any = mark, *, window: int | None = None) -> None:
        self.reply = reply
        self.calls: list[list[Request]] = []
        self.streamed: list[Request] = []
        self.closed_streams = 0
        if window is not None:
            self.window = window
            self.count_tokens: Callable[[str], int] = lambda text: len(text.split())

    @property
    def requests(self) -> list[Request]:
        return [request for call in self.calls for request in call] + self.streamed

    @property
    def prompts(self) -> list[str]:
        return [request.prompt for request in self.requests]

    def make(self, request: Request) -> Edit:
        made = self.reply
        if callable(made) and not isinstance(made, type):
            made = made(request)
        if isinstance(made, BaseException) or (
            isinstance(made, type) and issubclass(made, BaseException)
        ):
            raise made
        return made if isinstance(made, Edit) else Edit(made)

    def edit(self, requests: Sequence[Request]) -> list[Edit]:
        self.calls.append(list(requests))
        return [self.make(request) for request in requests]

    async def aedit(self, requests: Sequence[Request]) -> list[Edit]:
        self.calls.append(list(requests))
        await asyncio.sleep(0)
        return [self.make(request) for request in requests]

    def stream(self, request: Request) -> Iterator[str]:
        self.streamed.append(request)
        try:
            made = self.make(request)
            for start in range(0, len(made.text), 5):
                yield made.text[start : start + 5]
            return made
        finally:
            self.closed_streams += 1


class StuckEngine(ScriptedEngine):
    """Knows no deadlines: it does nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()
        self.stream_closed = threading.Event()

    def edit(self, requests: Sequence[Request]) -> list[Edit]:
        self.let_go.wait(30)
        return super().edit(requests)

    async def aedit(self, requests: Sequence[Request]) -> list[Edit]:
        return await asyncio.to_thread(self.edit, requests)

    def stream(self, request: Request) -> Iterator[str]:
        try:
            yield "a piece "
            self.let_go.wait(30)
            yield "and another"
        finally:
            self.stream_closed.set()


class Policy(BaseChatModel):
    """A chat model that replies by a function of its messages.

    Attributes:
        reply: A text, a message, an error, or a function of the messages giving one.
        asked: The messages of every call.
    """

    reply: Any = "A reply."
    asked: list[list[BaseMessage]] = []  # noqa: RUF012 - pydantic copies defaults

    @property
    def _llm_type(self) -> str:
        return "scripted-policy"

    def _message(self, messages: list[BaseMessage]) -> AIMessage:
        self.asked.append(messages)
        made = self.reply(messages) if callable(self.reply) else self.reply
        if isinstance(made, BaseException):
            raise made
        return made if isinstance(made, AIMessage) else AIMessage(made)

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._message(messages))])


class StreamingPolicy(Policy):
    """A policy that streams its words."""

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        words = str(self._message(messages).content).split(" ")
        for i, word in enumerate(words):
            text = word if i == len(words) - 1 else f"{word} "
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=text))
            if run_manager is not None:
                run_manager.on_llm_new_token(text, chunk=chunk)
            yield chunk


class Completion(BaseLLM):
    """A completion model that replies by a function of its prompt."""

    reply: Any = "A reply."

    @property
    def _llm_type(self) -> str:
        return "scripted-completion"

    def _generate(
        self, prompts: list[str], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> LLMResult:
        texts = [self.reply(one) if callable(self.reply) else self.reply for one in prompts]
        return LLMResult(generations=[[Generation(text=text)] for text in texts])


def echo(messages: Sequence[BaseMessage]) -> str:
    """The reply to a question that names the question."""
    return f"reply to {messages[-1].text}"


class Seen(BaseCallbackHandler):
    """Writes down every run that starts, with its name, kind, parent, tags and metadata."""

    run_inline = True

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self.ended: list[Any] = []

    def _note(self, kind: str, serialized: Any, given: Any, kwargs: dict[str, Any]) -> None:
        self.runs.append({"kind": kind, "serialized": serialized, "input": given, **kwargs})

    def on_chain_start(self, serialized, inputs, **kwargs):
        self._note("chain", serialized, inputs, kwargs)

    def on_chat_model_start(self, serialized, messages, **kwargs):
        self._note("chat", serialized, messages, kwargs)

    def on_chain_end(self, outputs, **kwargs):
        self.ended.append(("end", outputs))

    def on_chain_error(self, error, **kwargs):
        self.ended.append(("error", error))

    def named(self, name: str) -> list[dict[str, Any]]:
        return [run for run in self.runs if run.get("name") == name]


def hh(question: str = "a question") -> list[BaseMessage]:
    """A short conversation."""
    return [HumanMessage(question)]


def aligner_of(engine: Any = None, **options: Any) -> Aligner:
    """An aligner with a scripted engine."""
    return Aligner(engine=engine or ScriptedEngine(), **options)
