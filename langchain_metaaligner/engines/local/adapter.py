"""Applies an adapter to a model, wholly or not at all."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from langchain_metaaligner.engines.local.hub import HubFiles
from langchain_metaaligner.engines.local.weight_files import WeightFiles
from langchain_metaaligner.errors import CheckpointError, first_line
from langchain_metaaligner.options import LoadOptions

logger = logging.getLogger(__name__)

_NAMED = 3  # tensors in a message
_SIZES = re.compile(r"size mismatch for ([\w.]+): .*?Size\((\[.*?\])\).*?Size\((\[.*?\])\)")


def apply_adapter(model: Any, adapter: str, options: LoadOptions, *, base: str) -> Any:
    """Apply a PEFT adapter to a model, and merge it into the weights where possible.

    Args:
        model: The base model.
        adapter: Folder or hub id of the adapter.
        options: Options with the adapter's revision, the token and the cache folder.
        base: The name of the base model.

    Returns:
        The model with the adapter applied.

    Raises:
        CheckpointError: The adapter can't be found, or does not fit the model.
    """
    try:
        from peft import PeftConfig, PeftModel
    except ImportError as error:
        message = (
            "An adapter needs the package peft. Run:"
            ' pip install "langchain-metaaligner[embedded]", or pip install peft'
        )
        raise CheckpointError(message) from error
    files = HubFiles(adapter, options, revision=options.adapter_revision)
    folder = files.weights(WeightFiles.of_adapter())
    if not (folder / "adapter_config.json").is_file():
        message = (
            f"{adapter!r} is no adapter: it has no adapter_config.json. Give the folder that PEFT"
            " saved; a whole checkpoint belongs in model=..."
        )
        raise CheckpointError(message)
    try:
        config = PeftConfig.from_pretrained(str(folder))
        if config.is_prompt_learning:
            return _refuse_prompts(adapter)
        _warn_of_another_base(adapter, config.base_model_name_or_path, base)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            adapted = PeftModel.from_pretrained(model, str(folder))
            _check_complete(adapter, adapted, folder, [str(one.message) for one in warned])
        if getattr(model, "is_quantized", False):
            return adapted.get_base_model()  # quantised weights can't be merged with an adapter
        _untie(model)
        with warnings.catch_warnings():
            # peft uses names of transformers that are deprecated, and warns of tied weights.
            warnings.simplefilter("ignore")
            return adapted.merge_and_unload()
    except CheckpointError:
        raise
    except Exception as error:
        message = (
            f"The adapter {adapter!r} can't be applied to this model: {_what_failed(error)}"
            " Use an adapter that was trained on this base model."
        )
        raise CheckpointError(message) from error


def warn_of_bystander(name: str, folder: Path) -> None:
    """Log a warning about an adapter beside whole weights, which is not applied.

    Args:
        name: The checkpoint.
        folder: Its folder.
    """
    if (folder / "adapter_config.json").is_file():
        logger.warning(
            "%s contains an adapter beside its weights. It is not applied, because the weights may"
            " contain it already; if they don't, give adapter=%r too.",
            name,
            name,
        )


def _refuse_prompts(adapter: str) -> NoReturn:
    message = (
        f"{adapter!r} is a prompt-learning adapter, which can't be merged into a model."
        " Use an adapter that changes the weights, such as LoRA."
    )
    raise CheckpointError(message)


def _warn_of_another_base(adapter: str, trained_on: str | None, base: str) -> None:
    """Log a warning if the names say that the adapter was trained on another model."""
    told = re.split(r"[/\\]|--", (trained_on or "").rstrip("/\\").lower())
    here = re.split(r"[/\\]|--", base.lower())
    if told[-1] and told[-1] not in here:
        logger.warning(
            "The adapter %s was trained on %s, but is applied to %s. If these are different"
            " weights, its edits will be poor.",
            adapter,
            trained_on,
            base,
        )


def _check_complete(adapter: str, adapted: Any, folder: Path, warned: Sequence[str]) -> None:
    """Refuse an adapter that would change less, or other things, than it was trained to."""
    from peft import load_peft_weights, set_peft_model_state_dict

    stored = load_peft_weights(str(folder), device="cpu")
    # What from_pretrained could not use it does not tell.
    loaded: Any = set_peft_model_state_dict(adapted, stored, adapted.active_adapter)
    unused = loaded.unexpected_keys
    lost = [line for line in warned if "missing adapter keys" in line]
    missing = [name for line in lost for name in re.findall(r"'([^']+)'", line)]
    if not unused and not lost:
        return
    found = [
        f"{what}: {len(names)}, such as {', '.join(sorted(names)[:_NAMED])}"
        for names, what in (
            (missing, "missing tensors"),
            (unused, "tensors that belong to nothing in this model"),
        )
        if names
    ]
    message = (
        f"The adapter {adapter!r} doesn't fit this model; {'; '.join(found)}. Use the adapter's own"
        " base model. If the names have a prefix too many or too few (such as '_orig_mod.', from"
        " a compiled model), save the adapter again without it."
    )
    raise CheckpointError(message)


def _untie(model: Any) -> None:
    """Give input and output embeddings their own weights if an adapter changes either.

    Merged into a weight that both share, the change of one would change the other too.
    """
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    bases = [getattr(end, "base_layer", end) for end in ends]
    weights = [getattr(base, "weight", None) for base in bases]
    if weights[0] is None or weights[0] is not weights[1] or ends == bases:
        return
    bases[1].weight = torch.nn.Parameter(weights[1].detach().clone(), requires_grad=False)
    model.config.tie_word_embeddings = False


def _what_failed(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"the tensor {error} is missing."
    sizes = _SIZES.findall(str(error))
    if not sizes:
        return first_line(error)
    shown = [f"{name} is {stored} in the adapter and {here} here" for name, stored, here in sizes]
    more = f", and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    return f"{'; '.join(shown[:_NAMED])}{more}."
