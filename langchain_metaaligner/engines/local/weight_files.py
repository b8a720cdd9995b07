"""Which of a checkpoint's files contain its weights, as transformers chooses them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_metaaligner.errors import CheckpointError
from langchain_metaaligner.options import LoadOptions

_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The names that a checkpoint's weights may have, the first choice first.

    Attributes:
        names: Single files, and indexes of several files.
    """

    names: tuple[str, ...]

    @classmethod
    def of_checkpoint(cls, config: Mapping[str, Any], options: LoadOptions) -> WeightFiles:
        """The names for a whole checkpoint.

        Args:
            config: Its `config.json`, which may name the file itself.
            options: Options whose `model_kwargs` may ask for a variant, or for a format.

        Returns:
            The names.
        """
        told = config.get("transformers_weights")
        if isinstance(told, str) and told:
            return cls((told,))
        variant = options.model_kwargs.get("variant")
        safe = options.model_kwargs.get("use_safetensors")
        names = (*(_SAFETENSORS if safe is not False else ()), *(_PICKLES if not safe else ()))
        return cls(tuple(_of_variant(name, variant) for name in names) if variant else names)

    @classmethod
    def of_adapter(cls) -> WeightFiles:
        """The names for an adapter."""
        return cls(_ADAPTERS)

    def choose(self, has: Callable[[str], bool]) -> str | None:
        """Choose the file to start from.

        Args:
            has: Whether there is a file of this name.

        Returns:
            The first choice of those that exist; `None` if there is none.
        """
        return next(filter(has, self.names), None)

    def start(self, folder: Path) -> str | None:
        """Choose the file to start from in a folder, as `choose`."""
        return self.choose(lambda name: (folder / name).is_file())

    def find(self, folder: Path) -> list[Path]:
        """List the files that will be read from a folder.

        Args:
            folder: The folder.

        Returns:
            The files; those that an index names need not be there. Empty if there are no weights.

        Raises:
            CheckpointError: The index is damaged.
        """
        chosen = self.start(folder)
        if chosen is None:
            return []
        names = shards(folder / chosen) if is_index(chosen) else [chosen]
        return [folder / name for name in names]

    def complete_in(self, folder: Path) -> bool:
        """Whether a folder has weights, and all files that an index names."""
        try:
            files = self.find(folder)
        except CheckpointError:
            return False
        return bool(files) and all(file.is_file() for file in files)


def is_index(name: str) -> bool:
    """Whether a file is an index of several weight files."""
    return name.endswith(".json")


def shards(index: Path) -> list[str]:
    """List the files that an index names.

    Args:
        index: The index.

    Returns:
        Their names, which may be any.

    Raises:
        CheckpointError: The index is damaged.
    """
    try:
        return sorted(set(map(str, json.loads(index.read_text("utf-8"))["weight_map"].values())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{index} is damaged. Download it again."
        raise CheckpointError(message) from error


def _of_variant(name: str, variant: str) -> str:
    start, _, end = name.rpartition(".")
    return f"{start}.{variant}.{end}"
