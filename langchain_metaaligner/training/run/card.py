"""Writes the model card of a trained aligner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langchain_metaaligner.training.run.settings import TrainingSettings

_TITLES = {"warm_up": "warm-up", "equal": "equal", "contrastive": "contrastive"}
_TAGS = ("alignment", "metaaligner", "langchain-metaaligner", "trl", "sft")


@dataclass(frozen=True, slots=True, kw_only=True)
class CardDetails:
    """What a model card says beyond what the training knows.

    Attributes:
        name: Name of the aligner.
        licence: Its licence, as the hub spells it (`mit`, `apache-2.0`, `llama2`, ...).
        language: Its languages, as the hub spells them.
        sources: Where the examples come from, each with its licence.
        datasets: Hub ids of data sets among the sources.
        figures: Measurements: what was measured, and the result.
        limits: What the aligner can't do.
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
    """Write `README.md`, with the metadata that the hub reads.

    Args:
        folder: Folder of the adapter or checkpoint.
        base: Hub id or folder of the base.
        family: Name of the prompt family.
        settings: How it was trained.
        stages: Name, examples, steps, losses and validation losses of each stage.
        kinds: Number of examples of each kind.
        whole: Whether the folder holds a whole checkpoint.
        details: What the training can't know.
        start: The weights that the training started from, in words.

    Returns:
        The file.
    """
    from huggingface_hub import ModelCard

    use = (
        f'Aligner(model="FOLDER", family="{family}")'
        if whole
        else f'Aligner(model="{base}", adapter="FOLDER", family="{family}")'
    )
    parts = [
        f"# {details.name}",
        (
            f"A {'checkpoint' if whole else 'LoRA adapter'} that edits another model's reply"
            " towards the objectives named in its prompt, as MetaAligner does (arXiv 2403.17141)."
        ),
        f"```python\nfrom langchain_metaaligner import Aligner\n\naligner = {use}\n```",
        "## Data",
        "\n".join(f"- {source}" for source in details.sources)
        or "The sources of the examples were not stated.",
        "Examples by kind: "
        + ", ".join(f"{kind} {count:,}" for kind, count in kinds.items())
        + ".",
        "## Training",
        (
            f"Base `{base}`, prompt family {family}, loss on the edits only, seed {settings.seed}."
            " Each stage starts from the weights of the one before, with a new optimizer."
            + (f" The first started from {start}." if start else "")
        ),
        _table(
            ("stage", "examples", "steps", "final loss", "validation loss"),
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
            [(f"`{name}`", _shown(value)) for name, value in settings.model_dump().items()],
        ),
    ]
    if details.figures:
        parts += ["## Measured", _table(("what", "result"), list(details.figures.items()))]
    parts += ["## Limits", "\n".join(f"- {limit}" for limit in details.limits) or "Not stated."]
    parts += [
        "## Licence",
        details.licence or "Not stated; that of the base applies in any case.",
    ]
    file = folder / "README.md"
    metadata = _metadata(base, whole=whole, details=details)
    ModelCard("\n\n".join([f"---\n{metadata}\n---", *parts]) + "\n").save(file)
    return file


def _metadata(base: str, *, whole: bool, details: CardDetails) -> str:
    from huggingface_hub import ModelCardData

    # A folder of this machine is nothing that the hub could link to.
    hub_id = None if Path(base).is_dir() else base
    relation = "finetune" if whole else "adapter"
    data = ModelCardData(
        license=details.licence,
        base_model=hub_id,
        base_model_relation=relation if hub_id else None,
        library_name="transformers" if whole else "peft",
        pipeline_tag="text-generation",
        language=list(details.language),
        datasets=list(details.datasets) or None,
        tags=list(_TAGS),
    )
    return data.to_yaml()


def _last(points: Sequence[Sequence[float]]) -> str:
    return f"{points[-1][1]:.3f} (step {points[-1][0]:,})" if points else "–"


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *body]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows
    )
