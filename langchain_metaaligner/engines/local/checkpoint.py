"""Reads a checkpoint's folder: configuration, tokenizer, weights."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from langchain_metaaligner.engines.local import memory
from langchain_metaaligner.engines.local.hub import HubFiles
from langchain_metaaligner.engines.local.placement import choose_device_map, choose_dtype
from langchain_metaaligner.errors import CheckpointError, first_line
from langchain_metaaligner.options import LoadOptions

logger = logging.getLogger(__name__)


class CheckpointFiles:
    """A checkpoint as its authors' trainer left it: a folder, or a hub repository.

    Args:
        name: Hub id or folder.
        options: How to load it.
    """

    def __init__(self, name: str, options: LoadOptions) -> None:
        self.name = name
        self._options = options
        self._files = HubFiles(name, options)

    def config_dict(self) -> Mapping[str, Any]:
        """Read the configuration as its file has it.

        Returns:
            What `config.json` says.

        Raises:
            CheckpointError: It is missing or no JSON.
        """
        folder = self._files.description()
        file = folder / "config.json"
        if not file.is_file():
            raise CheckpointError(_no_config(self.name, folder))
        try:
            said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            message = f"The config.json of {self.name} is no JSON: {error}. Download it again."
            raise CheckpointError(message) from error
        return said

    def config(self) -> Any:
        """Read the configuration.

        Returns:
            The configuration of transformers.

        Raises:
            CheckpointError: It is missing, unknown to transformers, or not of a causal model.
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
                "It wants to run code of its own, and code that comes with a checkpoint is never"
                " run. Use a checkpoint whose architecture is part of transformers."
                if code
                else "Use a checkpoint of an architecture that this transformers knows."
            )
            raise CheckpointError(message) from error
        _check_causal(self.name, config, said.get("architectures"))
        return config

    def tokenizer(self) -> Any:
        """Read the tokenizer.

        Returns:
            A fast tokenizer of transformers.

        Raises:
            CheckpointError: There is none that can be read.
        """
        return read_tokenizer(self._files.description(), self.name)

    def weights(self, config: Any) -> Any:
        """Read the weights, after checking that they fit.

        Args:
            config: What `config` returned.

        Returns:
            The model, ready to run.

        Raises:
            CheckpointError: They are missing, damaged, incomplete or too large.
        """
        folder = self._files.weights()
        _check_weights(self.name, folder)
        dtype = choose_dtype(self._options.dtype, self._options.device_map)
        quantization = self._options.quantization_config or getattr(
            config, "quantization_config", None
        )
        stored = getattr(config, "dtype", None)
        parameters, rest = memory.stored_weights(
            folder, stored if isinstance(stored, torch.dtype) else torch.float32
        )
        needed = parameters * memory.bytes_per_parameter(dtype, quantization) + rest
        device_map = choose_device_map(self._options.device_map)
        memory.check(
            self.name,
            needed,
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
        return self._read(folder, config, dtype, device_map)

    def _read(self, folder: Path, config: Any, dtype: torch.dtype, device_map: Any) -> Any:
        from transformers import AutoModelForCausalLM

        options = self._options
        arguments: dict[str, Any] = {
            **options.model_kwargs,
            "config": config,
            "dtype": dtype,
            "device_map": device_map,
            "attn_implementation": options.attn_implementation,
            "quantization_config": options.quantization_config,
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
            )
        except Exception as error:
            raise CheckpointError(_cant_read(self.name, error)) from error
        model, report = loaded
        if missing := sorted(report.get("missing_keys", ())):
            message = (
                f"The weights of {self.name} are incomplete: {len(missing)} tensors are missing,"
                f" {missing[0]} first, and would be random. It may be the body of a model without"
                " its head, or an adapter (adapter=...); or download it again."
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
        CheckpointError: There is none that can be read.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    whole = (folder / "tokenizer.json").is_file()
    if not whole and (folder / "tokenizer.model").is_file():
        # From this file alone transformers 5 orders the merges wrongly: runs of spaces are split
        # in other ways than the model was trained on.
        message = (
            f"{name} has a tokenizer.model but no tokenizer.json, from which alone its tokens can"
            " be told exactly. Put the tokenizer.json of the model it was trained from (for"
            " LLaMA 2 checkpoints that of meta-llama/Llama-2-7b-hf) into its folder."
        )
        raise CheckpointError(message)
    try:
        if whole:
            # As it stands: LlamaTokenizer would rebuild it without its normaliser and so lose a
            # leading space.
            return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        message = (
            f"The tokenizer of {name} can't be read: {first_line(error)} Expected a tokenizer.json"
            " beside config.json; save the tokenizer into the checkpoint's folder."
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
        f"{name} is a {what}, which can't write text. An aligner needs a causal language model,"
        " such as LlamaForCausalLM."
    )
    raise CheckpointError(message)


def _check_weights(name: str, folder: Path) -> None:
    """All weight files must be there before the first is read."""
    for index in sorted(folder.glob("*.index.json")):
        if index.name not in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
            continue
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError) as error:
            message = f"{index} is damaged. Download {name} again."
            raise CheckpointError(message) from error
        missing = sorted(shard for shard in shards if not (folder / shard).is_file())
        if not missing:
            return
        if index.name.startswith("model") or not (folder / "model.safetensors").is_file():
            message = (
                f"{name} lacks {len(missing)} of {len(shards)} weight files, {missing[0]} first,"
                f" in {folder}. Download it again."
            )
            raise CheckpointError(message)
    if (folder / "model.safetensors").is_file() or (folder / "pytorch_model.bin").is_file():
        return
    gguf = " A .gguf file needs an engine that this version lacks."
    message = (
        f"There are no weights in {folder}: expected model.safetensors, pytorch_model.bin, or"
        " either in shards with their index.json." + (gguf if any(folder.glob("*.gguf")) else "")
    )
    raise CheckpointError(message)


def _no_config(name: str, folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        base = json.loads((folder / "adapter_config.json").read_text()).get(
            "base_model_name_or_path"
        )
        return (
            f"{name} is an adapter, not a whole checkpoint. Give the model that it was trained on"
            f" as model={base!r} and this one as adapter={name!r}."
        )
    return (
        f"There is no config.json in {folder}: expected a checkpoint of transformers, with"
        " config.json, a tokenizer and weights. Check the path or the hub id."
    )


def _cant_read(name: str, error: Exception) -> str:
    said = first_line(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return (
            f"Memory ran out while loading {name}: {said} Take a smaller checkpoint,"
            " dtype='bfloat16', a quantization_config=... or device_map='auto'."
        )
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return (
            f"A weight file of {name} is refused: it is damaged, or its pickle holds more than"
            " tensors, which could run any code. Use a copy with safetensors, from people you"
            " trust."
        )
    if isinstance(error, ImportError):
        return f"{name} needs a package that is not installed: {said}"
    return (
        f"The weights of {name} can't be read: {said} Download them again, or check that"
        " config.json belongs to them."
    )
