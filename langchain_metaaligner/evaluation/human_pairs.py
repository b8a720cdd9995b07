"""Pairs of replies that people compared, to hold a judge against them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from langchain_metaaligner.editing.objectives import Objective, objective_key, parse_objective
from langchain_metaaligner.editing.prompts import render_conversation
from langchain_metaaligner.errors import (
    EvaluationError,
    PreferenceDataError,
    UnknownObjectiveError,
)
from langchain_metaaligner.training.data.columns import Columns
from langchain_metaaligner.training.data.fields import (
    BadRowError,
    implied_context,
    read_answer,
    read_context,
)
from langchain_metaaligner.training.data.pairs import Problem
from langchain_metaaligner.training.data.rows import Row, read_rows

PACKAGED = "assets/evaluation/human_pairs.jsonl"
_COLUMNS = Columns(None)
_BETTER: Mapping[str, int] = {
    "1": 1,
    "first": 1,
    "a": 1,
    "2": 2,
    "second": 2,
    "b": 2,
    "0": 0,
    "equal": 0,
    "tie": 0,
}


@dataclass(frozen=True, slots=True)
class HumanPair:
    """Two replies, and which of them people find better.

    Attributes:
        context: The conversation before them, as text.
        first: A reply.
        second: The other.
        better: 1 or 2; 0 if people find them equal.
        objective: What they were compared by; `None` if the pair does not say.
    """

    context: str = field(repr=False)
    first: str = field(repr=False)
    second: str = field(repr=False)
    better: int
    objective: Objective | None = None


def read_human_pairs(
    source: Any = None, *, objectives: Sequence[Objective] = ()
) -> tuple[HumanPair, ...]:
    """Read pairs that people compared.

    Args:
        source: A `.jsonl`, `.csv`, `.tsv` or `.parquet` file, a data set, or dictionaries; `None`
            for the pairs that come with the package. A row has `context` (text or messages) with
            `first`, `second` and `better` (1, 2, or 0 for equal), or with `chosen` and `rejected`,
            which may be whole conversations as in HH-RLHF; and optionally `objective`.
        objectives: Objectives that names in the rows may mean besides those of the catalogue.

    Returns:
        The pairs.

    Raises:
        EvaluationError: A row is no such pair, or there are none. People's verdicts are few and
            dear, so none is left out in silence.
    """
    if isinstance(source, Sequence) and source and all(isinstance(o, HumanPair) for o in source):
        return tuple(source)
    own = {objective_key(one.name): one for one in objectives}
    pairs, problems = [], []
    try:
        for given in read_rows(_packaged() if source is None else source):
            try:
                pairs.append(_pair(given, own))
            except BadRowError as error:
                problems.append(f"{given.place}: {error.detail}")
    except PreferenceDataError as error:
        msg = f"The human pairs can't be read. {error}"
        raise EvaluationError(msg) from error
    if problems or not pairs:
        why = "; ".join(problems[:3]) or "there are none"
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        msg = (
            f"The human pairs can't be used: {why}{more}. A pair has `context` with `first`,"
            " `second` and `better` (1, 2 or 0), or with `chosen` and `rejected`. Mend or remove"
            " what is none."
        )
        raise EvaluationError(msg)
    return tuple(pairs)


def _packaged() -> Any:
    return str(files("langchain_metaaligner").joinpath(PACKAGED))


def _pair(given: Row | Problem, own: Mapping[str, Objective]) -> HumanPair:
    if isinstance(given, Problem):
        raise BadRowError(kind=given.kind, detail=given.detail)
    values = given.values
    names = ("chosen", "rejected") if values.get("chosen") is not None else ("first", "second")
    missing = [name for name in names if values.get(name) is None]
    if missing:
        raise BadRowError(kind="missing", detail=f"it has no `{missing[0]}`")
    context, is_question = _COLUMNS.context(values)
    context, *texts = implied_context(context, *(values[name] for name in names))
    turns, _ = read_context(context, system="first_turn", is_question=is_question)
    first, second = (read_answer(one, f"`{name}`") for name, one in zip(names, texts, strict=True))
    if first == second:
        raise BadRowError(kind="identical", detail="both replies are the same")
    better = 1 if names[0] == "chosen" else _better(values.get("better"))
    text = turns if isinstance(turns, str) else render_conversation(turns)
    if isinstance(context, str) and not is_question:
        text = context
    objective = _objective(values.get("objective"), own)
    if names[0] == "chosen" and _is_odd(text + first + second):
        # A judge that always says the first must not look as if it agreed.
        first, second, better = second, first, 2
    return HumanPair(text, first, second, better, objective)


def _better(given: Any) -> int:
    found = None if isinstance(given, bool) else _BETTER.get(str(given).strip().lower())
    if found is None:
        raise BadRowError(kind="score", detail="`better` is none of 1, 2 and 0")
    return found


def _objective(given: Any, own: Mapping[str, Objective]) -> Objective | None:
    if given is None or given == "":
        return None
    if isinstance(given, str) and objective_key(given) in own:
        return own[objective_key(given)]
    try:
        return parse_objective(given)
    except UnknownObjectiveError as error:
        raise BadRowError(kind="objectives", detail=str(error)) from error


def _is_odd(text: str) -> bool:
    return bool(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[0] & 1)
