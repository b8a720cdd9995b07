"""The mean of several adapters, as one adapter."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

_WEIGHTS = "adapter_model.safetensors"
_CARD = "README.md"


def mean_of(adapters: Sequence[Path], folder: Path, shares: Sequence[float] | None = None) -> Path:
    """Write the mean of adapters of one descent.

    Args:
        adapters: Folders of adapters of one shape. Configuration and card are those of the last;
            the card then lists what was averaged.
        folder: The folder to write; an older one is replaced.
        shares: The share of each adapter, 1 in all; equal ones by default.

    Returns:
        The folder.
    """
    shares = shares or [1 / len(adapters)] * len(adapters)
    loaded = [load_file(adapter / _WEIGHTS) for adapter in adapters]
    mean = {
        name: sum(
            (share * state[name].float() for share, state in zip(shares, loaded, strict=True)),
            start=torch.zeros_like(last, dtype=torch.float32),
        ).to(last.dtype)
        for name, last in loaded[-1].items()
    }
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(adapters[-1], part)
    save_file(mean, part / _WEIGHTS, metadata={"format": "pt"})
    hashes = [hashlib.sha256((one / _WEIGHTS).read_bytes()).hexdigest() for one in adapters]
    with (part / _CARD).open("a", encoding="utf-8") as card:
        told = "\n".join(
            f"- {share:.0%}: sha256 `{one}`" for share, one in zip(shares, hashes, strict=True)
        )
        card.write(f"\n## Averaged\n\nThe weights are a mean of these adapters':\n\n{told}\n")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return folder
