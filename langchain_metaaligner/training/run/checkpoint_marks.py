"""Marks the checkpoints that were written completely, and finds the newest of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, trainer_utils
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

_MARK = "whole"


class CheckpointMark(TrainerCallback):
    """Marks a checkpoint once all of it is written; must be the last of the callbacks."""

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Mark the checkpoint."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            (folder / _MARK).touch()


def last_checkpoint(folder: Path) -> Path | None:
    """Find the newest complete checkpoint; incomplete ones are removed.

    Args:
        folder: The output folder of a trainer.

    Returns:
        The checkpoint, or `None` where there is none.
    """
    for checkpoint in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if not (checkpoint / _MARK).is_file():
            shutil.rmtree(checkpoint, ignore_errors=True)
    untyped: Any = trainer_utils
    last = untyped.get_last_checkpoint(str(folder)) if folder.is_dir() else None
    return Path(last) if last else None
