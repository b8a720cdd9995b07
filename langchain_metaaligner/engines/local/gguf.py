"""Reads a LLaMA model from a GGUF file in full precision, for the embedded aligner's base."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from langchain_metaaligner.engines.gguf_header import read_header
from langchain_metaaligner.engines.local.progress import SILENT, LoadProgress
from langchain_metaaligner.errors import CheckpointError

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
_LAYER_OF_TRANSFORMERS = re.compile(r"model\.layers\.(\d+)\.(.+)\.weight")
_THEIR_LAYER_NAMES = {ours: theirs for theirs, ours in _LAYER_NAMES.items()}
_THEIR_NAMES = {ours: theirs for theirs, ours in _NAMES.items()}


class GgufFile:
    """A GGUF file of a LLaMA model.

    transformers reads such files too, but takes five times as long and marks the model as
    quantised, so that no adapter can be merged into it. The package gguf dequantises the weights.

    Args:
        path: The file.

    Raises:
        CheckpointError: It is not a GGUF file, or not one of a LLaMA model.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        header = read_header(path)
        self._metadata, self._tensors = header.metadata, header.tensors
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
            vocab_size=self._tensors["token_embd.weight"].dimensions[-1],
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
        return sum(torch.Size(one.dimensions).numel() for one in self._tensors.values())

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
        for name, place in self._tensors.items():
            kind = GGMLQuantizationType(place.kind)
            block, block_bytes = GGML_QUANT_SIZES[kind]
            shape = tuple(reversed(place.dimensions))  # GGUF lists the innermost dimension first
            row_bytes = shape[-1] // block * block_bytes
            end = place.offset + torch.Size(shape[:-1]).numel() * row_bytes
            values = dequantize(raw[place.offset : end].reshape(-1, row_bytes), kind)
            tensor = torch.from_numpy(np.array(values, dtype=np.float32)).reshape(shape)
            progress.count(len(state), len(self._tensors))
            state[_name(name)] = _halves_together(name, tensor, config).to(dtype)
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


def _name(name: str) -> str:
    layer = _LAYER.fullmatch(name)
    if layer:
        return f"model.layers.{layer[1]}.{_LAYER_NAMES[layer[2]]}.weight"
    return _NAMES[name]


def written_tensor(name: str, tensor: torch.Tensor, config: Any) -> tuple[str, torch.Tensor]:
    """Name and order a weight of transformers as a GGUF file has it.

    Args:
        name: Its name in the state dict of a `LlamaForCausalLM`.
        tensor: The weight.
        config: The model's configuration.

    Returns:
        The name and the tensor in the file.

    Raises:
        KeyError: No LLaMA in GGUF has such a weight.
    """
    layer = _LAYER_OF_TRANSFORMERS.fullmatch(name)
    theirs = (
        f"blk.{layer[1]}.{_THEIR_LAYER_NAMES[layer[2]]}.weight" if layer else _THEIR_NAMES[name]
    )
    heads = _rotated_heads(theirs, config)
    if heads is None:
        return theirs, tensor
    rows, columns = tensor.shape
    return theirs, tensor.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(
        rows, columns
    )


def _halves_together(theirs: str, tensor: torch.Tensor, config: Any) -> torch.Tensor:
    """Undo llama.cpp's order of rows in query and key weights, which suits its rotary embedding.

    Args:
        theirs: The tensor's name in the file.
        tensor: `[rows, columns]` for queries and keys; any shape for other tensors.
        config: The model's configuration.

    Returns:
        A tensor of the same shape.
    """
    heads = _rotated_heads(theirs, config)
    if heads is None:
        return tensor
    rows, columns = tensor.shape
    return tensor.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, -1)


def _rotated_heads(theirs: str, config: Any) -> int | None:
    """The number of heads in a weight that the rotary embedding turns; `None` for any other."""
    if theirs.endswith("attn_q.weight"):
        return int(config.num_attention_heads)
    if theirs.endswith("attn_k.weight"):
        return int(config.num_key_value_heads)
    return None
