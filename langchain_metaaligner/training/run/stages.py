"""Trains one stage, resuming from its last complete checkpoint."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_metaaligner.engines.local.tokenizer import PromptTokenizer
from langchain_metaaligner.errors import TrainingError, first_line
from langchain_metaaligner.training.data.example import Stage, TrainingExample
from langchain_metaaligner.training.run.checkpoint_marks import CheckpointMark, last_checkpoint
from langchain_metaaligner.training.run.encoder import Encoded, to_dataset
from langchain_metaaligner.training.run.settings import TrainingSettings
from langchain_metaaligner.training.run.sft import AlignerTrainer
from langchain_metaaligner.training.run.validation_edits import ValidationEdits
from langchain_metaaligner.training.run.weight_average import WeightAverage

_FINISHED, _UNFINISHED = "finished", "finished.part"
SUMMARY = "stage.json"


@dataclass(frozen=True, slots=True)
class StagePlan:
    """The examples of one stage, and the folder for its results.

    Attributes:
        name: The stage.
        folder: Folder for checkpoints and for the finished weights.
        encoded: Examples to train on.
        validation: Examples to evaluate on.
        shown: Validation examples whose edits are written out.
    """

    name: Stage
    folder: Path
    encoded: Sequence[Encoded]
    validation: Sequence[Encoded]
    shown: Sequence[tuple[TrainingExample, Encoded]]

    @property
    def finished(self) -> Path:
        """Folder of the finished weights."""
        return self.folder / _FINISHED

    def steps(self, settings: TrainingSettings, devices: int = 1) -> int:
        """Count the optimizer steps of the stage.

        Args:
            settings: The settings of the training.
            devices: Number of processes that share the work.

        Returns:
            The number of steps.
        """
        batches = math.ceil(len(self.encoded) / (settings.batch_size * devices))
        return math.ceil(
            settings.epochs * math.ceil(batches / settings.gradient_accumulation_steps)
        )


def arguments(plan: StagePlan, settings: TrainingSettings, options: Mapping[str, Any]) -> Any:
    """Build the configuration of a stage for TRL.

    Args:
        plan: The stage.
        settings: The settings of the training.
        options: Further fields of `SFTConfig`; they override the settings.

    Returns:
        An `SFTConfig`.

    Raises:
        TrainingError: TRL rejects them.
    """
    import torch
    from trl.trainer.sft_config import SFTConfig

    packing = bool(options.get("packing"))
    given: dict[str, Any] = {
        "output_dir": str(plan.folder),
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps,
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": settings.min_lr_rate},
        "warmup_steps": min(settings.warmup_steps, plan.steps(settings) // 10),
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "logging_steps": settings.logging_steps,
        "save_strategy": "steps",
        "save_steps": settings.save_steps,
        # A run may be killed while it writes one.
        "save_total_limit": 2,
        "eval_strategy": "steps" if plan.validation else "no",
        "eval_steps": settings.eval_steps,
        "prediction_loss_only": True,
        "bf16": settings.bf16,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "seed": settings.seed,
        "data_seed": settings.seed,
        "report_to": "none",
        "use_cpu": not torch.accelerator.is_available(),
        "dataloader_pin_memory": torch.accelerator.is_available(),
        # Longer examples are already left out, and none is ever truncated.
        "max_length": settings.max_length if packing else None,
        "dataset_kwargs": {} if packing else {"skip_prepare_dataset": True},
        **options,
    }
    try:
        return SFTConfig(**given)
    except (TypeError, ValueError, ImportError) as error:
        message = f"TRL rejects these settings: {first_line(error)} See trl.SFTConfig."
        raise TrainingError(message) from error


def train_stage(
    plan: StagePlan,
    model: Any,
    codec: PromptTokenizer,
    settings: TrainingSettings,
    options: Mapping[str, Any],
    *,
    edits: Path,
    callbacks: Sequence[Any] = (),
) -> Any:
    """Train one stage to its end and save the weights in `plan.finished`.

    Args:
        plan: The stage.
        model: The model with the weights of the previous stage; it is changed.
        codec: The codec of the base.
        settings: The settings of the training.
        options: Further fields of `SFTConfig`.
        edits: File for the edits of validation examples.
        callbacks: Further callbacks of transformers.

    Returns:
        The trained model, as prepared by the trainer.

    Raises:
        TrainingError: The settings contradict each other.
    """
    shutil.rmtree(plan.folder / _UNFINISHED, ignore_errors=True)
    resume = last_checkpoint(plan.folder)
    args = arguments(plan, settings, options)
    average = WeightAverage(settings.averaging, resume=resume) if settings.averaging else None
    trainer = AlignerTrainer(
        group_by_length=settings.group_by_length,
        model=model,
        args=args,
        train_dataset=to_dataset(plan.encoded),
        eval_dataset=to_dataset(plan.validation) if plan.validation else None,
        processing_class=codec.tokenizer,
        callbacks=[*([average] if average else []), *callbacks],
    )
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if sharded and average:
        message = (
            "averaging needs whole weights on each device, but FSDP and DeepSpeed shard them. Set"
            " averaging=0."
        )
        raise TrainingError(message)
    if plan.shown and not sharded:  # generating from shards would block the other processes
        trainer.add_callback(ValidationEdits(plan.shown, codec=codec, file=edits, stage=plan.name))
    trainer.add_callback(CheckpointMark())
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if average:
        average.apply(trainer.model)
        if plan.validation:
            trainer.evaluate()
    _finish(trainer, plan)
    return trainer.model


def _finish(trainer: Any, plan: StagePlan) -> None:
    """Save the weights under another name first, so that `plan.finished` is always complete."""
    unfinished = plan.folder / _UNFINISHED
    trainer.save_model(str(unfinished))
    if not trainer.is_world_process_zero():
        return
    history = trainer.state.log_history
    summary = {
        "stage": plan.name,
        "examples": len(plan.encoded),
        "steps": trainer.state.global_step,
        "loss": [(row["step"], row["loss"]) for row in history if "loss" in row],
        "validation": [(row["step"], row["eval_loss"]) for row in history if "eval_loss" in row],
    }
    (unfinished / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    unfinished.rename(plan.finished)
    for checkpoint in plan.folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
