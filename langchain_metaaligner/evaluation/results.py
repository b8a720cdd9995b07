"""The result of an evaluation: its figures, and how it is shown and kept."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import TypeAdapter

from langchain_metaaligner.editing.objectives import Objective, objective_key
from langchain_metaaligner.errors import EvaluationError
from langchain_metaaligner.evaluation.judge_check import JudgeCheck
from langchain_metaaligner.evaluation.records import Comparison, EvaluatedRow
from langchain_metaaligner.evaluation.report import Summary, markdown, plain, terminal, to_html
from langchain_metaaligner.evaluation.statistics import Rates, rates
from langchain_metaaligner.evaluation.storage import Head, file_of, read_file, write_file
from langchain_metaaligner.training.data.pairs import Problem

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation found out.

    Attributes:
        rows: Each row with its results.
        objectives: What the edits were for, and judged by.
        problems: The rows that could not be used, and why; they hold no text of the data.
        judge: Whether the judge is worth it; `None` if it was not checked.
        settings: The objectives, judges and aligner that it was made with, as plain JSON.
    """

    rows: tuple[EvaluatedRow, ...] = field(repr=False)
    objectives: tuple[Objective, ...]
    problems: tuple[Problem, ...] = ()
    judge: JudgeCheck | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_jsonl(cls, path: str | Path) -> Self:
        """Read a result that `evaluate(out=…)` or `to_jsonl` wrote, also of a run that was killed.

        Args:
            path: The file, or its folder.

        Returns:
            The result, with the rows that were finished.

        Raises:
            EvaluationError: The file does not exist, or holds something else.
        """
        found = read_file(path)
        told = found.head.settings.get("objectives", {})
        return cls(
            rows=tuple(found.rows.values()),
            objectives=tuple(Objective(name, said) for name, said in told.items()),
            problems=tuple(found.head.problems),
            judge=None if found.head.judge is None else _check().validate_python(found.head.judge),
            settings=found.head.settings,
        )

    @property
    def policies(self) -> tuple[str, ...]:
        """Who wrote the answers."""
        return tuple(dict.fromkeys(row.policy for row in self.rows))

    def rates(self, objective: str | None = None, policy: str | None = None) -> Rates:
        """Count wins, ties and losses.

        Args:
            objective: Name of an objective; `None` for all together.
            policy: Who wrote the answers; `None` for everybody.

        Returns:
            The counts and shares, with their intervals and a sign test.

        Raises:
            EvaluationError: There is no such objective or policy among the rows.
        """
        return rates(self.rows, objective=self._objective(objective), policy=self._policy(policy))

    def win_rate(
        self,
        objective: str | None = None,
        policy: str | None = None,
        length_controlled: bool = False,
    ) -> float | None:
        """How often the edit is better: wins divided by judged pairs.

        A tie is no win; nor is a pair on which the judge's two orders disagree.

        Args:
            objective: Name of an objective; `None` for all together.
            policy: Who wrote the answers; `None` for everybody.
            length_controlled: Whether to tell what the rate would be if edits were as long as their
                originals, on the scale where no preference is ½ (arXiv 2404.04475).

        Returns:
            The rate; `None` if no pair was judged.

        Raises:
            EvaluationError: There is no such objective or policy among the rows.
        """
        found = self.rates(objective, policy)
        return found.length_controlled if length_controlled else found.win_rate

    def interval(
        self, objective: str | None = None, policy: str | None = None
    ) -> tuple[float, float]:
        """The 95 % interval of the win rate, clustered by conversation.

        Args:
            objective: Name of an objective; `None` for all together.
            policy: Who wrote the answers; `None` for everybody.

        Returns:
            Its lower and its upper end.

        Raises:
            EvaluationError: There is no such objective or policy among the rows.
        """
        return self.rates(objective, policy).interval

    @property
    def judge_consistency(self) -> float | None:
        """Share of the pairs on which the judge's two orders agree; `None` if it judged none.

        Pairs of the same text twice are not asked about, and are not among them.
        """
        told = [one.consistent for one in self._comparisons() if one.consistent is not None]
        return sum(told) / len(told) if told else None

    @property
    def unchanged(self) -> float:
        """Share of the rows on which the edit is the original, word for word."""
        return self._share([not row.changed for row in self.rows])

    @property
    def over_refusal(self) -> float:
        """Share of the originals that were no refusal and became one."""
        return self._share([row.refuses[1] for row in self.rows if not row.refuses[0]])

    @property
    def kept(self) -> Mapping[str, float]:
        """Kind of structure to the share of edits that keep it, of originals that have it."""
        found: dict[str, list[bool]] = {}
        for row in self.rows:
            for kind, was_kept in row.kept.items():
                found.setdefault(kind, []).append(was_kept)
        return {kind: self._share(one) for kind, one in sorted(found.items())}

    @property
    def failures(self) -> Mapping[str, int]:
        """Why there is no verdict or no edit, and how often: nothing fails silently."""
        counts: Counter[str] = Counter()
        for row in self.rows:
            if row.error is not None:
                # The message may quote a text.
                counts[f"the edit failed ({row.error.partition(':')[0]})"] += 1
        counts.update(_reason(one) for one in self._comparisons() if one.outcome is None)
        for row in self.rows:
            told = [one for one in row.second.values() if one.outcome is None]
            counts.update(f"second judge: {_reason(one)}" for one in told)
        return dict(counts.most_common())

    @cached_property
    def summary(self) -> Summary:
        """Everything that the report shows."""
        return Summary.of(
            self.rows,
            judge="" if self.judge is None else self.judge.first_line(),
            problems=self.problems,
            settings=self.settings,
        )

    def table(self) -> str:
        """The report's table as Markdown, for a pull request."""
        return markdown(self.summary)

    def to_html(self, path: str | Path) -> None:
        """Write the report: one page that needs no network.

        Args:
            path: The file.
        """
        to_html(self.summary, path)

    def to_jsonl(self, path: str | Path) -> None:
        """Write the result to a file that `from_jsonl` and `baseline=` read: a row on each line.

        Args:
            path: A `.jsonl` file, or a folder for one.
        """
        write_file(file_of(path), self.head, self.rows)

    def to_parquet(self, path: str | Path) -> None:
        """Write the rows as a table with a column for each value.

        The outcome on an objective is in the column of its name; what belongs to it follows after
        a dot, as in `harmlessness.edit_first`.

        Args:
            path: The file.

        Raises:
            EvaluationError: pyarrow is missing.
        """
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError as error:
            msg = 'Parquet needs pyarrow: pip install "langchain-metaaligner[eval]".'
            raise EvaluationError(msg) from error
        records = [_flat(row) for row in self.rows]
        names = dict.fromkeys(name for record in records for name in record)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        table = pa.table({name: [record.get(name) for record in records] for name in names})
        parquet.write_table(table, str(path))

    @property
    def head(self) -> Head:
        """What a file of this result begins with."""
        check = None if self.judge is None else _check().dump_python(self.judge, mode="json")
        return Head(self.settings, self.problems, check, done=True)

    def __str__(self) -> str:
        return plain(self.summary)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def __rich__(self) -> Group | str:
        return terminal(self.summary)

    def _comparisons(self) -> Iterator[Comparison]:
        """What the judge was asked: about edit and original, or about each and a reference."""
        for row in self.rows:
            for name, comparison in row.comparisons.items():
                yield from row.against_reference.get(name, (comparison,))

    @staticmethod
    def _share(found: Sequence[bool]) -> float:
        return sum(found) / len(found) if found else 0.0

    def _objective(self, given: str | None) -> str | None:
        if given is None:
            return None
        known = {objective_key(one.name): one.name for one in self.objectives}
        if given not in known.values() and objective_key(given) not in known:
            msg = (
                f"Nothing was judged by {given!r}, only by {', '.join(map(repr, known.values()))}."
            )
            raise EvaluationError(msg)
        return given if given in known.values() else known[objective_key(given)]

    def _policy(self, given: str | None) -> str | None:
        if given is not None and given not in self.policies:
            msg = f"No answer is by {given!r}, only by {', '.join(map(repr, self.policies))}."
            raise EvaluationError(msg)
        return given


def _check() -> TypeAdapter[JudgeCheck]:
    return TypeAdapter(JudgeCheck)


def _reason(comparison: Comparison) -> str:
    return comparison.reason or "no verdict"


def _flat(row: EvaluatedRow) -> dict[str, Any]:
    """A row as plain columns."""
    nested = ("comparisons", "second", "against_reference", "refuses", "kept", "guards", "usage")
    flat = {name: value for name, value in asdict(row).items() if name not in nested}
    flat["changed"] = row.changed
    for name, comparison in row.comparisons.items():
        flat |= _columns(name, comparison)
    for name, comparison in row.second.items():
        flat |= _columns(f"second.{name}", comparison)
    for name, (edit, original) in row.against_reference.items():
        flat |= _columns(f"{name}.edit_against_reference", edit)
        flat |= _columns(f"{name}.original_against_reference", original)
    flat["refuses.original"], flat["refuses.edited"] = row.refuses
    flat |= {f"kept.{kind}": was_kept for kind, was_kept in row.kept.items()}
    flat |= {f"usage.{name}": count for name, count in (row.usage or {}).items()}
    flat["guards"] = json.dumps(row.guards)
    return flat


def _columns(name: str, comparison: Comparison) -> dict[str, Any]:
    edit_first, edit_second = comparison.verdicts
    return {
        name: comparison.outcome,
        f"{name}.edit_first": edit_first,
        f"{name}.edit_second": edit_second,
        f"{name}.reason": comparison.reason,
    }
