"""Parses a row of preference data into pairs of answers and problems."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_metaaligner.editing.conversation import SystemHandling, Turn
from langchain_metaaligner.editing.objectives import catalogue_key
from langchain_metaaligner.editing.prompts import HH_RLHF, Objective, PromptFamily
from langchain_metaaligner.errors import PreferenceDataError
from langchain_metaaligner.training.data.columns import Columns
from langchain_metaaligner.training.data.fields import (
    BadRowError,
    implied_context,
    read_answer,
    read_context,
    read_score,
    read_winner,
)
from langchain_metaaligner.training.data.pairs import Comparison, PreferencePair, Problem, digest
from langchain_metaaligner.training.data.rows import Row


@dataclass(frozen=True, slots=True)
class Rules:
    """How rows are read.

    Attributes:
        columns: Where the fields are.
        objectives: Names of the wanted objectives; `None` for all.
        preferred_on: Objectives on which the first answer is better in rows without them.
        family: The prompt family whose markers no text may hold.
        system: What becomes of system messages.
        pairs_per_prompt: Most pairs from a row with several answers.
        seed: Seed of the choice of those pairs.
        scored_later: Rows without any comparison give pairs too.
    """

    columns: Columns
    objectives: frozenset[str] | None
    preferred_on: tuple[str, ...]
    family: PromptFamily
    system: SystemHandling
    pairs_per_prompt: int | None
    seed: int
    scored_later: bool


@dataclass(slots=True)
class Parsed:
    """The content of a row.

    Attributes:
        pairs: The usable pairs.
        problems: What can't be used, and why.
        unlabelled: Objectives that the row names without a value.
        system_dropped: Number of system messages left out of the context.
    """

    pairs: list[PreferencePair] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unlabelled: set[str] = field(default_factory=set)
    system_dropped: int = 0


@dataclass(frozen=True, slots=True)
class _Reply:
    text: str
    scores: Mapping[str, float | None]


def parse_row(row: Row, rules: Rules) -> Parsed:
    """Parse a row.

    Args:
        row: The row.
        rules: How to read it.

    Returns:
        Its pairs and problems. A row of two answers gives no pair if it has any problem; in a row
        of several answers, those without problems are paired.
    """
    parsed = Parsed()
    try:
        if rules.columns.text(row.values, "answers") is not None:
            _several(row, rules, parsed)
        else:
            _two(row, rules, parsed)
    except BadRowError as error:
        parsed.problems.append(Problem(row.place, error.kind, error.detail))
    return parsed


def objective_name(name: str) -> str:
    """The catalogue's name of an objective, or the given name if the catalogue has none."""
    return catalogue_key(name) or name.strip()


def _two(row: Row, rules: Rules, parsed: Parsed) -> None:
    columns = rules.columns
    first, second = columns.text(row.values, "answer_a"), columns.text(row.values, "answer_b")
    for name, given in (("answer_a", first), ("answer_b", second)):
        if given is None:
            raise BadRowError(kind="missing", detail=f"the row has no {name}")
    given, is_question = columns.context(row.values)
    given, first, second = implied_context(given, first, second)
    context = _context(given, rules, parsed, is_question=is_question)
    text_a, text_b = read_answer(first, "answer_a"), read_answer(second, "answer_b")
    compared = _compared(row.values, rules, parsed)
    _add_pair(parsed, rules, PreferencePair(context, text_a, text_b, compared, row.place))


def _several(row: Row, rules: Rules, parsed: Parsed) -> None:
    answers = rules.columns.text(row.values, "answers")
    if not isinstance(answers, Sequence) or isinstance(answers, str):
        raise BadRowError(
            kind="answer", detail=f"`answers` is a list, not {type(answers).__name__}"
        )
    given, is_question = rules.columns.context(row.values)
    context = _context(given, rules, parsed, is_question=is_question)
    replies: list[tuple[int, _Reply]] = []
    for number, one in enumerate(answers, start=1):
        try:
            replies.append((number, _reply(one, rules)))
        except BadRowError as error:
            place = f"{row.place}, answer {number}"
            parsed.problems.append(Problem(place, error.kind, error.detail))
    names = {name for _, reply in replies for name in reply.scores}
    known = {n for n in names if any(reply.scores.get(n) is not None for _, reply in replies)}
    parsed.unlabelled |= names - known
    whole = []
    for number, reply in replies:
        lacking = sorted(name for name in known if reply.scores.get(name) is None)
        if lacking:
            place, detail = f"{row.place}, answer {number}", f"no score for {', '.join(lacking)}"
            parsed.problems.append(Problem(place, "missing", detail))
        else:
            whole.append((number, reply))
    pairs = [
        PreferencePair(
            context,
            a.text,
            b.text,
            {name: _two_scores(a.scores[name], b.scores[name]) for name in sorted(known)},
            f"{row.place}, answers {i} and {j}",
        )
        for (i, a), (j, b) in itertools.combinations(whole, 2)
    ]
    if not pairs and not parsed.problems:
        raise BadRowError(kind="missing", detail="the row has fewer than two answers")
    usable = Parsed()
    for pair in pairs:
        try:
            _add_pair(usable, rules, pair)
        except BadRowError as error:
            parsed.problems.append(Problem(pair.place, error.kind, error.detail))
    # Chosen by their content, so that the order of the answers does not matter.
    picked = sorted(usable.pairs, key=lambda pair: digest(rules.seed, pair.identity()))
    parsed.pairs += picked[: rules.pairs_per_prompt]


def _context(
    given: Any, rules: Rules, parsed: Parsed, *, is_question: bool
) -> str | tuple[Turn, ...]:
    context, dropped = read_context(given, system=rules.system, is_question=is_question)
    parsed.system_dropped += dropped
    return context


def _two_scores(first: float | None, second: float | None) -> tuple[float, float]:
    if first is None or second is None:
        raise BadRowError(kind="missing", detail="a score is missing")
    return first, second


def _reply(given: Any, rules: Rules) -> _Reply:
    if not isinstance(given, Mapping):
        detail = f"each of `answers` is a dictionary, not {type(given).__name__}"
        raise BadRowError(kind="answer", detail=detail)
    text = rules.columns.text(given, "answer")
    if text is None:
        raise BadRowError(kind="missing", detail="it has no text under `answer`")
    scores = {
        name: read_score(value, f"scores.{name}")
        for name, value in _wanted(given, "scores", rules).items()
    }
    return _Reply(read_answer(text, "answer"), scores)


def _add_pair(parsed: Parsed, rules: Rules, pair: PreferencePair) -> None:
    if pair.answer_a == pair.answer_b:
        if any(pair.winner(name) != "equal" for name in pair.compared):
            detail = "both answers are the same text, but one is said to be better"
            raise BadRowError(kind="contradiction", detail=detail)
        raise BadRowError(kind="identical", detail="both answers are the same text")
    if not pair.compared and not rules.scored_later:
        detail = "the row compares its answers on none of the objectives"
        raise BadRowError(kind="missing", detail=detail)
    check_structure(
        pair.context, {"answer_a": pair.answer_a, "answer_b": pair.answer_b}, rules.family
    )
    parsed.pairs.append(pair)


def _compared(values: Mapping[str, Any], rules: Rules, parsed: Parsed) -> dict[str, Comparison]:
    first = _wanted(values, "scores_a", rules)
    second = _wanted(values, "scores_b", rules)
    plain = _wanted(values, "preferences", rules)
    compared: dict[str, Comparison] = {}
    for name in sorted({*first, *second, *plain}):
        a = read_score(first.get(name), f"scores_a.{name}")
        b = read_score(second.get(name), f"scores_b.{name}")
        better = read_winner(plain.get(name), f"preferences.{name}")
        if better is not None and (a is not None or b is not None):
            detail = f"{name} has both scores and a preference; give one of them"
            raise BadRowError(kind="score", detail=detail)
        if better is not None:
            compared[name] = better
        elif a is not None and b is not None:
            compared[name] = (a, b)
        elif a is not None or b is not None:
            side = "scores_b" if b is None else "scores_a"
            raise BadRowError(
                kind="missing", detail=f"{side}.{name} is missing, but the other score is given"
            )
        elif name not in rules.preferred_on:
            parsed.unlabelled.add(name)
    return {**dict.fromkeys(rules.preferred_on, "a"), **compared}


def _wanted(values: Mapping[str, Any], field_name: str, rules: Rules) -> dict[str, Any]:
    try:
        found = rules.columns.named(values, field_name)
    except PreferenceDataError as error:
        raise BadRowError(kind="score", detail=str(error)) from error
    named: dict[str, Any] = {}
    for given, value in found.items():
        name = objective_name(given)
        if rules.objectives is not None and name not in rules.objectives:
            continue
        if named.get(name) is not None:
            detail = f"{field_name} names {name} twice, in different spellings"
            raise BadRowError(kind="score", detail=detail)
        named[name] = value
    return named


def check_structure(
    context: str | Sequence[Turn], answers: Mapping[str, str], family: PromptFamily
) -> None:
    """Refuse text with the markers of a prompt family, which an aligner would learn to write.

    Args:
        context: The turns before the answers, or text that is used verbatim.
        answers: The answers by the names of their fields.
        family: The prompt family that the aligner will be trained on.

    Raises:
        BadRowError: A text holds such a marker.
    """
    # Rendering escapes a text exactly where it holds such a marker.
    name = next(iter(family.objectives), "harmlessness")
    probe = [Objective(name, family.objectives.get(name, HH_RLHF.objectives["harmlessness"]))]
    for side, answer in answers.items():
        if family.render("", answer, probe).undo:
            detail = (
                f"{side} holds a field mark, a turn marker or a control token of the prompts of"
                f" {family.name}"
            )
            raise BadRowError(kind="structure", detail=detail)
    if family.render(context, "", probe).undo:
        detail = f"the context holds a mark of the prompts of {family.name}"
        raise BadRowError(kind="structure", detail=detail)
