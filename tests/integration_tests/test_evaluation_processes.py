"""An evaluation whose process is killed, or told to stop, goes on where it was."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from langchain_metaaligner.evaluation import EvaluationResult

pytestmark = pytest.mark.slow
pytest.importorskip("scipy")

KILLED = """
import os, signal, sys
from langchain_metaaligner import Aligner
from langchain_metaaligner.evaluation import evaluate
from langchain_metaaligner.testing import ScriptedEngine

out, log = sys.argv[1:]
made = 0

def judge(context, first, second, objective):
    global made
    os.write(asked, f"{context}{first}{second}\\n".encode())
    made += 1
    if made == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return 1 if "good" in first else 2

def edit(request):
    os.write(asked, f"edit {request.draft}\\n".encode())
    return request.draft.replace("bad", "good")

rows = [{"context": f"{n}?", "answer": f"A bad answer {n}."} for n in range(10)]
asked = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
status = 1
while status:
    child = os.fork()
    if not child:
        aligner = Aligner(engine=ScriptedEngine(edit))
        given = {"judge": judge, "aligner": aligner, "out": out, "check_judge": False}
        evaluate(rows, objectives="humour", **given)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    os.write(asked, f"ended {status}\\n".encode())
"""


def test_a_process_that_is_killed_again_and_again_gets_there(tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", KILLED, str(out), str(log)], cwd=root, check=True, timeout=120
    )
    result = EvaluationResult.from_jsonl(out)
    assert result.rates().wins == 10
    lines = log.read_text().splitlines()
    killed = [line for line in lines if line.startswith("ended") and line != "ended 0"]
    edits = [line for line in lines if line.startswith("edit ")]
    assert killed
    assert len(edits) == len(set(edits)) == 10
    # Only the question during which the process was killed is asked again.
    assert len(lines) - len(edits) == 20 + len(killed) + len(killed) + 1
    assert len((out / "results.jsonl").read_text().splitlines()) == 1 + 10


STOPPED = """
import signal, sys, time
from langchain_metaaligner.evaluation import evaluate

# A shell that starts the tests in the background has told them to ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
out, log, stalls = sys.argv[1:]

def judge(context, first, second, objective):
    with open(log, "a") as asked:
        asked.write(f"{context}{first}\\n")
    if stalls == "yes" and context == "5?":
        time.sleep(60)
    return 1 if "good" in first else 2

rows = [{"context": f"{n}?", "answer": f"Bad {n}.", "edited": f"good {n}"} for n in range(10)]
evaluate(rows, objectives="humour", judge=judge, out=out, check_judge=False)
"""


def test_ctrl_c_stops_at_once_although_the_judge_stalls(tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", STOPPED, str(out), str(log)]
    process = subprocess.Popen([*command, "yes"], cwd=root, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while time.monotonic() < end and (not log.exists() or "5?" not in log.read_text()):
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=15)
    assert process.returncode != 0
    assert told.rstrip().endswith("KeyboardInterrupt")
    asked = log.read_text().splitlines()
    subprocess.run([*command, "no"], cwd=root, check=True, timeout=60)
    assert len(log.read_text().splitlines()) == len(asked) + 20 - 10
    assert EvaluationResult.from_jsonl(out).rates().wins == 10
