"""Load, memory, step and draft figures of a model of the 7B's shape: needs a GPU of 24 GiB.

`python -m tests.benchmarks.bench_gpu`. The weights are random, in the published repositories'
layout (float32 pickles would be 27 GB, so shards are written in bfloat16), the outputs forced; the
tokenizer is LLaMA 2's from the data folder. `--shape tiny` tries the script out on any machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from langchain_metaaligner.engines.base import load_engine
from tests.benchmarks.bench_edits import CASES, single, together
from tests.benchmarks.cases import DATA, conversations

SHAPES: dict[str, dict[str, int]] = {
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
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
    AutoTokenizer.from_pretrained(DATA.parent / "llama2_tokenizer").save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=list(SHAPES), default="7b")
    parser.add_argument("--count", type=int, default=12)
    given = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    if given.shape == "7b" and not on_gpu:
        raise SystemExit("A model of the 7B's shape is measured on a GPU only; there is none here.")
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), given.shape)
        start = time.perf_counter()
        engine: Any = load_engine(folder, dtype="bfloat16")
        engine.load()
        print(f"load: {time.perf_counter() - start:.1f} s")
        if on_gpu:
            print(f"weights: {torch.cuda.memory_allocated() / 2**30:.2f} GiB")
        end = engine.tokenizer.eos_token_id
        cases = conversations(engine._held.codec, end, max(given.count, 16))
        print("| case | passes | tokens a pass | times as fast |\n| --- | --- | --- | --- |")
        for name in CASES:
            print(single(engine, cases[: given.count], name, times=True))
        print(
            f"| 16 mixed at once | | | {together(engine, cases[:16], CASES, threads=False):.2f} |"
        )
        if on_gpu:
            print(f"most memory: {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")
        engine.close()


if __name__ == "__main__":
    main()
