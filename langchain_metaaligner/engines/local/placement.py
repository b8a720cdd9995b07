"""Chooses the dtype and the devices of weights, and warns of layers on slow devices."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import torch

from langchain_metaaligner import checkpoints
from langchain_metaaligner.errors import CheckpointError, first_line
from langchain_metaaligner.options import LoadOptions

logger = logging.getLogger(__name__)

# Whether a CPU with bfloat16 instructions uses bfloat16 by default. It is then 1.4 to 2.3 times as
# fast (tests/benchmarks/results) and takes half the memory, but nearly tied tokens may be chosen
# differently than in float32.
CPU_BFLOAT16 = True

_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")
SPREADING = ("auto", "balanced", "balanced_low_0", "sequential")
"""Device maps that accelerate makes itself."""
_CPU_ALONE = ("cpu", {"": "cpu"})


def choose_dtype(dtype: str, device_map: Any = "auto") -> torch.dtype:
    """Choose the dtype of the weights.

    Args:
        dtype: The name of a torch dtype, or `auto`.
        device_map: The devices for the weights.

    Returns:
        The named dtype. `auto` is bfloat16 if the device has instructions for it; else float16 on
        an accelerator and float32 on a CPU.

    Raises:
        CheckpointError: There is no such floating-point dtype.
    """
    if dtype == "auto":
        if torch.accelerator.is_available() and choose_device_map(device_map) not in _CPU_ALONE:
            return torch.bfloat16 if _accelerator_has_bfloat16() else torch.float16
        return torch.bfloat16 if CPU_BFLOAT16 and _cpu_has_bfloat16() else torch.float32
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        message = (
            f"Weights can't be loaded with dtype={dtype!r}; expected 'auto', 'bfloat16',"
            " 'float16' or 'float32'. For fewer bits use quantization_config=..."
        )
        raise CheckpointError(message)
    return found


def _cpu_has_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16; without them, float32 is faster."""
    # Older versions of torch can't tell, so float32 is the safe choice.
    has: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(has.get(name) for name in _INSTRUCTIONS)


def _accelerator_has_bfloat16() -> bool:
    kind = torch.accelerator.current_accelerator()
    if kind is not None and kind.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return True


def choose_device_map(device_map: Any) -> Any:
    """Choose the devices of the weights.

    Args:
        device_map: The devices, in transformers' format.

    Returns:
        The same, except that `auto` is the CPU if there is no accelerator, so that no layers go
        to a disk without being asked to.
    """
    if device_map == "auto" and not torch.accelerator.is_available():
        return {"": "cpu"}
    return device_map


def check_devices(name: str, device_map: Any) -> None:
    """Refuse a device that this machine lacks.

    Args:
        name: The checkpoint, for the message.
        device_map: The devices, in transformers' format.

    Raises:
        CheckpointError: A device is missing on this machine, or is not a device.
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
                f"device_map={device!r} is not a device: {first_line(error)} Expected 'auto',"
                " 'cpu', a device such as 'cuda:0', or a dict from layers to devices."
            )
            raise CheckpointError(message) from error
        if wanted.type in ("cpu", "meta") or (wanted.type, wanted.index or 0) in here:
            continue
        there = ", ".join(f"{kind}:{index}" for kind, index in here) or "the CPU only"
        message = (
            f"{name} can't be loaded with device_map={str(device)!r}: torch finds {there}. Leave"
            " device_map out to use the best device available, or use 'cpu'. If an accelerator is"
            " missing, install its driver and a build of torch that supports it."
        )
        raise CheckpointError(message)


def check_split(name: str, options: LoadOptions) -> None:
    """Refuse to split weights where nothing started the processes that share them.

    Args:
        name: The checkpoint, for the message.
        options: How it is loaded.

    Raises:
        CheckpointError: There is a `tp_plan`, but one process alone, or there is a `device_map` or
            an adapter beside it.
    """
    plan = options.tp_plan
    if plan is None:
        return
    if name == checkpoints.EMBEDDED or options.adapter is not None:
        message = (
            f"{name} has an adapter, which is merged into whole weights, so they can't be split"
            " with tp_plan. Save the merged checkpoint and load that, or use device_map."
        )
        raise CheckpointError(message)
    if options.device_map != "auto":
        message = (
            f"{name} can't be loaded with both tp_plan and device_map={options.device_map!r}: each"
            " process has one device, its own. Leave one of the two out."
        )
        raise CheckpointError(message)
    if processes_of(options) < 2:
        message = (
            f"tp_plan={plan!r} splits {name} over several processes, but this one runs alone."
            " Start the program with torchrun --nproc-per-node=NUMBER_OF_GPUS, spread the weights"
            " over the GPUs of one process with device_map='auto', or use a server, which splits"
            " them itself."
        )
        raise CheckpointError(message)


def processes_of(options: LoadOptions) -> int:
    """Count the processes that share the weights.

    Args:
        options: How they are loaded.

    Returns:
        The number of processes that torchrun started if there is a `tp_plan`, else 1.
    """
    return int(os.environ.get("WORLD_SIZE", "1")) if options.tp_plan is not None else 1


def split_by(options: LoadOptions) -> Any:
    """Say how transformers splits the weights.

    Args:
        options: How they are loaded.

    Returns:
        Its `DistributedConfig`, or `None` to load them whole.
    """
    if options.tp_plan is None:
        return None
    from transformers.distributed.configuration_utils import DistributedConfig

    return DistributedConfig(tp_plan=options.tp_plan)


def _devices() -> list[tuple[str, int]]:
    """List the accelerators that torch finds, by kind and index."""
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if kind is None:
        return []
    # not run here: needs a GPU
    return [
        (kind.type, index) for index in range(torch.accelerator.device_count())
    ]  # pragma: no cover


def warn_of_strays(name: str, model: Any) -> None:
    """Log a warning about layers that accelerate has placed on the CPU or disk, which is slow.

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
    chosen = dict(placed) == {"": "cpu"}  # on purpose, or because there is no accelerator
    if strays and not chosen:
        logger.warning(
            "Not all of %s fits on the accelerator, so edits will be slow: %s. Use a smaller dtype,"
            " a quantization_config or a smaller checkpoint.",
            name,
            ", ".join(strays),
        )
