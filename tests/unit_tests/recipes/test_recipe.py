"""The rounds of the embedded adapter's recipe, and its command."""

from __future__ import annotations

import hashlib
import json
import random
from operator import attrgetter
from pathlib import Path

import torch
from safetensors.torch import load_file

from cookbook.recipes.embedded import recipe
from cookbook.recipes.embedded.__main__ import main
from cookbook.recipes.embedded.wordings import example
from langchain_metaaligner.training import TrainingSettings
from tests.unit_tests.tiny import save

torch.set_num_threads(1)

WEIGHTS = "adapter_model.safetensors"


def _tiny_round(
    folder: str, seed: int, length: int, follows: int = 1, kept: float = 0.0
) -> recipe.Round:
    def build(harmless, helpful, *, seed):
        pairs = [*harmless, *helpful]
        random.Random(seed).shuffle(pairs)
        return [example("keep", p.context, p.chosen, ("humour",), p.chosen) for p in pairs]

    settings = TrainingSettings(rank=2, batch_size=4, bf16=False, max_length=length, seed=seed)
    return recipe.Round(folder, settings, build, follows, kept)


def _write_pairs(folder: Path) -> None:
    for name in ("harmless", "helpful"):
        rows = [
            {"context": f"\n\nHuman: hello {n} \n\nAssistant:", "chosen": f"{name} {n}"}
            for n in range(3)
        ]
        lines = [json.dumps(row | {"rejected": "no"}) for row in rows]
        (folder / f"hh_{name}_pairs.jsonl").write_text("\n".join(lines))


def test_a_round_may_keep_a_share_of_the_weights_it_started_from(tmp_path) -> None:
    base = save(tmp_path / "base", config={"max_position_embeddings": 1024})
    _write_pairs(tmp_path)
    rounds = (_tiny_round("1-first", 7, 512), _tiny_round("2-second", 8, 600, kept=0.25))
    out = tmp_path / "out"
    result = recipe.train(tmp_path, out, base=str(base), rounds=rounds)
    assert result == out / "2-second-mean"
    start, trained, mean = (
        load_file(folder / WEIGHTS)
        for folder in (out / "1-first" / "adapter", out / "2-second" / "adapter", result)
    )
    for key, weight in mean.items():
        wanted = (start[key].float() + 3 * trained[key].float()) / 4
        assert torch.equal(weight, wanted.to(weight.dtype))
    assert "25%" in (result / "README.md").read_text()


def test_each_round_starts_from_the_one_before_or_from_the_mean_of_several(tmp_path) -> None:
    base = save(tmp_path / "base", config={"max_position_embeddings": 1024})
    _write_pairs(tmp_path)
    rounds = (
        _tiny_round("1-first", 7, 512),
        _tiny_round("2-second", 8, 600),
        _tiny_round("3-third", 9, 600, follows=2),
    )
    told: list[str] = []

    def train() -> Path:
        return recipe.train(
            tmp_path, tmp_path / "out", base=str(base), rounds=rounds, report=told.append
        )

    result = train()
    out = tmp_path / "out"
    assert result == out / "3-third" / "adapter"
    first, second = (out / name / "adapter" for name in ("1-first", "2-second"))
    one, other, mean = (
        load_file(folder / WEIGHTS) for folder in (first, second, out / "3-third-start")
    )
    assert mean.keys() == one.keys() == other.keys()
    for key, weight in mean.items():
        assert torch.equal(weight, ((one[key].float() + other[key].float()) / 2).bfloat16())
    assert any(not torch.equal(one[key], other[key]) for key in one)
    starts = [json.loads((out / step.folder / "run.json").read_text())["start"] for step in rounds]
    assert starts == [None, str(first), str(out / "3-third-start")]
    card = (out / "3-third-start" / "README.md").read_text()
    for folder in (first, second):
        assert hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest() in card
    assert str(out) not in card
    told.clear()
    assert train() == result
    assert sum(line.startswith("finished before") for line in told) == 3


def test_the_rounds_use_one_rank_and_other_draws() -> None:
    first, *later = recipe.ROUNDS
    assert {step.settings.rank for step in later} == {first.settings.rank}
    for field in ("folder", "settings.seed"):
        values = {attrgetter(field)(step) for step in recipe.ROUNDS}
        assert len(values) == len(recipe.ROUNDS)
    assert all(step.settings.max_length > first.settings.max_length for step in later)


def test_a_missing_folder_is_one_line_and_exit_code_1(tmp_path, capsys) -> None:
    assert main(["--data", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert len(told.err.splitlines()) == 1
