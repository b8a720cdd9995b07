"""A run is killed at any moment, its disk is full, its file is large: no row is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# A million take a quarter of an hour: METAALIGNER_MANY_ROWS=1000000.
MANY = int(os.environ.get("METAALIGNER_MANY_ROWS", "60000"))

RUN = """
import resource, sys, time
from langchain_metaaligner import Aligner, Edit
from langchain_metaaligner.bulk import edit_file

class Stub:
    name = "stub"
    def edit(self, requests):
        time.sleep(float(sys.argv[3]))
        if any("boom" in request.draft for request in requests):
            raise RuntimeError("boom")
        return [Edit(request.draft.replace("bad", "good")) for request in requests]

if len(sys.argv) > 5:
    limit = getattr(resource, sys.argv[4])
    resource.setrlimit(limit, (int(sys.argv[5]),) * 2)
aligner = Aligner(engine=Stub(), guards=())
summary = edit_file(
    sys.argv[1], sys.argv[2], objectives="harmlessness", aligner=aligner, batch_size=64
)
print(summary.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def command(source: Path, out: Path, delay: float = 0.0, *limit: object) -> list[str]:
    return [sys.executable, "-c", RUN, str(source), str(out), str(delay), *map(str, limit)]


def written(path: Path, count: int) -> Path:
    with path.open("w") as lines:
        for i in range(count):
            answer = "boom" if i % 997 == 5 else f"a bad answer, number {i}. " * (1 + i % 7)
            row = {"id": i, "question": f"what is {i}?", "answer": answer}
            lines.write("no row\n" if i % 991 == 7 else json.dumps(row) + "\n")
    return path


def test_a_run_that_is_killed_at_any_moment_makes_the_same_file(tmp_path):
    chance = random.Random(7)
    source = written(tmp_path / "a.jsonl", 6000)
    subprocess.run(command(source, tmp_path / "whole.jsonl"), check=True)
    out = tmp_path / "out.jsonl"
    kills = 0
    while True:
        running = subprocess.Popen(command(source, out, 0.02))
        parts = tmp_path / "out.jsonl.parts"
        while running.poll() is None and not parts.exists() and not out.exists():
            time.sleep(0.005)
        if kills < 10:
            time.sleep(chance.random() * 0.6)
        else:
            running.wait(300)
        if running.poll() is not None:
            assert running.returncode == 0
            break
        running.send_signal(signal.SIGKILL)
        running.wait()
        kills += 1
    assert kills >= 5
    for ending in ("", ".problems.jsonl"):
        made = tmp_path / f"out.jsonl{ending}"
        assert made.read_bytes() == (tmp_path / f"whole.jsonl{ending}").read_bytes()
    problems = (tmp_path / "out.jsonl.problems.jsonl").read_bytes().splitlines()
    assert len(out.read_bytes().splitlines()) + len(problems) == 6000
    assert not (tmp_path / "out.jsonl.parts").exists()


@pytest.mark.parametrize("limit", [20_000, 400_000])
def test_a_file_that_may_not_grow_ends_the_run_with_one_line_and_it_goes_on(tmp_path, limit):
    source = written(tmp_path / "a.jsonl", 3000)
    out = tmp_path / "out.jsonl"
    limited = command(source, out, 0.0, "RLIMIT_FSIZE", limit)
    ended = subprocess.run(limited, check=False, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "BulkError" in ended.stderr.splitlines()[-1]
    assert "run this again to go on" in ended.stderr.splitlines()[-1]
    assert not out.exists()
    subprocess.run(command(source, out), check=True)
    assert len(out.read_bytes().splitlines()) > 2900


def test_many_rows_need_no_more_memory_than_ten_thousand(tmp_path):
    used = []
    for count in (10_000, MANY):
        source = written(tmp_path / f"{count}.jsonl", count)
        out = tmp_path / f"{count}.out.jsonl"
        limited = command(source, out, 0.0, "RLIMIT_AS", 800 * 2**20)
        ended = subprocess.run(limited, check=True, capture_output=True, text=True)
        rows, most = map(int, ended.stdout.split())
        assert rows == count
        used.append(most / 1024)
    assert used[1] < used[0] + 40
