"""A training of its own process, killed from outside."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.unit_tests.tiny import save
from tests.unit_tests.training.rows import preference_rows

PATIENCE = 240  # seconds


def _command(base: Path, data: Path, out: Path) -> list[str]:
    options = "--rank 2 --batch-size 1 --no-bf16 --validation 0 --save-steps 3 --epochs 8".split()
    train = "import sys; from langchain_metaaligner.cli import main; sys.exit(main())"
    where = ["--base", str(base), "--out", str(out)]
    return [sys.executable, "-c", train, "train", str(data), *where, *options]


def _run(command: list[str]) -> None:
    made = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)
    assert made.returncode == 0, made.stderr[-2000:]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = preference_rows(8)
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_a_run_that_was_killed_outright_ends_as_an_undisturbed_one(tmp_path, data) -> None:
    base = save(tmp_path / "base", config={"max_position_embeddings": 2048})
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _run(_command(base, data, whole))
    command = _command(base, data, killed)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        end = time.monotonic() + PATIENCE
        while not list(killed.glob("stages/*/checkpoint-*")) and time.monotonic() < end:
            assert run.poll() is None, "the run ended before it could be killed"
            time.sleep(0.005)
        run.send_signal(signal.SIGKILL)
    assert run.returncode == -signal.SIGKILL
    assert not (killed / "adapter").exists()
    _run(command)
    name = "adapter_model.safetensors"
    one, other = load_file(whole / "adapter" / name), load_file(killed / "adapter" / name)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
