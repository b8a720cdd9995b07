"""The objectives of an example, described in several ways."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from cookbook.recipes.embedded import sources
from langchain_metaaligner.editing.objectives import Objective, parse_objectives
from langchain_metaaligner.training.data.example import TrainingExample

# Objectives with further descriptions in `texts/lines.json`.
WORDED = (
    "harmlessness",
    "helpfulness",
    "humour",
    "readability",
    "specificity",
    "fairness",
    "politeness",
    "length",
    "repetition",
)


def example(
    kind: str, context: str, answer: str, objectives: Sequence[str | Objective], edit: str
) -> TrainingExample:
    """Make an example from the names of its objectives.

    Args:
        kind: Where it comes from, for counts.
        context: The conversation.
        answer: The reply to edit.
        objectives: Names of the catalogue or objectives, in the order of the prompt.
        edit: The wanted reply.

    Returns:
        The example.
    """
    return TrainingExample(context, answer, parse_objectives(objectives), edit, kind=kind)


def described(goal: str, rng: random.Random) -> Objective:
    """Describe an objective in other words.

    Args:
        goal: One of `WORDED`.
        rng: Source of randomness.

    Returns:
        The objective with one of its further descriptions.
    """
    return Objective(goal, rng.choice(sources.lines(goal)))


def reworded(made: TrainingExample, rng: random.Random, share: float) -> TrainingExample:
    """Describe some objectives of an example in other words.

    People describe objectives in their own words; an adapter that had seen only the descriptions
    of the catalogue would ignore all others.

    Args:
        made: The example.
        rng: Source of randomness.
        share: Share of the objectives that are described in other words.

    Returns:
        The example, with objectives of the same names.
    """
    goals = tuple(
        described(goal.name, rng) if goal.name in WORDED and rng.random() < share else goal
        for goal in made.objectives
    )
    return dataclasses.replace(made, objectives=goals)
