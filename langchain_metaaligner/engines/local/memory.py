"""Compares the memory that weights need with the memory that is free, before any is read."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from langchain_metaaligner.engines.local.placement import SPREADING
from langchain_metaaligner.errors import CheckpointError

logger = logging.getLogger(__name__)

_GIB = 1 << 30
_MARGIN = 1.1  # beside the weights: buffers, one shard on its way, the cache of a short edit
_FLOATING = ("F64", "F32", "F16", "BF16")


def stored_weights(folder: Path, stored_dtype: torch.dtype) -> tuple[int, int]:
    """Measure a folder's weights by headers, indexes and file sizes alone.

    Args:
        folder: The checkpoint.
        stored_dtype: What its `config.json` says of the type; pickles don't tell it themselves.

    Returns:
        The number of floating-point parameters, and the bytes of everything else.
    """
    files = sorted(folder.glob("*.safetensors"))
    if files:
        parameters = rest = 0
        for file in files:
            for tensor in _tensors(file):
                if tensor.dtype in _FLOATING:
                    parameters += tensor.parameter_count
                else:
                    rest += tensor.data_offsets[1] - tensor.data_offsets[0]
        return parameters, rest
    index = folder / "pytorch_model.bin.index.json"
    total = 0
    if index.is_file():
        total = int(json.loads(index.read_text()).get("metadata", {}).get("total_size", 0))
    total = total or sum(file.stat().st_size for file in folder.glob("pytorch_model*.bin"))
    return total // stored_dtype.itemsize, 0


def _tensors(file: Path) -> Iterable[Any]:
    from huggingface_hub import parse_local_safetensors_file_metadata
    from huggingface_hub.errors import SafetensorsParsingError

    try:
        return parse_local_safetensors_file_metadata(file).tensors.values()
    except SafetensorsParsingError as error:
        message = f"{file} is no safetensors file, or only a part of one. Download it again."
        raise CheckpointError(message) from error


def bytes_per_parameter(dtype: torch.dtype, quantization: Any) -> float:
    """Say what a parameter takes once it is loaded.

    Args:
        dtype: The type that weights are loaded in.
        quantization: The quantisation asked for, if any.

    Returns:
        Bytes, roughly where weights are quantised.
    """
    if quantization is None:
        return dtype.itemsize
    settings = quantization if isinstance(quantization, Mapping) else vars(quantization)
    if settings.get("load_in_4bit") or settings.get("_load_in_4bit"):
        return 0.6  # 4 bits, their scales, and embeddings that stay as they are
    if settings.get("load_in_8bit") or settings.get("_load_in_8bit"):
        return 1.1
    bits = settings.get("bits")
    return bits / 8 + 0.1 if isinstance(bits, int) else dtype.itemsize


def free_memory() -> int:
    """Measure the memory that this process can still get.

    Returns:
        Bytes available on the machine, or within the container's limit where that is less.
    """
    import psutil  # type: ignore[import-untyped]

    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        # The kernel gives up cached files when memory runs short, so they count as free.
        cached = re.search(r"^file (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
        if limit != "max":
            free = min(free, int(limit) - used + int(cached[1] if cached else 0))
    except (OSError, ValueError):  # no Linux, or no such limit
        pass
    return max(free, 0)


def free_on_accelerators() -> int:
    """Measure what is free on all accelerators together.

    Returns:
        Bytes; 0 where there is none.
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
    """Refuse a checkpoint that will not fit.

    Args:
        name: The checkpoint, for the message.
        needed: Bytes of its weights once loaded.
        device_map: Where they go.
        max_memory: Limits that the caller has set.
        offload_folder: Set where layers may stay on disk.

    Raises:
        CheckpointError: More is needed than free.
    """
    needed *= _MARGIN
    if offload_folder is not None or max_memory is not None:
        return  # the caller has placed it by hand; accelerate checks against those limits
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
            f" are free {where}. Nothing was read. Take a smaller checkpoint (the 1.1B ones need"
            " 2.3 GiB in bfloat16), dtype='bfloat16', a quantization_config=..., or an"
            " offload_folder=... for the layers that don't fit; or free memory first."
        )
        raise CheckpointError(message)


def _only_device(device_map: Any) -> Any:
    """The one device of a map that names only one; else the map itself."""
    if isinstance(device_map, Mapping):
        devices = set(map(str, device_map.values()))
        return devices.pop() if len(devices) == 1 else device_map
    return device_map
