"""Times of two ways to do the same, and what is made of them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Figure:
    """Times in seconds, taken in turns, and what this package's way needed."""

    theirs: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """The ratio of medians with the quartiles and the worst of single ratios; passes."""
        ratios = [b / a for a, b in zip(self.ours, self.theirs, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        found: dict[str, Any] = {
            "n": len(ratios),
            "ratio": statistics.median(self.theirs) / statistics.median(self.ours),
            "quartiles": [low, high],
            "worst": min(ratios),
            "seconds": [statistics.median(self.theirs), statistics.median(self.ours)],
        }
        if self.passes:
            rates = [b / a for a, b in zip(self.passes, self.tokens, strict=True)]
            found |= {
                "passes": statistics.median(self.passes),
                "most passes": max(self.passes),
                "tokens": statistics.median(self.tokens),
                "tokens a pass": statistics.median(rates),
            }
        return found


class Figures:
    """Figures by case, and by what the package is compared with."""

    def __init__(self) -> None:
        self._held: dict[str, dict[str, Figure]] = {}

    def add(
        self,
        case: str,
        against: str,
        theirs: float,
        ours: float,
        *,
        passes: int | None = None,
        tokens: int | None = None,
    ) -> None:
        """Note a pair of times."""
        figure = self._held.setdefault(case, {}).setdefault(against, Figure())
        figure.theirs.append(theirs)
        figure.ours.append(ours)
        if passes is not None and tokens is not None:
            figure.passes.append(passes)
            figure.tokens.append(tokens)

    def summary(self) -> dict[str, Any]:
        """All of them; a single pair has itself for quartiles."""
        return {
            case: {
                against: _doubled(figure).summary() | {"n": len(figure.ours)}
                for against, figure in held.items()
            }
            for case, held in self._held.items()
        }


def _doubled(figure: Figure) -> Figure:
    if len(figure.ours) > 1:
        return figure
    return Figure(figure.theirs * 2, figure.ours * 2, figure.passes * 2, figure.tokens * 2)
