"""The training's command line: what it makes, and how it fails."""

from __future__ import annotations

import hashlib
import json
import random
from operator import attrgetter

import pytest
import torch
from safetensors.torch import load_file

from cookbook.recipes.embedded import recipe
from cookbook.recipes.embedded.wordings import example
from langchain_metaaligner.training.commands import main
from langchain_metaaligner.training.run.settings import TrainingSettings
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
        ["embedded", "--data", "{}/none", "--out", "{}/out"],
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


def _tiny_round(folder: str, seed: int, length: int) -> recipe.Round:
    def build(harmless, helpful, *, seed):
        pairs = [*harmless, *helpful]
        random.Random(seed).shuffle(pairs)
        return [example("keep", p.context, p.chosen, ("humour",), p.chosen) for p in pairs]

    settings = TrainingSettings(rank=2, batch_size=4, bf16=False, max_length=length, seed=seed)
    return recipe.Round(folder, settings, build)


def test_the_embedded_recipes_rounds_go_on_from_one_another_and_the_last_two_are_averaged(
    tmp_path, capsys, monkeypatch
) -> None:
    base = save(tmp_path / "base", config={"max_position_embeddings": 2048})
    monkeypatch.setattr(recipe.checkpoints, "EMBEDDED", str(base))
    rounds = (_tiny_round("1-first", 7, 512), _tiny_round("2-second", 8, 600))
    monkeypatch.setattr(recipe, "ROUNDS", rounds)
    for name in ("harmless", "helpful"):
        rows = [
            {"context": f"\n\nHuman: hello {n} \n\nAssistant:", "chosen": f"{name} {n}"}
            for n in range(6)
        ]
        lines = [json.dumps(row | {"rejected": "no"}) for row in rows]
        (tmp_path / f"hh_{name}_pairs.jsonl").write_text("\n".join(lines))
    command = ["embedded", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    told = capsys.readouterr()
    result = tmp_path / "out" / "adapter"
    assert told.out.splitlines()[-1] == str(result)
    first = tmp_path / "out" / "1-first" / "adapter"
    second = tmp_path / "out" / "2-second" / "adapter"
    name = "adapter_model.safetensors"
    one, other, mean = (load_file(folder / name) for folder in (first, second, result))
    assert mean.keys() == one.keys() == other.keys()
    for key, weight in mean.items():
        assert torch.equal(weight, ((one[key].float() + other[key].float()) / 2).bfloat16())
    assert not torch.equal(one[key], other[key])
    begun = json.loads((tmp_path / "out" / "2-second" / "run.json").read_text())
    assert begun["start"] == str(first)
    card = (result / "README.md").read_text()
    for folder in (first, second):  # what was averaged
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() in card
    assert str(tmp_path) not in card
    assert main(command) == 0  # a second call makes neither again
    assert capsys.readouterr().err.count("finished before") == 2


def test_the_recipes_rounds_use_one_rank_and_other_draws() -> None:
    first, *later = recipe.ROUNDS
    assert {step.settings.rank for step in later} == {first.settings.rank}
    for field in ("folder", "settings.seed"):
        values = {attrgetter(field)(step) for step in recipe.ROUNDS}
        assert len(values) == len(recipe.ROUNDS)
    assert all(step.settings.max_length > first.settings.max_length for step in later)
