"""Decides in which type and on which device weights go, and says where they went."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from langchain_metaaligner.errors import CheckpointError

logger = logging.getLogger(__name__)


def choose_dtype(dtype: str) -> torch.dtype:
    """Say what `auto` means here.

    Args:
        dtype: A name of a torch type, or `auto`.

    Returns:
        bfloat16 on an accelerator, float32 on a CPU; else the named one.

    Raises:
        CheckpointError: There is no such floating-point type.
    """
    if dtype == "auto":
        # not run here: needs a GPU
        if torch.accelerator.is_available():  # pragma: no cover
            return torch.bfloat16
        return torch.float32
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        message = (
            f"There is no dtype {dtype!r} to load weights in; expected 'auto', 'bfloat16',"
            " 'float16' or 'float32'. For fewer bits use quantization_config=..."
        )
        raise CheckpointError(message)
    return found


def choose_device_map(device_map: Any) -> Any:
    """Say what `auto` means here.

    Args:
        device_map: As transformers takes it.

    Returns:
        The same; without an accelerator `auto` is the CPU, and never a disk that nobody named.
    """
    if device_map == "auto" and not torch.accelerator.is_available():
        return {"": "cpu"}
    return device_map


def warn_of_strays(name: str, model: Any) -> None:
    """Name the layers that accelerate has placed off the accelerator, where they are slow.

    Args:
        name: The checkpoint, for the message.
        model: The loaded model.
    """
    placed: Mapping[str, Any] = getattr(model, "hf_device_map", None) or {}
    strays = [
        f"{layer or 'all'} on {place}"
        for layer, place in placed.items()
        if str(place) in ("cpu", "disk")
    ]
    chosen = dict(placed) == {"": "cpu"}  # by the caller, or for want of an accelerator
    if strays and not chosen:
        logger.warning(
            "Not all of %s fits on the accelerator, so edits will be slow: %s. A smaller dtype, a"
            " quantization_config or a smaller checkpoint would fit.",
            name,
            ", ".join(strays),
        )
