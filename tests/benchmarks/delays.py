"""How long a reader waits after the policy's last token, through a pipe that is streamed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
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


def delay(ours: Ours, case: Case, name: str) -> tuple[float, float, int]:
    """Stream a reply and its edit.

    Args:
        ours: The engine.
        case: The conversation.
        name: What becomes of the reply.

    Returns:
        Seconds from the policy's last token to the first edited one, and to the last; the passes
        of the model that ended in that time.
    """
    ours.forget()
    aligner = Aligner(engine=ours.engine)
    first, pieces = 0.0, []
    with ours.writing([(case.ids, case.edits[name])]) as sizes:
        policy = Policy(text=case.answer, count=lambda: len(sizes))
        pipe = policy | MetaAlignerRunnable(aligner=aligner, objectives=OBJECTIVES)
        for piece in pipe.stream("?", {"configurable": {"context": Context(case.context)}}):
            if piece.text and not first:
                first = time.perf_counter()
            pieces.append(piece.text)
        end, passes = time.perf_counter(), len(sizes)
    wanted = ours.engine._held.codec.decode(case.edits[name])
    if "".join(pieces).split() != wanted.split():
        message = f"The pipe did not write what was forced: {''.join(pieces)[:80]!r}"
        raise RuntimeError(message)
    return first - policy.ended, end - policy.ended, passes - policy.passes
