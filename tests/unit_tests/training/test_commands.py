"""The training's command line: what it makes, and how it fails."""

from __future__ import annotations

import json

import pytest
import torch

from langchain_metaaligner.training import TrainingSettings
from langchain_metaaligner.training.commands import main
from tests.unit_tests.tiny import save
from tests.unit_tests.training.rows import preference_rows

torch.set_num_threads(1)


def test_preferences_become_an_adapter(tmp_path, capsys) -> None:
    base = save(tmp_path / "base", config={"max_position_embeddings": 2048})
    rows = preference_rows(5)
    data = tmp_path / "mine.jsonl"
    data.write_text("\n".join(map(json.dumps, [*rows, {**rows[0], "answer_a": ""}])))
    options = "--rank 2 --batch-size 4 --no-bf16 --validation 0 --licence mit".split()
    assert (
        main(["preferences", str(data), "--base", str(base), "--out", str(tmp_path), *options]) == 0
    )
    told = capsys.readouterr()
    assert told.out.splitlines()[-1] == str(tmp_path / "adapter")
    assert "5 pairs from 6 rows, 1 problems" in told.err
    assert [line.split(":")[0] for line in told.err.splitlines() if line.startswith("stage")] == [
        "stage warm_up",
        "stage equal",
        "stage contrastive",
    ]
    card = (tmp_path / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "5 preference pairs of mine.jsonl" in card


@pytest.mark.parametrize(
    "arguments",
    [
        ["preferences", "{}/none.jsonl", "--base", "{}", "--out", "{}/out"],
        ["preferences", "{}/none.jsonl", "--base", "{}", "--out", "{}/out", "--epochs", "0"],
    ],
)
def test_an_error_is_one_line_and_exit_code_1(tmp_path, capsys, arguments) -> None:
    assert main([part.format(tmp_path) for part in arguments]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert len(told.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [([], "COMMAND"), (["preferences", "f", "--trainer-options", "[]"], "expected an object")],
)
def test_a_wrong_command_line_is_exit_code_2(capsys, arguments, told) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err


def test_every_setting_is_an_option_with_its_words_and_default(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["preferences", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    for name, field in TrainingSettings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in told
        assert " ".join(field.description.split()) in told


def test_a_setting_of_the_wrong_kind_is_named(tmp_path, capsys) -> None:
    data = tmp_path / "mine.jsonl"
    data.write_text(json.dumps(preference_rows(1)[0]))
    where = ["preferences", str(data), "--base", str(tmp_path), "--out", str(tmp_path)]
    assert main([*where, "--rank", "two"]) == 1
    assert "The training setting rank is 'two'" in capsys.readouterr().err
