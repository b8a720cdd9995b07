"""Shows while a training runs how it does: edits of a few validation examples, written out."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from langchain_metaaligner.engines.local.tokenizer import TextCodec
from langchain_metaaligner.training.data.example import TrainingExample
from langchain_metaaligner.training.run.encoder import IGNORED, Encoded

logger = logging.getLogger(__name__)

WHOLE = "whole"
"""A file of this name in a checkpoint says that all of it was written."""

_ROOM = 1.25  # times the wanted edit, and a few tokens more
_MORE = 16


class Whole(TrainerCallback):
    """Marks the checkpoints that were written to their end; comes last among the callbacks."""

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Mark the checkpoint."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            (folder / WHOLE).touch()


class ShownEdits(TrainerCallback):
    """Edits some validation examples at each evaluation, and appends the edits to a file.

    Args:
        shown: The examples with their tokens.
        codec: The base's codec.
        file: JSON lines: stage, step, objectives, answer, wanted and made edit.
        stage: The stage, for the file.
    """

    def __init__(
        self,
        shown: Sequence[tuple[TrainingExample, Encoded]],
        *,
        codec: TextCodec,
        file: Path,
        stage: str,
    ) -> None:
        self._shown = shown
        self._codec = codec
        self._file = file
        self._stage = stage

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Edit the examples with the weights as they are now."""
        if not state.is_world_process_zero:
            return
        for example, encoded in self._shown:
            made = self._edit(given["model"], encoded, bf16=args.bf16)
            row = {
                "stage": self._stage,
                "step": state.global_step,
                "objectives": [goal.name for goal in example.objectives],
                "answer": example.answer,
                "wanted": example.edit,
                "edit": made,
            }
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            logger.info("step %d: %r is edited to %r", state.global_step, example.answer, made)

    def _edit(self, model: Any, encoded: Encoded, *, bf16: bool) -> str:
        learned = sum(label != IGNORED for label in encoded.labels)
        prompt = torch.tensor([encoded.input_ids[:-learned]], device=model.device)
        was = model.training
        model.eval()
        try:
            with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
                ids = model.generate(
                    input_ids=prompt,
                    attention_mask=torch.ones_like(prompt),
                    max_new_tokens=int(_ROOM * learned) + _MORE,
                    do_sample=False,
                    use_cache=True,
                    eos_token_id=self._codec.tokenizer.eos_token_id,
                    pad_token_id=self._codec.tokenizer.eos_token_id,
                )
        finally:
            model.train(was)
        return self._codec.decode(ids[0, prompt.shape[1] :].tolist())
