"""A training as a user starts it, on tiny random models: what it learns, writes and resumes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import TrainerCallback

from langchain_metaaligner import Aligner
from langchain_metaaligner.editing.objectives import parse_objectives
from langchain_metaaligner.errors import TrainingError
from langchain_metaaligner.training import TrainingExample, TrainingSettings, train_aligner
from langchain_metaaligner.training.run.card import CardDetails
from tests.unit_tests.tiny import save, save_as_published

torch.set_num_threads(1)

HELPFUL = parse_objectives(["helpfulness"])
CONTEXT = "\n\nHuman: hello \n\nAssistant:"
WORDS = "the answer is that you should not do this but here are some safe ideas".split()


def example(place: int, stage: str = "contrastive") -> TrainingExample:
    answer = " ".join(WORDS[: 1 + place % 9])
    edit = answer if stage == "warm_up" else f"please {WORDS[place % len(WORDS)]}"
    return TrainingExample(CONTEXT, answer, HELPFUL, edit, stage=stage)  # type: ignore[arg-type]


EXAMPLES = [
    *(example(place, "warm_up") for place in range(6)),
    *(example(place) for place in range(14)),
]
QUICK: dict[str, Any] = {
    "rank": 4,
    "batch_size": 4,
    "max_length": 2048,
    "epochs": 2,
    "learning_rate": 1e-2,
    "warmup_steps": 0,
    "save_steps": 2,
    "logging_steps": 1,
    "averaging": 0.5,
    "bf16": False,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("base") / "tiny", config={"max_position_embeddings": 2048})


class KilledError(Exception):
    pass


class Kill(TrainerCallback):
    """Ends the run in a step, as a kill would: nothing behind it runs."""

    def __init__(self, step: int, stage: str) -> None:
        self.step, self.stage = step, stage

    def on_step_end(self, args, state, control, **given) -> None:
        if state.global_step == self.step and self.stage in args.output_dir:
            raise KilledError


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*.safetensors")))


def same(one: Path, other: Path) -> bool:
    left, right = weights(one), weights(other)
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.fixture(scope="module")
def uninterrupted(base, tmp_path_factory) -> Path:
    return run(base, tmp_path_factory.mktemp("runs") / "whole")


def run(base: Path, out: Path, *callbacks: TrainerCallback, **changes: Any) -> Path:
    given = {
        "settings": TrainingSettings(**QUICK, eval_steps=5, shown_edits=1),
        "validation": [example(30)],
        "card": CardDetails(name="A tiny one", licence="mit", sources=["words made up here"]),
        **changes,
    }
    examples = given.pop("examples", EXAMPLES)
    return train_aligner(examples, base=base, out=out, callbacks=callbacks, **given)


@pytest.fixture(scope="module")
def killed(base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "killed"
    with pytest.raises(KilledError):
        run(base, folder, Kill(7, "contrastive"))
    return folder


def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(
    base, tmp_path, killed, uninterrupted
) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    assert not (tmp_path / "adapter").exists()
    assert same(run(base, tmp_path), uninterrupted)


def test_a_checkpoint_that_was_not_written_to_its_end_is_not_gone_on_from(
    base, tmp_path, killed, uninterrupted
) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    newest = tmp_path / "stages" / "3-contrastive" / "checkpoint-6"
    (newest / "whole").unlink()
    (newest / "trainer_state.json").write_text("torn")
    assert same(run(base, tmp_path), uninterrupted)


def test_a_finished_run_is_not_made_again(base, uninterrupted) -> None:
    before = (uninterrupted / "adapter_model.safetensors").stat().st_mtime_ns
    assert run(base, uninterrupted.parent, Kill(1, "")) == uninterrupted
    assert (uninterrupted / "adapter_model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"examples": EXAMPLES[1:]}, "examples"),
        ({"settings": TrainingSettings(**{**QUICK, "rank": 2})}, "rank"),
        ({"family": "UltraFeedback"}, "family"),
    ],
)
def test_a_folder_of_another_run_is_refused(base, uninterrupted, changes, named) -> None:
    with pytest.raises(TrainingError, match=named):
        run(base, uninterrupted.parent, **changes)


def test_what_is_longer_than_the_bases_window_is_left_out(tmp_path) -> None:
    window = 500
    base = save(tmp_path / "base", config={"max_position_embeddings": window})
    long = dataclasses.replace(example(1), answer="the answer is that " * 200)
    told: list[str] = []
    run(base, tmp_path / "out", examples=[example(1), long], report=told.append)
    assert f"1 examples, 1 longer than the base's window of {window} tokens left out" in told
    with pytest.raises(TrainingError, match=f"all of them are longer than .* {window} tokens"):
        run(base, tmp_path / "none", examples=[long])
    with pytest.raises(TrainingError, match="longer than max_length=5 tokens"):
        short = TrainingSettings(**{**QUICK, "max_length": 5})
        run(base, tmp_path / "short", settings=short)


def test_the_adapter_is_in_bfloat16_and_names_its_base(base, uninterrupted) -> None:
    assert {weight.dtype for weight in weights(uninterrupted).values()} == {torch.bfloat16}
    config = json.loads((uninterrupted / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    assert config["inference_mode"] is True
    assert (config["r"], config["lora_alpha"]) == (4, 8)


def test_each_stage_goes_on_from_the_one_before(base, tmp_path, uninterrupted) -> None:
    only_last = run(base, tmp_path, examples=[e for e in EXAMPLES if e.stage == "contrastive"])
    assert not same(only_last, uninterrupted)


def test_edits_of_validation_examples_are_written_while_it_runs(uninterrupted) -> None:
    rows = [
        json.loads(line) for line in (uninterrupted.parent / "edits.jsonl").read_text().splitlines()
    ]
    assert [(row["stage"], row["step"]) for row in rows] == [
        ("warm_up", 4),  # the end of the stage, whose two steps an epoch are fewer than five
        ("warm_up", 4),  # and again with the weights' average
        ("contrastive", 5),
        ("contrastive", 8),
        ("contrastive", 8),
    ]
    assert all(row["wanted"] == example(30).edit and row["edit"] for row in rows)


def test_finished_stages_keep_no_checkpoints(uninterrupted) -> None:
    assert not list(uninterrupted.parent.glob("stages/*/checkpoint-*"))


def test_the_card_says_what_was_trained_on_what(base, uninterrupted) -> None:
    card = (uninterrupted / "README.md").read_text(encoding="utf-8")
    block, _, text = card.removeprefix("---\n").partition("\n---\n")
    metadata = yaml.safe_load(block)
    assert metadata["license"] == "mit"
    assert metadata["library_name"] == "peft"
    assert "base_model" not in metadata  # a folder of this machine is nothing to the hub
    assert "words made up here" in text
    assert "copy" not in text
    assert "preference 20" in text
    assert "| warm-up | 6 | 4 |" in text
    assert "| contrastive | 14 | 8 |" in text
    assert "`learning_rate` | 0.01" in text
    assert ModelCard(card).data.license == "mit"


@pytest.fixture(scope="module")
def sampling_base(tmp_path_factory) -> Path:
    """A base as published ones are: its settings sample."""
    base = save_as_published(tmp_path_factory.mktemp("sampling") / "base")
    said = json.loads((base / "config.json").read_text()) | {"max_position_embeddings": 2048}
    (base / "config.json").write_text(json.dumps(said))
    return base


def learn_one_edit(base: Path, out: Path, *, rank: int, merge: bool = False) -> Path:
    told = TrainingExample("hi", "the", HELPFUL, "please")
    settings = TrainingSettings(**{**QUICK, "rank": rank, "averaging": 0, "epochs": 25})
    return train_aligner([told] * 4, base=base, out=out, settings=settings, merge=merge)


def edit_of(aligner: Aligner) -> str:
    with closing(aligner):
        return aligner.align("hi", "the", ["helpfulness"]).text


def test_an_adapter_is_loaded_with_its_base_or_merged_without_another_training(
    sampling_base, tmp_path, monkeypatch
) -> None:
    adapter = learn_one_edit(sampling_base, tmp_path, rank=8)
    with_base = Aligner(
        model=str(sampling_base), adapter=str(adapter), family="HH-RLHF", dtype="float32"
    )
    assert edit_of(with_base) == "please"
    monkeypatch.setattr(
        "langchain_metaaligner.training.run.stages.train_stage",
        lambda *given, **options: pytest.fail("the stage was trained again"),
    )
    merged = learn_one_edit(sampling_base, tmp_path, rank=8, merge=True)
    assert edit_of(Aligner(model=str(merged), dtype="float32")) == "please"


def test_full_weights_become_a_checkpoint_that_decodes_greedily_and_names_its_family(
    sampling_base, tmp_path
) -> None:
    folder = learn_one_edit(sampling_base, tmp_path, rank=0)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert "temperature" not in json.loads((folder / "generation_config.json").read_text())
    # The checkpoint itself says which family it was trained on.
    assert edit_of(Aligner(model=str(folder), dtype="float32")) == "please"
