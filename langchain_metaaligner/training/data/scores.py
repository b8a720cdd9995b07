"""Adds scores to pairs whose rows lack them: what a scorer is, and how it is called."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from langchain_metaaligner.editing.objectives import Objective
from langchain_metaaligner.errors import PreferenceDataError
from langchain_metaaligner.training.data.pairs import Comparison, PreferencePair, Problem
from langchain_metaaligner.training.data.parser import objective_name

Score = Callable[[str, str, str], float]
"""Scores an answer: `score(context, answer, name of the objective)`; higher is better."""


@dataclass(frozen=True, slots=True)
class Unscored:
    """A pair that could not be compared.

    Attributes:
        reason: Why, without any text of the data.
    """

    reason: str


@runtime_checkable
class Scorer(Protocol):
    """Compares the answers of pairs."""

    def compare(
        self, pairs: Sequence[PreferencePair], objective: Objective
    ) -> Sequence[Comparison | Unscored]:
        """Compare the answers of each pair on an objective, in the order of the pairs."""
        ...


ScorerLike = Scorer | Score


def score_pairs(
    pairs: Sequence[PreferencePair], scorer: ScorerLike, objectives: Sequence[Objective]
) -> tuple[list[PreferencePair], list[Problem]]:
    """Add the comparisons that pairs lack.

    Args:
        pairs: The pairs.
        scorer: Compares them; a function scores one answer at a time.
        objectives: The objectives to compare on. Comparisons that a pair already has stay.

    Returns:
        The pairs that compare on at least one objective, and the problems of the others.

    Raises:
        PreferenceDataError: The scorer is of an unknown kind.
    """
    compared = [dict(pair.compared) for pair in pairs]
    problems: list[Problem] = []
    for objective in objectives:
        name = objective_name(objective.name)
        lacking = [i for i, pair in enumerate(pairs) if name not in pair.compared]
        chosen = [pairs[i] for i in lacking]
        found = _scorer(scorer).compare(chosen, objective) if chosen else []
        for i, comparison in zip(lacking, found, strict=True):
            usable = _checked(comparison)
            if isinstance(usable, Unscored):
                problems.append(Problem(pairs[i].place, "unscored", f"{name}: {usable.reason}"))
            else:
                compared[i][name] = usable
    scored = [
        replace(pair, compared=known) for pair, known in zip(pairs, compared, strict=True) if known
    ]
    return scored, problems


class _Scored:
    """A function of context, answer and objective as a scorer."""

    def __init__(self, score: Score) -> None:
        self._score = score

    def compare(
        self, pairs: Sequence[PreferencePair], objective: Objective
    ) -> list[Comparison | Unscored]:
        compared: list[Comparison | Unscored] = []
        known: dict[tuple[str, str], float] = {}
        for pair in pairs:
            context = pair.context_text()
            for answer in (pair.answer_a, pair.answer_b):
                if (context, answer) not in known:
                    known[context, answer] = self._score(context, answer, objective.name)
            compared.append((known[context, pair.answer_a], known[context, pair.answer_b]))
        return compared


def _scorer(scorer: ScorerLike) -> Scorer:
    if isinstance(scorer, Scorer):
        return scorer
    if callable(scorer):
        return _Scored(scorer)
    msg = (
        "A scorer is a RewardModels, a ChatJudge, or a function of a context, an answer and the"
        f" name of an objective, not {type(scorer).__name__}."
    )
    raise PreferenceDataError(msg)


def _checked(comparison: Comparison | Unscored) -> Comparison | Unscored:
    if isinstance(comparison, Unscored | str):
        return comparison
    numbers = []
    for score in comparison:
        try:
            number = float(score)
        except (TypeError, ValueError):
            return Unscored(f"a score is {type(score).__name__}, not a number")
        if not math.isfinite(number):
            return Unscored(f"a score is {number}, not a finite number")
        numbers.append(number)
    return numbers[0], numbers[1]
