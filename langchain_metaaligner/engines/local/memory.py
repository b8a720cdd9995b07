"""Compares the memory that weights need with the free memory, before they are read."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from langchain_metaaligner.engines.free_memory import free_memory
from langchain_metaaligner.engines.local.placement import SPREADING
from langchain_metaaligner.engines.local.weight_files import WeightFiles, is_index
from langchain_metaaligner.errors import CheckpointError

logger = logging.getLogger(__name__)

_GIB = 1 << 30
_MARGIN = 1.1  # besides the weights: buffers, the shard being read, the cache of a short edit
_FLOATING = ("F64", "F32", "F16", "BF16")


def stored_weights(
    folder: Path, stored_dtype: torch.dtype, weights: WeightFiles
) -> tuple[int, int]:
    """Measure a folder's weights from headers, indexes and file sizes alone.

    Args:
        folder: The checkpoint's folder.
        stored_dtype: The dtype in its `config.json`, which is used for pickles.
        weights: Tells which of its files will be read.

    Returns:
        The number of floating-point parameters, and the bytes of everything else.
    """
    files = weights.find(folder)
    parameters = rest = pickled = 0
    for file in files:
        if file.suffix != ".safetensors":
            pickled += file.stat().st_size
            continue
        for tensor in _tensors(file):
            if tensor.dtype in _FLOATING:
                parameters += tensor.parameter_count
            else:
                rest += tensor.data_offsets[1] - tensor.data_offsets[0]
    if pickled:
        # Files are a little larger than their tensors; an index may be of other files.
        told = _told_by_index(folder / (weights.start(folder) or ""))
        parameters += (min(told, pickled) if told else pickled) // stored_dtype.itemsize
    return parameters, rest


def _told_by_index(index: Path) -> int:
    """Read the bytes of all tensors from an index; 0 if it doesn't tell."""
    if not is_index(index.name):
        return 0
    said = json.loads(index.read_text("utf-8")).get("metadata")
    total = said.get("total_size") if isinstance(said, dict) else None
    return int(total) if isinstance(total, int | float) else 0


def _tensors(file: Path) -> Iterable[Any]:
    from huggingface_hub import parse_local_safetensors_file_metadata
    from huggingface_hub.errors import SafetensorsParsingError

    try:
        return parse_local_safetensors_file_metadata(file).tensors.values()
    except SafetensorsParsingError as error:
        message = f"{file} is not a complete safetensors file. Download it again."
        raise CheckpointError(message) from error


def bytes_per_parameter(dtype: torch.dtype, quantization: Any) -> float:
    """Estimate the memory that a loaded parameter takes.

    Args:
        dtype: The dtype of the loaded weights.
        quantization: The quantisation config, if any.

    Returns:
        Bytes; approximate for quantised weights.
    """
    if quantization is None:
        return dtype.itemsize
    settings = quantization if isinstance(quantization, Mapping) else vars(quantization)
    if settings.get("load_in_4bit") or settings.get("_load_in_4bit"):
        return 0.6  # 4 bits, scales, and embeddings, which are not quantised
    if settings.get("load_in_8bit") or settings.get("_load_in_8bit"):
        return 1.1
    bits = settings.get("bits")
    return bits / 8 + 0.1 if isinstance(bits, int) else dtype.itemsize


def free_on_accelerators() -> int:
    """Measure the free memory of all accelerators together.

    Returns:
        Bytes; 0 if there is no accelerator.
    """
    if not torch.cuda.is_available():
        return 0
    # not run here: needs a GPU
    return sum(  # pragma: no cover
        torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())
    )


def check(
    name: str, needed: float, *, device_map: Any, max_memory: Any, offload_folder: Any
) -> None:
    """Refuse a checkpoint that does not fit into memory.

    Args:
        name: The checkpoint, for the message.
        needed: Bytes that its loaded weights take.
        device_map: The devices for its weights, in transformers' format.
        max_memory: Memory limits set by the caller; if set, nothing is checked.
        offload_folder: Folder for layers on disk; if set, nothing is checked.

    Raises:
        CheckpointError: It needs more memory than is free.
    """
    needed *= _MARGIN
    if offload_folder is not None or max_memory is not None:
        return  # the caller has chosen limits, and accelerate keeps to them
    if isinstance(device_map, Mapping) and "disk" in device_map.values():
        return
    machine, accelerators = free_memory(), free_on_accelerators()
    on_cpu = not accelerators or str(_only_device(device_map)) == "cpu"
    spread = isinstance(device_map, str) and device_map in SPREADING
    free = machine if on_cpu else accelerators + (machine if spread else 0)
    logger.debug("%s needs %.2f GiB, %.2f GiB are free.", name, needed / _GIB, free / _GIB)
    if needed > free:
        where = "on the accelerators" + (" and the machine together" if spread else "")
        where = "in this machine's memory" if on_cpu else where
        message = (
            f"{name} needs about {needed / _GIB:.1f} GiB of memory, but only {free / _GIB:.1f} GiB"
            f" are free {where}. No weights were read. Use a smaller checkpoint (the 1.1B ones need"
            " 2.3 GiB in bfloat16), dtype='bfloat16', quantization_config=..., or"
            " offload_folder=... for the layers that don't fit; or free some memory first."
        )
        raise CheckpointError(message)


def _only_device(device_map: Any) -> Any:
    """Return the device of a map that has only one; else the map itself."""
    if isinstance(device_map, Mapping):
        devices = set(map(str, device_map.values()))
        return devices.pop() if len(devices) == 1 else device_map
    return device_map
