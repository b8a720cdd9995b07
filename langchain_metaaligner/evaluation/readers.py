"""Reads rows for evaluations from the forms in which replies are kept elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from langchain_metaaligner.editing.alignment import METADATA_KEY
from langchain_metaaligner.errors import EvaluationError, PreferenceDataError
from langchain_metaaligner.evaluation.langsmith_exports import read_export
from langchain_metaaligner.evaluation.packaged import Answers, check_answers
from langchain_metaaligner.training.data.accepted import with_verdicts
from langchain_metaaligner.training.data.columns import (
    EDIT_FIELDS,
    ULTRAFEEDBACK_COLUMNS,
    Columns,
)
from langchain_metaaligner.training.data.fields import (
    BadRowError,
    implied_context,
    read_answer,
    read_context,
    read_score,
)
from langchain_metaaligner.training.data.pairs import Problem
from langchain_metaaligner.training.data.rows import Row, read_rows

RowFormat = Literal["rows", "pairs", "completions", "authors", "langsmith"]
"""The forms of rows."""

_ROWS = Columns(None, EDIT_FIELDS)
_PAIRS = Columns()
_COMPLETIONS = Columns(ULTRAFEEDBACK_COLUMNS)
_BESIDE = ("policy", "conversation", METADATA_KEY)
# What the scripts of the MetaAligner repository call a reply, and an edit of one.
_AUTHORS_REPLY = ("origin_responses", "origins", "generated_text")
_AUTHORS_EDIT = ("aligned_responses", "aligner_generated_text")


@dataclass(frozen=True, slots=True)
class EvaluationRows(Sequence[dict[str, Any]]):
    """Rows for `evaluate`, and the problems of the rows that are left out.

    Attributes:
        rows: The rows, in the order of the data: dictionaries with `context`, `answer` and,
            where the data have them, `edited`, `reference`, `policy`, `conversation` and the
            edit's provenance in `metaaligner`.
        problems: What is left out, and why.
        format: The form in which the data were read.
        read: Number of rows read.
    """

    rows: tuple[dict[str, Any], ...] = field(repr=False)
    problems: tuple[Problem, ...] = field(repr=False)
    format: RowFormat
    read: int

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return self.rows[place]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def report(self, *, first: int = 10) -> str:
        """Summarise what was read: counts of each kind of problem, and the first problems.

        Args:
            first: Number of problems to list.

        Returns:
            Lines of text, with no text of the data.
        """
        made = f"{len(self.rows)} rows for evaluation from {self.read} read as {self.format!r}"
        lines = [f"{made}, {len(self.problems)} problems"]
        counts = Counter(problem.kind for problem in self.problems)
        lines += [f"  {kind}: {count}" for kind, count in sorted(counts.items())]
        lines += [str(problem) for problem in self.problems[:first]]
        if len(self.problems) > first:
            lines.append(f"… and {len(self.problems) - first} more")
        return "\n".join(lines)


def read_evaluation_rows(
    source: Any,
    format: RowFormat | None = None,
    *,
    answers: Answers = "bad",
    references: bool = False,
    policy: str = "",
    split: str = "train",
    subset: str | None = None,
    revision: str | None = None,
) -> EvaluationRows:
    """Read rows for `evaluate` from data that were made for something else.

    | format | data | answer | held up as good |
    | --- | --- | --- | --- |
    | `rows` | rows of `evaluate`, records of `EditRecords`, the `edit` subset of HelpSteer3 | \
`answer`, `original` | `reference`, else `edited` |
    | `pairs` | HH-RLHF, TRL's preference data (`chosen`, `rejected`) | `rejected` | `chosen` |
    | `completions` | UltraFeedback | all but the best rated | the best rated |
    | `authors` | the CSV files of the MetaAligner repository (`query`, `goldens`, \
`generated_text`; `origin_responses`, `aligned_responses`) | the policy's reply | `goldens` |
    | `langsmith` | LangSmith's data sets, experiments and runs, as CSV, JSONL or parquet | \
`outputs` | `reference_outputs` |

    Args:
        source: A `.jsonl`, `.csv`, `.tsv` or `.parquet` file, a folder that `datasets` saved, a
            data set's name on the hub, a `Dataset`, or an iterable of dictionaries.
        format: The form of the rows; by default it is told from the columns of the first one.
        answers: Of rows with good and bad replies (`pairs` and `completions`), which ones are
            answers to edit: the `bad`, the `good` or `both`.
        references: Whether what the data hold up as good becomes the `reference`, with which
            `evaluate` compares both texts. An edit that is given in `rows` is then the reference,
            and the aligner's is compared with it.
        policy: Who wrote the answers, where rows don't say it; for `authors`, by default the
            name of the file.
        split: The split of a data set.
        subset: The configuration of a data set on the hub.
        revision: The revision of a data set on the hub.

    Returns:
        The rows, and the problems with their places.

    Raises:
        EvaluationError: The source can't be read, its form can't be told, or an argument is none
            of its values.
    """
    if format is not None and format not in get_args(RowFormat):
        msg = f"There is no format {format!r}. The formats are {', '.join(get_args(RowFormat))}."
        raise EvaluationError(msg)
    wanted = frozenset(check_answers(answers))
    try:
        given = list(
            with_verdicts(read_rows(source, split=split, subset=subset, revision=revision))
        )
    except PreferenceDataError as error:
        msg = f"The rows can't be read. {error}"
        raise EvaluationError(msg) from error
    found = format or _format_of(given)
    if not policy and found == "authors" and isinstance(source, str | Path):
        policy = Path(source).stem
    problems = [one for one in given if isinstance(one, Problem)]
    usable = [one for one in given if isinstance(one, Row)]
    if found == "langsmith":
        usable, unusable = read_export(usable)
        problems += unusable
    rows: list[dict[str, Any]] = []
    for row in usable:
        try:
            for values in _READERS[found](row, wanted):
                _add(rows, values, policy, references=references)
        except BadRowError as error:
            problems.append(Problem(row.place, error.kind, error.detail))
    order = {one.place: number for number, one in enumerate(given)}
    problems.sort(key=lambda one: order[one.place])
    return EvaluationRows(tuple(rows), tuple(problems), found, len(given))


def _format_of(given: Sequence[Row | Problem]) -> RowFormat:
    values = next((one.values for one in given if isinstance(one, Row)), None)
    if values is None:
        return "rows"  # nothing but problems, which are told
    fits: list[RowFormat] = []
    if _ROWS.text(values, "original") is not None:
        fits.append("rows")
    if {"chosen", "rejected"} <= values.keys():
        fits.append("pairs")
    if "completions" in values:
        fits.append("completions")
    if any(name in values for name in (*_AUTHORS_REPLY, *_AUTHORS_EDIT)):
        fits.append("authors")
    if any(name.partition(".")[0] in ("inputs", "input") for name in values) and any(
        name.partition(".")[0] in ("outputs", "output", "reference_outputs") for name in values
    ):
        fits.append("langsmith")
    if len(fits) == 1:
        return fits[0]
    columns = ", ".join(map(str, values))
    told = f"could be of several: {', '.join(fits)}" if fits else "fits none"
    msg = (
        f"The format of the rows can't be told: a row with {columns or 'no columns'} {told}. Give"
        f" format=, one of {', '.join(get_args(RowFormat))}; for rows with other names, rename"
        " them to `context` and `answer`."
    )
    raise EvaluationError(msg)


def _add(
    rows: list[dict[str, Any]], values: dict[str, Any], policy: str, *, references: bool
) -> None:
    """Check a row, and keep what it has."""
    context, answer = values["context"], read_answer(values["answer"], "the answer")
    read_context(context, system="first_turn", is_question=False)
    row: dict[str, Any] = {"context": context, "answer": answer}
    edited = _text(values.get("edited"), "edited")
    good = _text(values.get("reference"), "the reference") or (edited if references else None)
    if references and good is not None:
        row["reference"] = good
    # The text that both are compared with can't be one of them.
    if edited is not None and not (references and edited == good):
        row["edited"] = edited
    if policy:
        row["policy"] = policy
    row |= {name: values[name] for name in _BESIDE if values.get(name)}
    rows.append(row)


def _text(given: Any, name: str) -> str | None:
    # In a CSV file nothing is an empty text.
    if given is None or (isinstance(given, str) and not given.strip()):
        return None
    return read_answer(given, name)


def _asked(given: Any, *, is_question: bool) -> Any:
    """A context as `evaluate` takes it: text that is used word for word, or messages."""
    if is_question and isinstance(given, str) and not given.startswith("\n\nHuman:"):
        return [{"role": "user", "content": given}]
    if given is None:
        raise BadRowError(
            kind="missing", detail="the row has no context, prompt, query or messages"
        )
    return given


def _own(row: Row, _: frozenset[str]) -> Iterator[dict[str, Any]]:
    values = row.values
    given, is_question = _ROWS.context(values)
    answer = _ROWS.text(values, "original")
    if answer is None:
        raise BadRowError(kind="missing", detail="the row has no answer")
    yield {
        "context": _asked(given, is_question=is_question),
        "answer": answer,
        "edited": _ROWS.text(values, "edited"),
        "reference": values.get("reference"),
        **{name: values.get(name) for name in _BESIDE},
    }


def _pair(row: Row, wanted: frozenset[str]) -> Iterator[dict[str, Any]]:
    values = row.values
    texts = [_PAIRS.text(values, name) for name in ("answer_a", "answer_b")]
    if None in texts:
        raise BadRowError(kind="missing", detail="the row lacks `chosen` or `rejected`")
    given, is_question = _PAIRS.context(values)
    given, good, bad = implied_context(given, *texts)
    context = _asked(given, is_question=is_question)
    for name, answer in (("good", good), ("bad", bad)):
        if name in wanted:
            reference = good if name == "bad" else None
            beside = {one: values.get(one) for one in _BESIDE}
            yield {"context": context, "answer": answer, "reference": reference, **beside}


def _completions(row: Row, wanted: frozenset[str]) -> Iterator[dict[str, Any]]:
    given, is_question = _COMPLETIONS.context(row.values)
    context = _asked(given, is_question=is_question)
    answers = _COMPLETIONS.text(row.values, "answers")
    if not isinstance(answers, Sequence) or isinstance(answers, str | bytes) or not answers:
        raise BadRowError(kind="answer", detail="`completions` is no list of replies")
    if not all(isinstance(one, Mapping) for one in answers):
        raise BadRowError(kind="answer", detail="each of `completions` is a dictionary")
    rated = [_rating(one) for one in answers]
    known = [one for one in rated if one is not None]
    if not known:
        raise BadRowError(kind="unscored", detail="none of `completions` is rated")
    best = rated.index(max(known))
    reference = _COMPLETIONS.text(answers[best], "answer")
    for number, one in enumerate(answers):
        if ("good" if number == best else "bad") in wanted:
            yield {
                "context": context,
                "answer": _COMPLETIONS.text(one, "answer"),
                "reference": None if number == best else reference,
                "policy": one.get("model"),
            }


def _rating(completion: Mapping[str, Any]) -> float | None:
    """The mean of a reply's ratings; UltraFeedback writes `N/A` where one is missing."""
    scores = [
        read_score(value, name)
        for name, value in _COMPLETIONS.named(completion, "scores").items()
        if value != "N/A"
    ]
    found = [score for score in scores if score is not None]
    return sum(found) / len(found) if found else None


def _authors(row: Row, _: frozenset[str]) -> Iterator[dict[str, Any]]:
    values = row.values
    answer = next((values[name] for name in _AUTHORS_REPLY if name in values), None)
    if answer is None:
        raise BadRowError(kind="missing", detail=f"the row has none of {', '.join(_AUTHORS_REPLY)}")
    given, _ = _ROWS.context(values)
    yield {
        "context": _asked(given, is_question=True),
        "answer": answer,
        "edited": next((values[name] for name in _AUTHORS_EDIT if name in values), None),
        "reference": values.get("goldens"),
    }


def _export(row: Row, _: frozenset[str]) -> Iterator[dict[str, Any]]:
    yield dict(row.values)


_READERS: Mapping[RowFormat, Callable[[Row, frozenset[str]], Iterator[dict[str, Any]]]] = {
    "rows": _own,
    "pairs": _pair,
    "completions": _completions,
    "authors": _authors,
    "langsmith": _export,
}
