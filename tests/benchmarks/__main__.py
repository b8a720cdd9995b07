"""Runs all benchmarks and saves what they found: `python -m tests.benchmarks --write`.

Each part, in each format, has a process of its own: what one leaves behind, threads of other
libraries above all, must not slow the next. `--write` saves the figures, with what the machine is,
and writes the README's table; without it they are only printed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from langchain_metaaligner import checkpoints
from tests.benchmarks import bench_memory, cases, llamacpp, table
from tests.benchmarks.bench_edits import PARTS

README = Path(__file__).parents[2] / "README.md"
PLACE = re.compile(r"(<!-- table: speed -->\n).*?(<!-- end -->)", re.DOTALL)


def machine(threads: int) -> dict[str, Any]:
    """What the figures were measured on, and on what."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    weights = checkpoints.embedded_adapter() / "adapter_model.safetensors"
    return {
        "cpu": name[1] if name else platform.processor() or platform.machine(),
        "instructions": [one for one in wanted if flags and one in flags[1].split()],
        "cores": os.cpu_count(),
        "threads": threads,
        "system": platform.system(),
        "preloaded": Path(os.environ.get("LD_PRELOAD", "")).name or None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": importlib.metadata.version("transformers"),
        "llama_cpp": importlib.metadata.version("llama_cpp_python") if llamacpp.there() else None,
        "adapter": hashlib.sha256(weights.read_bytes()).hexdigest()[:12],
        "conversations": cases.source(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def apart(module: str, *arguments: str) -> Any:
    """Run a benchmark in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [
            sys.executable,
            "-m",
            f"tests.benchmarks.{module}",
            *arguments,
            "--out",
            str(out),
        ]
        subprocess.run(command, check=True)
        return json.loads(out.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="save the figures; write the table")
    parser.add_argument("--count", type=int, default=4, help="conversations for each case")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtypes", nargs="*", default=table.FORMATS, choices=table.FORMATS)
    parser.add_argument("--only", nargs="*", default=PARTS, choices=PARTS)
    given = parser.parse_args()
    began = time.monotonic()
    found: dict[str, Any] = {"machine": machine(given.threads), "count": given.count}
    found["overhead"] = apart("bench_overhead")
    settings = ["--threads", str(given.threads), "--count", str(given.count)]
    found["edits"] = {dtype: {} for dtype in given.dtypes}
    for dtype, edits in found["edits"].items():
        for part in given.only:
            edits.update(apart("bench_edits", "--dtype", dtype, *settings, "--only", part))
    found["memory"] = {dtype: bench_memory.apart(dtype, given.threads) for dtype in given.dtypes}
    found["minutes"] = round((time.monotonic() - began) / 60, 1)
    text = json.dumps(_rounded(found), indent=1, ensure_ascii=False) + "\n"
    if not given.write:
        print(text)
        return
    table.RESULTS.mkdir(exist_ok=True)
    table.CPU.write_text(text, encoding="utf-8")
    readme = README.read_text(encoding="utf-8")
    README.write_text(PLACE.sub(lambda old: f"{old[1]}{table.table()}\n{old[2]}", readme), "utf-8")
    print(f"{table.CPU.name} and the README's table, after {found['minutes']} minutes")


def _rounded(value: Any) -> Any:
    """Four digits that count: more would be noise."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
