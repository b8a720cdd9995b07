"""Edits of two processes that torchrun starts and that share a model's weights."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

EDITS = """
import json, os, sys
import torch
from langchain_metaaligner import Request, load_engine

torch.set_num_threads(1)
folder, prompts, length, out = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
engine = load_engine(folder, dtype="float32", tp_plan="auto")
texts = [edit.text for edit in engine.edit([Request(one, "", length) for one in prompts])]
shares = engine.model.model.layers[0].self_attn.q_proj.weight.to_local().shape[0]
whole = engine.model.model.layers[0].self_attn.q_proj.weight.shape[0]
assert shares * 2 == whole, (shares, whole)
with open(f"{out}.{os.environ['RANK']}", "w") as file:
    json.dump(texts, file)
"""


def shared_edits(checkpoint: Path, prompts: Sequence[str], length: int) -> list[list[str]]:
    """What each of the two processes makes of the prompts, with half of the weights."""
    script, out = checkpoint.parent / "split_edits.py", checkpoint.parent / "split_edits.json"
    script.write_text(EDITS)
    given = [str(script), str(checkpoint), json.dumps(list(prompts)), str(length), str(out)]
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    subprocess.run([*starter, "--nproc-per-node=2", *given], check=True, timeout=300)
    return [json.loads(Path(f"{out}.{rank}").read_text()) for rank in range(2)]
