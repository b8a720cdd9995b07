"""Averages of trained weights: over the steps of a training, and over adapters."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

_FILE = "average.safetensors"
_WEIGHTS = "adapter_model.safetensors"
_CARD = "README.md"


class Averaging(TrainerCallback):
    """Keeps an exponential average of the trained weights, and saves it with each checkpoint.

    Args:
        share: How much of the average a step keeps, from 0 to below 1.
        resume: The checkpoint that the training goes on from.
    """

    def __init__(self, share: float, *, resume: Path | None) -> None:
        self._share = share
        self._resume = resume
        self._average: dict[str, torch.Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Begin with the weights as they are, or with the average that was saved."""
        trained = _trained(given["model"])
        saved = load_file(self._resume / _FILE) if self._resume else {}
        self._average = {
            name: saved[name].to(weight.device) if saved else weight.detach().clone()
            for name, weight in trained.items()
        }

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Take a step's weights in."""
        with torch.no_grad():
            for name, weight in _trained(given["model"]).items():
                self._average[name].lerp_(weight, 1 - self._share)

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Put the average beside the checkpoint's weights."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            save_file(self._average, folder / _FILE)

    def apply(self, model: Any) -> None:
        """Give the model the average in place of its weights.

        Args:
            model: The model that was trained.
        """
        with torch.no_grad():
            for name, weight in _trained(model).items():
                weight.copy_(self._average[name])


def _trained(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def mean_of(adapters: Sequence[Path], folder: Path) -> Path:
    """Write the mean of adapters that come from one another.

    Args:
        adapters: Folders of adapters of one shape; the last gives the configuration
            and the card, which is told what was averaged.
        folder: Where to; what is there is replaced.

    Returns:
        The folder.
    """
    loaded = [load_file(adapter / _WEIGHTS) for adapter in adapters]
    mean = {
        name: torch.stack([state[name].float() for state in loaded]).mean(0).to(last.dtype)
        for name, last in loaded[-1].items()
    }
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(adapters[-1], part)
    save_file(mean, part / _WEIGHTS, metadata={"format": "pt"})
    hashes = [hashlib.sha256((one / _WEIGHTS).read_bytes()).hexdigest() for one in adapters]
    with (part / _CARD).open("a", encoding="utf-8") as card:
        told = "\n".join(f"- sha256 `{one}`" for one in hashes)
        card.write(f"\n## Averaged\n\nThe weights are the mean of these adapters':\n\n{told}\n")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return folder
