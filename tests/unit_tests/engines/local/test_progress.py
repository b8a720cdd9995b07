"""On a terminal a line shows what is loaded; anywhere else nothing is shown."""

from __future__ import annotations

import contextlib
import io
import logging

import pytest
from transformers.utils import logging as bars

from langchain_metaaligner.engines.local.progress import LoadProgress, bars_of_hub
from langchain_metaaligner.engines.registry import load_engine
from langchain_metaaligner.errors import CheckpointError
from tests.unit_tests.tiny import save


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")


def shown_by(work):
    """What a terminal gets; not by a fixture, since pytest captures what is there before a test."""
    with contextlib.redirect_stderr(Terminal()) as terminal:
        work()
    return terminal.getvalue()


def test_one_line_on_a_terminal_tells_what_is_loaded_and_how_large_it_is(checkpoint):
    text = shown_by(load_engine(str(checkpoint)).load)
    lines = text.replace("\n", "").split("\r")
    shown = [line.strip() for line in lines if line.startswith("Load")]
    assert shown[0] == f"Loading {checkpoint}: reading the configuration and the tokenizer"
    assert "billion parameters" in shown[1]
    assert "GiB): reading the weights" in shown[1]
    assert shown[-1].startswith(f"Loaded {checkpoint} (")
    assert text.endswith(" s.".ljust(len(lines[-1]) - lines[-1].rindex(" s.")) + "\n")


def test_a_failed_load_leaves_no_line(tmp_path):
    save(tmp_path)
    (tmp_path / "model.safetensors").unlink()

    def fail():
        with pytest.raises(CheckpointError):
            load_engine(str(tmp_path)).load()

    *_, before, last, after = shown_by(fail).split("\r")
    assert before.startswith("Loading")
    assert (last, after) == (" " * len(before), "")


def test_in_a_pipe_nothing_is_shown_and_bars_are_as_before(checkpoint, capfd):
    load_engine(str(checkpoint)).load()
    bar = bars_of_hub()(range(2))
    list(bar)
    assert capfd.readouterr() == ("", "")
    assert bars.set_tqdm_hook(None) is None


@pytest.mark.parametrize("quiet", ["bars", "log"])
def test_who_wants_no_bars_gets_no_line(checkpoint, monkeypatch, quiet):
    if quiet == "bars":
        monkeypatch.setattr("huggingface_hub.utils.are_progress_bars_disabled", lambda: True)
        monkeypatch.setattr(bars, "_tqdm_active", False)
    else:
        logging.getLogger("langchain_metaaligner").setLevel(logging.ERROR)
    try:
        shown = shown_by(load_engine(str(checkpoint)).load)
    finally:
        logging.getLogger("langchain_metaaligner").setLevel(logging.NOTSET)
    assert shown == ""


@pytest.mark.parametrize("stream", [None, "closed"])
def test_a_process_without_a_standard_error_loads_all_the_same(checkpoint, stream):
    if stream == "closed":
        stream = io.StringIO()
        stream.close()
    with contextlib.redirect_stderr(stream):
        load_engine(str(checkpoint)).load()


def test_a_line_is_cut_to_the_terminal_and_leaves_nothing_of_a_longer_one(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    progress = LoadProgress("x" * 100, shown=True)
    text = shown_by(lambda: (progress.step("a"), progress.end("short")))
    assert text == f"\rLoading {'x' * 31}\r{'short'.ljust(39)}\n"
