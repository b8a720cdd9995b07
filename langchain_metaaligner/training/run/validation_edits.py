"""Edits a few validation examples while a training runs, so that its progress can be read."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from langchain_metaaligner.engines.local.tokenizer import PromptTokenizer
from langchain_metaaligner.training.data.example import TrainingExample
from langchain_metaaligner.training.run.encoder import IGNORED, Encoded

logger = logging.getLogger(__name__)

# An edit may take this many times the tokens of the wanted one, and a few more.
_ROOM = 1.25
_MORE = 16


class ValidationEdits(TrainerCallback):
    """Edits some validation examples at each evaluation, and appends the edits to a file.

    Args:
        shown: The examples with their tokens.
        codec: The codec of the base.
        file: JSON lines with stage, step, objectives, answer, wanted edit and actual edit.
        stage: Name of the stage.
    """

    def __init__(
        self,
        shown: Sequence[tuple[TrainingExample, Encoded]],
        *,
        codec: PromptTokenizer,
        file: Path,
        stage: str,
    ) -> None:
        self._shown = shown
        self._codec = codec
        self._file = file
        self._stage = stage

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Edit the examples with the current weights."""
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
            logger.info("step %d: %r becomes %r", state.global_step, example.answer, made)

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
