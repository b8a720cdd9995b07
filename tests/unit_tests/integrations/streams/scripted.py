"""A policy and an engine whose words can be told apart wherever they turn up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from langchain_metaaligner import Edit, Request

QUESTION = [HumanMessage("What now?")]
RAW_WORDS = [f"rawword{i:02}" for i in range(12)]
EDIT_WORDS = [f"editword{i:02}" for i in range(50)]
RAW, EDITED = " ".join(RAW_WORDS), " ".join(EDIT_WORDS)
USAGE = {"input_tokens": 7, "output_tokens": 12, "total_tokens": 19}


def seen_raw(payload: Any) -> bool:
    """Whether a word of the policy's reply is anywhere in it."""
    return "rawword" in repr(payload)


class Policy(BaseChatModel):
    """A chat model that streams its words.

    Attributes:
        text: What it replies.
        message: The rest of the message it replies with.
        asked: How often it was asked.
    """

    text: str = RAW
    message: Any = None
    asked: list[Any] = []  # noqa: RUF012 - pydantic copies defaults

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self.asked.append(messages)
        message = self.message or AIMessage(
            self.text, usage_metadata=USAGE, response_metadata={"model_name": "policy"}
        )
        return ChatResult(generations=[ChatGeneration(message=message.model_copy())])

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        self.asked.append(messages)
        if self.message is not None:
            fields = {**self.message.__dict__, "type": "AIMessageChunk"}
            yield ChatGenerationChunk(message=AIMessageChunk(**fields))
            return
        for word in self.text.split(" "):
            lead = "" if word == self.text.split(" ", 1)[0] else " "
            yield ChatGenerationChunk(message=AIMessageChunk(content=lead + word))
        yield ChatGenerationChunk(
            message=AIMessageChunk(
                content="", usage_metadata=USAGE, response_metadata={"model_name": "policy"}
            )
        )


class Engine:
    """Edits to a fixed text, a word for a step.

    Args:
        text: The edit; a function of the request, or `None` for the answer as it is.
        fail_at: The step at which it fails.
        gate: Waited for before each step from the second on.

    Attributes:
        steps: How many steps were made.
        running: How many streams are open.
        stepped: Set at each step.
        freed: Set when a stream ends, however it does.
    """

    name = "scripted"

    def __init__(
        self,
        text: Any = EDITED,
        *,
        fail_at: int | None = None,
        gate: threading.Semaphore | None = None,
    ) -> None:
        self.text, self.fail_at, self.gate = text, fail_at, gate
        self.steps = self.running = self.whole = 0
        self.stepped, self.freed = threading.Event(), threading.Event()
        self.requests: list[Request] = []

    def _words(self, request: Request) -> list[str]:
        text = self.text(request) if callable(self.text) else self.text
        text = request.draft if text is None else text
        words = text.split(" ")
        return [words[0], *(f" {word}" for word in words[1:])]

    def edit(self, requests: Sequence[Request]) -> list[Edit]:
        self.whole += len(requests)
        return [Edit("".join(self.stream(request))) for request in requests]

    async def aedit(self, requests: Sequence[Request]) -> list[Edit]:
        made = []
        for request in requests:
            self.whole += 1
            pieces = []
            for piece in self.stream(request):
                pieces.append(piece)
                await asyncio.sleep(0)
            made.append(Edit("".join(pieces)))
        return made

    def stream(self, request: Request) -> Iterator[str]:
        self.requests.append(request)
        self.running += 1
        self.freed.clear()
        try:
            for i, word in enumerate(self._words(request)):
                if i and self.gate is not None:
                    self.gate.acquire()
                if i == self.fail_at:
                    raise OSError("the device is gone")
                self.steps += 1
                self.stepped.set()
                yield word
        finally:
            self.running -= 1
            self.freed.set()


async def collect(stream: AsyncIterator[Any]) -> list[Any]:
    return [piece async for piece in stream]
