"""Trains an aligner on examples: first the warm-up, then the equal and contrastive stages."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_metaaligner.editing.prompts import HH_RLHF, PromptFamily, find_family
from langchain_metaaligner.errors import TrainingError
from langchain_metaaligner.training.data.example import STAGES, TrainingExample
from langchain_metaaligner.training.run.card import CardDetails, write_card
from langchain_metaaligner.training.run.settings import TrainingSettings

if TYPE_CHECKING:
    from langchain_metaaligner.training.run.bases import Base
    from langchain_metaaligner.training.run.encoder import Encoded
    from langchain_metaaligner.training.run.stages import StagePlan

logger = logging.getLogger(__name__)

_RUN = "run.json"
_EDITS = "edits.jsonl"
# Settings that may change when a run is resumed.
_FREE = ("logging_steps", "save_steps", "eval_steps", "shown_edits", "gradient_checkpointing")


def train_aligner(
    examples: Iterable[TrainingExample],
    *,
    base: str | Path,
    out: str | Path,
    settings: TrainingSettings | None = None,
    validation: Iterable[TrainingExample] = (),
    family: str | PromptFamily = HH_RLHF,
    start: str | Path | None = None,
    merge: bool = False,
    card: CardDetails | None = None,
    load_options: Mapping[str, Any] | None = None,
    trainer_options: Mapping[str, Any] | None = None,
    callbacks: Sequence[Any] = (),
    report: Callable[[str], None] | None = None,
) -> Path:
    """Train an aligner with TRL's `SFTTrainer`, and write it with its model card.

    The stages follow the paper (Yang et al. 2024, arXiv 2403.17141, section 3): warm-up, equal,
    contrastive. Each stage is a training of its own, with a new optimizer and a new schedule, and
    starts from the weights of the one before. A stage without examples is skipped. The loss is on
    the edits only.

    An interrupted run resumes from its last checkpoint when the call is repeated with the same
    examples and settings, and ends with the same weights as an uninterrupted run. A call after
    the end returns at once.

    Args:
        examples: Examples to train on.
        base: A hub id, a folder, or `embedded` for the base of the embedded aligner.
        out: Folder for checkpoints and the result.
        settings: How to train.
        validation: Examples to evaluate on: their loss is measured during the training, and the
            edits of a few are written to `edits.jsonl`.
        family: The prompt family that the aligner will be used with.
        start: Folder of an adapter of the same rank to start from.
        merge: Write a whole checkpoint instead of an adapter; full weights always are one.
        card: What the model card says about data, licence and measurements.
        load_options: How the base is loaded, as for `Aligner`: `revision`, `token`,
            `attn_implementation`, or a `quantization_config` for QLoRA (not run here).
        trainer_options: Further fields of `trl.SFTConfig`: `report_to`, `fsdp`, `deepspeed`,
            `packing`, `optim`, ... (FSDP and DeepSpeed were not run here).
        callbacks: Further callbacks of transformers.
        report: Called with a line of progress now and then.

    Returns:
        The folder of the result: `out/adapter` or `out/model`.

    Raises:
        TrainingError: There is nothing to train on, the settings contradict each other, or `out`
            holds another run.
        CheckpointError: The base can't be loaded or used.
    """
    _check_packages()
    from langchain_metaaligner.training.run.bases import Base
    from langchain_metaaligner.training.run.library_output import quiet

    chosen = settings or TrainingSettings()
    asked = find_family(family) if isinstance(family, str) else family
    say = report or logger.info
    learned, looked = list(examples), list(validation)
    folder = Path(out)
    with quiet():
        model_base = Base(base, load_options)
        run = {
            "base": model_base.name,
            "family": asked.name,
            "settings": chosen.model_dump(mode="json"),
            "examples": _digest([*learned, *looked]),
            "start": str(start) if start else None,
        }
        _claim(folder, run)
        whole = merge or not chosen.rank
        result = folder / ("model" if whole else "adapter")
        if (result / "README.md").is_file():
            say(f"finished before: {result}")
            return result
        plans, left_out = _plan(learned, looked, model_base, asked, chosen, folder)
        trained = sum(len(plan.encoded) for plan in plans)
        longest = _longest(model_base, chosen)
        say(f"{trained} examples, {left_out} longer than {longest} left out")
        _train(plans, model_base, chosen, dict(trainer_options or {}), start, callbacks, say)
        if _is_main():
            details = card or CardDetails()
            _write(plans, result, model_base, asked, chosen, whole, details, learned, start)
    return result


def _plan(
    learned: Sequence[TrainingExample],
    looked: Sequence[TrainingExample],
    base: Base,
    family: PromptFamily,
    settings: TrainingSettings,
    folder: Path,
) -> tuple[list[StagePlan], int]:
    """The stages that have examples, and how many examples are too long."""
    from langchain_metaaligner.training.run.stages import StagePlan

    kept = _encode(learned, base, family, settings)
    aside = _encode(looked, base, family, settings)
    shown = aside[: settings.shown_edits]
    plans = [
        StagePlan(
            name=stage,
            folder=folder / "stages" / f"{place}-{stage}",
            encoded=[encoded for example, encoded in kept if example.stage == stage],
            validation=[encoded for _, encoded in aside],
            shown=shown,
        )
        for place, stage in enumerate(STAGES, start=1)
    ]
    plans = [plan for plan in plans if plan.encoded]
    if not plans:
        message = (
            f"There is nothing to train on: {len(learned)} examples were given, and all of them"
            f" are longer than {_longest(base, settings)}."
            if learned
            else "There is nothing to train on: no examples were given."
        )
        raise TrainingError(message)
    return plans, len(learned) - len(kept)


def _encode(
    examples: Iterable[TrainingExample],
    base: Base,
    family: PromptFamily,
    settings: TrainingSettings,
) -> list[tuple[TrainingExample, Encoded]]:
    from langchain_metaaligner.training.run.encoder import encode

    pairs = ((example, encode(base.codec, family, example)) for example in examples)
    most = min(settings.max_length, base.window or settings.max_length)
    return [pair for pair in pairs if len(pair[1].input_ids) <= most]


def _longest(base: Base, settings: TrainingSettings) -> str:
    """The limit in words; a model has no positions beyond its window, whatever the settings."""
    if base.window and base.window < settings.max_length:
        return f"the base's window of {base.window} tokens"
    return f"max_length={settings.max_length} tokens"


def _train(
    plans: Sequence[StagePlan],
    base: Base,
    settings: TrainingSettings,
    options: Mapping[str, Any],
    start: str | Path | None,
    callbacks: Sequence[Any],
    say: Callable[[str], None],
) -> None:
    from langchain_metaaligner.training.run.stages import arguments, train_stage

    open_plans = [plan for plan in plans if not plan.finished.is_dir()]
    if not open_plans:
        return
    # DeepSpeed needs its settings before the model is made.
    arguments(open_plans[0], settings, options)
    done = [plan.finished for plan in plans if plan.finished.is_dir()]
    before = done[-1] if done else Path(start) if start else None
    model = _model(base, settings, before)
    for plan in open_plans:
        say(f"stage {plan.name}: {len(plan.encoded)} examples, {plan.steps(settings)} steps")
        model = train_stage(
            plan,
            model,
            base.codec,
            settings,
            options,
            edits=plan.folder.parents[1] / _EDITS,
            callbacks=callbacks,
        )


def _model(base: Base, settings: TrainingSettings, before: Path | None) -> Any:
    """The base with the weights of the previous stage, ready for training."""
    import torch
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    from langchain_metaaligner.training.run.bases import working_dtype

    torch.manual_seed(settings.seed)
    if not settings.rank:
        if before is not None:
            from transformers import AutoModelForCausalLM

            return AutoModelForCausalLM.from_pretrained(str(before), dtype=torch.float32)
        return base.model(working_dtype(settings))
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules),
        task_type="CAUSAL_LM",
    )
    zero3: Any = is_deepspeed_zero3_enabled
    # ZeRO-3 gathers weights of a single type; elsewhere an adapter's small updates need float32.
    model = get_peft_model(
        base.model(working_dtype(settings)),
        config,
        autocast_adapter_dtype=not zero3(),
    )
    # With a name, peft would ask the hub about the base at every save.
    model.peft_config["default"].base_model_name_or_path = None
    if before is not None:
        file = before / "adapter_model.safetensors"
        if not file.is_file():
            message = f"There is no adapter in {before} to start from: it has no {file.name}."
            raise TrainingError(message)
        set_peft_model_state_dict(model, load_file(file))
    return model


def _write(
    plans: Sequence[StagePlan],
    result: Path,
    base: Base,
    family: PromptFamily,
    settings: TrainingSettings,
    whole: bool,
    details: CardDetails,
    examples: Sequence[TrainingExample],
    start: str | Path | None,
) -> None:
    from langchain_metaaligner.training.run.results import write_adapter, write_model
    from langchain_metaaligner.training.run.stages import SUMMARY

    finished = plans[-1].finished
    part = result.with_name(f"{result.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    if whole:
        write_model(finished, part, base, family=family.name)
    else:
        write_adapter(finished, part, base)
    summaries = [json.loads((plan.finished / SUMMARY).read_text("utf-8")) for plan in plans]
    kinds = dict(sorted(Counter(example.kind for example in examples).items()))
    write_card(
        part,
        base=base.name,
        family=family.name,
        settings=settings,
        stages=summaries,
        kinds=kinds,
        whole=whole,
        details=details,
        start=_named(start),
    )
    shutil.rmtree(result, ignore_errors=True)
    part.rename(result)


def _named(start: str | Path | None) -> str | None:
    """The weights by their hash: a path of this machine has no place in a card."""
    if start is None:
        return None
    file = Path(start) / "adapter_model.safetensors"
    if not file.is_file():
        return f"`{Path(start).name}`"
    return f"an adapter, sha256 `{hashlib.sha256(file.read_bytes()).hexdigest()}`"


def _claim(folder: Path, run: dict[str, Any]) -> None:
    """Record the run in its folder, and refuse the folder of another run."""
    free = dict.fromkeys(_FREE)
    file = folder / _RUN
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
        part.replace(file)
        return
    known = json.loads(file.read_text(encoding="utf-8"))
    flat = [{**r, **r["settings"], **free, "settings": None} for r in (known, run)]
    # A setting that an earlier version lacked had no other value.
    both = flat[0].keys() & flat[1].keys()
    other = sorted(name for name in both if flat[0][name] != flat[1][name])
    if other:
        message = (
            f"{folder} holds a run with other {', '.join(other)}. Choose another folder for this"
            " run, or repeat the examples and settings of that run to resume it."
        )
        raise TrainingError(message)


def _digest(examples: Sequence[TrainingExample]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps(dataclasses.asdict(example)).encode())
    return f"{len(examples)} {digest.hexdigest()[:16]}"


def _is_main() -> bool:
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def _check_packages() -> None:
    try:
        import datasets  # noqa: F401
        import peft  # noqa: F401
        import trl  # noqa: F401
    except ImportError as error:
        message = (
            f'Training needs the package {error.name}: pip install "langchain-metaaligner[train]"'
        )
        raise TrainingError(message) from error
