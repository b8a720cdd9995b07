"""Checkpoints of random weights in the published models' shapes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.benchmarks.cases import LLAMA2

SHAPES: dict[str, dict[str, int]] = {
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "1.1b": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
}


def write(folder: Path, shape: str) -> None:
    """A checkpoint of random weights as the authors' trainer leaves one."""
    config = LlamaConfig(
        **SHAPES[shape],
        vocab_size=32000,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        dtype="bfloat16",
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model: Any = LlamaForCausalLM(config).to(torch.bfloat16)
    state = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    del model
    names, shards = list(state), 3
    places = {}
    for shard in range(shards):
        file = f"pytorch_model-{shard + 1:05d}-of-{shards:05d}.bin"
        part = {name: state[name] for name in names[shard::shards]}
        torch.save(part, folder / file)
        places |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in state.values())
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": places})
    )
    said = config.to_dict() | {"use_cache": False, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(said))
    # As they are: read and written again by transformers, a leading space would be lost.
    for file in LLAMA2.glob("tokenizer*"):
        shutil.copy(file, folder)
