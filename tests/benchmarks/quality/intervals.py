"""How sure a share is: intervals of 95 %."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence

from langchain_metaaligner.evaluation.statistics import wilson

__all__ = ["bootstrap", "clustered", "wilson"]


def clustered(hits: Sequence[bool], groups: Sequence[str]) -> tuple[float, float]:
    """Wilson's interval of a share whose cases come in groups that are not independent.

    Cases of one conversation say less than as many of their own: they are counted as the number of
    independent ones that would leave the share as uncertain.

    Args:
        hits: Whether each case counts.
        groups: The conversation of each case.

    Returns:
        Lower and upper end, from 0 to 1.
    """
    count, mean = len(hits), sum(hits) / max(1, len(hits))
    over: dict[str, float] = defaultdict(float)
    for hit, group in zip(hits, groups, strict=True):
        over[group] += hit - mean
    alone = mean * (1 - mean) / max(1, count)
    spread = sum(part * part for part in over.values()) / max(1, count) ** 2
    if len(over) > 1:
        spread *= len(over) / (len(over) - 1)
    enough = count * min(1.0, alone / spread) if spread else float(count)
    if mean in (0.0, 1.0):  # nothing tells how alike the cases of a conversation are
        enough = len(over)
    return wilson(mean * enough, enough)


def bootstrap(
    values: Sequence[float], groups: Sequence[str], *, draws: int = 2000, seed: int = 3
) -> tuple[float, float]:
    """Interval of a mean whose cases come in groups that are not independent.

    Args:
        values: One value for each case.
        groups: The conversation of each case.
        draws: How many times the conversations are drawn anew, with putting back.
        seed: Decides the draws.

    Returns:
        The 2.5 and 97.5 % points of the means.
    """
    if not values:
        return 0.0, 1.0
    found: dict[str, list[float]] = defaultdict(list)
    for value, group in zip(values, groups, strict=True):
        found[group].append(value)
    sums = [(sum(part), len(part)) for part in found.values()]
    rng = random.Random(seed)
    means = []
    for _ in range(draws):
        drawn = rng.choices(sums, k=len(sums))
        means.append(sum(total for total, _ in drawn) / sum(count for _, count in drawn))
    means.sort()
    return means[int(0.025 * draws)], means[math.ceil(0.975 * draws) - 1]
