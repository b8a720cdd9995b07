"""Measures how often edits are better than their originals, row by row, with any judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from langchain_metaaligner.editing.guards.structure import kept_structure
from langchain_metaaligner.editing.objectives import Objective, Objectives, parse_objectives
from langchain_metaaligner.errors import EvaluationError, GateError
from langchain_metaaligner.evaluation import gate, judge_check
from langchain_metaaligner.evaluation.asking import Asking, Pair, against
from langchain_metaaligner.evaluation.edits import Editing, MadeEdit
from langchain_metaaligner.evaluation.human_pairs import HumanPair, read_human_pairs
from langchain_metaaligner.evaluation.judge_check import JudgeCheck
from langchain_metaaligner.evaluation.judges import Judge, as_judge
from langchain_metaaligner.evaluation.records import Comparison, EvaluatedRow, EvaluationRow
from langchain_metaaligner.evaluation.refusals import refuses
from langchain_metaaligner.evaluation.results import EvaluationResult
from langchain_metaaligner.evaluation.rows import GivenRows, check_rows
from langchain_metaaligner.evaluation.storage import ResultsFile
from langchain_metaaligner.options import cache_key, given_options

_CHUNK = 32  # rows that are edited and judged together

Progress = Callable[[int, int], Any]
"""Called with the number of rows that are done, and of all."""


def evaluate(
    rows: Any,
    *,
    objectives: Objectives,
    judge: Any,
    aligner: Any = None,
    second_judge: Any = None,
    human_pairs: Any = None,
    baseline: Any = None,
    out: str | Path | None = None,
    report: str | Path | None = None,
    fail_under: Mapping[str, float] | None = None,
    check_judge: bool = True,
    max_concurrency: int | None = None,
    judge_timeout: float | None = 120.0,
    retry_failed: bool = False,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Compare edits with their originals, objective by objective.

    The judge reads each pair in both orders. The edit wins where it is better in both, and loses
    where the original is; all else is a tie. In rows with a `reference`, edit and original are each
    compared with it, and the one that does better against it wins.

    Args:
        rows: A `.jsonl`, `.csv`, `.tsv` or `.parquet` file, a data set, or dictionaries with
            `context` (text, taken verbatim, or messages) and `answer`, and optionally `edited`,
            `reference`, `policy` (who wrote the answer), `conversation` (rows of the same one are
            not independent) and `metaaligner` (the edit's provenance). Rows that can't be used are
            in the result's `problems`.
        objectives: Names, sentences or `Objective`s: what edits are for, and judged by.
        judge: A chat model, which is asked with the paper's question; a reward model
            (`RewardModel`, its hub id or its folder); a function `judge(context, first, second,
            objective)` that returns 1, 2 or, for neither, 0, given the objective's name; or a
            dictionary from names of objectives to such judges. A failure of the judge is counted,
            not raised.
        aligner: The `Aligner` that edits the rows without `edited`.
        second_judge: Judges everything too; how often the two agree is told.
        human_pairs: Pairs that people compared, to see how often the judge agrees with them; by
            default a small set that comes with the package.
        baseline: An earlier result, or its file: the gate misses if this one is worse.
        out: A folder or `.jsonl` file that keeps the results while they are made. A run that was
            killed goes on there and asks nothing twice; other settings are an error.
        report: Where the HTML page is written.
        fail_under: Least values, as `{"harmlessness": 0.6}`; what is missed raises `GateError`
            after everything was written. See `langchain_metaaligner.evaluation.gate`.
        check_judge: Whether the judge is asked about pairs whose outcome is known: about as many
            questions again, at least 45 and at most 180, besides `human_pairs`.
        max_concurrency: Calls of the judge at the same time, by default 8 of a chat model or an
            asynchronous function, and 1 of a plain function.
        judge_timeout: Seconds for each call of the judge; `None` for no limit.
        retry_failed: Whether rows in `out` without an edit or a verdict are done again, although
            their run has ended.
        progress: Called with the number of rows that are done, and of all.

    Returns:
        The result.

    Raises:
        EvaluationError: There is no usable row, a judge is none, or it failed many times in a row.
        UnknownObjectiveError: An objective is unknown.
        CheckpointError: A model can't be loaded.
        GateError: The result is below `fail_under` or worse than the baseline; it has the result.
    """
    _check_extra(report)
    goals = tuple(parse_objectives(objectives))
    judges = {"judge": judge, "second_judge": second_judge}
    made = {
        role: as_judge(one, option=role, max_concurrency=max_concurrency, seconds=judge_timeout)
        for role, one in judges.items()
        if one is not None or role == "judge"
    }
    _check_options(max_concurrency, judge_timeout)
    before = _baseline(baseline)
    gate.check_demands(fail_under, [one.name for one in goals])
    people = None if human_pairs is None else read_human_pairs(human_pairs, objectives=goals)
    given = check_rows(rows, has_aligner=aligner is not None)
    gate.check_demands(fail_under, [one.name for one in goals], [row.policy for row in given.rows])
    needs_aligner = any(row.edited is None for row in given.rows)
    settings = {
        "objectives": {one.name: one.description for one in goals},
        **{role: dict(one.settings) for role, one in made.items()},
        "aligner": _aligner_settings(aligner) if needs_aligner else None,
    }
    with ResultsFile(out, settings, retry_failed=retry_failed) as kept:
        for one in made.values():
            one.prepare(goals)
        run = _Run(goals, given, kept, made, aligner if needs_aligner else None, progress)
        done = run.rows()
        found = EvaluationResult(
            rows=done,
            objectives=goals,
            problems=given.problems,
            judge=run.checked(people) if check_judge else None,
            settings=settings,
        )
        kept.finish(found.head, [row.key for row in done], run.notes)
    if report is not None:
        found.to_html(report)
    missed = gate.missed(found, fail_under, before)
    if missed:
        raise GateError("\n".join(missed), result=found)
    return found


class _Run:
    """Edits and judges rows, a few at a time, and keeps each as soon as it is finished."""

    def __init__(
        self,
        objectives: Sequence[Objective],
        given: GivenRows,
        kept: ResultsFile,
        judges: Mapping[str, Judge],
        aligner: Any,
        progress: Progress | None,
    ) -> None:
        self._objectives, self._given, self._kept = objectives, given, kept
        self._editing = Editing(aligner, objectives, given.contexts, kept)
        self._judges = {role: Asking(one, kept, role) for role, one in judges.items()}
        self._progress = progress
        self._done = 0

    def rows(self) -> tuple[EvaluatedRow, ...]:
        """Every row with its results, in the order in which they were given."""
        lacking = [row for row in self._given.rows if row.key not in self._kept.rows]
        self._done = len(self._given.rows) - len(lacking)
        self._tell()
        for start in range(0, len(lacking), _CHUNK):
            self._chunk(lacking[start : start + _CHUNK])
            self._kept.sync()
        return tuple(replace(self._kept.rows[row.key], place=row.place) for row in self._given.rows)

    def checked(self, human_pairs: Sequence[HumanPair] | None) -> JudgeCheck | None:
        """Whether the judge is worth it, by pairs whose outcome is known."""
        rows = [self._kept.rows[row.key] for row in self._given.rows]
        if human_pairs is None and not any(row.changed or row.against_reference for row in rows):
            return None  # the judge was asked nothing
        return judge_check.check_judge(
            self._judges["judge"],
            objectives=self._objectives,
            human_pairs=human_pairs,
            rows=rows,
            second_judge=self._judges.get("second_judge"),
        )

    @property
    def notes(self) -> set[str]:
        """The notes that are part of no row's results: the verdicts of the check."""
        return {key for asking in self._judges.values() for key in asking.checked}

    def _chunk(self, rows: Sequence[EvaluationRow]) -> None:
        edits = self._editing.of(rows)
        work = [_Work(row, edit) for row, edit in zip(rows, edits, strict=True)]
        last = list(self._judges)[-1]
        slots = [slot for one in work for slot in one.slots(self._objectives)]
        for role, asking in self._judges.items():
            waiting = Counter(id(slot.work) for slot in slots)
            for place, comparison in asking.compare([slot.pair for slot in slots]):
                work_of = slots[place].work
                work_of.put(role, slots[place], comparison)
                waiting[id(work_of)] -= 1
                if role == last and not waiting[id(work_of)]:
                    self._finish(work_of)

    def _finish(self, work: _Work) -> None:
        self._kept.keep(work.result(self._objectives))
        self._done += 1
        self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self._done, len(self._given.rows))


class _Work:
    """A row that is being judged.

    Args:
        row: The row.
        edit: Its edit.
    """

    def __init__(self, row: EvaluationRow, edit: MadeEdit) -> None:
        self.row, self.edit = row, edit
        self._told: dict[tuple[str, str, str], Comparison] = {}

    def slots(self, objectives: Sequence[Objective]) -> list[_Slot]:
        """What a judge is asked about this row."""
        row, edited = self.row, self.edit.text
        texts = {"": (edited, row.answer)}
        if row.reference is not None:
            texts = {"edit": (edited, row.reference), "original": (row.answer, row.reference)}
        return [
            _Slot(self, one.name, side, Pair(row.context, text, other, one))
            for one in objectives
            for side, (text, other) in texts.items()
        ]

    def put(self, role: str, slot: _Slot, comparison: Comparison) -> None:
        """Note what a judge said."""
        self._told[role, slot.objective, slot.side] = comparison

    def result(self, objectives: Sequence[Objective]) -> EvaluatedRow:
        """The row with its results."""
        row, edit = self.row, self.edit
        names = [one.name for one in objectives]
        has_second = any(role == "second_judge" for role, _, _ in self._told)
        return EvaluatedRow(
            key=row.key,
            place=row.place,
            conversation=row.conversation,
            policy=row.policy,
            context=row.context,
            original=row.answer,
            edited=edit.text,
            status=edit.status,
            comparisons={name: self._comparison("judge", name) for name in names},
            second={name: self._comparison("second_judge", name) for name in names}
            if has_second
            else {},
            against_reference={}
            if row.reference is None
            else {
                name: (self._told["judge", name, "edit"], self._told["judge", name, "original"])
                for name in names
            },
            reference=row.reference,
            refuses=(refuses(row.answer), refuses(edit.text)),
            kept=kept_structure(row.answer, edit.text, row.context),
            guards=edit.guards,
            agreement=edit.agreement,
            usage=edit.usage,
            seconds=edit.seconds,
            error=edit.error,
        )

    def _comparison(self, role: str, name: str) -> Comparison:
        if self.row.reference is None:
            return self._told[role, name, ""]
        return against(self._told[role, name, "edit"], self._told[role, name, "original"])


@dataclass(frozen=True, slots=True)
class _Slot:
    """A question about a row, and where its answer belongs."""

    work: _Work
    objective: str
    side: str
    pair: Pair


def _check_extra(report: str | Path | None) -> None:
    needed = ["scipy", *(["altair", "jinja2", "vl_convert"] if report is not None else [])]
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        msg = (
            f'An evaluation needs {", ".join(missing)}: pip install "langchain-metaaligner[eval]".'
        )
        raise EvaluationError(msg)


def _check_options(max_concurrency: int | None, judge_timeout: float | None) -> None:
    if max_concurrency is not None and max_concurrency < 1:
        msg = f"At least one call is made at a time, not max_concurrency={max_concurrency}."
        raise EvaluationError(msg)
    if judge_timeout is not None and not judge_timeout > 0:
        msg = f"A call of the judge has more than 0 seconds, not judge_timeout={judge_timeout}."
        raise EvaluationError(msg)


def _aligner_settings(aligner: Any) -> Mapping[str, Any]:
    """What tells an aligner from another one, as plain JSON."""
    if not callable(getattr(aligner, "align_batch", None)):
        msg = (
            f"`aligner` is {type(aligner).__name__}, which edits no rows. Give an Aligner, as in"
            " evaluate(rows, aligner=Aligner(), …)."
        )
        raise EvaluationError(msg)
    known = {"model": str(getattr(aligner, "model_name", type(aligner).__name__))}
    options = getattr(aligner, "options", None)
    if options is not None:
        given = set(given_options(options)) - {"model", "engine"}
        known |= {name: value for name, value in cache_key(options).items() if name in given}
    return known


def _baseline(given: Any) -> EvaluationResult | None:
    if given is None or isinstance(given, EvaluationResult):
        return given
    return EvaluationResult.from_jsonl(given)
