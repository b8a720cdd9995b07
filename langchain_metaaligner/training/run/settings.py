"""The settings of one training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langchain_metaaligner.errors import TrainingError

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """How an aligner is trained; the names are those of TRL and transformers where they have one.

    Every stage is trained with the same settings, each with a new optimizer and a new schedule.

    Attributes:
        rank: Rank of the LoRA adapter; 0 trains the full weights.
        alpha: The adapter's scale; `None` is twice the rank.
        dropout: The adapter's dropout.
        target_modules: Layers that get an adapter.
        learning_rate: The highest learning rate.
        min_lr_rate: Share of it that is left at the end of the cosine.
        warmup_steps: Steps until the highest rate, in each stage; a tenth of the stage at most.
        weight_decay: Decay of AdamW.
        max_grad_norm: Longer gradients are cut to this.
        epochs: Passes over the examples of a stage.
        batch_size: Examples of a step on each device, before accumulation.
        gradient_accumulation_steps: Batches of one step.
        max_length: Tokens of prompt and edit, the base's window at most; longer examples are left
            out, never cut.
        group_by_length: Put examples of like length into one batch.
        averaging: Share of the weights' average that a step keeps; 0 doesn't average.
        seed: Decides the order and the first weights.
        bf16: Compute in bfloat16; an adapter's base is held in it too.
        gradient_checkpointing: Save memory for a third more time; wanted from 7B on.
        logging_steps: Steps between two lines of progress.
        save_steps: Steps between two checkpoints.
        eval_steps: Steps between two looks at the validation examples.
        shown_edits: Validation examples whose edits are written out at each look.
    """

    rank: int = 32
    alpha: int | None = None
    dropout: float = 0.0
    target_modules: Sequence[str] = LINEARS
    learning_rate: float = 2e-4
    min_lr_rate: float = 0.05
    warmup_steps: int = 15
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    epochs: float = 1.0
    batch_size: int = 8
    gradient_accumulation_steps: int = 1
    max_length: int = 2048
    group_by_length: bool = True
    averaging: float = 0.0
    seed: int = 7
    bf16: bool = True
    gradient_checkpointing: bool = False
    logging_steps: int = 10
    save_steps: int = 50
    eval_steps: int = 100
    shown_edits: int = 4

    def __post_init__(self) -> None:
        """Refuse what can't be meant.

        Raises:
            TrainingError: A setting is out of its range.
        """
        least: dict[str, float] = {
            **dict.fromkeys(("batch_size", "gradient_accumulation_steps", "logging_steps"), 1),
            **dict.fromkeys(("save_steps", "eval_steps"), 1),
            **dict.fromkeys(("rank", "warmup_steps", "shown_edits", "weight_decay", "dropout"), 0),
            "max_length": 2,
        }
        for name, bound in least.items():
            if getattr(self, name) < bound:
                self._refuse(name, f"at least {bound}")
        for name in ("learning_rate", "epochs", "max_grad_norm"):
            if not getattr(self, name) > 0:
                self._refuse(name, "more than 0")
        for name in ("averaging", "dropout", "min_lr_rate"):
            if not 0 <= getattr(self, name) < 1:
                self._refuse(name, "from 0 to below 1")

    def _refuse(self, name: str, expected: str) -> None:
        message = f"The training setting {name} is {getattr(self, name)!r}; expected {expected}."
        raise TrainingError(message)

    @property
    def lora_alpha(self) -> int:
        """The adapter's scale."""
        return 2 * self.rank if self.alpha is None else self.alpha

    def asdict(self) -> dict[str, Any]:
        """Name and value of each setting, as JSON has them."""
        return {**dataclasses.asdict(self), "target_modules": list(self.target_modules)}
