"""The command line as a process: Ctrl-C, closed pipes, completion, a dialogue on a terminal."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("typer")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# A shell that starts the tests in the background has told them to ignore Ctrl-C.
COMMAND = [
    sys.executable,
    "-c",
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    " from langchain_metaaligner.cli import main; sys.exit(main())",
]
ENGINE = """
import sys
from langchain_metaaligner.testing import ScriptedEngine

def reply(request):
    if "slow" in request.draft:
        sys.stderr.write("begun\\n")
    return request.draft.replace("stupid", "kind")

class Slow(ScriptedEngine):
    def edit(self, requests):
        made = super().edit(requests)
        if any("slow" in one.draft for one in requests):
            import time
            time.sleep(60)
        return made

engine = Slow(reply)
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts the command line in a folder with an engine."""
    (tmp_path / "mine.py").write_text(ENGINE)
    processes: list[subprocess.Popen[bytes]] = []

    def begin(*arguments: str, **given: object) -> subprocess.Popen[bytes]:
        options: dict[str, object] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "cwd": tmp_path,
            "env": {**os.environ, "PYTHONPATH": str(ROOT)},
        }
        processes.append(subprocess.Popen([*COMMAND, *arguments], **{**options, **given}))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def test_ctrl_c_in_an_edit_ends_with_one_line(start):
    process = start("align", "--engine", "mine:engine", "-q", "?", "-a", "slow")
    assert process.stderr.readline() == b"begun\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err.strip()) == (130, b"", b"interrupted")


def test_a_file_goes_on_after_ctrl_c(start, tmp_path):
    rows = [{"question": "?", "answer": f"stupid {n}"} for n in range(8)]
    source = tmp_path / "replies.jsonl"
    source.write_text("\n".join(map(json.dumps, [*rows, {"question": "?", "answer": "slow"}])))
    run = ["bulk", "replies.jsonl", "edits.jsonl", "--engine", "mine:engine", "--chunk-size", "1"]
    process = start(*run)
    assert process.stderr.readline() == b"begun\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"interrupted. What is done is kept" in err
    assert b"Traceback" not in err
    (tmp_path / "mine.py").write_text(ENGINE.replace("sleep(60)", "sleep(0)"))
    process = start(*run, "--json")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(out)["resumed"] == 8


def test_a_closed_pipe_is_silent(start):
    rows = b"".join(b'{"question": "?", "answer": "stupid"}\n' for _ in range(2000))
    process = start("align", "--engine", "mine:engine", "--json", stdin=subprocess.PIPE)
    process.stdout.close()
    _, err = process.communicate(rows, timeout=60)
    assert (process.returncode, err) == (141, b"")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("metaaligner al", "align"),
        ("metaaligner models ", "gguf"),
        ("metaaligner align --max-new", "--max-new-tokens"),
        ("metaaligner align -o help", "helpfulness"),
        ("metaaligner align --spec-type ngram-s", "ngram-simple"),
    ],
)
def test_a_shell_completes_commands_options_and_values(start, line, found):
    process = start(
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "_METAALIGNER_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1),
        }
    )
    out, err = process.communicate(timeout=30)
    assert found.encode() in out.split(), (out, err)


def test_a_dialogue_on_a_terminal_is_coloured_and_ends_at_ctrl_d(start):
    ours, theirs = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    environment |= {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
    process = start(
        *("align", "--engine", "mine:engine"),
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
    )  # fmt: skip
    os.close(theirs)
    shown = ""

    def until(text: str, times: int = 1) -> None:
        nonlocal shown
        end = time.monotonic() + 30
        while shown.count(text) < times:
            assert time.monotonic() < end, shown
            shown += os.read(ours, 4096).decode()

    until("Question")
    os.write(ours, b"May I?\n\n")
    until("Reply")
    os.write(ours, b"No, stupid.\n\n")
    until("Question", times=2)
    end = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < end:
        os.write(ours, b"\x04")  # lost, if the line is not being read yet
        time.sleep(0.2)
    assert process.returncode == 0
    os.close(ours)
    assert "edited in" in shown
    assert "\x1b[9;31mstupid" in shown
    assert "\x1b[32mkind" in shown


def test_train_makes_an_adapter_of_preferences(tmp_path):
    pytest.importorskip("torch")
    from tests.unit_tests.tiny import save
    from tests.unit_tests.training.rows import preference_rows

    base = save(tmp_path / "base", config={"max_position_embeddings": 2048})
    rows = preference_rows(5)
    data = tmp_path / "mine.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "answer_a": ""}]))
    options = "--rank 2 --batch-size 4 --no-bf16 --validation 0 --licence mit".split()
    done = subprocess.run(
        [*COMMAND, "train", data, "--base", base, "--out", tmp_path, *options],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == str(tmp_path / "adapter")
    assert "5 pairs from 6 rows, 1 problems" in done.stderr
    stages = [line.split(":")[0] for line in done.stderr.splitlines() if line.startswith("stage")]
    assert stages == ["stage warm_up", "stage equal", "stage contrastive"]
    card = (tmp_path / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "5 preference pairs of mine.jsonl" in card


def test_standard_input_that_was_edited_already_is_known_again(tmp_path):
    from tests.unit_tests.cli.engines import ENGINE

    def bulk(rows: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, "bulk", "-", "out.jsonl", "--engine", ENGINE, "--json"],
            input=rows, check=False, capture_output=True, text=True, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    row = '{"question": "q", "answer": "stupid"}\n'
    assert bulk(row).returncode == 0
    assert json.loads(bulk(row).stdout)["edited"] == 1
    other = bulk(row * 2)
    assert other.returncode == 1
    assert "the source has changed" in other.stderr


@pytest.mark.parametrize("command", [["models"], ["doctor"], ["bulk", "--help"]])
def test_a_reader_that_has_gone_is_no_error(command, tmp_path):
    read, written = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*COMMAND, *command], stdout=written, stderr=subprocess.PIPE, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    os.close(written)
    assert (done.returncode, done.stderr) == (141, b"")
