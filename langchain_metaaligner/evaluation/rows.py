"""Reads the rows of an evaluation, and checks each before anything is spent on it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_metaaligner.editing.alignment import METADATA_KEY
from langchain_metaaligner.editing.prompts import render_conversation
from langchain_metaaligner.errors import EvaluationError, PreferenceDataError
from langchain_metaaligner.evaluation.records import EvaluationRow
from langchain_metaaligner.training.data.columns import EDIT_FIELDS, Columns
from langchain_metaaligner.training.data.fields import BadRowError, read_answer, read_context
from langchain_metaaligner.training.data.pairs import Problem, digest
from langchain_metaaligner.training.data.rows import Row, read_rows

_COLUMNS = Columns(None, EDIT_FIELDS)
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class GivenRows:
    """The usable rows, and the problems of the others.

    Attributes:
        rows: The usable rows, in order.
        contexts: Key of a row to its context as an aligner takes it: text or messages.
        problems: What is not used, and why.
        read: Number of rows read.
    """

    rows: tuple[EvaluationRow, ...] = field(repr=False)
    contexts: Mapping[str, Any] = field(repr=False)
    problems: tuple[Problem, ...]
    read: int


def check_rows(source: Any, *, has_aligner: bool) -> GivenRows:
    """Read rows and check them.

    Args:
        source: A `.jsonl`, `.csv`, `.tsv` or `.parquet` file, a data set, or an iterable of
            dictionaries with `context`, `answer` and, optionally, `edited`, `reference`, `policy`,
            `conversation` and `metaaligner`, the provenance of the edit; or what
            `read_evaluation_rows` returns.
        has_aligner: Whether an aligner edits the rows without `edited`.

    Returns:
        At least one row, and the problems.

    Raises:
        EvaluationError: The source can't be read, or it has no usable row.
    """
    made: dict[str, EvaluationRow] = {}
    contexts: dict[str, Any] = {}
    # Rows that `read_evaluation_rows` has read come with the problems of the others.
    problems: list[Problem] = list(getattr(source, "problems", ()))
    read = len(problems)
    try:
        for given in read_rows([source] if isinstance(source, Mapping) else source):
            read += 1
            try:
                row, context = _row(given, has_aligner)
                if row.key in made:
                    detail = f"the same row as {made[row.key].place}"
                    raise BadRowError(kind="duplicate", detail=detail)
            except BadRowError as error:
                problems.append(Problem(given.place, error.kind, error.detail))
            else:
                made[row.key], contexts[row.key] = row, context
    except PreferenceDataError as error:
        msg = f"The rows can't be read. {error}"
        raise EvaluationError(msg) from error
    if not made:
        raise EvaluationError(_nothing_left(read, problems))
    return GivenRows(tuple(made.values()), contexts, tuple(problems), read)


def _nothing_left(read: int, problems: Sequence[Problem]) -> str:
    if not read:
        return "There are no rows. A row needs `context`, `answer` and `edited` or an aligner."
    counts = Counter(one.detail for one in problems)
    told = "; ".join(f"{detail} ({count})" for detail, count in counts.most_common(_SHOWN))
    which = "The row" if read == 1 else f"Each of the {read} rows"
    return f"No row can be used: {told}. {which} needs `context` and `answer`."


def _row(given: Row | Problem, has_aligner: bool) -> tuple[EvaluationRow, Any]:
    if isinstance(given, Problem):
        raise BadRowError(kind=given.kind, detail=given.detail)
    values = given.values
    context, text = _context(values)
    answer = _COLUMNS.text(values, "original")
    if answer is None:
        raise BadRowError(kind="missing", detail="the row has no answer")
    answer = read_answer(answer, "the answer")
    edited, provenance = _COLUMNS.text(values, "edited"), values.get(METADATA_KEY)
    if provenance is None:
        provenance = (getattr(edited, "response_metadata", None) or {}).get(METADATA_KEY)
    texts = {"edited": _optional(edited, "edited")}
    if texts["edited"] is None and not has_aligner:
        detail = "the row has no `edited`, and no aligner was given that would edit its answer"
        raise BadRowError(kind="missing", detail=detail)
    texts["reference"] = _optional(values.get("reference"), "the reference")
    policy, conversation = _name(values, "policy"), _name(values, "conversation")
    record = _provenance(provenance)
    verbatim = isinstance(context, str)
    key = digest(policy, conversation, verbatim, text, answer, texts["edited"], texts["reference"])
    row = EvaluationRow(
        key=key[:32],
        place=given.place,
        conversation=conversation or digest(text)[:16],
        policy=policy,
        context=text,
        answer=answer,
        edited=texts["edited"],
        reference=texts["reference"],
        provenance=record,
    )
    return row, context


def _context(values: Mapping[str, Any]) -> tuple[Any, str]:
    """The context as it goes to an aligner, and its text."""
    given, is_question = _COLUMNS.context(values)
    # A judge is told what the policy was told, so a system message belongs to its first turn.
    turns, _ = read_context(given, system="first_turn", is_question=is_question)
    if isinstance(given, str):
        if not is_question:
            return given, given
        given = [("human", given)]
    return list(given), turns if isinstance(turns, str) else render_conversation(turns)


def _optional(given: Any, name: str) -> str | None:
    # In a CSV file nothing is an empty text.
    if given is None or (isinstance(given, str) and not given.strip()):
        return None
    return read_answer(given, name)


def _name(values: Mapping[str, Any], name: str) -> str:
    given = values.get(name)
    if given is None:
        return ""
    if isinstance(given, bool) or not isinstance(given, str | int):
        detail = f"{name} is a name, not {type(given).__name__}"
        raise BadRowError(kind="unreadable", detail=detail)
    return str(given).strip()


def _provenance(given: Any) -> Mapping[str, Any]:
    if given is None or given == "":
        return {}
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            given = None
    if not isinstance(given, Mapping):
        detail = f"{METADATA_KEY} is the provenance of an edit, a dictionary"
        raise BadRowError(kind="unreadable", detail=detail)
    return dict(given)
