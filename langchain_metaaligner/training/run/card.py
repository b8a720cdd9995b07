"""Writes the model card of a trained aligner."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langchain_metaaligner.training.run.settings import TrainingSettings

_TITLES = {"warm_up": "warm-up", "equal": "equal", "contrastive": "contrastive"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CardDetails:
    """What a model card says beyond what the training knows.

    Attributes:
        name: The aligner's name.
        licence: Its licence, as the hub writes it (`mit`, `apache-2.0`, `llama2`, ...).
        language: Its languages, as the hub writes them.
        sources: Where the examples come from, each with its licence.
        datasets: Hub ids of data sets among them.
        figures: Measurements: what was measured, and what came out.
        limits: What it can't do.
    """

    name: str = "A MetaAligner"
    licence: str | None = None
    language: Sequence[str] = ("en",)
    sources: Sequence[str] = ()
    datasets: Sequence[str] = ()
    figures: Mapping[str, str] = field(default_factory=dict)
    limits: Sequence[str] = ()


def write_card(
    folder: Path,
    *,
    base: str,
    family: str,
    settings: TrainingSettings,
    stages: Sequence[Mapping[str, Any]],
    kinds: Mapping[str, int],
    whole: bool,
    details: CardDetails,
    start: str | None = None,
) -> Path:
    """Write `README.md`, with the block of metadata that the hub reads.

    Args:
        folder: The folder of the adapter or checkpoint.
        base: Hub id or folder of the base.
        family: Name of the prompts.
        settings: How it was trained.
        stages: Name, examples, steps, losses and validation losses of each stage.
        kinds: Number of examples of each kind.
        whole: Whether the folder holds a whole checkpoint.
        details: What the training can't know.
        start: What it went on from.

    Returns:
        The file.
    """
    use = (
        f'Aligner(model="FOLDER", family="{family}")'
        if whole
        else f'Aligner(model="{base}", adapter="FOLDER", family="{family}")'
    )
    parts = [
        _metadata(base, whole=whole, details=details),
        f"# {details.name}",
        (
            f"A {'checkpoint' if whole else 'LoRA adapter'} that edits another model's reply"
            " towards the objectives named in its prompt, in the way of MetaAligner"
            " (arXiv 2403.17141)."
        ),
        f"```python\nfrom langchain_metaaligner import Aligner\n\naligner = {use}\n```",
        "## Data",
        "\n".join(f"- {source}" for source in details.sources)
        or "Where the examples come from was not said.",
        "Examples by kind: "
        + ", ".join(f"{kind} {count:,}" for kind, count in kinds.items())
        + ".",
        "## Training",
        (
            f"Base `{base}`, prompts of the family {family}, loss on the edits alone, seed"
            f" {settings.seed}. Each stage goes on from the one before, with a new optimizer."
            + (f" The first went on from {start}." if start else "")
        ),
        _table(
            ("stage", "examples", "steps", "loss at the end", "validation loss"),
            [
                (
                    _TITLES[stage["stage"]],
                    f"{stage['examples']:,}",
                    f"{stage['steps']:,}",
                    _last(stage["loss"]),
                    _last(stage["validation"]),
                )
                for stage in stages
            ],
        ),
        _table(
            ("setting", "value"),
            [(f"`{name}`", _shown(value)) for name, value in settings.asdict().items()],
        ),
    ]
    if details.figures:
        parts += ["## Measured", _table(("what", "result"), list(details.figures.items()))]
    parts += ["## Limits", "\n".join(f"- {limit}" for limit in details.limits) or "Not measured."]
    parts += ["## Licence", details.licence or "Not said; the base's licence holds in any case."]
    file = folder / "README.md"
    file.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return file


def _metadata(base: str, *, whole: bool, details: CardDetails) -> str:
    """YAML, as the hub reads it; text in JSON's quotes is YAML too."""
    local = Path(base).is_dir()
    lines = [
        *([f"license: {json.dumps(details.licence)}"] if details.licence else []),
        *([] if local else [f"base_model: {json.dumps(base)}"]),
        *([] if local else [f"base_model_relation: {'finetune' if whole else 'adapter'}"]),
        f"library_name: {'transformers' if whole else 'peft'}",
        "pipeline_tag: text-generation",
        f"language: {json.dumps(list(details.language))}",
        *([f"datasets: {json.dumps(list(details.datasets))}"] if details.datasets else []),
        'tags: ["alignment", "metaaligner", "langchain-metaaligner", "trl", "sft"]',
    ]
    return "---\n" + "\n".join(lines) + "\n---"


def _last(points: Sequence[Sequence[float]]) -> str:
    return f"{points[-1][1]:.3f} (step {points[-1][0]:,})" if points else "–"


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *body]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows
    )
