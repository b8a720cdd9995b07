"""Decides in which type and on which device weights go, and says where they went."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from langchain_metaaligner.errors import CheckpointError, first_line

logger = logging.getLogger(__name__)

# Whether a CPU that has the instructions gets bfloat16 by default. There it is 1.4 to 2.3 times as
# fast (tests/benchmarks/results) and takes half the memory; near ties between two tokens may turn
# out otherwise than in float32.
CPU_BFLOAT16 = True

_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")
SPREADING = ("auto", "balanced", "balanced_low_0", "sequential")
"""Device maps that accelerate makes itself."""
_CPU_ALONE = ("cpu", {"": "cpu"})


def choose_dtype(dtype: str, device_map: Any = "auto") -> torch.dtype:
    """Say what `auto` means here.

    Args:
        dtype: A name of a torch type, or `auto`.
        device_map: Where the weights go.

    Returns:
        The named one. `auto` is bfloat16 where there are instructions for it, on a CPU as on an
        accelerator; else float16 on an accelerator and float32 on a CPU.

    Raises:
        CheckpointError: There is no such floating-point type.
    """
    if dtype == "auto":
        if torch.accelerator.is_available() and choose_device_map(device_map) not in _CPU_ALONE:
            return torch.bfloat16 if _accelerator_has_bfloat16() else torch.float16
        return torch.bfloat16 if CPU_BFLOAT16 and _cpu_has_bfloat16() else torch.float32
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        message = (
            f"There is no dtype {dtype!r} to load weights in; expected 'auto', 'bfloat16',"
            " 'float16' or 'float32'. For fewer bits use quantization_config=..."
        )
        raise CheckpointError(message)
    return found


def _cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 by itself; without that it is slower than float32."""
    # Older versions of torch don't tell; there float32 is the safe choice.
    has: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(has.get(name) for name in _INSTRUCTIONS)


def _accelerator_has_bfloat16() -> bool:
    kind = torch.accelerator.current_accelerator()
    if kind is not None and kind.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return True


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


def check_devices(name: str, device_map: Any) -> None:
    """Refuse a device that this machine lacks.

    Args:
        name: The checkpoint, for the message.
        device_map: As transformers takes it.

    Raises:
        CheckpointError: One of its devices is not here, or no device at all.
    """
    if isinstance(device_map, str) and device_map in SPREADING:
        return
    devices = device_map.values() if isinstance(device_map, Mapping) else [device_map]
    for device in devices:
        if device in ("disk", "cpu", "meta"):
            continue
        here = _devices()
        try:
            wanted = torch.device(device)
        except (RuntimeError, TypeError, ValueError) as error:
            message = (
                f"device_map={device!r} is no device: {first_line(error)} Expected 'auto', 'cpu',"
                " a device such as 'cuda:0', or a dict from layers to devices."
            )
            raise CheckpointError(message) from error
        if wanted.type in ("cpu", "meta") or (wanted.type, wanted.index or 0) in here:
            continue
        there = ", ".join(f"{kind}:{index}" for kind, index in here) or "the CPU only"
        message = (
            f"{name} can't go to device_map={str(device)!r}: this torch sees {there}. Leave"
            " device_map out for the best device that there is, or give 'cpu'; for an accelerator"
            " that is missing, install its driver and a torch that was built for it."
        )
        raise CheckpointError(message)


def _devices() -> list[tuple[str, int]]:
    """The accelerators that torch sees, by kind and number."""
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if kind is None:
        return []
    # not run here: needs a GPU
    return [
        (kind.type, index) for index in range(torch.accelerator.device_count())
    ]  # pragma: no cover


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
