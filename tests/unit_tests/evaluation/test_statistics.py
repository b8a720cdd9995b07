"""How often edits win: counts, intervals that hold, and the sign test."""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import Sequence

import pytest

from langchain_metaaligner.evaluation.records import Comparison, EvaluatedRow, Outcome
from langchain_metaaligner.evaluation.statistics import (
    net_interval,
    rates,
    share_interval,
    sign_test,
    wilson,
)

scipy_stats = pytest.importorskip("scipy.stats")

VERDICTS: dict[Outcome | None, tuple[int | None, int | None]] = {
    "win": (1, 2),
    "loss": (2, 1),
    "tie": (0, 0),
    None: (None, 1),
}


def row(
    outcome: Outcome | None = "win",
    *,
    conversation: str = "a",
    policy: str = "",
    objective: str = "harmlessness",
    verdicts: tuple[int | None, int | None] | None = None,
) -> EvaluatedRow:
    comparison = Comparison(outcome, verdicts or VERDICTS[outcome])
    return EvaluatedRow(
        key=f"{conversation}{policy}{objective}",
        place="row 1",
        conversation=conversation,
        policy=policy,
        context="How?",
        original="So.",
        edited="Thus.",
        status="edited",
        comparisons={objective: comparison},
    )


def apart(outcomes: Sequence[Outcome | None]) -> list[EvaluatedRow]:
    return [row(one, conversation=str(place)) for place, one in enumerate(outcomes)]


def test_every_comparison_is_a_win_a_tie_a_loss_or_unjudged() -> None:
    rows = [*apart(["win", "win", "loss", "tie", None]), row("tie", verdicts=(1, 1))]
    found = rates(rows, objective="harmlessness")
    assert (found.judged, found.wins, found.ties, found.losses, found.unjudged) == (5, 2, 2, 1, 1)
    assert found.inconsistent == 1
    assert found.conversations == 5
    assert found.win_rate == 2 / 5
    assert found.loss_rate == 1 / 5
    assert found.net == 1 / 5


def test_rates_are_of_one_objective_and_policy_or_of_all() -> None:
    rows = [
        row("win", policy="a"),
        row("loss", policy="b"),
        row("loss", policy="b", objective="humour"),
    ]
    assert rates(rows).losses == 2
    assert rates(rows, objective="humour").judged == 1
    assert rates(rows, objective="harmlessness").judged == 2
    assert rates(rows, policy="a").win_rate == 1
    assert rates(rows, objective="humour", policy="a").judged == 0


@pytest.mark.parametrize("rows", [[], apart([None, None])])
def test_nothing_judged_is_no_rate_and_an_interval_of_everything(rows) -> None:
    found = rates(rows)
    assert (found.win_rate, found.loss_rate, found.net) == (None, None, None)
    assert (found.interval, found.net_interval) == ((0, 1), (-1, 1))
    assert found.sign_test == 1
    assert found.unjudged == len(rows)


@pytest.mark.parametrize(("wins", "count"), [(0, 1), (0, 12), (12, 12), (7, 12), (300, 1000)])
def test_the_interval_of_independent_rows_is_wilsons_as_scipy_has_it(wins: int, count: int) -> None:
    found = rates(apart(["win"] * wins + ["loss"] * (count - wins)))
    theirs = scipy_stats.binomtest(wins, count).proportion_ci(method="wilson")
    assert found.interval == pytest.approx((theirs.low, theirs.high), abs=1e-6)
    assert found.interval[0] <= wins / count <= found.interval[1]
    assert found.sign_test == scipy_stats.binomtest(wins, count).pvalue


def test_rows_of_one_conversation_are_not_as_sure_as_rows_apart() -> None:
    hits = [True] * 50 + [False] * 50
    alone = share_interval(hits, [str(place) for place in range(100)])
    together = share_interval(hits, [str(place // 5) for place in range(100)])
    twenty = wilson(10, 20)
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])
    assert together == pytest.approx(twenty, abs=0.02)
    # Conversations more alike than chance has it are no reason to be surer.
    mixed = share_interval([True, False] * 50, [str(place // 2) for place in range(100)])
    assert mixed == pytest.approx(wilson(50, 100), abs=0.01)


@pytest.mark.parametrize("hit", [True, False])
def test_one_conversation_is_one_case_however_many_rows_it_has(hit: bool) -> None:
    assert share_interval([hit] * 30, ["a"] * 30) == wilson(int(hit), 1)
    low, high = share_interval([True, False] * 15, ["a"] * 30)
    assert low < 0.06
    assert high > 0.94
    assert net_interval([1] * 30, ["a"] * 30)[0] < 0
    assert share_interval([hit] * 9, ["a", "b", "c"] * 3) == wilson(3 * hit, 3)


def test_few_conversations_are_no_sure_ground_for_how_alike_their_rows_are() -> None:
    # Five conversations of twenty rows that happen to be alike: as if 50 rows, not 100.
    hits = ([True] * 10 + [False] * 10) * 5
    low, high = share_interval(hits, [str(place // 20) for place in range(100)])
    assert high - low > 1.3 * (wilson(50, 100)[1] - wilson(50, 100)[0])


def test_intervals_do_not_depend_on_the_order_of_rows() -> None:
    rows = [
        row(outcome, conversation=str(number // 3))
        for number, outcome in enumerate(["win", "loss", "win", "tie", "win"] * 9)
    ]
    mixed = rows[:]
    random.Random(1).shuffle(mixed)
    one, other = rates(rows), rates(mixed)
    assert one.interval == pytest.approx(other.interval)
    assert one.net_interval == pytest.approx(other.net_interval)
    assert one.sign_test == other.sign_test


def test_the_sign_test_counts_a_conversation_once() -> None:
    points, groups = [1] * 10 + [-1], ["a"] * 10 + ["b"]
    assert sign_test(points, groups) == 1
    assert sign_test([1, -1], ["a", "a"]) == 1
    assert sign_test([1] * 8, list("abcdefgh")) == pytest.approx(2 / 2**8)


def test_intervals_hold_the_truth_nearly_as_often_as_they_say() -> None:
    rng = random.Random(7)
    held = held_net = 0
    for _ in range(200):
        points, groups = [], []
        for group in range(30):
            lean = rng.choice([0.35, 0.85])
            for _ in range(rng.randint(1, 5)):
                points.append(1 if rng.random() < lean else rng.choice([0, -1]))
                groups.append(str(group))
        low, high = share_interval([one == 1 for one in points], groups)
        held += low <= 0.6 <= high
        low, high = net_interval(points, groups)
        held_net += low <= 0.4 <= high
    assert held >= 180
    assert held_net >= 180


def test_no_figure_is_ever_a_number_that_is_none() -> None:
    outcomes: list[Outcome | None] = ["win", "loss", "tie", None]
    rng = random.Random(3)
    for size in range(12):
        rows = [row(rng.choice(outcomes), conversation=rng.choice("ab")) for _ in range(size)]
        for value in dataclasses.astuple(rates(rows)):
            numbers = value if isinstance(value, tuple) else (value,)
            assert all(math.isfinite(one) for one in numbers if isinstance(one, float))


def test_a_thousand_rows_take_less_than_a_twentieth_of_a_second() -> None:
    rows = [
        row(outcome, conversation=str(number // 2))
        for number, outcome in enumerate(["win", "loss", "tie", "win"] * 250)
    ]
    rates(rows)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        rates(rows)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.05, times
