"""A run that was killed goes on where it stopped, asks nothing twice and doubles nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from langchain_metaaligner import Aligner, EngineError, EvaluationError, Request
from langchain_metaaligner.evaluation import EvaluationResult, evaluate
from langchain_metaaligner.testing import ScriptedEngine
from tests.unit_tests.evaluation.evaluated import Judge, prefers_good, rows

pytest.importorskip("scipy")

PLAIN: dict[str, Any] = {"objectives": ["harmlessness", "humour"], "check_judge": False}
QUESTIONS = 3 * 2 * 2


def outcomes(result: EvaluationResult) -> list[Any]:
    return [
        (row.key, row.place, {k: (v.outcome, v.verdicts) for k, v in row.comparisons.items()})
        for row in result.rows
    ]


@pytest.mark.parametrize("at", range(1, QUESTIONS + 1))
def test_a_run_that_was_interrupted_at_any_question_asks_only_what_it_did_not_know(
    at: int, tmp_path: Path
) -> None:
    judge = Judge()

    def interrupted(first: str, second: str) -> int:
        if len(judge.asked) == at:
            raise KeyboardInterrupt
        return prefers_good(first, second)

    judge.rule = interrupted
    out = tmp_path / "new" / "results.jsonl"
    with pytest.raises(KeyboardInterrupt):
        evaluate(rows(3), judge=judge, out=out, **PLAIN)
    result = evaluate(rows(3), judge=judge, out=out, **PLAIN)
    assert len(judge.asked) == QUESTIONS + 1
    assert outcomes(result) == outcomes(evaluate(rows(3), judge=Judge(), **PLAIN))
    assert len(out.read_text().splitlines()) == 1 + 3
    # Finished, it asks nothing more.
    assert evaluate(rows(3), judge=judge, out=out, **PLAIN) == result
    assert EvaluationResult.from_jsonl(out) == result
    assert len(judge.asked) == QUESTIONS + 1


def test_a_file_that_ends_anywhere_is_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    judge = Judge()

    def interrupted(first: str, second: str) -> int:
        if len(judge.asked) == QUESTIONS:
            raise KeyboardInterrupt
        return prefers_good(first, second)

    judge.rule = interrupted
    with pytest.raises(KeyboardInterrupt):
        evaluate(rows(3), judge=judge, out=out, **PLAIN)
    whole = out.read_bytes()
    expected = outcomes(evaluate(rows(3), judge=Judge(), **PLAIN))
    for end in range(0, len(whole), 211):
        out.write_bytes(whole[:end])
        assert outcomes(evaluate(rows(3), judge=Judge(), out=out, **PLAIN)) == expected
        assert len(out.read_text().splitlines()) == 1 + 3


def test_edits_that_were_made_are_not_made_again(tmp_path: Path) -> None:
    engine = ScriptedEngine(lambda request: request.draft.replace("bad", "good"))
    given = [{"context": f"{n}?", "answer": f"A bad answer {n}."} for n in range(4)]
    judge = Judge(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        evaluate(given, judge=judge, aligner=Aligner(engine=engine), out=tmp_path, **PLAIN)
    judge.rule = prefers_good
    result = evaluate(given, judge=judge, aligner=Aligner(engine=engine), out=tmp_path, **PLAIN)
    assert len(engine.requests) == 4
    assert result.rates().wins == 8


def test_a_run_that_is_killed_between_edits_makes_few_of_them_again(tmp_path: Path) -> None:
    given = [{"context": f"{n}?", "answer": f"A bad answer {n}."} for n in range(30)]
    made: list[str] = []

    def killed(request: Request) -> str:
        if len(made) == 20:
            made.append("")
            raise KeyboardInterrupt
        made.append(request.draft)
        return request.draft.replace("bad", "good")

    aligner = Aligner(engine=ScriptedEngine(killed))
    with pytest.raises(KeyboardInterrupt):
        evaluate(given, judge=Judge(), aligner=aligner, out=tmp_path, **PLAIN)
    result = evaluate(given, judge=Judge(), aligner=aligner, out=tmp_path, **PLAIN)
    assert result.rates().wins == 60
    assert 30 < len(made) < 30 + 8


@pytest.mark.parametrize("name", ["results.parquet", "results.json", "Results.CSV"])
def test_results_are_not_kept_in_a_folder_that_looks_like_another_file(
    name: str, tmp_path: Path
) -> None:
    judge = Judge()
    with pytest.raises(EvaluationError, match=r"a folder or a \.jsonl file"):
        evaluate(rows(1), judge=judge, out=tmp_path / name, **PLAIN)
    assert not judge.asked
    assert not list(tmp_path.iterdir())


def test_what_failed_is_done_again_where_it_is_asked_for(tmp_path: Path) -> None:
    judge = Judge(lambda *_: None)
    evaluate(rows(2), judge=judge, out=tmp_path, **PLAIN)
    judge.rule = prefers_good
    before = len(judge.asked)
    assert evaluate(rows(2), judge=judge, out=tmp_path, **PLAIN).rates().unjudged == 4
    assert len(judge.asked) == before
    again = evaluate(rows(2), judge=judge, out=tmp_path, retry_failed=True, **PLAIN)
    assert again.rates().wins == 4
    assert again.failures == {}


def test_rows_may_be_added_and_left_out(tmp_path: Path) -> None:
    judge = Judge()
    evaluate(rows(3), judge=judge, out=tmp_path, **PLAIN)
    fewer = evaluate(rows(2), judge=judge, out=tmp_path, **PLAIN)
    assert (len(fewer.rows), len(EvaluationResult.from_jsonl(tmp_path).rows)) == (2, 2)
    more = evaluate(rows(4), judge=judge, out=tmp_path, **PLAIN)
    assert len(more.rows) == 4
    assert len(judge.asked) == len(set(judge.asked)) == 4 * 2 * 2


def other(context: str, first: str, second: str, objective: str) -> int:
    return 2


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"judge": other}, "judge.code was"),
        ({"objectives": "humour"}, "objectives.harmlessness was"),
        (
            {"objectives": [{"name": "humour", "description": "Humour: more of it."}]},
            "objectives.humour was",
        ),
        ({"second_judge": Judge()}, "second_judge was null"),
        (
            {"aligner": Aligner(engine=ScriptedEngine(), caution=2.0)},
            "aligner.caution was null and is .*2.0",
        ),
    ],
)
def test_other_settings_are_told_and_never_mixed(
    changed: dict[str, Any], what: str, tmp_path: Path
) -> None:
    given = [{"context": "?", "answer": "A bad answer."}]
    usual = {"judge": Judge(), "aligner": Aligner(engine=ScriptedEngine("A good answer.")), **PLAIN}
    evaluate(given, out=tmp_path, **usual)
    before = (tmp_path / "results.jsonl").read_bytes()
    with pytest.raises(EvaluationError, match=f"results of other settings: .*{what}"):
        evaluate(given, out=tmp_path, **{**usual, **changed})
    assert (tmp_path / "results.jsonl").read_bytes() == before


@pytest.mark.parametrize("held", ["", "{}\n", "text\n", '{"context": "?"}\n', "[1]\n"])
def test_a_file_of_something_else_is_left_as_it_is(held: str, tmp_path: Path) -> None:
    out = tmp_path / "mine.jsonl"
    out.write_text(held)
    if held:
        with pytest.raises(EvaluationError, match="holds no results of an evaluation"):
            evaluate(rows(1), judge=Judge(), out=out, **PLAIN)
        assert out.read_text() == held
    else:
        evaluate(rows(1), judge=Judge(), out=out, **PLAIN)
    with pytest.raises(EvaluationError, match="can't be read"):
        EvaluationResult.from_jsonl(tmp_path / "none.jsonl")


def test_two_runs_do_not_write_the_same_file(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")

    def inner(first: str, second: str) -> int:
        evaluate(rows(1), judge=other, out=tmp_path, **PLAIN)
        return 0

    judge = Judge(inner)
    result = evaluate(rows(1), judge=judge, out=tmp_path, **PLAIN)
    assert result.failures == {"the judge failed (EvaluationError)": 2}


def test_an_aligner_that_is_down_ends_the_run(tmp_path: Path) -> None:
    engine = ScriptedEngine(EngineError("down"))
    given = [{"context": f"{n}?", "answer": f"An answer {n}."} for n in range(100)]
    with pytest.raises(EvaluationError, match="50 edits in a row failed"):
        evaluate(given, judge=Judge(), aligner=Aligner(engine=engine), out=tmp_path, **PLAIN)
    assert len({one.draft for one in engine.requests}) < 100


def test_a_run_that_did_nothing_binds_no_later_one(tmp_path: Path) -> None:
    for judge in (Judge(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)), other):
        try:
            evaluate(rows(1), judge=judge, out=tmp_path, **PLAIN)
        except KeyboardInterrupt:
            continue
    assert EvaluationResult.from_jsonl(tmp_path).rates().ties == 2
