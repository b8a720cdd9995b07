"""Trains one stage, going on from its last whole checkpoint."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_metaaligner.engines.local.tokenizer import TextCodec
from langchain_metaaligner.errors import TrainingError, first_line
from langchain_metaaligner.training.data.example import Stage, TrainingExample
from langchain_metaaligner.training.run.averages import Averaging
from langchain_metaaligner.training.run.encoder import Encoded, rows
from langchain_metaaligner.training.run.settings import TrainingSettings
from langchain_metaaligner.training.run.sft import AlignerTrainer
from langchain_metaaligner.training.run.validation_edits import WHOLE, ShownEdits, Whole

FINISHED = "finished"
SUMMARY = "stage.json"


@dataclass(frozen=True, slots=True)
class StagePlan:
    """What one stage trains on, and where it keeps what it makes.

    Attributes:
        name: The stage.
        folder: Holds its checkpoints, and the finished weights.
        encoded: Its examples.
        validation: Examples that are only looked at.
        shown: Those of them whose edits are written out.
    """

    name: Stage
    folder: Path
    encoded: Sequence[Encoded]
    validation: Sequence[Encoded]
    shown: Sequence[tuple[TrainingExample, Encoded]]

    @property
    def finished(self) -> Path:
        """The folder of the stage's finished weights."""
        return self.folder / FINISHED

    def steps(self, settings: TrainingSettings, devices: int = 1) -> int:
        """Count the stage's steps.

        Args:
            settings: The settings of the training.
            devices: Processes that share the work.

        Returns:
            The number.
        """
        batches = math.ceil(len(self.encoded) / (settings.batch_size * devices))
        return math.ceil(
            settings.epochs * math.ceil(batches / settings.gradient_accumulation_steps)
        )


def arguments(plan: StagePlan, settings: TrainingSettings, options: Mapping[str, Any]) -> Any:
    """Write a stage's settings as TRL takes them.

    Args:
        plan: The stage.
        settings: The settings of the training.
        options: Further fields of `SFTConfig`; they go before the settings.

    Returns:
        An `SFTConfig`.

    Raises:
        TrainingError: TRL refuses them.
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
        # One that is being written when the run is killed must not be the only one.
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
        # Longer examples are out already, and whole ones are never cut.
        "max_length": settings.max_length if packing else None,
        "dataset_kwargs": {} if packing else {"skip_prepare_dataset": True},
        **options,
    }
    try:
        return SFTConfig(**given)
    except (TypeError, ValueError, ImportError) as error:
        message = f"TRL does not take these settings: {first_line(error)} See trl.SFTConfig."
        raise TrainingError(message) from error


def train_stage(
    plan: StagePlan,
    model: Any,
    codec: TextCodec,
    settings: TrainingSettings,
    options: Mapping[str, Any],
    *,
    edits: Path,
    callbacks: Sequence[Any] = (),
) -> Any:
    """Train one stage to its end and keep its weights in `plan.finished`.

    Args:
        plan: The stage.
        model: The model with the weights of the stage before; it is changed.
        codec: The base's codec.
        settings: The settings of the training.
        options: Further fields of `SFTConfig`.
        edits: File for edits of validation examples.
        callbacks: Further callbacks of transformers.

    Returns:
        The model as the trainer holds it.

    Raises:
        TrainingError: The settings don't go together.
    """
    resume = _last_whole(plan.folder)
    args = arguments(plan, settings, options)
    averaging = Averaging(settings.averaging, resume=resume) if settings.averaging else None
    watched: list[Any] = [averaging] if averaging else []
    trainer = AlignerTrainer(
        like_lengths=settings.group_by_length,
        model=model,
        args=args,
        train_dataset=rows(plan.encoded),
        eval_dataset=rows(plan.validation) if plan.validation else None,
        processing_class=codec.tokenizer,
        callbacks=[*watched, *callbacks],
    )
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if sharded and averaging:
        message = (
            "averaging needs whole weights on each device, which FSDP and DeepSpeed don't keep."
            " Set averaging=0."
        )
        raise TrainingError(message)
    if plan.shown and not sharded:  # generating from shards would hold the other processes up
        trainer.add_callback(ShownEdits(plan.shown, codec=codec, file=edits, stage=plan.name))
    trainer.add_callback(Whole())
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if averaging:
        averaging.apply(trainer.model)
        if plan.validation:
            trainer.evaluate()
    _finish(trainer, plan)
    return trainer.model


def _finish(trainer: Any, plan: StagePlan) -> None:
    """Save the stage's weights under another name first: what has the right one is whole."""
    unfinished = plan.folder / f"{FINISHED}.part"
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


def _last_whole(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; torn ones go."""
    whole: list[tuple[int, Path]] = []
    for checkpoint in folder.glob("checkpoint-*"):
        if (checkpoint / WHOLE).is_file():
            whole.append((int(checkpoint.name.rsplit("-", 1)[1]), checkpoint))
        else:
            shutil.rmtree(checkpoint, ignore_errors=True)
    shutil.rmtree(folder / f"{FINISHED}.part", ignore_errors=True)
    return max(whole)[1] if whole else None
