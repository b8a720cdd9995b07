"""How often the edit would be better if it were as long as its original.

After Dubois et al. 2024 (arXiv 2404.04475): a logistic regression of the judge's preference, with
a term for whose edits they are and one for the difference in length, tanh of it over its standard
deviation; the controlled rate is the regression's prediction with the length term at zero. A tie
counts half, so that no preference is ½. As there, each policy has terms of its own, and
instructions have a difficulty where other policies answered the same ones. Objectives are
regressed one by one: judges of one may like length, and of another not.

Four things differ, since edits of a user's rows are not answers of 120 models to 805 instructions:

- Unchanged answers are ties whatever else is true, and stay ½; the regression is about the others.
- The paper's code chooses an L1 weight by cross-validation. On a hundred rows that choice is
  chance, so the weights here are fixed: normal priors of deviation 1 for the edit's own term and
  for difficulty, and of 100 for a liking of length. What length alone can explain is put down to
  length. Judges are known to favour the longer text; that one favours the shorter is believed only
  as readily as that the edits are good (deviation 1), since edits often shorten what is harmful.
- Difficulty is no parameter for each instruction, which would need many models: it is how the
  other policies' edits did on the same context. With one policy there is none.
- The rate is the plain one plus the difference that the length term makes to the prediction. For
  an unregularised regression that is the prediction itself; here it keeps the priors from pulling
  a rate to ½ where lengths don't differ.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_metaaligner.errors import EvaluationError
from langchain_metaaligner.evaluation.records import EvaluatedRow, Outcome
from langchain_metaaligner.evaluation.selection import compared

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_PREFERENCE: dict[Outcome, float] = {"win": 1.0, "tie": 0.5, "loss": 0.0}
# Standard deviations of the priors; see above.
_OWN, _LONGER, _SHORTER, _DIFFICULTY = 1.0, 100.0, 1.0, 1.0
# With a smaller share of changed edits on the other side, equal length is beyond the data.
_ONE_SIDED = 0.05


@dataclass(frozen=True, slots=True)
class LengthControl:
    """What the judge would say at equal length.

    Attributes:
        rate: The length-controlled win rate, where a tie counts half.
        plain: The win rate of the same comparisons on the same scale, whatever the lengths.
        judged: Comparisons with an outcome.
        longer: Those whose edit is longer than its original, in characters.
        shorter: Those whose edit is shorter.
        difficulty: Whether other policies' edits told how hard a context is.
        note: Why the rate can't be trusted; `None` if nothing speaks against it.
    """

    rate: float
    plain: float
    judged: int
    longer: int
    shorter: int
    difficulty: bool
    note: str | None


class _Point(NamedTuple):
    policy: str
    objective: str
    context: str
    longer: int
    changed: bool
    preference: float


def length_control(
    rows: Iterable[EvaluatedRow], *, objective: str | None = None, policy: str | None = None
) -> LengthControl | None:
    """Take the length of edits out of their win rate.

    Args:
        rows: The rows of an evaluation, those of other policies too: they tell how hard a context
            is.
        objective: Name of an objective; `None` for the mean over all comparisons.
        policy: Who wrote the answers; `None` for the mean over everybody's.

    Returns:
        The controlled rate; `None` if no comparison has an outcome.

    Raises:
        EvaluationError: SciPy is missing.
    """
    points = [
        _Point(
            row.policy,
            name,
            row.context,
            len(row.edited) - len(row.original),
            row.changed,
            _PREFERENCE[comparison.outcome],
        )
        for row, name, comparison in compared(rows, objective=objective)
        if comparison.outcome is not None
    ]
    groups: dict[tuple[str, str], list[_Point]] = defaultdict(list)
    for point in points:
        if policy is None or point.policy == policy:
            groups[point.policy, point.objective].append(point)
    judged = sum(map(len, groups.values()))
    if not judged:
        return None
    difficulty = _Difficulty(points)
    total, hard = 0.0, False
    for group in groups.values():
        changed = [one for one in group if one.changed]
        total += 0.5 * (len(group) - len(changed))
        if changed:
            difficulties = [difficulty.of(one) for one in changed]
            total += len(changed) * _controlled(changed, difficulties)
            hard = hard or any(difficulties)
    own = [one for group in groups.values() for one in group]
    longer, shorter = sum(one.longer > 0 for one in own), sum(one.longer < 0 for one in own)
    return LengthControl(
        rate=total / judged,
        plain=sum(one.preference if one.changed else 0.5 for one in own) / judged,
        judged=judged,
        longer=longer,
        shorter=shorter,
        difficulty=hard,
        note=_note(longer, shorter),
    )


class _Difficulty:
    """How edits of other policies did on the same context and objective."""

    def __init__(self, points: Sequence[_Point]) -> None:
        preferences: dict[str, list[float]] = defaultdict(list)
        for one in points:
            preferences[one.policy].append(one.preference)
        means = {policy: sum(found) / len(found) for policy, found in preferences.items()}
        # Sum and number: of everybody's edits of a context, and of each policy's own.
        self._sums: dict[tuple[str, ...], tuple[float, int]] = defaultdict(lambda: (0.0, 0))
        for one in points:
            # Against the policy's own mean: an easy context is one on which all do better.
            over = one.preference - means[one.policy]
            for key in _keys(one):
                total, count = self._sums[key]
                self._sums[key] = total + over, count + 1

    def of(self, point: _Point) -> float:
        (total, count), (own, own_count) = (self._sums[key] for key in _keys(point))
        others = count - own_count
        # One more, of no difference, since few others are little evidence.
        return 2 * (total - own) / (others + 1) if others else 0.0


def _keys(point: _Point) -> tuple[tuple[str, ...], tuple[str, ...]]:
    where = (point.context, point.objective)
    return where, (*where, point.policy)


def _controlled(points: Sequence[_Point], difficulties: Sequence[float]) -> float:
    """The rate of changed edits of one policy on one objective, at equal length."""
    preference = [one.preference for one in points]
    plain = sum(preference) / len(preference)
    if not any(one.longer for one in points):
        return plain
    try:
        import numpy as np
        from scipy.optimize import minimize
        from scipy.special import expit
    except ImportError as error:
        msg = 'Length control needs SciPy: pip install "langchain-metaaligner[eval]".'
        raise EvaluationError(msg) from error

    wanted = np.array(preference)
    longer = np.array([one.longer for one in points], dtype=float)
    spread = longer.std()
    length = np.tanh(longer / spread) if spread else np.sign(longer)
    terms = np.stack([np.ones_like(length), length, np.array(difficulties)])

    def loss(weights: Floats) -> tuple[float, Any]:
        scores = weights @ terms
        liking = _LONGER if weights[1] > 0 else _SHORTER
        priors = weights / np.array([_OWN, liking, _DIFFICULTY]) ** 2
        value = (np.logaddexp(0, scores) - wanted * scores).sum() + weights @ priors / 2
        return float(value), terms @ (expit(scores) - wanted) + priors

    weights = minimize(loss, np.zeros(3), jac=True, method="L-BFGS-B").x
    scores = weights @ terms
    explained = (expit(scores) - expit(scores - weights[1] * length)).mean()
    return min(1.0, max(0.0, plain - float(explained)))


def _note(longer: int, shorter: int) -> str | None:
    apart = longer + shorter
    if not apart or min(longer, shorter) >= _ONE_SIDED * apart:
        return None
    way, most = ("longer", longer) if longer > shorter else ("shorter", shorter)
    return (
        f"{most} of {apart} edits that differ in length are {way} than their originals, so nothing"
        " shows what the judge would say at equal length."
    )
