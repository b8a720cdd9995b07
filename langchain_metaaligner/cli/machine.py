"""What this machine has: memory, GPUs, and the checkpoints that were downloaded."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30

_WEIGHTS = (".safetensors", ".bin", ".gguf")
_PATIENCE = 10.0  # seconds for the driver's program


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, as the driver sees it.

    Attributes:
        name: Its name.
        free: Bytes of its memory that are free.
        total: Bytes of its memory.
    """

    name: str
    free: int
    total: int


@dataclass(frozen=True, slots=True)
class Download:
    """A model in the local cache of the hub.

    Attributes:
        name: Its hub id.
        folder: The newest commit of which weights are here; else of which anything is here.
        bytes: What its files take on the disk.
        has_weights: Whether weights are among them.
    """

    name: str
    folder: Path
    bytes: int
    has_weights: bool


def gpus() -> list[Gpu]:
    """Ask NVIDIA's driver for its GPUs; importing torch for it would take seconds.

    Returns:
        The GPUs; none if the driver's program is missing or fails.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    asked = ("--query-gpu=name,memory.free,memory.total", "--format=csv,noheader,nounits")
    try:
        told = subprocess.run(  # noqa: S603 - nothing in it is a user's
            [program, *asked], capture_output=True, text=True, timeout=_PATIENCE, check=True
        ).stdout
        return [
            Gpu(name.strip(), int(free) << 20, int(total) << 20)
            for name, free, total in (line.rsplit(",", 2) for line in told.strip().splitlines())
        ]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def downloads() -> Iterator[Download]:
    """List the models in the local cache of the hub.

    Yields:
        Each model.
    """
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        found = scan_cache_dir()
    except CacheNotFound:
        return
    for repo in sorted(found.repos, key=lambda one: one.repo_id):
        if repo.repo_type != "model" or not repo.revisions:
            continue
        commits = sorted(repo.revisions, key=lambda one: one.last_modified, reverse=True)
        whole = [
            commit
            for commit in commits
            if any(file.file_name.endswith(_WEIGHTS) for file in commit.files)
        ]
        folder = (whole or commits)[0].snapshot_path
        yield Download(repo.repo_id, folder, repo.size_on_disk, bool(whole))
