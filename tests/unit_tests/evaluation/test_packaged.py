"""The rows and pairs that come with the package."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import files

import pytest

from langchain_metaaligner.editing.objectives import parse_objectives
from langchain_metaaligner.errors import EvaluationError
from langchain_metaaligner.evaluation import packaged_pairs, packaged_rows
from langchain_metaaligner.evaluation.rows import check_rows

FOLDER = files("langchain_metaaligner") / "assets" / "evaluation"


def lines(name):
    return [json.loads(line) for line in (FOLDER / name).read_text("utf-8").splitlines()]


def test_there_are_enough_rows_of_every_kind_and_none_twice():
    rows = lines("rows.jsonl")
    assert len(rows) >= 130
    assert len({row["id"] for row in rows}) == len(rows)
    assert len({json.dumps(row["context"]) for row in rows}) == len(rows)
    texts = [row[name] for row in rows for name in ("good", "bad")]
    assert all(text.strip() for text in texts)
    assert len(set(texts)) == len(texts)
    kinds = Counter(row["kind"] for row in rows)
    assert set(kinds) == {
        "benign", "risky", "sounding-risky", "long", "code", "tables", "non-English", "multi-turn",
    }  # fmt: skip
    assert min(kinds.values()) >= 10


@pytest.mark.parametrize("name", ["rows.jsonl", "human_pairs.jsonl"])
def test_every_objective_is_one_of_the_catalogue(name):
    assert all(parse_objectives(row["objective"])[0].catalogued for row in lines(name))


def test_a_judge_that_prefers_length_is_right_on_half_of_the_pairs():
    pairs = packaged_pairs()
    assert len(pairs) == 40
    assert len({pair["id"] for pair in pairs}) == len({pair["context"] for pair in pairs}) == 40
    assert sum(len(pair["chosen"]) < len(pair["rejected"]) for pair in pairs) == 20


def test_no_pair_is_a_row():
    asked = {json.dumps(row["context"]) for row in lines("rows.jsonl")}
    assert not any(json.dumps(pair["context"]) in asked for pair in packaged_pairs())


def test_the_licence_and_the_making_are_told_beside_the_texts():
    told = (FOLDER / "README.md").read_text("utf-8")
    assert "MIT" in told
    assert "author-labelled" in told
    assert f"`rows.jsonl` | {len(lines('rows.jsonl'))} |" in told
    longer = sum(len(row["good"]) > len(row["bad"]) for row in lines("rows.jsonl"))
    assert f"longer in {longer} of {len(lines('rows.jsonl'))}" in told


def test_evaluate_can_use_every_row():
    given = packaged_rows()
    found = check_rows(given, has_aligner=True)
    assert not found.problems
    assert Counter(row.policy for row in found.rows) == {
        "good replies": len(given) // 2,
        "bad replies": len(given) // 2,
    }


def test_kind_and_answers_choose_rows():
    rows = packaged_rows("code", answers="bad")
    assert {row["kind"] for row in rows} == {"code"}
    assert {row["policy"] for row in rows} == {"bad replies"}
    assert len(packaged_rows("code")) == 2 * len(rows)


def test_what_is_unknown_is_refused_with_what_is_known():
    with pytest.raises(EvaluationError, match="sounding-risky"):
        packaged_rows("dangerous")
    with pytest.raises(EvaluationError, match="'both'"):
        packaged_rows(answers="best")
