"""The parts of a measurement, each in a process of its own, and what is kept of each.

What one leaves behind, threads of other libraries above all, must not slow the next. A piece that
is there already, of the same code on the same machine, is not measured again.
"""

from __future__ import annotations

import argparse
import ctypes.util
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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from langchain_metaaligner import checkpoints
from tests.benchmarks import llamacpp, replies
from tests.benchmarks.labels import LARGE, PLAYED, REAL, SYSTEM

ROOT = Path(__file__).parents[2]
PRELOADED = ("LD_PRELOAD", "MALLOC_CONF", "MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_")
NOTHING_KNOWN = "unknown"


@dataclass(frozen=True)
class Piece:
    """A part of the measurement.

    Attributes:
        name: What it is kept under.
        module: The benchmark that measures it.
        arguments: Its own options.
        best: Whether it runs with jemalloc, where that is installed, as the best case does.
        per_format: Whether it runs in each format, and not in the default one alone.
        most: More pairs for each case are not measured.
    """

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    best: bool = False
    per_format: bool = False
    most: int | None = None


PIECES = (
    Piece("overhead", "bench_overhead"),
    Piece(PLAYED, "play_drafts"),
    Piece(REAL, "bench_edits", ("--only", "real"), per_format=True, most=2),
    Piece(
        LARGE,
        "bench_edits",
        ("--only", "real", "--shape", "1.1b", "--dtype", "bfloat16"),
        most=1,
    ),
    Piece("single", "bench_free", ("--only", "single"), per_format=True),
    Piece("together", "bench_free", ("--only", "together"), per_format=True),
    Piece("options of calls", "bench_options", ("--only", "calls")),
    Piece("options of engines", "bench_options", ("--only", "engines")),
    Piece("memory", "bench_memory"),
    Piece(
        "best case",
        "bench_edits",
        (
            *("--only", "single", "--edits"),
            *("unchanged", "one sentence replaced", "cut short after half"),
        ),
        best=True,
    ),
    Piece("chats", "bench_edits", ("--only", "chat"), best=True),
)


def worker_parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--dtype", help="format of the weights; the aligner's default otherwise")
    parser.add_argument("--count", type=int, default=5, help="pairs for each case")
    parser.add_argument("--threads", type=_set_threads, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="where what was found goes, as JSON")
    return parser


def finish(given: argparse.Namespace, found: Mapping[str, Any]) -> None:
    """Write down, or print, what was found."""
    text = json.dumps(found, indent=1)
    if given.out:
        given.out.write_text(text, encoding="utf-8")
    else:
        print(text)


def measure(piece: Piece, dtype: str | None, given: argparse.Namespace) -> dict[str, Any]:
    """Run a piece in a process of its own.

    Args:
        piece: What to measure.
        dtype: The format; `None` is the default.
        given: `count`, `threads`, and `jemalloc`: its file, or `None`.

    Returns:
        What it found, and how.
    """
    environment = {name: value for name, value in os.environ.items() if name not in PRELOADED}
    preloaded = given.jemalloc if piece.best else None
    if preloaded:
        environment["LD_PRELOAD"] = str(preloaded)
    others, began = busy(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [sys.executable, "-m", f"tests.benchmarks.{piece.module}", *piece.arguments]
        command += [
            "--count",
            str(min(given.count, piece.most or given.count)),
            "--threads",
            str(given.threads),
        ]
        command += ["--out", str(out), *(("--dtype", dtype) if dtype else ())]
        subprocess.run(command, check=True, env=environment)
        found = json.loads(out.read_text(encoding="utf-8"))
    return {
        **found,
        "allocator": Path(preloaded).name if preloaded else SYSTEM,
        "others": round(others, 2),
        "minutes": round((time.monotonic() - began) / 60, 1),
    }


def about(count: int, threads: int) -> dict[str, Any]:
    """What figures are measured with; those of anything else are measured again."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    weights = checkpoints.embedded_adapter() / "adapter_model.safetensors"
    return {
        "count": count,
        "cpu": name[1] if name else platform.processor() or platform.machine(),
        "instructions": [one for one in wanted if flags and one in flags[1].split()],
        "cores": os.cpu_count(),
        "threads": threads,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": importlib.metadata.version("transformers"),
        "llama_cpp": importlib.metadata.version("llama_cpp_python") if llamacpp.there() else None,
        "adapter": hashlib.sha256(weights.read_bytes()).hexdigest()[:12],
        "replies": replies.source(),
        "package": _package(),
    }


def commit() -> str:
    """The commit of the code, and whether the package differs from it."""
    try:
        name = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", "langchain_metaaligner")
    except (OSError, subprocess.CalledProcessError):
        return NOTHING_KNOWN
    return f"{name} with changes" if changed else name


def jemalloc() -> str | None:
    """The file of jemalloc, where the system finds it."""
    return ctypes.util.find_library("jemalloc")


def busy(seconds: float = 1.0) -> float:
    """The share of the processors' time that others use, while this process waits."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0

    def times() -> list[int]:
        first = stat.read_text(encoding="utf-8").splitlines()[0]
        return [int(one) for one in first.split()[1:9]]

    before = times()
    time.sleep(seconds)
    passed = [now - then for now, then in zip(times(), before, strict=True)]
    return 1 - (passed[3] + passed[4]) / max(1, sum(passed))  # idle, and waiting for a disk


def _set_threads(text: str) -> int:
    torch.set_num_threads(int(text))
    return int(text)


def _package() -> str:
    digest = hashlib.sha256()
    for file in sorted((ROOT / "langchain_metaaligner").rglob("*.py")):
        digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _git(*arguments: str) -> str:
    made = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return made.stdout.strip()
