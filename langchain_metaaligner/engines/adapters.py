"""Puts a PEFT adapter on a model."""

from __future__ import annotations

import warnings
from typing import Any, NoReturn

from langchain_metaaligner.engines.hub import HubFiles
from langchain_metaaligner.engines.options import LoadOptions
from langchain_metaaligner.engines.quoting import first_line
from langchain_metaaligner.errors import CheckpointError


def apply_adapter(model: Any, adapter: str, options: LoadOptions) -> Any:
    """Put a PEFT adapter on a model, for good where its weights allow that.

    Args:
        model: The base model.
        adapter: Folder or hub id of the adapter.
        options: Token and cache; the revision is the base's and not used here.

    Returns:
        The model with the adapter in it.

    Raises:
        CheckpointError: It can't be had, or does not belong to such a model.
    """
    try:
        from peft import PeftConfig, PeftModel
    except ImportError as error:
        message = (
            "An adapter needs the package peft:"
            ' pip install "langchain-metaaligner[embedded]", or pip install peft'
        )
        raise CheckpointError(message) from error
    folder = HubFiles(adapter, options, revision="main").adapter()
    if not (folder / "adapter_config.json").is_file():
        message = (
            f"{adapter!r} is no adapter: it has no adapter_config.json. Give the folder that PEFT"
            " saved, or use it as model=... if it is a whole checkpoint."
        )
        raise CheckpointError(message)
    try:
        prompts = PeftConfig.from_pretrained(str(folder)).is_prompt_learning
        if prompts:
            return _refuse_prompts(adapter)
        with warnings.catch_warnings():
            # peft asks transformers for things under names that are on their way out.
            warnings.simplefilter("ignore", FutureWarning)
            adapted = PeftModel.from_pretrained(model, str(folder))
        if getattr(model, "is_quantized", False):
            return adapted.get_base_model()  # its layers are in the model, beside the weights
        return adapted.merge_and_unload()
    except CheckpointError:
        raise
    except Exception as error:
        message = (
            f"The adapter {adapter!r} can't be put on this model: {first_line(error)}"
            " Expected one that was trained on this very base."
        )
        raise CheckpointError(message) from error


def _refuse_prompts(adapter: str) -> NoReturn:
    message = (
        f"{adapter!r} is a prompt-learning adapter, which can't become part of a model."
        " Use one that changes the weights, such as LoRA."
    )
    raise CheckpointError(message)
