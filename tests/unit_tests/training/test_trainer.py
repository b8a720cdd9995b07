"""A training as a user starts it, on tiny random models: what it learns, writes and resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from langchain_metaaligner.objectives import parse_objectives
from langchain_metaaligner.training import TrainingExample, TrainingSettings, train_aligner
from tests.unit_tests.tiny import save

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
    out = tmp_path_factory.mktemp("runs") / "whole"
    return train_aligner(
        EXAMPLES,
        base=base,
        out=out,
        settings=TrainingSettings(**QUICK, eval_steps=2, shown_edits=1),
        validation=[example(30)],
    )


@pytest.mark.parametrize(
    ("stage", "step"),
    [("warm_up", 1), ("warm_up", 3), ("contrastive", 1), ("contrastive", 3), ("contrastive", 7)],
)
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(
    base, tmp_path, uninterrupted, stage, step
) -> None:
    def run(*callbacks: TrainerCallback) -> Path:
        return train_aligner(
            EXAMPLES,
            base=base,
            out=tmp_path,
            settings=TrainingSettings(**QUICK, eval_steps=2, shown_edits=1),
            validation=[example(30)],
            callbacks=callbacks,
        )

    with pytest.raises(KilledError):
        run(Kill(step, stage))
    assert not (tmp_path / "adapter").exists()
    assert same(run(), uninterrupted)
