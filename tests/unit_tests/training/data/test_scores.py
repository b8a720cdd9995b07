"""Comparisons by a function, on objectives that rows say nothing about."""

from __future__ import annotations

import math
from typing import Any

import pytest

from langchain_metaaligner import PreferenceDataError
from langchain_metaaligner.training import read_preferences
from tests.unit_tests.training.rows import unscored_rows


def test_a_function_scores_what_the_rows_say_nothing_about() -> None:
    seen = []

    def length(context: str, answer: str, objective: str) -> float:
        seen.append((context, answer, objective))
        return len(answer)

    given = [{**unscored_rows(1)[0], "preferences": {"helpfulness": "b"}}]
    read = read_preferences(given, objectives=["helpfulness", "humor"], scorer=length)
    assert [one.compared for one in read.pairs] == [{"helpfulness": "b", "humour": (4.0, 10.0)}]
    context = "\n\nHuman: Question 0? \n\nAssistant:"
    assert seen == [(context, "Yes!", "humour"), (context, "No, not 0.", "humour")]


def test_an_answer_in_several_pairs_is_scored_once() -> None:
    seen: list[str] = []

    def score(context: str, answer: str, objective: str) -> int:
        seen.append(answer)
        return len(seen)

    answers = [{"answer": f"Answer {n}."} for n in range(4)]
    given = [{"question": "Why?", "answers": answers}]
    read = read_preferences(given, objectives="honesty", scorer=score)
    assert len(read.pairs) == 6
    assert sorted(seen) == [f"Answer {n}." for n in range(4)]


@pytest.mark.parametrize("bad", [math.nan, math.inf, None, "high"])
def test_a_score_that_is_no_finite_number_is_reported(bad: Any) -> None:
    read = read_preferences(
        unscored_rows(2),
        objectives="humour",
        scorer=lambda context, answer, objective: bad if "not 1" in answer else 0.5,
    )
    assert [one.place for one in read.pairs] == ["row 1"]
    assert [(one.place, one.kind) for one in read.problems] == [("row 2", "unscored")]
    assert "Yes" not in read.report()


def test_what_is_no_scorer_is_refused() -> None:
    with pytest.raises(PreferenceDataError, match="not int"):
        read_preferences(unscored_rows(), objectives="humour", scorer=3)  # type: ignore[arg-type]
