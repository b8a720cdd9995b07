"""Memory that 16 mixed edits need over the weights: `python -m tests.benchmarks.bench_memory`.

The process's largest resident set while they are made, less what it is before: Linux starts that
count anew on request, so loading does not hide it. Each way runs in a process of its own, after a
short edit that makes torch and its libraries take what they need once.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import torch

from tests.benchmarks.bench_edits import aligner
from tests.benchmarks.cases import CASES, UNCHANGED, conversations
from tests.benchmarks.procedures import generate

WAYS = ("ours", "authors")


def resident(field: str) -> int:
    """Bytes that the process holds (`VmRSS`), or held at most (`VmHWM`)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    if found is None:
        message = f"/proc/self/status has no {field}."
        raise OSError(message)
    return int(found[1]) * 1024


def measure(way: str, dtype: str) -> int:
    """Bytes over the weights for 16 mixed edits, made in this process."""
    with aligner(dtype) as ours:
        end = ours.engine.tokenizer.eos_token_id
        cases = conversations(ours.engine._held.codec, end, 16)
        names = [CASES[place % len(CASES)] for place in range(len(cases))]
        short = [(cases[0].ids[:64], cases[0].edits[UNCHANGED])]
        generate(ours.model, short, most=4)
        ours.one(cases[0], UNCHANGED)
        ours.forget()
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        if way == "ours":
            ours.many(cases, names, threads=False)
        else:
            rows = [(case.ids, case.edits[name]) for case, name in zip(cases, names, strict=True)]
            generate(ours.model, rows)
        return resident("VmHWM") - before


def apart(dtype: str, threads: int) -> dict[str, int] | None:
    """Both ways, each in a process of its own; `None` where the system can't tell."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    found = {}
    for way in WAYS:
        command = [sys.executable, "-m", "tests.benchmarks.bench_memory", "--way", way]
        command += ["--dtype", dtype, "--threads", str(threads)]
        made = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[way] = int(json.loads(made.stdout.splitlines()[-1]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    made = measure(given.way, given.dtype) if given.way else apart(given.dtype, given.threads)
    print(json.dumps(made))


if __name__ == "__main__":
    main()
