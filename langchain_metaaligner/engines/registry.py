"""Finds the engine for a model's name."""

from __future__ import annotations

import os
from typing import Any

from langchain_metaaligner.checkpoints import EMBEDDED
from langchain_metaaligner.engines.base import Engine
from langchain_metaaligner.errors import CheckpointError


def load_engine(model: str | None = None, **options: Any) -> Engine:
    """Find the engine for a checkpoint; it is shared by all who ask with the same settings.

    Nothing is read yet: weights come with the first edit or with `engine.load()`.

    Args:
        model: A hub id or a folder; `None` is the environment variable `METAALIGNER_MODEL`, else
            the embedded aligner.
        **options: Options of the engine, for instance `dtype`, `device_map`, `revision`,
            `adapter`, `quantization_config`.

    Returns:
        The engine. Each call makes the caller one more owner, with an engine object of its own;
        the weights are shared, and freed when the last owner has called `close()` or forgotten
        its engine. A closed engine raises `EngineError`.

    Raises:
        CheckpointError: No engine of this version runs such a checkpoint.
    """
    name = model or os.environ.get("METAALIGNER_MODEL", "").strip() or EMBEDDED
    if name.startswith(("http://", "https://")) or name.endswith(".gguf"):
        kind = "GGUF files" if name.endswith(".gguf") else "servers"
        message = (
            f"This version has no engine for {kind} yet, so {name!r} can't be used. Give a hub id"
            " or the folder of a checkpoint of transformers."
        )
        raise CheckpointError(message)
    # torch is imported here and no sooner: the package itself must be quick to import.
    from langchain_metaaligner.engines.local.engine import LocalEngine

    return LocalEngine(name, **options)
