"""Memory that 16 edits at once need over the weights: `python -m tests.benchmarks.bench_memory`.

The process's largest resident set while they are made, less what it is before: Linux starts that
count anew on request, so loading does not hide it. Each measurement runs in a process of its own,
after a short edit that makes torch and its libraries take what they need once.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.bench_free import SIZE, Bench
from tests.benchmarks.figures import Figures
from tests.benchmarks.labels import AUTHORS, TOGETHER
from tests.benchmarks.pieces import finish, worker_parser

WAYS = ("authors", "ours")
MOST = 48
"""Tokens of an edit: most of the memory goes to reading the prompts."""
RESET = Path("/proc/self/clear_refs")


def resident(field: str) -> int:
    """Bytes that the process holds (`VmRSS`), or held at most (`VmHWM`)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    if found is None:
        message = f"/proc/self/status has no {field}."
        raise OSError(message)
    return int(found[1]) * 1024


def measure(way: str, dtype: str | None, round_: int) -> dict[str, object]:
    """Bytes over the weights for 16 edits, made in this process."""
    bench = Bench(dtype, most=MOST)
    replies = bench.replies[round_ * SIZE :][:SIZE]
    bench.generate(bench.replies[-1:])
    bench.ready()
    before = resident("VmRSS")
    RESET.write_text("5", encoding="utf-8")
    if way == "ours":
        bench.edit_all(replies)
    else:
        bench.generate(replies)
    return {"format": bench.format, "bytes": resident("VmHWM") - before}


def main() -> None:
    parser = worker_parser(__doc__)
    parser.add_argument("--way", choices=WAYS, help="one measurement alone, in this process")
    parser.add_argument("--round", type=int, default=0, help="which 16 replies")
    given = parser.parse_args()
    if given.way:
        print(json.dumps(measure(given.way, given.dtype, given.round)))
        return
    figures, used = Figures(), None
    for place in range(given.count if RESET.exists() else 0):
        taken = {}
        for way in WAYS:
            command = [sys.executable, "-m", "tests.benchmarks.bench_memory", "--way", way]
            command += ["--round", str(place), "--threads", str(given.threads)]
            command += ["--dtype", given.dtype] if given.dtype else []
            made = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(made.stdout.splitlines()[-1])
            taken[way], used = found["bytes"], found["format"]
        figures.add(TOGETHER, AUTHORS, taken["authors"], taken["ours"])
    finish(given, {"format": used, "figures": figures.raw()})


if __name__ == "__main__":
    main()
