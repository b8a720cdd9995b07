"""Reads a LLaMA model from a GGUF file in full precision, for the embedded aligner's base."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from langchain_metaaligner.engines.local.progress import SILENT, LoadProgress
from langchain_metaaligner.errors import CheckpointError

_FORMATS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
_LAYER_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


class GgufFile:
    """A GGUF file of a LLaMA model.

    transformers reads such files too, but takes five times as long and marks the model as
    quantised, so that no adapter can be merged into it. The package gguf dequantises the weights
    here, but its reader is not used for the header: it makes an object for each token of the
    vocabulary, which takes 3 to 5 seconds for the embedded aligner's base on two cores. Reading
    only what is needed takes 0.05 seconds.

    Args:
        path: The file.

    Raises:
        CheckpointError: It is not a GGUF file, or not one of a LLaMA model.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                self._metadata, self._tensors, self._start = _read_header(file)
        except (OSError, struct.error, UnicodeDecodeError, KeyError) as error:
            message = (
                f"{path} can't be read as a GGUF file: {error}. Reinstall the package that it"
                " belongs to."
            )
            raise CheckpointError(message) from error
        kind = self._metadata.get("general.architecture")
        if kind != "llama":
            message = (
                f"{path} contains a {kind!r} model; expected 'llama'. Reinstall the package that"
                " it belongs to."
            )
            raise CheckpointError(message)

    def config(self) -> Any:
        """Read the configuration.

        Returns:
            A `LlamaConfig`.
        """
        from transformers import LlamaConfig

        said = {key.removeprefix("llama."): value for key, value in self._metadata.items()}
        heads = said["attention.head_count"]
        return LlamaConfig(
            vocab_size=self._tensors["token_embd.weight"][0][-1],
            hidden_size=said["embedding_length"],
            intermediate_size=said["feed_forward_length"],
            num_hidden_layers=said["block_count"],
            num_attention_heads=heads,
            num_key_value_heads=said.get("attention.head_count_kv", heads),
            head_dim=said.get("rope.dimension_count", said["embedding_length"] // heads),
            max_position_embeddings=said["context_length"],
            rms_norm_eps=said["attention.layer_norm_rms_epsilon"],
            rope_parameters={
                "rope_type": "default",
                "rope_theta": said.get("rope.freq_base", 10000.0),
            },
            bos_token_id=said.get("tokenizer.ggml.bos_token_id"),
            eos_token_id=said.get("tokenizer.ggml.eos_token_id"),
            pad_token_id=said.get("tokenizer.ggml.padding_token_id"),
            tie_word_embeddings="output.weight" not in self._tensors,
        )

    def tokenizer(self) -> Any:
        """Read the tokenizer.

        Returns:
            A fast tokenizer of transformers.
        """
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(
            str(self._path.parent), gguf_file=self._path.name, local_files_only=True
        )

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(torch.Size(shape).numel() for shape, _, _ in self._tensors.values())

    def weights(self, config: Any, dtype: torch.dtype, progress: LoadProgress = SILENT) -> Any:
        """Read the weights.

        Args:
            config: What `config` returned.
            dtype: The dtype to convert them to.
            progress: Shows how far it has come.

        Returns:
            A plain `LlamaForCausalLM`.
        """
        import numpy as np
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import dequantize
        from transformers import LlamaForCausalLM

        raw = np.memmap(self._path, mode="r", dtype=np.uint8)
        state: dict[str, torch.Tensor] = {}
        for name, (dimensions, kind_id, offset) in self._tensors.items():
            kind = GGMLQuantizationType(kind_id)
            block, block_bytes = GGML_QUANT_SIZES[kind]
            shape = tuple(reversed(dimensions))  # GGUF lists the innermost dimension first
            row_bytes = shape[-1] // block * block_bytes
            begin = self._start + offset
            size = torch.Size(shape[:-1]).numel() * row_bytes
            values = dequantize(raw[begin : begin + size].reshape(-1, row_bytes), kind)
            tensor = torch.from_numpy(np.array(values, dtype=np.float32)).reshape(shape)
            progress.count(len(state), len(self._tensors))
            state[_name(name)] = self._unpermuted(name, tensor, config).to(dtype)
        if config.tie_word_embeddings:
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        with torch.device("meta"):
            model: Any = LlamaForCausalLM(config)
        model = model.to_empty(device="cpu").to(dtype)
        # The file has no buffers; they are computed from the configuration.
        model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
        model.load_state_dict(state)
        model.tie_weights()
        return model.eval()

    def _unpermuted(self, name: str, tensor: torch.Tensor, config: Any) -> torch.Tensor:
        """Undo llama.cpp's reordering of rows in query and key weights, for its rotary embedding.

        Args:
            name: The tensor's name.
            tensor: `[rows, columns]` for queries and keys; any shape for other tensors.
            config: The model's configuration.

        Returns:
            A tensor of the same shape.
        """
        if name.endswith("attn_q.weight"):
            heads = config.num_attention_heads
        elif name.endswith("attn_k.weight"):
            heads = config.num_key_value_heads
        else:
            return tensor
        rows, columns = tensor.shape
        return tensor.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, -1)


def _name(name: str) -> str:
    layer = _LAYER.fullmatch(name)
    if layer:
        return f"model.layers.{layer[1]}.{_LAYER_NAMES[layer[2]]}.weight"
    return _NAMES[name]


def _read_header(
    file: BinaryIO,
) -> tuple[Mapping[str, Any], dict[str, tuple[tuple[int, ...], int, int]], int]:
    """Read the header of a GGUF file.

    Args:
        file: The file, at its beginning.

    Returns:
        The metadata without arrays; the dimensions, type and offset of each tensor by its name;
        and the position in bytes at which the tensors begin.
    """
    magic, _, tensors, keys = _unpack(file, "<4sIQQ")
    if magic != b"GGUF":
        message = "it does not begin with GGUF"
        raise OSError(message)
    metadata = {}
    for _ in range(keys):
        key = _string(file)
        metadata[key] = _value(file, _unpack(file, "<I")[0])
    table = {}
    for _ in range(tensors):
        name = _string(file)
        (count,) = _unpack(file, "<I")
        dimensions = _unpack(file, f"<{count}Q")
        kind, offset = _unpack(file, "<IQ")
        table[name] = (dimensions, kind, offset)
    alignment = metadata.get("general.alignment", 32)
    return metadata, table, -(-file.tell() // alignment) * alignment


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        element, count = _unpack(file, "<IQ")
        for _ in range(count):  # skip the vocabulary: transformers reads it for the tokenizer
            if element == _STRING:
                file.seek(_unpack(file, "<Q")[0], 1)
            else:
                _value(file, element)
        return None
    return _unpack(file, _FORMATS[kind])[0]


def _string(file: BinaryIO) -> str:
    return file.read(_unpack(file, "<Q")[0]).decode()


def _unpack(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))
