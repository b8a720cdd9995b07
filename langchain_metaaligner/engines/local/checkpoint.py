"""Reads a checkpoint: its configuration, tokenizer and weights."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from langchain_metaaligner.engines.local import memory
from langchain_metaaligner.engines.local.adapter import warn_of_bystander
from langchain_metaaligner.engines.local.hub import HubFiles
from langchain_metaaligner.engines.local.placement import (
    choose_device_map,
    choose_dtype,
    processes_of,
    split_by,
)
from langchain_metaaligner.engines.local.progress import SILENT, LoadProgress
from langchain_metaaligner.engines.local.weight_files import WeightFiles
from langchain_metaaligner.errors import CheckpointError, first_line
from langchain_metaaligner.options import LoadOptions, revealed

logger = logging.getLogger(__name__)

_NOWHERE = "no-adapter"


class CheckpointFiles:
    """A checkpoint in transformers' format: a folder, or a hub repository.

    Args:
        name: Hub id or folder.
        options: How to load it.
    """

    def __init__(self, name: str, options: LoadOptions) -> None:
        self.name = name
        self._options = options
        self._files = HubFiles(name, options, revision=options.revision)

    def config_dict(self) -> Mapping[str, Any]:
        """Read `config.json`.

        Returns:
            Its content.

        Raises:
            CheckpointError: It is missing or not JSON.
        """
        folder = self._files.description()
        file = folder / "config.json"
        if not file.is_file():
            raise CheckpointError(_no_config(self.name, folder))
        try:
            said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            message = f"The config.json of {self.name} is no JSON file: {error}. Download it again."
            raise CheckpointError(message) from error
        return said

    def config(self) -> Any:
        """Read the configuration.

        Returns:
            The configuration of transformers.

        Raises:
            CheckpointError: It is missing, unknown to transformers, or not one of a causal model.
        """
        from transformers import AutoConfig

        said = self.config_dict()
        try:
            config = AutoConfig.from_pretrained(
                str(self._files.description()), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:
            code = "auto_map" in said
            message = f"The config.json of {self.name} can't be used: {first_line(error)} " + (
                "It needs code that comes with the checkpoint, and such code is never run. Use a"
                " checkpoint whose architecture is part of transformers."
                if code
                else "Use a checkpoint whose architecture this version of transformers supports."
            )
            raise CheckpointError(message) from error
        _check_causal(self.name, config, said.get("architectures"))
        return config

    def tokenizer(self) -> Any:
        """Read the tokenizer.

        Returns:
            A fast tokenizer of transformers.

        Raises:
            CheckpointError: It is missing or can't be read.
        """
        return read_tokenizer(self._files.description(), self.name)

    def weights(self, config: Any, progress: LoadProgress = SILENT) -> Any:
        """Read the weights, after checking that they fit into memory.

        Args:
            config: What `config` returned.
            progress: Shows how far it has come.

        Returns:
            The model, ready to run.

        Raises:
            CheckpointError: They are missing, damaged, incomplete or too large.
        """
        files = WeightFiles.of_checkpoint(self.config_dict(), self._options)
        folder = self._files.weights(files)
        _check_weights(self.name, folder, files)
        if self._options.adapter is None:
            warn_of_bystander(self.name, folder)
        dtype = choose_dtype(self._options.dtype, self._options.device_map)
        quantization = revealed(self._options.quantization_config) or getattr(
            config, "quantization_config", None
        )
        stored = getattr(config, "dtype", None)
        parameters, rest = memory.stored_weights(
            folder, stored if isinstance(stored, torch.dtype) else torch.float32, files
        )
        needed = parameters * memory.bytes_per_parameter(dtype, quantization) + rest
        device_map = choose_device_map(self._options.device_map)
        memory.check(
            self.name,
            needed / processes_of(self._options),
            device_map=device_map,
            max_memory=self._options.max_memory,
            offload_folder=self._options.offload_folder,
        )
        logger.info(
            "Loading %s: %.2f billion parameters in %s, about %.1f GiB.",
            self.name,
            parameters / 1e9,
            "a quantised form" if quantization is not None else str(dtype).removeprefix("torch."),
            needed / (1 << 30),
        )
        progress.size(parameters, needed)
        return self._read(folder, config, dtype, device_map)

    def _read(self, folder: Path, config: Any, dtype: torch.dtype, device_map: Any) -> Any:
        from transformers import AutoModelForCausalLM

        options = self._options
        arguments: dict[str, Any] = {
            **revealed(options.model_kwargs),
            # Or transformers would apply an adapter that lies beside the weights.
            "adapter_kwargs": {"subfolder": _NOWHERE},
            "config": config,
            "dtype": dtype,
            "device_map": None if options.tp_plan is not None else device_map,
            "distributed_config": split_by(options),
            "attn_implementation": options.attn_implementation,
            "quantization_config": revealed(options.quantization_config),
            "max_memory": options.max_memory,
            "offload_folder": options.offload_folder,
        }
        arguments = {name: value for name, value in arguments.items() if value is not None}
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(folder),
                local_files_only=True,
                trust_remote_code=False,
                weights_only=True,
                output_loading_info=True,
                **arguments,
                ignore_mismatched_sizes=True,  # or the error would not tell the sizes
            )
        except Exception as error:
            raise CheckpointError(_cant_read(self.name, error)) from error
        model, report = loaded
        if mismatched := sorted(report.get("mismatched_keys", ())):
            sizes = [
                f"{key} is {list(stored)} in the weights and {list(told)} by config.json"
                for key, stored, told in mismatched
            ]
            more = f", and {len(sizes) - 1} more" if len(sizes) > 1 else ""
            message = (
                f"The weights of {self.name} can't be read, because they don't fit its"
                f" config.json: {sizes[0]}{more}. Use the config.json that was saved with them"
                " (a resized vocabulary changes vocab_size)."
            )
            raise CheckpointError(message)
        if missing := sorted(report.get("missing_keys", ())):
            message = (
                f"The weights of {self.name} are incomplete: {len(missing)} tensors are missing,"
                f" such as {missing[0]}, and would be random. It may be a model without its"
                " language-modelling head, or an adapter, which belongs in adapter=...; if not,"
                " download it again."
            )
            raise CheckpointError(message)
        return model


def read_tokenizer(folder: Path, name: str) -> Any:
    """Read a tokenizer from a folder.

    Args:
        folder: Where its files are.
        name: The checkpoint, for messages.

    Returns:
        A fast tokenizer of transformers.

    Raises:
        CheckpointError: It is missing or can't be read.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    whole = (folder / "tokenizer.json").is_file()
    if not whole and (folder / "tokenizer.model").is_file():
        # From this file alone, transformers 5 orders the merges wrongly and splits runs of spaces
        # differently than in training.
        message = (
            f"{name} has a tokenizer.model but no tokenizer.json, which is needed for exact"
            " tokens. Copy the tokenizer.json of the model that it was trained from into its"
            " folder; for LLaMA 2 checkpoints that is meta-llama/Llama-2-7b-hf."
        )
        raise CheckpointError(message)
    try:
        if whole:
            # Not as a LlamaTokenizer, which would rebuild it without its normaliser and so lose
            # a leading space.
            return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        message = (
            f"The tokenizer of {name} can't be read: {first_line(error)} Expected a tokenizer.json"
            " next to config.json. Save the tokenizer in the checkpoint's folder."
        )
        raise CheckpointError(message) from error


def _check_causal(name: str, config: Any, architectures: Any) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    known = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if known and (not architectures or causal.intersection(architectures)):
        return
    what = ", ".join(architectures or ()) or config.model_type
    message = (
        f"{name} is a {what}, which can't generate text. Use a causal language model, such as"
        " LlamaForCausalLM."
    )
    raise CheckpointError(message)


def _check_weights(name: str, folder: Path, weights: WeightFiles) -> None:
    """Check that all weight files are present before any is read."""
    files = weights.find(folder)
    missing = [file.relative_to(folder) for file in files if not file.is_file()]
    if missing:
        message = (
            f"{name} lacks {len(missing)} of {len(files)} weight files in {folder}, such as"
            f" {missing[0]}. Download it again."
        )
        raise CheckpointError(message)
    if files:
        return
    message = (
        f"There are no weights in {folder}: expected {' or '.join(weights.names)}. Download the"
        " checkpoint again."
    )
    if any(folder.glob("*.gguf")):
        message += " This version has no engine for .gguf files."
    raise CheckpointError(_only_adapter(name, folder) or message)


def _no_config(name: str, folder: Path) -> str:
    return _only_adapter(name, folder) or (
        f"There is no config.json in {folder}: expected a checkpoint in transformers' format, with"
        " config.json, a tokenizer and weights. Check the path or the hub id."
    )


def _only_adapter(name: str, folder: Path) -> str | None:
    """What to say of a folder in which an adapter is, but no whole model."""
    if not (folder / "adapter_config.json").is_file():
        return None
    base = json.loads((folder / "adapter_config.json").read_text()).get("base_model_name_or_path")
    return (
        f"{name} is an adapter, not a whole checkpoint. Pass the model that it was trained on"
        f" as model={base!r} and the adapter as adapter={name!r}."
    )


def _cant_read(name: str, error: Exception) -> str:
    said = first_line(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return (
            f"Memory ran out while loading {name}: {said} Use a smaller checkpoint,"
            " dtype='bfloat16', quantization_config=... or device_map='auto'."
        )
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return (
            f"A weight file of {name} is refused: it is damaged, or its pickle contains more than"
            " tensors, which could run any code. Use a copy in safetensors format, from a source"
            " that you trust."
        )
    if isinstance(error, ImportError):
        return f"{name} needs a package that is not installed: {said} Install it and try again."
    return (
        f"The weights of {name} can't be read: {said} Download them again, or check that"
        " config.json belongs to them."
    )
