"""The settings of one training."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from langchain_metaaligner.errors import TrainingError

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class TrainingSettings(BaseModel):
    """How an aligner is trained; settings that TRL or transformers have keep their names.

    Every stage is trained with the same settings, each with a new optimizer and a new schedule.

    Raises:
        TrainingError: A setting is unknown or out of its range.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    rank: int = Field(default=32, ge=0)
    """Rank of the LoRA adapter; 0 trains the full weights."""

    alpha: int | None = Field(default=None, ge=1)
    """Scale of the adapter; None is twice the rank."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout of the adapter."""

    target_modules: tuple[str, ...] = Field(default=LINEARS, min_length=1)
    """Layers that get an adapter."""

    learning_rate: float = Field(default=2e-4, gt=0)
    """Peak learning rate."""

    min_lr_rate: float = Field(default=0.05, ge=0, lt=1)
    """Share of the peak that the cosine schedule ends on."""

    warmup_steps: int = Field(default=15, ge=0)
    """Steps up to the peak learning rate in each stage; at most a tenth of the stage."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of AdamW."""

    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""

    epochs: float = Field(default=1.0, gt=0)
    """Passes over the examples of a stage."""

    batch_size: int = Field(default=8, ge=1)
    """Examples per device in one forward pass."""

    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Forward passes in one optimizer step."""

    max_length: int = Field(default=2048, ge=2)
    """Tokens of prompt and edit together, at most the base's window; longer examples are left out,
    never truncated."""

    group_by_length: bool = True
    """Batch examples of similar length."""

    averaging: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the exponential average of the weights; 0 keeps no average."""

    seed: int = 7
    """Seed of the order of the examples and of new weights."""

    bf16: bool = True
    """Compute in bfloat16; the base under an adapter is held in it too."""

    gradient_checkpointing: bool = False
    """Save memory at the price of a third more time; needed from about 7B parameters on."""

    logging_steps: int = Field(default=10, ge=1)
    """Steps between two lines of progress."""

    save_steps: int = Field(default=50, ge=1)
    """Steps between two checkpoints."""

    eval_steps: int = Field(default=100, ge=1)
    """Steps between two evaluations on the validation examples."""

    shown_edits: int = Field(default=4, ge=0)
    """Validation examples whose edits are written out at each evaluation."""

    @model_validator(mode="wrap")
    @classmethod
    def _explain(
        cls, given: Any, handler: ModelWrapValidatorHandler[TrainingSettings]
    ) -> TrainingSettings:
        try:
            return handler(given)
        except ValidationError as error:
            raise TrainingError(_explained(error)) from error

    @property
    def lora_alpha(self) -> int:
        """Scale of the adapter."""
        return 2 * self.rank if self.alpha is None else self.alpha


def _explained(error: ValidationError) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] != "extra_forbidden":
        said = first["msg"][:1].lower() + first["msg"][1:]
        return f"The training setting {name} is {first['input']!r}: {said}."
    near = get_close_matches(name, TrainingSettings.model_fields, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else "See TrainingSettings for all of them."
    return f"There is no training setting {name!r}. {hint}"
