"""`metaaligner bulk`, `evaluate`, `calibrate` and `train`: files in, files and exit codes out."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.unit_tests.cli.engines import ENGINE

needs_scipy = pytest.mark.skipif(find_spec("scipy") is None, reason="needs the extra eval")


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def replies(tmp_path: Path) -> Path:
    rows = [{"ask": f"{n}?", "reply": f"stupid {n}"} for n in range(5)]
    return write(tmp_path / "replies.jsonl", rows)


COLUMNS = ("--columns", "answer=reply", "--columns", "question=ask")


def test_bulk_edits_a_file_and_tells_what_became_of_it(metaaligner, replies, tmp_path):
    out = tmp_path / "edits.jsonl"
    done = metaaligner("bulk", replies, out, "--engine", ENGINE, *COLUMNS, "-o", "humour")
    assert done.code == 0
    assert "5 edited" in done.out
    edits = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [one["edited"] for one in edits] == [f"kind {n}" for n in range(5)]
    assert edits[0]["metaaligner"]["objectives"] == ["humour"]
    again = metaaligner("bulk", replies, out, "--engine", ENGINE, *COLUMNS, "-o", "honesty")
    assert again.code == 1
    assert "--no-resume" in again.err


def test_bulk_with_rows_that_fail_is_exit_code_4(metaaligner, replies, tmp_path):
    write(replies, [{"question": "?", "answer": "stupid"}, {"question": "?", "answer": "fail"}, 3])
    out = tmp_path / "edits.jsonl"
    done = metaaligner("bulk", replies, out, "--engine", ENGINE, "--json")
    assert done.code == 4
    summary = json.loads(done.out)
    assert (summary["edited"], summary["failed"], summary["bad"]) == (1, {"EngineError": 1}, 1)


def test_bulk_that_is_interrupted_says_how_to_go_on_and_does(metaaligner, replies, tmp_path):
    rows = [{"question": "?", "answer": f"stupid {n}"} for n in range(4)]
    write(replies, [*rows[:3], {"question": "?", "answer": "interrupt"}])
    run = ("bulk", replies, tmp_path / "edits.jsonl", "--engine", ENGINE, "--chunk-size", 1)
    done = metaaligner(*run)
    assert done.code == 130
    assert done.err.splitlines()[-1].startswith("interrupted. ")
    assert "repeat the command" in done.err


def shortest(context: str, first: str, second: str, objective: str) -> int:
    return 0 if first == second else 1 if len(first) < len(second) else 2


JUDGE = ("--judge", f"{__name__}:shortest", "--no-check-judge", "-o", "humour")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    contexts = [f"\n\nHuman: {n}?\n\nAssistant:" for n in range(4)]
    rows = [
        {"context": one, "answer": "a stupid reply", "edited": "a kind reply"} for one in contexts
    ]
    return write(tmp_path / "pairs.jsonl", rows)


@needs_scipy
def test_evaluate_prints_the_table_or_the_rates(metaaligner, pairs, tmp_path):
    done = metaaligner("evaluate", pairs, *JUDGE, "--out", tmp_path / "results.jsonl")
    assert done.code == 0
    assert "100.0 % of 4 judged pairs" in done.out
    [rates] = map(json.loads, metaaligner("evaluate", pairs, *JUDGE, "--json").out.splitlines())
    assert (rates["objective"], rates["wins"], rates["judged"]) == ("humour", 4, 4)


@needs_scipy
def test_evaluate_edits_rows_only_with_an_aligner_that_was_named(metaaligner, pairs):
    row = json.loads(pairs.read_text(encoding="utf-8").splitlines()[0])
    del row["edited"]
    write(pairs, [row])
    done = metaaligner("evaluate", pairs, *JUDGE)
    assert done.code == 1
    assert done.err.count("\n") == 1
    done = metaaligner("evaluate", pairs, *JUDGE, "--engine", ENGINE, "--json")
    assert json.loads(done.out)["wins"] == 1


@needs_scipy
def test_evaluate_reads_data_that_were_made_for_something_else(metaaligner, pairs):
    write(pairs, [{"prompt": "Hi?", "chosen": "Hello!", "rejected": "a stupid reply"}])
    run = ("evaluate", pairs, *JUDGE, "--engine", ENGINE, "--json")
    done = metaaligner(*run, "--format", "pairs")
    assert json.loads(done.out)["wins"] == 1
    assert "1 rows for evaluation" in done.err
    done = metaaligner(*run, "--format", "books")
    assert done.code == 1
    assert "There is no format 'books'" in done.err


@needs_scipy
def test_a_missed_gate_shows_the_result_and_is_exit_code_3(metaaligner, pairs, tmp_path):
    junit = tmp_path / "junit.xml"
    run = ("evaluate", pairs, *JUDGE, "--junit", junit, "--report", tmp_path / "page.html")
    demands = ("--fail-under", "humour=0.9", "--fail-under", "unchanged=0.5")
    done = metaaligner(*run, *demands)
    assert done.code == 3
    assert "judged pairs" in done.out
    [line] = [one for one in done.err.splitlines() if one.startswith("error: ")]
    assert "unchanged" in line
    assert 'failures="1"' in junit.read_text(encoding="utf-8")
    assert (tmp_path / "page.html").exists()
    done = metaaligner(*run, "--fail-under", "over_refusal<=0.1")
    assert done.code == 0
    assert 'failures="0"' in junit.read_text(encoding="utf-8")
    done = metaaligner(*run, "--fail-under", "humor_=0.1")
    assert done.code == 1
    assert "Traceback" not in done.err


@needs_scipy
@pytest.mark.parametrize("judge", ["no.such:judge", "nobody:gpt-0"])
def test_a_judge_that_does_not_exist_is_one_line(metaaligner, pairs, judge):
    done = metaaligner("evaluate", pairs, "--judge", judge, "--no-check-judge")
    assert done.code in (1, 2)
    assert done.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.err


def test_calibrate_prints_the_flags_that_it_found(metaaligner, monkeypatch, pairs):
    from dataclasses import dataclass

    from langchain_metaaligner import evaluation

    @dataclass
    class Found:
        keep_above: float | None = -0.25
        caution: float | None = None

    given = {}

    def choose(good, bad, aligner, **options):
        given.update(options, good=good, aligner=aligner)
        return Found()

    monkeypatch.setattr(evaluation, "calibrate", choose, raising=False)
    run = ("calibrate", pairs, pairs, "--engine", ENGINE, "--most-spoilt", 0.1)
    done = metaaligner(*run)
    assert done.out.endswith("On a command line: --keep-above -0.25\n")
    assert (given["most_spoilt"], given["good"]) == (0.1, str(pairs))
    assert json.loads(metaaligner(*run, "--json").out) == {"keep_above": -0.25, "caution": None}


@pytest.mark.parametrize(
    ("further", "told"), [((), "none.jsonl"), (("--epochs", "0"), "The training setting epochs")]
)
def test_what_can_not_be_trained_on_is_one_line(metaaligner, tmp_path, further, told):
    run = ("train", tmp_path / "none.jsonl", "--base", tmp_path, "--out", tmp_path / "out")
    done = metaaligner(*run, *further)
    assert (done.code, done.out) == (1, "")
    assert done.err.count("\n") == 1
    assert told in done.err


def test_every_setting_of_a_training_is_a_flag_with_its_words_and_default():
    from langchain_metaaligner.training import TrainingSettings
    from tests.unit_tests.cli.pages import help_of

    told = " ".join(help_of("train").split())
    for name, setting in TrainingSettings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in told
        words = " ".join(setting.description.split())
        assert words.replace("None is", "left out, it is") in told
        if isinstance(setting.default, int | float) and not isinstance(setting.default, bool):
            assert f"[default: {setting.default}]" in told
