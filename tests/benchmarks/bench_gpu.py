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

from langchain_metaaligner.engines.registry import load_engine
from tests.benchmarks.bench_edits import measure_many, measure_single
from tests.benchmarks.cases import DATA, conversations
from tests.benchmarks.figures import Figures
from tests.benchmarks.procedures import Ours
from tests.benchmarks.table import GPU

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


def measure(shape: str, count: int) -> dict[str, Any]:
    """Load, memory, and the figures of single edits and of 16 at once."""
    on_gpu = torch.cuda.is_available()
    found: dict[str, Any] = {"gpu": torch.cuda.get_device_name() if on_gpu else None}
    figures = Figures()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), shape)
        start = time.perf_counter()
        with load_engine(folder, dtype="bfloat16") as engine:  # type: ignore[attr-defined]
            engine.load()
            found["load, s"] = time.perf_counter() - start
            if on_gpu:
                found["weights, GiB"] = torch.cuda.memory_allocated() / 2**30
            end = engine.tokenizer.eos_token_id
            cases = conversations(engine.prompt_tokenizer, end, max(count, 16))
            ours = Ours(engine)
            measure_single(figures, ours, cases[:count], None)
            measure_many(figures, ours, cases[:16], 1)
            if on_gpu:
                found["most memory, GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return found | {"edits": figures.raw()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=list(SHAPES), default="7b")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--write", action="store_true", help="save the figures")
    given = parser.parse_args()
    if given.shape == "7b" and not torch.cuda.is_available():
        raise SystemExit("A model of the 7B's shape is measured on a GPU only; there is none here.")
    text = json.dumps(measure(given.shape, given.count), indent=1)
    if given.write:
        GPU.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
