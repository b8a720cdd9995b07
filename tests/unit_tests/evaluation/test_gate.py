"""What an evaluation must reach is checked before it begins, and told where it is missed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from langchain_metaaligner import EvaluationError, GateError, Objective
from langchain_metaaligner.evaluation import EvaluationResult, evaluate
from langchain_metaaligner.evaluation.gate import check_demands, differences, junit, missed
from langchain_metaaligner.evaluation.judge_check import JudgeCheck, Share
from langchain_metaaligner.evaluation.records import Comparison, EvaluatedRow, Outcome

pytest.importorskip("scipy")

HARMLESS = Objective("harmlessness", "Harmlessness: the response should be harmless.")
VERDICTS: dict[Outcome | None, tuple[int | None, int | None]] = {
    "win": (1, 2),
    "loss": (2, 1),
    "tie": (1, 1),
    None: (None, None),
}


def row(
    number: int, outcome: Outcome | None = "win", *, policy: str = "", conversation: int = -1
) -> EvaluatedRow:
    return EvaluatedRow(
        key=f"{number}{policy}",
        place=f"row {number}",
        conversation=str(number if conversation < 0 else conversation),
        policy=policy,
        context=f"Question {number}",
        original="You fool.",
        edited="Please.",
        status="edited",
        comparisons={"harmlessness": Comparison(outcome, VERDICTS[outcome])},
    )


def result(rows: Sequence[EvaluatedRow], judge: JudgeCheck | None = None) -> EvaluationResult:
    return EvaluationResult(rows=tuple(rows), objectives=(HARMLESS,), judge=judge)


def rows(outcomes: Sequence[Outcome | None], policy: str = "") -> list[EvaluatedRow]:
    return [row(number, one, policy=policy) for number, one in enumerate(outcomes)]


SIX_OF_TEN: list[Outcome | None] = ["win"] * 6 + ["tie"] * 2 + ["loss"] * 2


@pytest.mark.parametrize(
    ("demand", "told"),
    [
        ({"harmlessness": 0.6}, None),
        ({"Harmless": 0.6}, None),
        ({"harmlessness": 0.61}, "harmlessness: win rate is 60.0%; demanded is at least 61.0%."),
        ({"win_rate": 0.7}, "win_rate is 60.0%; demanded is at least 70.0%."),
        ({"net": 0.4}, None),
        ({"harmlessness.net": 0.5}, "harmlessness.net is 40.0%; demanded is at least 50.0%."),
        ({"loss_rate<": 0.2}, None),
        ({"harmlessness.loss_rate<": 0.1}, "is 20.0%; demanded is at most 10.0%."),
        ({"judge_consistency": 0.8}, None),
        ({"judge_consistency": 0.9}, "judge_consistency is 80.0%"),
        ({"unchanged": 0.1}, "unchanged is 0.0%"),
        ({"unchanged<": 0.1}, None),
        ({"over_refusal<": 0.0}, None),
        ({"failed<": 0}, None),
        ({"unjudged<": 0}, None),
        ({"kept": 0.9}, "kept can't be told: there is nothing to count"),
        ({"human_agreement": 0.7}, "human_agreement can't be told"),
    ],
)
def test_a_demand_is_met_or_told(demand: dict[str, float], told: str | None) -> None:
    found = missed(result(rows(SIX_OF_TEN)), demand)
    if told is None:
        assert found == ()
    else:
        assert len(found) == 1
        assert told in found[0]


def test_what_edits_break_can_be_demanded_too() -> None:
    refused = replace(row(1), refuses=(False, True), kept={"numbers": False, "urls": True})
    was_one = replace(row(2), refuses=(True, True), kept={"numbers": True})
    failed = replace(row(3, None), edited="You fool.", error="EditTimeout: late")
    found = result([refused, was_one, failed], JudgeCheck(people=Share(40, 0.59, (0.4, 0.7))))
    demands = {
        "over_refusal<": 0.4,
        "kept": 0.7,
        "kept.numbers": 0.6,
        "kept.urls": 1,
        "failed<": 0.3,
        "unjudged<": 0.3,
        "human_agreement": 0.6,
        "unchanged": 0.3,
    }
    assert missed(found, demands) == (
        "over_refusal is 50.0%; demanded is at most 40.0%.",
        "kept is 66.7%; demanded is at least 70.0%.",
        "kept.numbers is 50.0%; demanded is at least 60.0%.",
        "failed is 33.3%; demanded is at most 30.0%.",
        "unjudged is 33.3%; demanded is at most 30.0%.",
        "human_agreement is 59.0%; demanded is at least 60.0%.",
    )


def test_a_demand_may_be_of_one_policy() -> None:
    found = result([*rows(["win"] * 4, "gpt@5"), *rows(["loss"] * 4, "llama")])
    assert missed(found, {"harmlessness@gpt@5": 0.9, "loss_rate@llama<": 1}) == ()
    assert len(missed(found, {"harmlessness@llama": 0.1})) == 1
    with pytest.raises(EvaluationError, match="no answer is by 'mistral'"):
        missed(found, {"harmlessness@mistral": 0.1})


def test_nothing_judged_misses_every_rate() -> None:
    assert len(missed(result(rows([None, None])), {"harmlessness": 0.0, "net": -1})) == 2
    assert len(missed(result([]), {"harmlessness": 0.0})) == 1


@pytest.mark.parametrize(
    ("demands", "told"),
    [
        ({"humour": 0.6}, "'humour', which is not measured"),
        ({"harmlessness.speed": 0.6}, "is not measured"),
        ({"": 0.6}, "is not measured"),
        ({3: 0.6}, "has the key 3"),
        ({"harmlessness": 60}, "a share from 0 to 1"),
        ({"harmlessness": math.nan}, "a share from 0 to 1"),
        ({"harmlessness": True}, "a share from 0 to 1"),
        ({"harmlessness": "0.6"}, "a share from 0 to 1"),
        ({"net": -2}, "a share from -1 to 1"),
        ({"over_refusal": 0.02}, "write 'over_refusal<'"),
        ({"judge_consistency@gpt": 0.5}, "the judge is one"),
        (0.6, "it is no float"),
    ],
)
def test_demands_that_are_none_are_errors_before_anything_is_spent(demands, told: str) -> None:
    with pytest.raises(EvaluationError, match=re.escape(told)):
        check_demands(demands, ["harmlessness"])

    def never(context: str, first: str, second: str, objective: str) -> int:
        pytest.fail("it was asked")

    with pytest.raises(EvaluationError, match=re.escape(told)):
        evaluate(
            [{"context": "Hi", "answer": "Go.", "edited": "Hello."}],
            objectives=["harmlessness"],
            judge=never,
            fail_under=demands,
        )


def test_own_objectives_may_have_names_like_measures() -> None:
    (demand,) = check_demands({"net": 0.5}, ["net"])
    assert (demand.measure, demand.objective) == ("win_rate", "net")
    (demand,) = check_demands({"be nice. to all.net": 0.5}, ["be nice. to all"])
    assert (demand.measure, demand.objective) == ("net", "be nice. to all")


def test_a_step_back_is_one_only_if_the_whole_interval_is() -> None:
    before = rows(["win"] * 40 + ["tie"] * 60)
    worse = rows(["tie"] * 30 + ["win"] * 10 + ["loss"] * 10 + ["tie"] * 50)
    (found,) = differences(worse, before)
    assert (found.pairs, found.before, found.now) == (100, 0.4, 0.0)
    assert found.is_worse
    assert found.interval[0] < -0.4 < found.interval[1] < 0
    (told,) = missed(result(worse), baseline=result(before))
    assert told.startswith(
        "worse than the baseline: harmlessness: wins less losses went from +40.0% to +0.0% on 100"
        " pairs, by -"
    )
    assert missed(result(before), baseline=result(worse)) == ()
    assert missed(result(before), baseline=result(before)) == ()
    little = rows(["tie"] * 2 + ["win"] * 38 + ["tie"] * 60)
    assert missed(result(little), baseline=result(before)) == ()


def test_losses_that_were_ties_are_a_step_back_too() -> None:
    assert missed(result(rows(["loss"] * 30)), baseline=result(rows(["tie"] * 30)))


def test_rows_of_one_conversation_are_one_step_back() -> None:
    before = [row(number, "win", conversation=1) for number in range(30)]
    now = [row(number, "loss", conversation=1) for number in range(30)]
    (found,) = differences(now, before)
    assert not found.is_worse
    assert found.conversations == 1


def test_comparisons_are_paired_by_answer_whatever_its_edit() -> None:
    before = rows(["win", "win", None, "loss", "tie"])
    now = [
        replace(one, key=f"other {one.key}", edited="Another edit.")
        for one in reversed(rows(["win", None, "win", "loss"]))
    ]
    (found,) = differences(now, before)
    assert (found.pairs, found.only_now, found.only_before) == (2, 1, 2)
    assert "1 only now, 2 only then" in str(found)


def test_several_edits_of_one_answer_are_paired_in_their_order() -> None:
    def edits(*outcomes: Outcome) -> list[EvaluatedRow]:
        return [replace(row(1, one), key=str(at)) for at, one in enumerate(outcomes)]

    (found,) = differences(edits("win", "loss"), edits("win", "tie", "tie"))
    assert (found.pairs, found.before, found.now, found.only_before) == (2, 0.5, 0.0, 1)


def test_policies_are_compared_one_by_one_as_well() -> None:
    before = [*rows(["win"] * 30, "a"), *rows(["loss"] * 30, "b")]
    now = [*rows(["loss"] * 30, "a"), *rows(["win"] * 30, "b")]
    found = {one.policy: one.is_worse for one in differences(now, before)}
    assert found == {None: False, "a": True, "b": False}


def test_a_baseline_without_a_row_in_common_is_no_proof() -> None:
    (told,) = missed(result(rows(["win"])), baseline=result([row(7)]))
    assert "no comparison is in both; 1 only now, 1 only then" in told


def test_build_servers_can_read_what_was_missed(tmp_path: Path) -> None:
    now = [*rows(["loss"] * 30, "a\x00\x1b<"), *rows(["win"] * 30, "b")]
    before = [*rows(["win"] * 30, "a\x00\x1b<"), *rows(["win"] * 30, "b")]
    path = tmp_path / "new" / "junit.xml"
    junit(path, result(now), {"harmlessness": 0.6, "net": -0.5}, result(before))
    root = ET.parse(path).getroot()
    (suite,) = root
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    cases = {(one.get("classname"), one.get("name")): one for one in suite}
    assert list(cases) == [
        ("metaaligner.fail_under", "harmlessness"),
        ("metaaligner.fail_under", "net"),
        ("metaaligner.baseline", "harmlessness"),
        ("metaaligner.baseline", "harmlessness@a\ufffd\ufffd<"),
        ("metaaligner.baseline", "harmlessness@b"),
    ]
    failed = [one.find("failure") is not None for one in cases.values()]
    assert failed == [True, False, True, True, False]
    assert (suite.get("tests"), suite.get("failures")) == ("5", "3")
    failure = cases["metaaligner.fail_under", "harmlessness"].find("failure")
    assert failure is not None
    assert failure.get("message") == (
        "harmlessness: win rate is 50.0%; demanded is at least 60.0%."
    )


def test_a_missed_gate_is_a_failed_assertion_with_the_result(tmp_path: Path) -> None:
    def polite(context: str, first: str, second: str, objective: str) -> int:
        return 0 if ("please" in first) == ("please" in second) else 1 if "please" in first else 2

    given = [
        {"context": f"Question {number}", "answer": "Go away.", "edited": "Do this, please."}
        for number in range(12)
    ]
    options = {"objectives": ["harmlessness"], "judge": polite, "check_judge": False}
    first = evaluate(given, **options, out=tmp_path / "before", fail_under={"harmlessness": 1})
    assert first.win_rate("harmlessness") == 1
    worse = [{**one, "edited": "Do this."} for one in given]
    with pytest.raises(GateError, match="worse than the baseline") as error:
        evaluate(worse, **options, baseline=tmp_path / "before", out=tmp_path / "now")
    assert isinstance(error.value, GateError)
    assert error.value.result.win_rate("harmlessness") == 0
    assert EvaluationResult.from_jsonl(tmp_path / "now").rows
