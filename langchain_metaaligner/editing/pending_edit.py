"""Context, answer and objectives to the engine's request; the engine's edit to the record."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from langchain_metaaligner.editing.alignment import Alignment
from langchain_metaaligner.editing.context_window import shorten
from langchain_metaaligner.editing.conversation import (
    Context,
    SystemHandling,
    Turn,
    answer_text,
    read_conversation,
)
from langchain_metaaligner.editing.objectives import ObjectiveLike, parse_objectives
from langchain_metaaligner.editing.prompts import Prompt, PromptFamily, parse_conversation
from langchain_metaaligner.engines.base import Edit, Engine, Request, TokenAgreement
from langchain_metaaligner.errors import (
    AnswerTooLongError,
    EngineError,
    InputTypeError,
    MissingContextError,
)
from langchain_metaaligner.options import AlignerSettings


@dataclass(frozen=True, slots=True)
class Job:
    """An answer on its way through the engine.

    Attributes:
        request: What the engine is asked.
        prompt: What the request's prompt was rendered from, with the way back.
        original: The answer.
        objectives: The names of the objectives.
        model: The name of the engine's model.
        family: The name of the prompt family.
        dropped: What of the context was left out.
        started: Time of `time.monotonic()` when the work began, in seconds.
    """

    request: Request
    prompt: Prompt
    original: str
    objectives: tuple[str, ...]
    model: str
    family: str
    dropped: Mapping[str, int]
    started: float

    def finish(self, edit: Edit) -> Alignment:
        """The record with what the engine made.

        Args:
            edit: The engine's edit of this job's request.

        Returns:
            The alignment, `edited` or `unchanged`.

        Raises:
            EngineError: The edit is empty or ended for want of tokens.
        """
        if edit.finish_reason == "length":
            msg = (
                f"The edit ran out of tokens after {self.request.max_new_tokens}, so its end is"
                " missing. Give more with max_new_tokens=, or use a checkpoint with a larger"
                " window."
            )
            raise EngineError(msg)
        text = self.prompt.restore(edit.text)
        if not text.strip():
            msg = (
                f"The aligner {self.model!r} returned an empty edit. Check that the prompt"
                f" family {self.family!r} is the one that the checkpoint was trained with."
            )
            raise EngineError(msg)
        return Alignment(
            original=self.original,
            text=text,
            objectives=self.objectives,
            model=self.model,
            family=self.family,
            dropped=self.dropped,
            status="unchanged" if text == self.original else "edited",
            finish_reason=edit.finish_reason,
            usage=edit.usage,
            passes=edit.passes,
            agreement=edit.agreement,
            token_agreement=self._in_the_original(edit.token_agreement),
            seconds=time.monotonic() - self.started,
        )

    def _in_the_original(
        self, tokens: Sequence[TokenAgreement] | None
    ) -> tuple[TokenAgreement, ...] | None:
        """The same with places in the original, of which characters may have had stand-ins."""
        draft = self.request.draft
        if tokens is None or self.prompt.restore(draft) != self.original:
            return None
        if not self.prompt.undo:
            return tuple(tokens)
        place = list(accumulate((len(self.prompt.restore(one)) for one in draft), initial=0))
        return tuple(TokenAgreement(place[start], place[end], odds) for start, end, odds in tokens)


def skipped(answer: Any) -> Alignment | None:
    """The record for an answer without text, which never reaches an engine; else `None`.

    Raises:
        InputTypeError: The answer is neither text nor a message.
    """
    text = answer_text(answer)
    return None if text.strip() else Alignment(original=text, text=text, status="skipped")


def prepare(
    engine: Engine,
    family: PromptFamily,
    settings: AlignerSettings,
    context: Any,
    answer: Any,
    objectives: ObjectiveLike | Iterable[ObjectiveLike],
    *,
    started: float,
) -> Job:
    """Write the request for one edit.

    Args:
        engine: Who will make the edit; asked only for what it says of its tokens.
        family: The prompt family.
        settings: The aligner's options.
        context: Text, a `Context`, or messages.
        answer: Text or a message.
        objectives: One or several objectives.
        started: Time of `time.monotonic()` when the work began.

    Returns:
        The job; its request fits into the engine's window, where the engine has one.

    Raises:
        MissingContextError: There is nothing that the answer answers.
        UnknownObjectiveError: An objective is unknown.
        InputTypeError: Context or answer are of the wrong type.
        AnswerTooLongError: The answer does not fit into the window.
    """
    text = answer_text(answer)
    wanted = parse_objectives(objectives)
    asked, dropped = read_context(
        context, whole_conversation=family.whole_conversation, system=settings.system
    )

    def written(asked: str | Sequence[Turn]) -> Prompt:
        prompt = family.render(asked, text, wanted, control_tokens=engine.control_tokens)
        if not family.chat:
            return prompt
        asked_in = engine.apply_chat_template([{"role": "user", "content": prompt.text}])
        return prompt if asked_in is None else prompt.in_template(asked_in)

    room = _Room(engine, settings.max_new_tokens, text)
    shortened = room.fit(asked, written, has_turns=family.whole_conversation)
    if shortened is None:
        raise AnswerTooLongError(room.too_small())
    asked, left_out = shortened
    for what, count in left_out.items():
        dropped[what] = dropped.get(what, 0) + count
    prompt = written(asked)
    return Job(
        request=Request(
            prompt=prompt.text,
            draft=prompt.draft,
            max_new_tokens=room.left_after(prompt.text),
            stop=family.stop,
            temperature=settings.temperature,
            deadline=None if settings.timeout is None else started + settings.timeout,
            keep_above=settings.keep_above,
            token_agreement=settings.token_agreement,
            templated=prompt.templated,
            draft_at=prompt.draft_at,
        ),
        prompt=prompt,
        original=text,
        objectives=tuple([one.name for one in wanted]),
        model=model_name(engine),
        family=family.name,
        dropped=dropped,
        started=started,
    )


def read_context(
    context: Any, *, whole_conversation: bool = True, system: SystemHandling = None
) -> tuple[str | tuple[Turn, ...], dict[str, int]]:
    """Read what was given as a context.

    Args:
        context: Text, a `Context`, a prompt value, or messages.
        whole_conversation: Whether all turns are wanted or only the last human one.
        system: What becomes of system messages, as for `read_conversation`.

    Returns:
        Text or turns, and what of the messages was left out.

    Raises:
        MissingContextError: There is nothing in it.
        InputTypeError: It is none of these.
    """
    if isinstance(context, Context):
        context = context.text
    if isinstance(context, str):
        if not context.strip():
            raise MissingContextError(NO_CONTEXT)
        return context, {}
    if context is None:
        raise MissingContextError(NO_CONTEXT)
    if hasattr(context, "to_messages"):
        context = context.to_messages()
    if not isinstance(context, Iterable) or isinstance(context, bytes | dict):
        msg = f"A context is text, a Context or a list of messages, not {type(context).__name__}."
        raise InputTypeError(msg)
    conversation = read_conversation(context, system=system)
    turns, dropped = conversation.turns, {}
    if conversation.system_dropped:
        dropped["system"] = conversation.system_dropped
    if not whole_conversation:
        last = tuple(turn for turn in turns if turn.role == "human")[-1:]
        if len(turns) > len(last):
            dropped["turns"] = len(turns) - len(last)
        turns = last
    if not turns:
        raise MissingContextError(NO_CONTEXT)
    return turns, dropped


def model_name(engine: Engine) -> str:
    """What to call the engine's model in records."""
    return engine.name


class _Room:
    """The tokens that prompt and edit share, where the engine can tell."""

    def __init__(self, engine: Engine, max_new_tokens: int, answer: str) -> None:
        self._max_new_tokens = max_new_tokens
        self._name = model_name(engine)
        self._window, self._count = engine.window, engine.count_tokens
        self._answer = 0 if self._window is None else self._count(answer)
        # What edits usually need; a longer one may use all that is left over.
        self._needed = min(max_new_tokens, math.ceil(1.25 * self._answer) + 64)

    def fit(
        self,
        asked: str | tuple[Turn, ...],
        written: Callable[[str | Sequence[Turn]], Prompt],
        *,
        has_turns: bool,
    ) -> tuple[str | tuple[Turn, ...], dict[str, int]] | None:
        if self._window is None:
            return asked, {}
        room = self._window - self._needed

        def fits(one: str | Sequence[Turn]) -> bool:
            return self._count(written(one).text) <= room

        if has_turns and isinstance(asked, str) and not fits(asked):
            asked = tuple(parse_conversation(asked) or ()) or asked
        return shorten(asked, fits)

    def left_after(self, prompt: str) -> int:
        if self._window is None:
            return self._max_new_tokens
        return min(self._max_new_tokens, self._window - self._count(prompt))

    def too_small(self) -> str:
        return (
            f"The answer of {self._answer} tokens, its edit of up to {self._needed} and the"
            f" objectives don't fit into the window of {self._window} tokens of {self._name!r},"
            " even without any context. Use a checkpoint with a larger window, or say with"
            " on_error= what becomes of such answers."
        )


NO_CONTEXT = (
    "There is no context: an aligner needs the conversation that the answer belongs to. In a chain"
    " it is found where the model runs before the aligner in the same run (llm | aligner);"
    ' elsewhere give it, as config={"configurable": {"context": [HumanMessage(...)]}} or'
    ' Context(text), or as the input {"messages": [..., AIMessage(...)]}.'
)
