"""The exponential average of the weights over the steps of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

_FILE = "average.safetensors"


class WeightAverage(TrainerCallback):
    """Keeps an exponential average of the trained weights, and saves it with each checkpoint.

    Args:
        decay: Share of the average that a step keeps, from 0 to below 1.
        resume: The checkpoint that the training resumes from.
    """

    def __init__(self, decay: float, *, resume: Path | None) -> None:
        self._decay = decay
        self._resume = resume
        self._average: dict[str, torch.Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Start from the weights as they are, or from the average of the checkpoint."""
        trained = _trained(given["model"])
        saved = load_file(self._resume / _FILE) if self._resume else {}
        self._average = {
            name: saved[name].to(weight.device) if saved else weight.detach().clone()
            for name, weight in trained.items()
        }

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Take the weights of a step into the average."""
        with torch.no_grad():
            for name, weight in _trained(given["model"]).items():
                self._average[name].lerp_(weight, 1 - self._decay)

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Save the average beside the weights of the checkpoint."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            save_file(self._average, folder / _FILE)

    def apply(self, model: Any) -> None:
        """Replace the weights of a model by their average.

        Args:
            model: The model that was trained.
        """
        with torch.no_grad():
            for name, weight in _trained(model).items():
                weight.copy_(self._average[name])


def _trained(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
