"""The example scripts run as they stand, and show what an aligner changes."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from langchain_metaaligner import Aligner
from tests.unit_tests.scripted import ScriptedEngine

COOKBOOK = Path(__file__).parents[4] / "cookbook"
NEEDS = {"agent_executor": "langchain_classic", "deep_agent": "deepagents"}


@pytest.mark.parametrize("name", NEEDS)
def test_an_example_shows_the_answer_before_and_after(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip(NEEDS[name])
    monkeypatch.syspath_prepend(COOKBOOK)
    monkeypatch.delitem(sys.modules, name, raising=False)
    example = importlib.import_module(name)

    example.main(Aligner(engine=ScriptedEngine("A better answer, made for this test.")))

    before, after = capsys.readouterr().out.split("\nAfter")
    assert example.ANSWER in before
    assert "A better answer, made for this test." in after
    assert example.ANSWER not in after
