"""How often edits win, and how sure that is when rows come from the same conversations.

Rows of one conversation are alike, so they say less than as many conversations would. A share is
as uncertain as if it came from fewer, independent rows: as many as have the variance that is seen
between conversations (the design effect of survey statistics). With that number go Wilson's
interval and, for the difference of two shares, that of Agresti and Min (2005). With few
conversations the variance itself is uncertain; Student's t allows for it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from langchain_metaaligner.errors import EvaluationError
from langchain_metaaligner.evaluation.length_control import length_control
from langchain_metaaligner.evaluation.records import EvaluatedRow, Outcome
from langchain_metaaligner.evaluation.selection import compared

_SURE = 0.975
_Z = 1.959964
_POINTS: dict[Outcome, int] = {"win": 1, "tie": 0, "loss": -1}

_NO_SCIPY = 'The statistics of an evaluation need SciPy: pip install "langchain-metaaligner[eval]".'

Interval = tuple[float, float]
"""Lower and upper end of 95 %."""


@dataclass(frozen=True, slots=True)
class Rates:
    """How the edits of some rows did. No number in it is ever NaN.

    Attributes:
        judged: Comparisons with an outcome.
        wins: Those in which the edit is better, in both orders.
        ties: Those in which neither is, or the two orders disagree.
        losses: Those in which the original is better, in both orders.
        unjudged: Comparisons without an outcome, because the judge gave no verdict.
        inconsistent: Comparisons whose two orders disagree; they are among the ties.
        conversations: Conversations that the judged rows come from.
        win_rate: Share of wins among the judged; `None` if none is judged.
        loss_rate: Share of losses.
        interval: Of the win rate: 95 %, clustered by conversation. All of 0 to 1 if none is judged.
        net: Wins less losses, as a share of the judged.
        net_interval: Of `net`, likewise. All of -1 to 1 if none is judged.
        sign_test: How likely it is that conversations split between more wins and more losses as
            unevenly as they do, or more so, if edits are no better and no worse. 1 if none of
            them leans either way.
        length_controlled: The win rate at equal length, where a tie counts half, so that no
            preference is ½: see `length_control.py`. `None` if none is judged.
        length_note: Why that rate can't be trusted; `None` if nothing speaks against it.
    """

    judged: int
    wins: int
    ties: int
    losses: int
    unjudged: int
    inconsistent: int
    conversations: int
    win_rate: float | None
    loss_rate: float | None
    interval: Interval
    net: float | None
    net_interval: Interval
    sign_test: float
    length_controlled: float | None
    length_note: str | None


def rates(
    rows: Sequence[EvaluatedRow], *, objective: str | None = None, policy: str | None = None
) -> Rates:
    """Count how the edits of some rows did.

    Args:
        rows: The rows of an evaluation.
        objective: Name of an objective; `None` for all of them together.
        policy: Who wrote the answers; `None` for everybody.

    Returns:
        The counts, shares, intervals and the sign test.
    """
    found = list(compared(rows, objective=objective, policy=policy))
    points, groups = [], []
    for row, _, comparison in found:
        if comparison.outcome is not None:
            points.append(_POINTS[comparison.outcome])
            groups.append(row.conversation)
    controlled = length_control(rows, objective=objective, policy=policy)
    wins, losses, judged = points.count(1), points.count(-1), len(points)
    return Rates(
        judged=judged,
        wins=wins,
        ties=points.count(0),
        losses=losses,
        unjudged=len(found) - judged,
        inconsistent=sum(one.comparison.consistent is False for one in found),
        conversations=len(set(groups)),
        win_rate=wins / judged if judged else None,
        loss_rate=losses / judged if judged else None,
        interval=share_interval([one == 1 for one in points], groups),
        net=(wins - losses) / judged if judged else None,
        net_interval=net_interval(points, groups),
        sign_test=sign_test(points, groups),
        length_controlled=None if controlled is None else controlled.rate,
        length_note=None if controlled is None else controlled.note,
    )


def wilson(hits: float, count: float) -> Interval:
    """Wilson's interval of a share, from independent cases.

    Args:
        hits: Cases that count.
        count: All cases.

    Returns:
        Lower and upper end, from 0 to 1.
    """
    if not count:
        return 0.0, 1.0
    share, extra = hits / count, _Z**2 / count
    middle = (share + extra / 2) / (1 + extra)
    half = _Z * math.sqrt(share * (1 - share) / count + extra / (4 * count)) / (1 + extra)
    # At the ends, rounding would leave the share itself a hair outside.
    low = 0.0 if hits == 0 else max(0.0, middle - half)
    return low, 1.0 if hits == count else min(1.0, middle + half)


def share_interval(hits: Sequence[bool], groups: Sequence[str]) -> Interval:
    """Interval of a share whose cases come in groups that are not independent.

    Args:
        hits: Whether each case counts.
        groups: The conversation of each case.

    Returns:
        Lower and upper end, from 0 to 1. Wilson's if each case has a conversation of its own.
    """
    if not hits:
        return 0.0, 1.0
    share, enough = sum(hits) / len(hits), independent(hits, groups)
    return wilson(share * enough, enough)


def net_interval(points: Sequence[float], groups: Sequence[str]) -> Interval:
    """Interval of a mean of points, such as wins less losses as a share of all.

    Args:
        points: 1, 0 or -1 for each case, or something between.
        groups: The conversation of each case.

    Returns:
        Lower and upper end, from -1 to 1.
    """
    if not points:
        return -1.0, 1.0
    enough = independent(points, groups)
    mean, square = (sum(one**power for one in points) / len(points) for power in (1, 2))
    # Two more cases, one of them without a difference: Agresti and Min 2005.
    count = enough + 2
    middle = enough * mean / count
    half = _Z * math.sqrt(((enough * square + 1) / count - middle**2) / count)
    return max(-1.0, middle - half), min(1.0, middle + half)


def sign_test(points: Sequence[int], groups: Sequence[str]) -> float:
    """Exact two-sided sign test of wins against losses.

    Args:
        points: 1, 0 or -1 for each case.
        groups: The conversation of each case; it counts by the sign of its sum.

    Returns:
        The p-value; 1 if no conversation leans either way.

    Raises:
        EvaluationError: SciPy is missing.
    """
    sums: dict[str, int] = defaultdict(int)
    for point, group in zip(points, groups, strict=True):
        sums[group] += point
    up, down = sum(one > 0 for one in sums.values()), sum(one < 0 for one in sums.values())
    if not up + down:
        return 1.0
    try:
        from scipy.stats import binomtest
    except ImportError as error:
        raise EvaluationError(_NO_SCIPY) from error
    return float(binomtest(up, up + down).pvalue)


def independent(values: Sequence[float], groups: Sequence[str]) -> float:
    """How many independent cases would leave a mean as uncertain as grouped ones do.

    Args:
        values: One value for each case; at least one.
        groups: The conversation of each case.

    Returns:
        A number from 1 to that of the cases. All of them if each has a group of its own.

    Raises:
        EvaluationError: SciPy is missing.
    """
    count, mean = len(values), sum(values) / len(values)
    over: dict[str, float] = defaultdict(float)
    for value, group in zip(values, groups, strict=True):
        over[group] += value - mean
    if len(over) in (1, count):
        return float(len(over))
    variance = sum((value - mean) ** 2 for value in values) / count
    if not variance:  # nothing tells how alike the cases of a conversation are
        return float(len(over))
    spread = sum(part * part for part in over.values()) / count * len(over) / (len(over) - 1)
    try:
        from scipy.special import stdtrit
    except ImportError as error:
        raise EvaluationError(_NO_SCIPY) from error
    caution = _Z / float(stdtrit(len(over) - 1, _SURE))
    return max(1.0, count * min(1.0, variance / spread if spread else 1.0) * caution**2)
