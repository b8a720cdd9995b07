"""The figures that a report shows, counted from the rows of an evaluation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from langchain_metaaligner.evaluation.length_control import LengthControl, length_control
from langchain_metaaligner.evaluation.records import Comparison, EvaluatedRow
from langchain_metaaligner.evaluation.report.shown_text import percent, percents
from langchain_metaaligner.evaluation.statistics import Rates, rates

MOST_POLICIES = 50
"""Most policies with figures of their own: those with the most rows."""

UNCHECKED = "The judge was not checked: how often it agrees with people is not known."


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table: how edits do against their originals.

    Attributes:
        objective: Name of the objective; `None` for all together.
        policy: Name of the policy; `None` for all together.
        rates: Wins, ties and losses, with their intervals.
    """

    objective: str | None
    policy: str | None
    rates: Rates


@dataclass(frozen=True, slots=True)
class Effects:
    """What edits changed, what they broke, and what they cost.

    Attributes:
        policy: Name of the policy; `None` for all together.
        rows: Number of rows.
        unchanged: Number of rows on which the edit is the original.
        statuses: Status to its number of rows.
        over_refusals: Edits that refuse where the original does not.
        answered: Originals that don't refuse.
        answers: Edits that answer where the original refuses.
        refused: Originals that refuse.
        growth: Median of the edit's length over the original's, in characters.
        kept: Kind of structure to how often it was kept, and how often it was there.
        guards: Guard to what it did, to how often.
        agreement: Median of the originals' log-probability per token under the aligner.
        seconds: Median and 95th percentile of an edit's time.
        tokens: Tokens read and written by the aligner.
        errors: Type of error to the number of edits that failed with it.
    """

    policy: str | None
    rows: int
    unchanged: int
    statuses: Mapping[str, int]
    over_refusals: int
    answered: int
    answers: int
    refused: int
    growth: float | None
    kept: Mapping[str, tuple[int, int]]
    guards: Mapping[str, Mapping[str, int]]
    agreement: float | None
    seconds: tuple[float, float] | None
    tokens: int
    errors: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class AgainstReference:
    """How often the edit, and how often the original, beats a reference.

    Attributes:
        objective: Name of the objective.
        edit: Wins of the edit, and pairs judged.
        original: The same of the original.
    """

    objective: str
    edit: tuple[int, int]
    original: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything that a report shows.

    Attributes:
        rows: The rows with their results.
        judge: One sentence: whether the judge is worth it.
        objectives: Names of the objectives, in the order of the rows.
        policies: Names of the policies, those with the most rows first; at most `MOST_POLICIES`.
        other_policies: Number of the others, which only count in what is said of all together.
        lines: The table. Lines for all objectives and all policies stand first, where there are
            several.
        effects: What edits did: to all rows, and by policy where there are several.
        length: All of them at equal length; `None` if no pair was judged.
        unjudged: Name of an objective to the reason for no verdict, of either judge, to how often.
        second: Name of an objective to how often the second judge comes to the same outcome, of
            how many pairs that both judged.
        references: How edits and originals do against references; empty without references.
        problems: Why rows that were given are not among these.
        settings: What the evaluation was made with.
        judge_seconds: Time that the judges took, in all.
    """

    rows: Sequence[EvaluatedRow] = field(repr=False)
    judge: str
    objectives: tuple[str, ...]
    policies: tuple[str, ...]
    lines: tuple[Line, ...]
    effects: tuple[Effects, ...]
    length: LengthControl | None
    unjudged: Mapping[str, Mapping[str, int]]
    second: Mapping[str, tuple[int, int]]
    references: tuple[AgainstReference, ...]
    other_policies: int = 0
    problems: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    judge_seconds: float = 0.0

    @classmethod
    def of(
        cls,
        rows: Sequence[EvaluatedRow],
        *,
        judge: str = "",
        problems: Iterable[object] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> Summary:
        """Count what a report shows.

        Args:
            rows: Rows with their results.
            judge: One sentence on whether the judge is worth it, as `JudgeCheck.first_line` says
                it.
            problems: Why rows that were given are not among them.
            settings: What the evaluation was made with: names, and values that can be printed.

        Returns:
            The figures.
        """
        objectives = tuple(dict.fromkeys(name for row in rows for name in row.comparisons))
        ranked = Counter(row.policy for row in rows).most_common()
        policies = tuple(name for name, _ in ranked[:MOST_POLICIES])
        several = {name: [row for row in rows if row.policy == name] for name in policies}
        return cls(
            rows=rows,
            judge=judge or UNCHECKED,
            objectives=objectives,
            policies=policies,
            lines=tuple(
                Line(objective, policy, rates(rows, objective=objective, policy=policy))
                for objective in _with_all(objectives)
                for policy in _with_all(policies)
            ),
            effects=(
                _effects(None, rows),
                *(_effects(name, of) for name, of in several.items() if len(several) > 1),
            ),
            length=length_control(rows),
            unjudged={name: _reasons(rows, name) for name in objectives},
            second={name: found for name in objectives if (found := _agreed(rows, name))[1]},
            references=tuple(_against_reference(rows, name) for name in objectives)
            if any(row.against_reference for row in rows)
            else (),
            other_policies=len(ranked) - len(policies),
            problems=tuple(str(one) for one in problems),
            settings=dict(settings or {}),
            judge_seconds=math.fsum(one.seconds for row in rows for one in _comparisons(row)),
        )

    @property
    def total(self) -> Line | None:
        """The line of all objectives and policies together; `None` without rows."""
        return self.lines[0] if self.lines else None

    def verdict(self) -> str:
        """In a few words, what the evaluation shows."""
        whole = self.total.rates if self.total else None
        if whole is None or not whole.judged:
            return "No pair was judged"
        if all(row.error is not None for row in self.rows):
            return "Every edit failed"
        if not any(row.changed for row in self.rows):
            return "The edits changed nothing"
        low, high = whole.net_interval
        if low > 0:
            return "The judge prefers the edits"
        if high < 0:
            return "The judge prefers the originals"
        return "The judge prefers neither side clearly"

    def headline(self) -> str:
        """The figures behind the verdict, in a sentence or two."""
        if self.total is None:
            return "There are no rows."
        found = self.total.rates
        if not found.judged:
            return f"None of {found.unjudged:,} pairs has a verdict; the reasons stand below."
        pairs = "pair" if found.judged == 1 else "pairs"
        talks = "conversation" if found.conversations == 1 else "conversations"
        said = (
            f"The edit wins {percent(found.win_rate)} of {found.judged:,} judged {pairs} from"
            f" {found.conversations:,} {talks} (95 % interval {percents(found.interval)}),"
            f" ties {percent(found.ties / found.judged)} and loses {percent(found.loss_rate)}."
        )
        if self.length is not None and self.length.note is not None:
            said += f" {self.length.note}"
        elif self.length is not None:
            said += (
                f" With a tie as half a win, it wins {percent(self.length.plain)}; at equal length"
                f" it would be {percent(self.length.rate)}."
            )
        failed = sum(self.effects[0].errors.values())
        if failed:
            said += (
                f" {failed:,} {'edit' if failed == 1 else 'edits'} failed, and"
                f" {'counts' if failed == 1 else 'count'} as unchanged."
            )
        if found.unjudged:
            said += (
                f" {found.unjudged:,} more {'has' if found.unjudged == 1 else 'have'} no verdict."
            )
        return said


def _with_all(names: Sequence[str]) -> Sequence[str | None]:
    return names if len(names) <= 1 else [None, *names]


def _comparisons(row: EvaluatedRow) -> Iterable[Comparison]:
    # With a reference, these hold what both of its comparisons took.
    yield from row.comparisons.values()
    yield from row.second.values()


def _reasons(rows: Sequence[EvaluatedRow], objective: str) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for row in rows:
        asked = [
            ("", row.comparisons.get(objective)),
            ("second judge: ", row.second.get(objective)),
        ]
        asked += [("reference: ", one) for one in row.against_reference.get(objective, ())]
        for who, one in asked:
            if one is not None and one.outcome is None:
                counts[who + (one.reason or "no reason given")] += 1
    return dict(counts.most_common())


def _agreed(rows: Sequence[EvaluatedRow], objective: str) -> tuple[int, int]:
    pairs = [
        (row.comparisons[objective].outcome, row.second[objective].outcome)
        for row in rows
        # On a text and itself nobody was asked.
        if row.changed and objective in row.second and objective in row.comparisons
    ]
    both = [(one, other) for one, other in pairs if one and other]
    return sum(one == other for one, other in both), len(both)


def _against_reference(rows: Sequence[EvaluatedRow], objective: str) -> AgainstReference:
    pairs = [row.against_reference[objective] for row in rows if objective in row.against_reference]

    def won(side: int) -> tuple[int, int]:
        judged = [pair[side].outcome for pair in pairs if pair[side].outcome]
        return judged.count("win"), len(judged)

    return AgainstReference(objective, won(0), won(1))


def _effects(policy: str | None, rows: Sequence[EvaluatedRow]) -> Effects:
    answered = [row for row in rows if not row.refuses[0]]
    refused = [row for row in rows if row.refuses[0]]
    kept: dict[str, list[bool]] = {}
    guards: dict[str, Counter[str]] = {}
    for row in rows:
        for kind, was_kept in row.kept.items():
            kept.setdefault(kind, []).append(was_kept)
        for guard, counts in row.guards.items():
            guards.setdefault(guard, Counter()).update(counts)
    times = sorted(row.seconds for row in rows if row.seconds is not None)
    return Effects(
        policy=policy,
        rows=len(rows),
        unchanged=sum(not row.changed for row in rows),
        statuses=dict(Counter(row.status for row in rows).most_common()),
        over_refusals=sum(row.refuses[1] for row in answered),
        answered=len(answered),
        answers=sum(not row.refuses[1] for row in refused),
        refused=len(refused),
        growth=_median(len(row.edited) / len(row.original) for row in rows if row.original),
        kept={kind: (sum(found), len(found)) for kind, found in sorted(kept.items())},
        guards={guard: dict(counts) for guard, counts in sorted(guards.items())},
        agreement=_median(row.agreement for row in rows if row.agreement is not None),
        seconds=(median(times), times[math.ceil(0.95 * len(times)) - 1]) if times else None,
        tokens=sum((row.usage or {}).get("total_tokens", 0) for row in rows),
        errors=dict(_counted(rows, lambda row: row.error).most_common()),
    )


def _counted(
    rows: Sequence[EvaluatedRow], of: Callable[[EvaluatedRow], str | None]
) -> Counter[str]:
    # The message of an error may quote the text; its type is what can be counted.
    return Counter(found.partition(":")[0] for row in rows if (found := of(row)))


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return median(found) if found else None
