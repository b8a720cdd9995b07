"""Chooses the edits that a report shows in full: the best, the worst and the most changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal, TypeVar

from langchain_metaaligner.evaluation.records import EvaluatedRow
from langchain_metaaligner.evaluation.report.diffs import distance, rough_distance

_T = TypeVar("_T")
Kind = Literal["best", "worst", "most changed"]


@dataclass(frozen=True, slots=True)
class Highlight:
    """An edit to show.

    Attributes:
        row: The row.
        objectives: Names of the objectives for which it was chosen; all of the row's objectives
            among the most changed.
        distance: Share of the words that the edit deletes or inserts.
    """

    row: EvaluatedRow
    objectives: tuple[str, ...]
    distance: float


def choose(rows: Sequence[EvaluatedRow], most: int) -> dict[Kind, list[Highlight]]:
    """Choose edits to show, the same number for each objective and policy as far as there are.

    The best of an objective are wins on it, first those that a second judge confirms, then those
    that win on the most other objectives; the worst are losses, likewise. The most changed are
    those with the largest share of deleted and inserted words.

    Args:
        rows: Rows with their results.
        most: Most edits of each kind.

    Returns:
        Kind to its edits, in the order of their rank.
    """
    policies = list(dict.fromkeys(row.policy for row in rows))
    objectives = list(dict.fromkeys(name for row in rows for name in row.comparisons))
    by_policy = {name: [row for row in rows if row.policy == name] for name in policies}

    def judged(outcome: str, sign: int) -> list[Highlight]:
        groups = [
            sorted(
                (row for row in of if row.changed and objective in _names(row, outcome)),
                key=_rank(objective, outcome, sign),
            )
            for objective in objectives
            for of in by_policy.values()
        ]
        chosen: dict[str, EvaluatedRow] = {}
        for row in _in_turn(groups):
            if len(chosen) == most:
                break
            chosen.setdefault(row.key, row)
        return [
            Highlight(row, _names(row, outcome), distance(row.original, row.edited))
            for row in chosen.values()
        ]

    changed = [
        sorted(
            ((row, rough_distance(row.original, row.edited)) for row in of if row.changed),
            key=lambda one: (-one[1], one[0].key),
        )
        for of in by_policy.values()
    ]
    first = list(dict.fromkeys(row.key for row, _ in _in_turn(changed)))[:most]
    keys = set(first)
    among = {row.key: row for row in rows if row.key in keys}
    measured = [
        Highlight(row, tuple(row.comparisons), distance(row.original, row.edited))
        for row in among.values()
    ]
    return {
        "best": judged("win", 1),
        "worst": judged("loss", -1),
        "most changed": sorted(measured, key=lambda one: -one.distance),
    }


def net(row: EvaluatedRow) -> int:
    """Objectives on which the edit wins, less those on which it loses."""
    outcomes = [one.outcome for one in row.comparisons.values()]
    return outcomes.count("win") - outcomes.count("loss")


def _names(row: EvaluatedRow, outcome: str) -> tuple[str, ...]:
    return tuple(name for name, one in row.comparisons.items() if one.outcome == outcome)


def _rank(
    objective: str, outcome: str, sign: int
) -> Callable[[EvaluatedRow], tuple[bool, int, str]]:
    def rank(row: EvaluatedRow) -> tuple[bool, int, str]:
        second = row.second.get(objective)
        return (second is None or second.outcome != outcome, -sign * net(row), row.key)

    return rank


def _in_turn(groups: Sequence[Sequence[_T]]) -> Iterator[_T]:
    for rank in zip_longest(*groups):
        yield from (one for one in rank if one is not None)
