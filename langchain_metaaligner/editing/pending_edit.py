"""Turns an answer into requests to the engine, and the engine's edits into the record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, chain, islice
from typing import Any

from langchain_metaaligner.editing.alignment import Alignment
from langchain_metaaligner.editing.beside_text import reason_without_text
from langchain_metaaligner.editing.context_window import Room
from langchain_metaaligner.editing.conversation import Turn, check_form, read_context
from langchain_metaaligner.editing.guards.passages import Passages
from langchain_metaaligner.editing.json_answer import JsonText, may_be_json, read_json
from langchain_metaaligner.editing.objectives import (
    Objective,
    Objectives,
    Parsed,
    parse_objectives,
)
from langchain_metaaligner.editing.prompts import Prompt, PromptFamily
from langchain_metaaligner.editing.reply_message import answer_text
from langchain_metaaligner.engines import deadlines, thoughts
from langchain_metaaligner.engines.base import (
    Edit,
    Engine,
    Request,
    TokenAgreement,
    as_ours,
    errors_of_ours,
    too_late,
)
from langchain_metaaligner.engines.waits import Body, Ended, Wait
from langchain_metaaligner.errors import (
    AnswerTooLongError,
    CheckpointError,
    EngineError,
    without_quotes,
)
from langchain_metaaligner.options import CAUTION, AlignerOptions

Item = tuple[Any, Any, Objectives]
"""Context, answer and objectives of one edit."""

_SHORT = 2048
"""Characters with which no work takes longer than starting a thread for it."""
_MOST_VALUES = 1000  # texts of an answer that is JSON


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an answer that one request edits.

    Attributes:
        request: The request to the engine.
        prompt: The rendered prompt of the request, which can also undo its escaping.
        original: The text of this part.
        before: Text before this part that stays as it is.
        value: The string value that this part is, in an answer that is JSON.
        is_chat: Whether a chat model is asked, which may think before it answers.
        guards: What the edit must keep: names, and guards of the user's own.
    """

    request: Request
    prompt: Prompt
    original: str = field(repr=False)
    before: str = field(default="", repr=False)
    value: JsonText | None = None
    is_chat: bool = False
    guards: tuple[Any, ...] = ()

    @property
    def length(self) -> int:
        """How many characters of the answer this part takes up."""
        return len(self.original if self.value is None else self.value.raw)

    def guarded(self) -> Passages | None:
        """Make what looks at the edit of this part; `None` if it has no guards."""
        if not self.guards:
            return None
        retryable = self.request.temperature > 0
        return Passages(self.original, self.request.prompt, self.guards, retryable=retryable)

    def text(self, edit: Edit, model: str) -> str:
        """The edited text of this part, before its guards have seen it.

        Args:
            edit: The engine's edit for this part's request.
            model: The name of the engine's model.

        Returns:
            The text with the escaping of the prompt undone.

        Raises:
            EngineError: The edit is empty, or it ran out of tokens.
        """
        if edit.finish_reason == "length":
            msg = (
                f"The edit ran out of tokens after {self.request.max_new_tokens}, so its end is"
                " missing. Allow more tokens with max_new_tokens=, or use a checkpoint with a"
                " larger window."
            )
            raise EngineError(msg, retryable=self.request.temperature > 0)
        text = edit.text
        if self.is_chat:
            text = thoughts.spoken(text, thoughts.opened(self.request.prompt))
        text = self.prompt.restore(text) if self.prompt.undo else text
        if not text.strip():
            msg = (
                f"The aligner {model!r} returned an empty edit. Check that family= is the prompt"
                " family that the checkpoint was trained with."
            )
            raise EngineError(msg, retryable=self.request.temperature > 0)
        return text

    def agreement(self, edit: Edit, start: int) -> tuple[TokenAgreement, ...] | None:
        """The agreement of each token of this part, if the engine reports it.

        Args:
            edit: The engine's edit for this part's request.
            start: Offset of this part in the answer, in characters.

        Returns:
            The agreement of each token, with offsets in the answer; `None` if it is not known.
        """
        tokens, draft = edit.token_agreement, self.request.draft
        if tokens is None or self.prompt.restore(draft) != self.original:
            return None
        # A look-alike in the draft may stand for text of another length in the original.
        place = list(accumulate((len(self.prompt.restore(char)) for char in draft), initial=0))
        if self.value is not None:
            place = [self.value.offsets[at] for at in place]
        return tuple(
            TokenAgreement(start + place[first], start + place[end], odds)
            for first, end, odds in tokens
        )


@dataclass(frozen=True, slots=True)
class PendingEdit:
    """An answer that is being edited, by one request or by several for parts of it.

    Attributes:
        parts: The parts to edit, in order. The parts, the text before each and the text after the
            last make up the answer.
        original: The answer.
        objectives: The names of the objectives.
        model: The name of the engine's model.
        family: The name of the prompt family.
        dropped: Counts of what was left out of the context.
        started: `time.monotonic()` at the start of the work, in seconds.
        after: Text after the last part that stays as it is.
        context: The conversation before the answer, before anything was left out to fit.
    """

    parts: tuple[Part, ...]
    original: str = field(repr=False)
    objectives: tuple[str, ...]
    model: str
    family: str
    dropped: Mapping[str, int]
    started: float
    after: str = field(default="", repr=False)
    context: str | tuple[Turn, ...] | None = field(default=None, repr=False)

    def finish(
        self,
        made: Sequence[Edit | Exception],
        streamed: Sequence[Passages | None] = (),
    ) -> Alignment:
        """Make the record from the engine's results.

        Args:
            made: The engine's edit or error for each part, in order.
            streamed: What the guards of each part have let through already, if it was streamed.

        Returns:
            The alignment, `edited` or `unchanged`.

        Raises:
            MetaAlignerError: The first error among the results.
            EngineError: An edit is empty, or it ran out of tokens.
            GuardError: A guard refuses an edit.
        """
        edits = []
        for result in made:
            if isinstance(result, Exception):
                raise result
            edits.append(result)
        seen = list(streamed)
        text, tokens, place = "", [], 0
        for number, (part, edit) in enumerate(zip(self.parts, edits, strict=True)):
            edited = part.text(edit, self.model)
            if streamed and (guards := streamed[number]) is not None:
                edited = guards.text
            elif part.guards and edited != part.original:
                guards = Passages.of_whole(
                    edited,
                    part.original,
                    part.request.prompt,
                    part.guards,
                    retryable=part.request.temperature > 0,
                )
                seen.append(guards)
                edited = guards.text
            text += part.before + (
                edited if part.value is None else part.value.writer().write(edited)
            )
            place += len(part.before)
            tokens.append(part.agreement(edit, place))
            place += part.length
        text += self.after
        passes = [edit.passes for edit in edits if edit.passes is not None]
        return Alignment(
            original=self.original,
            text=text,
            objectives=self.objectives,
            model=self.model,
            family=self.family,
            dropped=self.dropped,
            status="unchanged" if text == self.original else "edited",
            finish_reason=edits[-1].finish_reason,
            usage=_usage_of(edits),
            passes=sum(passes) if len(passes) == len(edits) else None,
            agreement=_agreement_of(self.parts, edits),
            token_agreement=_joined(tokens),
            caution=self.parts[0].request.caution,
            seconds=time.monotonic() - self.started,
            guards=_told_by(seen) if seen else {},
            context=_plain(self.context),
        )


def _plain(context: str | tuple[Turn, ...] | None) -> str | tuple[tuple[str, str], ...] | None:
    if context is None or isinstance(context, str):
        return context
    return tuple([(turn.role, turn.text) for turn in context])


def _told_by(seen: Sequence[Passages | None]) -> dict[str, dict[str, int]]:
    told: dict[str, dict[str, int]] = {}
    for one in seen:
        for name, counts in () if one is None else one.told.items():
            known = told.setdefault(name, {})
            for what, count in counts.items():
                known[what] = known.get(what, 0) + count
    return told


def _usage_of(edits: Sequence[Edit]) -> dict[str, int] | None:
    counted = [edit.usage for edit in edits if edit.usage is not None]
    if len(counted) < len(edits):
        return None
    names = dict.fromkeys(name for usage in counted for name in usage)
    return {name: sum(usage.get(name, 0) for usage in counted) for name in names}


def _agreement_of(parts: Sequence[Part], edits: Sequence[Edit]) -> float | None:
    """The mean over the answer, weighted by characters: token counts may not be known."""
    known = [
        (len(part.original), edit.agreement)
        for part, edit in zip(parts, edits, strict=True)
        if edit.agreement is not None
    ]
    if len(known) == 1 == len(edits):
        return known[0][1]
    length = sum(count for count, _ in known)
    if len(known) < len(edits) or not length:
        return None
    return sum(count * agreement for count, agreement in known) / length


def _joined(
    tokens: Sequence[tuple[TokenAgreement, ...] | None],
) -> tuple[TokenAgreement, ...] | None:
    known = [one for one in tokens if one is not None]
    return tuple(chain.from_iterable(known)) if len(known) == len(tokens) else None


Prepared = PendingEdit | Alignment | Exception
"""An edit to make, the record of an answer without text, or the error of the preparation."""


Model = tuple[Engine, PromptFamily]
"""What makes edits, and the family of its prompts."""


def edit_all(
    items: Sequence[Item],
    options: AlignerOptions,
    *,
    ready: Model | None,
    load: Callable[[], Model],
) -> Body[Sequence[Alignment | Exception]]:
    """Edit answers with one call to the engine.

    Args:
        items: Triples of context, answer and objectives.
        options: The aligner's options.
        ready: The model, if it is known already.
        load: Finds the model, which may take long.

    Returns:
        A record or an error for each item, in order.
    """
    started = time.monotonic()  # finding the model takes time, too

    def prepared() -> tuple[Engine, list[Prepared]]:
        engine, family = ready or load()
        return engine, prepare_all(engine, family, options, items, started=started)

    try:
        if _is_quick(ready, items):
            engine, given = prepared()
        else:
            engine, given = yield deadlines.aside(prepared, deadline_of(options, started))
        requests = [part.request for item in given for part in _parts_of(item)]
        edits: Sequence[Edit | Exception] = ()
        if requests:
            edits = yield Wait(
                partial(deadlines.edit, engine, requests),
                partial(deadlines.aedit, engine, requests),
            )
        made: Sequence[Alignment | Exception]
        if any(len(request.draft) > _SHORT for request in requests):
            made = yield deadlines.aside(partial(finish_all, given, edits), None)
        else:
            made = finish_all(given, edits)
    except Exception as error:  # noqa: BLE001 - with no engine or family, it is each item's own
        made = [error] * len(items)
    return made


def stream_edit(
    item: Item, options: AlignerOptions, *, ready: Model | None, load: Callable[[], Model]
) -> Body[Alignment]:
    """Edit one answer piece by piece.

    Args:
        item: As for `edit_all`.
        options: As for `edit_all`.
        ready: As for `edit_all`.
        load: As for `edit_all`.

    Returns:
        The record.
    """
    started = time.monotonic()

    def prepared() -> tuple[Engine, PendingEdit | Alignment]:
        engine, family = ready or load()
        return engine, prepare(engine, family, options, *item, started=started)

    if _is_quick(ready, [item]):
        engine, pending = prepared()
    else:
        engine, pending = yield deadlines.aside(prepared, deadline_of(options, started))
    return (yield from stream_pending(pending, engine))


def stream_pending(pending: PendingEdit | Alignment, engine: Engine) -> Body[Alignment]:
    """Make a prepared edit piece by piece.

    Args:
        pending: The edit, or the record of an answer without one.
        engine: The engine that makes the edit.

    Returns:
        The record.
    """
    if isinstance(pending, Alignment):
        if pending.text:
            yield pending.text
        return pending
    edits: list[Edit] = []
    seen = [part.guarded() for part in pending.parts]
    for part, guards in zip(pending.parts, seen, strict=True):
        if part.before:
            yield part.before
        edits.append((yield from _pieces_of(part, engine, guards)))
    if pending.after:
        yield pending.after
    if len(pending.original) > _SHORT:
        made: Alignment = yield deadlines.aside(partial(pending.finish, edits, seen), None)
        return made
    return pending.finish(edits, seen)


def _pieces_of(part: Part, engine: Engine, guards: Passages | None) -> Body[Edit]:
    answer = thoughts.SpokenText(thoughts.opened(part.request.prompt)) if part.is_chat else None
    is_plain = part.value is None and not part.prompt.undo and answer is None
    look = guards.push if guards is not None and is_plain else None
    pieces = deadlines.Pieces(engine, part.request, look)
    wait = Wait(pieces.next, pieces.anext, repeated=is_plain, stop=pieces.aclose)
    made: Edit
    try:
        if is_plain:
            made = yield wait
            if guards is not None and made.finish_reason != "length" and (rest := guards.finish()):
                yield rest
            return made
        restore = part.prompt.restore
        write = None if part.value is None else part.value.writer().write
        ended = False
        while not ended:
            piece = yield wait
            ended = isinstance(piece, Ended)
            if ended:
                made = piece.value
                if made.finish_reason == "length":
                    break
                piece = "" if answer is None else answer.finish()
                piece = piece if piece.strip() else ""
            elif answer is not None:
                piece = answer.push(piece)
            piece = restore(piece)
            if guards is not None:
                piece = guards.push(piece)
                piece += guards.finish() if ended else ""
            if piece:
                yield piece if write is None else write(piece)
        return made
    except BaseException:
        pieces.close()
        raise


def prepare_all(
    engine: Engine,
    family: PromptFamily,
    options: AlignerOptions,
    items: Iterable[Item],
    *,
    started: float,
) -> list[Prepared]:
    """Write the requests for several edits; an item that fails does not affect the others.

    Args:
        engine: The engine that will make the edits; used here only to count tokens and to apply
            its chat template.
        family: The prompt family.
        options: The aligner's options.
        items: Triples of context, answer and objectives.
        started: `time.monotonic()` at the start of the work, in seconds.

    Returns:
        An edit, a record or an error for each item, in order.
    """
    prepared: list[Prepared] = []
    deadline = deadline_of(options, started)
    for item in items:
        try:
            if deadline is not None and time.monotonic() > deadline:
                raise too_late()
            context, answer, objectives = item
            made = prepare(engine, family, options, context, answer, objectives, started=started)
            prepared.append(made)
        except Exception as error:  # noqa: BLE001 - one item must not fail the others
            prepared.append(error)
    return prepared


def finish_all(
    prepared: Sequence[Prepared], edits: Sequence[Edit | Exception]
) -> list[Alignment | Exception]:
    """Make the records of several edits.

    Args:
        prepared: The items, as `prepare_all` returned them.
        edits: The engine's edit or error for each of their requests, in order.

    Returns:
        A record or an error for each item, in order.
    """
    results: list[Alignment | Exception] = []
    made = iter(edits)
    for item in prepared:
        if not isinstance(item, PendingEdit):
            results.append(item)
            continue
        own = list(islice(made, len(item.parts)))
        try:
            results.append(item.finish(own))
        except Exception as error:  # noqa: BLE001 - this error belongs to this item only
            results.append(error)
    return results


def _parts_of(prepared: Prepared) -> tuple[Part, ...]:
    return prepared.parts if isinstance(prepared, PendingEdit) else ()


def prepare(
    engine: Engine,
    family: PromptFamily,
    options: AlignerOptions,
    context: Any,
    answer: Any,
    objectives: Objectives,
    *,
    started: float,
) -> PendingEdit | Alignment:
    """Write the request for one edit.

    Args:
        engine: The engine that will make the edit; used here only to count tokens and to apply
            its chat template.
        family: The prompt family.
        options: The aligner's options.
        context: Text, a `Context`, or messages.
        answer: Text or a message.
        objectives: One or more objectives.
        started: `time.monotonic()` at the start of the work, in seconds.

    Returns:
        The edit to make, with a request that fits into the engine's window if it has one; or the
        record of an answer without text, which never reaches an engine.

    Raises:
        MissingContextError: The context is empty or missing.
        UnknownObjectiveError: An objective is unknown.
        InputTypeError: The context or the answer is of the wrong type.
        AnswerTooLongError: The answer does not fit into the window, or is JSON with too many texts.
        CheckpointError: An option asks for something that the engine can't do.
        EngineError: The engine can't count tokens or apply its template.
        EditTimeout: The time is over already.
    """
    text = answer if isinstance(answer, str) else answer_text(answer)
    if not text.strip():
        reason = reason_without_text(answer)
        return Alignment(original=text, text=text, status="skipped", reason=reason)
    values = read_json(text, _MOST_VALUES + 1) if may_be_json(text) else None
    if values == []:
        return Alignment(original=text, text=text, status="skipped", reason="JSON without text")
    if values and len(values) > _MOST_VALUES:
        message = (
            f"The answer is JSON with more than {_MOST_VALUES:,} texts, each of which would be an"
            " edit of its own. Ask the model for fewer, or edit them in several answers."
        )
        raise AnswerTooLongError(message)
    wanted = objectives if type(objectives) is Parsed else parse_objectives(objectives)
    asked, dropped = read_context(
        context, whole_conversation=family.whole_conversation, system=options.system
    )
    if isinstance(context, str) and family.whole_conversation and not family.chat:
        check_form(context)
    deadline = deadline_of(options, started)
    write = _RequestWriter(engine, family, options, asked, wanted, deadline)
    parts = write.parts(text, values)
    for what, count in write.left_out.items():
        dropped[what] = dropped.get(what, 0) + count
    if deadline is not None and time.monotonic() > deadline:
        raise too_late()
    return PendingEdit(
        parts=parts,
        original=text,
        objectives=tuple([objective.name for objective in wanted]),
        model=engine.name,
        family=family.name,
        dropped=dropped,
        started=started,
        after=text[values[-1].end :] if values else "",
        context=asked,
    )


def deadline_of(options: AlignerOptions, started: float) -> float | None:
    """The time at which an edit must be made, in seconds of `time.monotonic()`.

    Args:
        options: The aligner's options.
        started: `time.monotonic()` at the start of the work, in seconds.
    """
    return None if options.timeout is None else started + options.timeout


def caution_of(options: AlignerOptions, engine: Engine, family: PromptFamily) -> float:
    """The margin with which an engine's edits may leave the answer.

    Args:
        options: The aligner's options.
        engine: The engine.
        family: The prompt family.

    Returns:
        The margin in nats; 0 for plain decoding.

    Raises:
        CheckpointError: A margin was asked for that the engine can't keep.
    """
    asked = options.caution
    if asked == 0 or options.temperature > 0:
        return 0.0
    with errors_of_ours():
        if engine.keeps_caution and (engine.scores_templated or not family.chat):
            return CAUTION if asked is None else asked
    if asked is None:
        return 0.0
    message = (
        f"caution={asked} can't be kept by the engine {engine.name!r}, which does not compare the"
        " answer's tokens with its own. Leave caution out or give 0, or use a local checkpoint."
    )
    raise CheckpointError(message)


def check_options(options: AlignerOptions, engine: Engine, family: PromptFamily) -> None:
    """Let an engine refuse options that were given and need the answer's log-probabilities.

    Args:
        options: The aligner's options.
        engine: The engine.
        family: The prompt family.

    Raises:
        CheckpointError: It can't keep one of them.
    """
    given = [name for name in ("keep_above", "token_agreement") if _is_given(options, name)]
    if given:
        with errors_of_ours():
            engine.check_options(given, templated=family.chat)


def _is_given(options: AlignerOptions, name: str) -> bool:
    return getattr(options, name) not in (None, False)


def _is_quick(ready: Model | None, items: Iterable[Item]) -> bool:
    """Whether edits are prepared sooner than a thread is started for it."""
    try:
        if ready is None or ready[0].window is not None or ready[1].chat:
            return False  # a tokenizer is loaded, or an engine asked
    except BaseException as error:  # noqa: BLE001 - `as_ours` raises again what must not be caught
        ours = as_ours(error)
        raise ours from ours.__cause__
    return not any(map(_is_long, items))


def _is_long(item: Item) -> bool:
    try:
        context, answer, _ = item
    except (TypeError, ValueError):  # no triple; reading it again makes the error of this item
        return True
    given = context if isinstance(context, list | tuple) else (context,)
    size = 0
    for one in (*given, answer):
        text = one if isinstance(one, str) else getattr(one, "content", getattr(one, "text", None))
        if not isinstance(text, str):  # of an unknown size
            return True
        size += len(text)
        if size > _SHORT:
            return True
    return False


class _RequestWriter:
    """Writes the requests for the parts of one answer.

    Attributes:
        left_out: Counts of what was left out of the context to fit into the window; of several
            parts, those of the one that lost most.
    """

    def __init__(
        self,
        engine: Engine,
        family: PromptFamily,
        options: AlignerOptions,
        asked: str | tuple[Turn, ...],
        wanted: Sequence[Objective],
        deadline: float | None,
    ) -> None:
        self.left_out: dict[str, int] = {}
        self._engine, self._family, self._options = engine, family, options
        self._asked, self._wanted, self._deadline = asked, wanted, deadline
        self._caution = caution_of(options, engine, family)
        check_options(options, engine, family)

    def parts(self, text: str, values: Sequence[JsonText] | None) -> tuple[Part, ...]:
        """Write the requests for an answer.

        Args:
            text: The text of the answer.
            values: The texts in it that are edited one by one; `None` if it is edited as a whole.

        Returns:
            The parts, in order.

        Raises:
            AnswerTooLongError: A part does not fit into the window.
            EngineError: The engine can't count tokens or apply its template.
        """
        try:
            if values is None:
                return (self.part(text),)
            starts = [0, *[value.end for value in values]]
            return tuple(
                self.part(value.text, before=text[start : value.start], value=value)
                for start, value in zip(starts, values, strict=False)
            )
        except BaseException as error:  # noqa: BLE001 - `as_ours` raises again what must not be caught
            ours = as_ours(error)
            if isinstance(ours, EngineError):
                asked = self._asked
                turns = (asked,) if isinstance(asked, str) else [turn.text for turn in asked]
                ours.args = (without_quotes(str(ours), text, *turns),)
            raise ours from ours.__cause__

    def part(self, text: str, *, before: str = "", value: JsonText | None = None) -> Part:
        """Write the request for one part of the answer.

        Args:
            text: The text of the part.
            before: As for `Part`.
            value: As for `Part`.

        Returns:
            The part.

        Raises:
            AnswerTooLongError: The part does not fit into the window.
        """
        room = Room(self._engine, self._options.max_new_tokens, text)
        prompt = self._prompt(self._asked, text) if room.may_fit(self._asked) else None
        if prompt is None or not room.fits(prompt):
            shortened = room.shorten(
                self._asked,
                lambda one: self._prompt(one, text),
                has_turns=self._family.whole_conversation,
            )
            if shortened is None:
                raise AnswerTooLongError(room.too_small())
            asked, left_out = shortened
            for what, count in left_out.items():
                self.left_out[what] = max(count, self.left_out.get(what, 0))
            prompt = self._prompt(asked, text)
        options = self._options
        request = Request(
            prompt=prompt.text,
            draft=prompt.draft,
            max_new_tokens=room.left_after(prompt),
            stop=self._family.stop,
            temperature=options.temperature,
            deadline=self._deadline,
            keep_above=options.keep_above,
            token_agreement=options.token_agreement,
            templated=prompt.templated,
            draft_at=prompt.draft_at,
            caution=self._caution,
            refuse_repetition="repetition" in options.guards,
        )
        return Part(request, prompt, text, before, value, self._family.chat, options.guards)

    def _prompt(self, asked: str | Sequence[Turn], text: str) -> Prompt:
        engine, family = self._engine, self._family
        control = engine.control_tokens
        if family.chat and engine.template_marks:
            control = (*control, *engine.template_marks)
        prompt = family.render(
            asked, text, self._wanted, control_tokens=control, readings=engine.readings
        )
        return _templated(engine, prompt) if family.chat else prompt


def _templated(engine: Engine, prompt: Prompt) -> Prompt:
    written = engine.apply_chat_template([{"role": "user", "content": prompt.text}])
    return prompt if written is None else prompt.in_template(written)
