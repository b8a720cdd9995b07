"""Makes one example of its texts and its objectives, which are worded in more than one way."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from cookbook.recipes.embedded import sources
from langchain_metaaligner.editing.objectives import Objective, parse_objectives
from langchain_metaaligner.training.data.example import TrainingExample

# The goals that `texts/lines.json` holds further descriptions of.
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
    """Make an example of the objectives' names.

    Args:
        kind: Where it comes from, for counting.
        context: The conversation.
        answer: The reply to edit.
        objectives: Names of the catalogue or objectives, in the order of the prompt.
        edit: The wanted reply.

    Returns:
        The example.
    """
    return TrainingExample(context, answer, parse_objectives(objectives), edit, kind=kind)


def described(goal: str, rng: random.Random) -> Objective:
    """Word a goal in a way of our own.

    Args:
        goal: One of `WORDED`.
        rng: The source of chance.

    Returns:
        The goal with one of its further descriptions.
    """
    return Objective(goal, rng.choice(sources.lines(goal)))


def reworded(made: TrainingExample, rng: random.Random, share: float) -> TrainingExample:
    """Describe the objectives of an example in other words now and then.

    People give objectives as sentences of their own; an adapter that only ever saw the
    catalogue's wordings would take any other for nothing.

    Args:
        made: The example.
        rng: The source of chance.
        share: How often each of its objectives is worded anew.

    Returns:
        The example, with the same objectives by name.
    """
    goals = tuple(
        described(goal.name, rng) if goal.name in WORDED and rng.random() < share else goal
        for goal in made.objectives
    )
    return dataclasses.replace(made, objectives=goals)
