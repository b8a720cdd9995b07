"""Both local engines on the same edits, side by side: `python -m tests.benchmarks.bench_llamacpp`.

The embedded aligner is written as GGUF and edits the same answers in torch and in llama.cpp, which
drafts in each of its ways and not at all. Nothing is forced: the edits are what the aligner makes,
grouped by how much of the answer stays. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing
from difflib import SequenceMatcher
from itertools import islice, zip_longest
from pathlib import Path
from statistics import median
from typing import Any

import torch

from langchain_metaaligner import Aligner, Alignment
from langchain_metaaligner.errors import EngineError
from langchain_metaaligner.training import export_gguf
from tests.benchmarks.cases import OBJECTIVES, told

KINDS = ("unchanged", "light", "one sentence", "rewrite")
TOGETHER = 16
TRIED = 150
"""How many answers are edited in search of enough of each kind."""
DTYPES = {"f32": "float32", "bf16": "bfloat16"}


def kind_of(made: Alignment) -> str:
    """How much of the answer stays in an edit."""
    if made.text == made.original:
        return KINDS[0]
    same = SequenceMatcher(None, made.original.split(), made.text.split()).ratio()
    return KINDS[1] if same >= 0.9 else KINDS[2] if same >= 0.5 else KINDS[3]


def picked(aligner: Aligner, each: int) -> list[Any]:
    """Answers whose edits end by themselves (of so small a model a few never do), by kind."""
    found: dict[str, list[Any]] = defaultdict(list)
    for one in islice(told(), TRIED):
        row = (one.context, one.answer, OBJECTIVES)
        try:
            kind = kind_of(aligner.align(*row))
        except EngineError:
            continue
        if len(found[kind]) < each:
            found[kind].append(row)
        if sum(map(len, found.values())) == each * len(KINDS):
            break
    return [row for rows in zip_longest(*found.values()) for row in rows if row is not None]


def measure(file: Path, dtype: str, threads: int, each: int) -> dict[str, dict[str, list[float]]]:
    """The seconds of each engine for each kind of edit, and for 16 edits at once."""
    torch.set_num_threads(threads)
    given: Mapping[str, Any] = {"caution": 0, "max_new_tokens": 192}
    local: Mapping[str, Any] = {"dtype": DTYPES[dtype], "device_map": "cpu"}
    engines = {"torch": Aligner("embedded", **local, **given)}
    for how in ("ngram-simple", "ngram-mod", "none"):
        one = Aligner(str(file), n_threads=threads, spec_type=how, **given)  # type: ignore[arg-type]
        engines[f"llama.cpp, {how}"] = one
    rows = picked(engines["torch"], each)
    seconds: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in engines}
    for name, aligner in engines.items():
        with closing(aligner):
            aligner.load().align(*rows[0])
            for row in rows:
                started = time.perf_counter()
                made = aligner.align(*row)
                seconds[name][kind_of(made)].append(time.perf_counter() - started)
            started = time.perf_counter()
            aligner.align_batch(rows[:TOGETHER])
            seconds[name][f"{TOGETHER} at once"].append(time.perf_counter() - started)
    return seconds


def table(seconds: Mapping[str, Mapping[str, list[float]]]) -> str:
    """The medians, as a table."""
    kinds = (*KINDS, f"{TOGETHER} at once")
    lines = [f"| seconds | {' | '.join(kinds)} |", "| --- " * (len(kinds) + 1) + "|"]
    for name, found in seconds.items():
        cells = [
            f"{median(found[kind]):.2f} ({len(found[kind])})" if found.get(kind) else "–"
            for kind in kinds
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=list(DTYPES), default="f32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--each", type=int, default=6, help="edits of each kind")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = export_gguf("embedded", Path(folder) / "aligner.gguf", dtype=given.dtype)
        print(table(measure(file, given.dtype, given.threads, given.each)))


if __name__ == "__main__":
    main()
