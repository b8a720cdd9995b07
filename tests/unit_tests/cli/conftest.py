from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from importlib.util import find_spec

import pytest

if find_spec("typer") is None:
    collect_ignore_glob = ["test_*.py"]


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def metaaligner(capsys, monkeypatch):
    """Runs a command line as a shell would, with a text on stdin."""
    from langchain_metaaligner.cli import main

    def run(*arguments: object, stdin: str | bytes = "") -> Done:
        given = stdin if isinstance(stdin, bytes) else stdin.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), "utf-8"))
        capsys.readouterr()
        code = main([str(one) for one in arguments])
        return Done(code, *capsys.readouterr())

    return run
