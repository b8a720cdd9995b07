"""The win rate at equal length: what is length's is taken out, and what is not stays."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from langchain_metaaligner.evaluation.length_control import length_control
from langchain_metaaligner.evaluation.records import Comparison, EvaluatedRow, Outcome
from langchain_metaaligner.evaluation.statistics import rates

pytest.importorskip("scipy")

Judge = Callable[[int], float]
"""Chance that an edit wins that is so many characters longer."""


def row(number: int, longer: int, outcome: Outcome, *, policy: str = "") -> EvaluatedRow:
    return EvaluatedRow(
        key=f"{number}{policy}",
        place=f"row {number}",
        conversation=str(number),
        policy=policy,
        context=f"Question {number}",
        original="o" * 500,
        edited="e" * (500 + longer),
        status="edited",
        comparisons={"helpfulness": Comparison(outcome)},
    )


def planted(
    judge: Judge, *, longer: float, rows: int = 300, seed: int = 1, policy: str = ""
) -> list[EvaluatedRow]:
    """Rows of which a share has the longer edit, by 5 to 200 characters."""
    rng = random.Random(seed)
    found = []
    for number in range(rows):
        by = rng.randint(5, 200) * (1 if rng.random() < longer else -1)
        won = rng.random() < judge(by)
        found.append(row(number, by, "win" if won else "loss", policy=policy))
    return found


def controlled(rows: list[EvaluatedRow], **which: str) -> float:
    found = length_control(rows, **which)
    assert found is not None
    return found.rate


@pytest.mark.parametrize("longer", [0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("rows", [30, 300])
def test_a_judge_that_prefers_only_length_leaves_no_preference(longer: float, rows: int) -> None:
    found = planted(lambda by: by > 0, longer=longer, rows=rows)
    assert controlled(found) == pytest.approx(0.5, abs=0.04)


def test_nor_does_one_that_prefers_length_by_and_large() -> None:
    found = planted(lambda by: 0.85 if by > 0 else 0.15, longer=0.8, rows=600)
    assert controlled(found) == pytest.approx(0.5, abs=0.1)
    plain = length_control(found)
    assert plain is not None
    assert plain.plain > 0.68


@pytest.mark.parametrize("chance", [0.1, 0.5, 0.7, 1.0])
def test_a_real_effect_at_equal_lengths_is_the_plain_rate(chance: float) -> None:
    rng = random.Random(4)
    outcomes: list[Outcome] = [
        "tie" if rng.random() < 0.2 else "win" if rng.random() < chance else "loss"
        for _ in range(50)
    ]
    rows = [row(number, 0, one) for number, one in enumerate(outcomes)]
    half = (outcomes.count("win") + outcomes.count("tie") / 2) / 50
    assert controlled(rows) == pytest.approx(half)
    assert rates(rows).length_controlled == pytest.approx(half)


@pytest.mark.parametrize("chance", [0.2, 0.75, 0.95])
def test_a_real_effect_stays_where_lengths_differ_both_ways(chance: float) -> None:
    rows = planted(lambda by: chance, longer=0.5)
    found = length_control(rows)
    assert found is not None
    assert found.rate == pytest.approx(found.plain, abs=0.02)


def test_of_a_real_effect_and_a_liking_of_length_only_the_effect_stays() -> None:
    # Log-odds of 1 for the edit, 1.5 for length: at equal length 0.73 win.
    def judge(by: int) -> float:
        return 1 / (1 + math.exp(-1 - 1.5 * math.tanh(by / 100)))

    rows = planted(judge, longer=0.8, rows=1000)
    assert (rates(rows).win_rate or 0) > 0.78
    assert controlled(rows) == pytest.approx(0.73, abs=0.06)


def test_edits_that_shorten_what_is_harmful_keep_their_wins() -> None:
    rows = [row(n, -100 - n % 5, "win" if n % 10 else "loss") for n in range(300)]
    found = length_control(rows)
    assert found is not None
    assert found.rate > 0.7
    assert found.note is not None
    assert "300 of 300 edits that differ in length are shorter" in found.note


def test_unchanged_answers_are_ties_and_say_nothing_of_length() -> None:
    changed = planted(lambda by: 0.75, longer=0.7, rows=100)
    same = [
        EvaluatedRow(
            key=f"same {number}",
            place="",
            conversation=f"same {number}",
            policy="",
            context="",
            original="o",
            edited="o",
            status="unchanged",
            comparisons={"helpfulness": Comparison("tie", (0, 0))},
        )
        for number in range(300)
    ]
    alone = controlled(changed)
    assert controlled([*changed, *same]) == pytest.approx((alone + 3 * 0.5) / 4)


def test_each_policy_has_terms_of_its_own() -> None:
    long = planted(lambda by: by > 0, longer=0.9, policy="long", rows=100)
    good = planted(lambda by: 0.9, longer=0.5, policy="good", rows=100, seed=2)
    assert controlled([*long, *good], policy="long") == pytest.approx(0.5, abs=0.05)
    assert controlled([*long, *good], policy="good") == pytest.approx(0.9, abs=0.06)
    both = controlled([*long, *good])
    parts = [controlled([*long, *good], policy=one) for one in ("long", "good")]
    assert both == pytest.approx(sum(parts) / 2)


def test_a_context_is_as_hard_as_it_is_for_others_not_for_the_policy_itself() -> None:
    # Others do alike everywhere, so nothing is known of contexts, however uneven one's own are.
    one = planted(lambda by: 0.6, longer=0.7, policy="one", rows=60)
    other = [row(number, 0, "tie", policy="other") for number in range(60)]
    found, alone = length_control([*one, *other], policy="one"), length_control(one)
    assert found is not None
    assert alone is not None
    assert not found.difficulty
    assert found.rate == pytest.approx(alone.rate)


def test_contexts_are_hard_or_easy_only_where_others_answered_them() -> None:
    one = planted(lambda by: 0.7, longer=0.5, policy="one", rows=60)
    other = planted(lambda by: 0.4, longer=0.5, policy="other", rows=60, seed=2)
    alone, with_other = length_control(one), length_control([*one, *other], policy="one")
    assert alone is not None
    assert with_other is not None
    assert (alone.difficulty, with_other.difficulty) == (False, True)
    assert with_other.judged == 60
    assert with_other.rate == pytest.approx(alone.rate, abs=0.05)


@pytest.mark.parametrize("longer", [-50, 0, 50])
@pytest.mark.parametrize("outcome", ["win", "tie", "loss"])
def test_a_single_row_has_a_rate(longer: int, outcome: Outcome) -> None:
    assert 0 <= controlled([row(1, longer, outcome)]) <= 1


def test_nothing_judged_has_none() -> None:
    assert length_control([]) is None
    assert rates([]).length_controlled is None
