"""Which comparisons a figure is about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from langchain_metaaligner.evaluation.records import Comparison, EvaluatedRow


class Compared(NamedTuple):
    """A row and what the judge said of it on one objective."""

    row: EvaluatedRow
    objective: str
    comparison: Comparison


def compared(
    rows: Iterable[EvaluatedRow], *, objective: str | None = None, policy: str | None = None
) -> Iterator[Compared]:
    """Select comparisons.

    Args:
        rows: The rows of an evaluation.
        objective: Name of an objective; `None` for all of them.
        policy: Who wrote the answers; `None` for everybody.

    Yields:
        Each comparison of the rows that fits, with or without an outcome.
    """
    for row in rows:
        if policy is not None and row.policy != policy:
            continue
        for name, comparison in row.comparisons.items():
            if objective is None or name == objective:
                yield Compared(row, name, comparison)
