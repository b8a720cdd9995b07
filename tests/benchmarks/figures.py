"""Paired measurements, kept raw and said as medians of ratios, or one by one where they are few."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

FEW = 5
"""Below this many values there is no median: they are said one by one."""


@dataclass
class Pairs:
    """Times of two ways to do the same, taken in turns.

    Attributes:
        theirs: Seconds of what this package is compared with.
        ours: Seconds of this package's way, in the same order.
        passes: Forward passes of the model that this package's way took.
        tokens: Tokens that it wrote.
        same: Whether the two wrote the same text, where nothing forced them to.
    """

    theirs: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    same: list[bool] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Times as fast as what it is compared with, pair by pair."""
        return [theirs / ours for theirs, ours in zip(self.theirs, self.ours, strict=True)]

    @property
    def rates(self) -> list[float]:
        """Tokens that a pass gave, edit by edit."""
        return [tokens / passes for tokens, passes in zip(self.tokens, self.passes, strict=True)]


class Figures:
    """Pairs by case, and by what the package is compared with."""

    def __init__(self) -> None:
        self._held: dict[str, dict[str, Pairs]] = {}

    def add(
        self,
        case: str,
        against: str,
        theirs: float,
        ours: float,
        *,
        passes: int | None = None,
        tokens: int | None = None,
        same: bool | None = None,
    ) -> None:
        """Note a pair of times, in seconds."""
        pairs = self._held.setdefault(case, {}).setdefault(against, Pairs())
        pairs.theirs.append(theirs)
        pairs.ours.append(ours)
        if passes is not None and tokens is not None:
            pairs.passes.append(passes)
            pairs.tokens.append(tokens)
        if same is not None:
            pairs.same.append(same)

    def raw(self) -> dict[str, dict[str, dict[str, Any]]]:
        """All values, for a file; `Pairs(**values)` reads them again."""
        return {
            case: {against: asdict(pairs) for against, pairs in held.items()}
            for case, held in self._held.items()
        }


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The quartiles of at least two values; the middle one is their median."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def said(values: Sequence[float]) -> str:
    """Say what was measured.

    Args:
        values: Values of the same thing, such as the ratios of pairs.

    Returns:
        The median with its quartiles and the number of values; all values where they are few.
    """
    if not values:
        return "–"
    if len(values) < FEW:
        return f"{', '.join(map(short, values))} (each; no median of {len(values)})"
    low, middle, high = quartiles(values)
    places = _places(middle)
    return f"{middle:.{places}f} ({low:.{places}f} to {high:.{places}f}; {len(values)})"


def overhead_said(microseconds: Sequence[float], below_zero: str) -> str:
    """Say what something costs over something else.

    Args:
        microseconds: Differences, one for each round.
        below_zero: Why the median may lie below zero.

    Returns:
        The median with its quartiles, and the reason where it lies below zero.
    """
    if len(microseconds) < FEW:
        middle = statistics.median(microseconds)
        text = f"{', '.join(f'{one:.0f}' for one in microseconds)} µs (each)"
    else:
        low, middle, high = quartiles(microseconds)
        text = f"{middle:.0f} µs ({low:.0f} to {high:.0f}; {len(microseconds)})"
    return f"{text}, below zero because {below_zero}" if middle < 0 else text


def short(number: float) -> str:
    """Write a number with the digits that count."""
    return f"{number:.{_places(number)}f}"


def _places(number: float) -> int:
    return 0 if number >= 20 else 1 if number >= 5 else 2


def pairs_of(
    figures: Mapping[str, Mapping[str, Mapping[str, Any]]], case: str, against: str
) -> Pairs | None:
    """Read pairs from what `Figures.raw` gave; `None` where they were not measured."""
    held = figures.get(case, {}).get(against)
    return Pairs(**held) if held else None
