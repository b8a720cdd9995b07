"""How long a reader waits after the policy's last token, through a pipe that is streamed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from langchain_metaaligner import Aligner, Context, MetaAlignerRunnable
from tests.benchmarks.cases import OBJECTIVES, Case
from tests.benchmarks.procedures import Ours

PACE = 0.016
"""Seconds for a word of the policy's: some 80 tokens a second, as a fast model on a server."""


class Policy(BaseChatModel):
    """Streams a text word by word, and notes when it has said the last."""

    text: str
    ended: float = 0.0
    count: Callable[[], int]
    passes: int = 0

    @property
    def _llm_type(self) -> str:
        return "benchmark"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        raise NotImplementedError

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for word in re.findall(r"\s*\S+\s*?", self.text):
            time.sleep(PACE)
            self.ended, self.passes = time.perf_counter(), self.count()
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))


@dataclass(frozen=True)
class Stream:
    """An edit that was streamed behind a policy.

    Attributes:
        wait: Seconds from the policy's last token to the edit's last.
        passes: The model's passes that ended in that time.
        text: The edit.
    """

    wait: float
    passes: int
    text: str


def stream(
    aligner: Aligner, context: str, answer: str, *, count: Callable[[], int] = lambda: 0
) -> Stream:
    """Stream a reply and its edit.

    Args:
        aligner: Edits it.
        context: The conversation.
        answer: The reply.
        count: The model's passes so far.
    """
    policy = Policy(text=answer, count=count)
    pipe = policy | MetaAlignerRunnable(aligner=aligner, objectives=OBJECTIVES)
    config: Any = {"configurable": {"context": Context(context)}}
    text = "".join(piece.text for piece in pipe.stream("?", config))
    return Stream(time.perf_counter() - policy.ended, count() - policy.passes, text)


def forced_stream(ours: Ours, case: Case, name: str) -> Stream:
    """Stream a reply and an edit of it that is forced.

    Args:
        ours: The engine.
        case: The conversation.
        name: What becomes of the reply.

    Raises:
        RuntimeError: Something else came out of the pipe.
    """
    ours.forget()
    aligner = Aligner(engine=ours.engine, caution=0.0)
    with ours.writing([(case.ids, case.edits[name])]) as sizes:
        made = stream(aligner, case.context, case.answer, count=lambda: len(sizes))
    wanted = ours.engine.prompt_tokenizer.decode(case.edits[name])
    if made.text.split() != wanted.split():
        message = f"The pipe did not write what was forced: {made.text[:80]!r}"
        raise RuntimeError(message)
    return made
