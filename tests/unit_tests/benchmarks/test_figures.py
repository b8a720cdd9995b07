"""Figures say what was measured: medians inside their quartiles, and few values one by one."""

from __future__ import annotations

import json
import re
import sys
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks import __main__ as command
from tests.benchmarks import labels, pieces, replies, table
from tests.benchmarks.figures import FEW, Figures, overhead_said, said

SECONDS = st.floats(0.01, 1000)
FOUND = {
    "commit": "abc",
    "allocator": labels.SYSTEM,
    "others": 0.0,
    "minutes": 1.0,
    "format": "bfloat16",
}
ABOUT = {
    "cpu": "a CPU",
    "threads": 2,
    "torch": "2",
    "transformers": "5",
    "replies": "replies",
}


def numbers(text: str) -> list[float]:
    return [float(one) for one in re.findall(r"-?\d+(?:\.\d+)?", text)]


@given(st.lists(st.tuples(SECONDS, SECONDS), min_size=FEW))
def test_a_headline_lies_inside_the_quartiles_beside_it(times):
    ratios = [theirs / ours for theirs, ours in times]
    middle, low, high, count = numbers(said(ratios))
    assert low <= middle <= high
    assert count == len(times)
    assert middle == pytest.approx(median(ratios), rel=0.03, abs=0.005)


def test_a_headline_is_the_median_of_ratios_and_no_ratio_of_medians():
    figures = Figures()
    for theirs, ours in ((1, 10), (2, 1), (30, 10), (40, 10), (5, 1)):
        figures.add(labels.UNCHANGED, labels.AUTHORS, theirs, ours)
    single = {**FOUND, "figures": figures.raw()}
    text = table.cpu_table({"about": ABOUT, "pieces": {"single, bfloat16": single}})
    assert "| unchanged | 3.00 (2.00 to 4.00; 5) | not run |" in text


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=FEW - 1))
def test_few_values_are_said_one_by_one_without_a_median(values):
    listed, _, rest = said(values).partition(" (each")
    assert [float(one) for one in listed.split(", ")] == pytest.approx(values, rel=0.03, abs=0.01)
    assert rest == f"; no median of {len(values)})"


@pytest.mark.parametrize("name", labels.BELOW_ZERO)
def test_a_cost_below_zero_stands_with_its_reason(name):
    overhead = {**FOUND, "microseconds": {name: [-3.0, -2.0, -1.0, 1.0, -5.0]}}
    text = table.cpu_table({"about": ABOUT, "pieces": {"overhead": overhead}})
    assert f"{name} -2 µs (-3 to -1; 5), below zero because {labels.BELOW_ZERO[name]}" in text


def test_a_cost_above_zero_needs_no_reason():
    assert overhead_said([1.0, 2.0, 3.0, 4.0, 5.0], "it is noise") == "3 µs (2 to 4; 5)"


def test_an_option_is_compared_only_where_the_text_is_the_same():
    figures = Figures()
    for seconds, same in ((2, True), (3, True), (4, True), (5, True), (6, True), (0.1, False)):
        case = f"{labels.TOKENS}, {labels.REWRITTEN}"
        figures.add(case, labels.DEFAULT, seconds, 1, same=same)
    calls = {**FOUND, "figures": figures.raw()}
    text = table.cpu_table({"about": ABOUT, "pieces": {"options of calls": calls}})
    said_so = "4.00 (3.00 to 5.00; 5); 1 with another text"
    assert f"| `{labels.TOKENS}` | not run | {said_so} |" in text


@pytest.mark.parametrize(
    ("edit", "became"),
    [
        ("One two three four. ", labels.UNCHANGED),
        ("One two three five.", labels.PARTLY),
        ("No, I would rather not.", labels.REWRITTEN),
    ],
)
def test_what_became_of_a_reply_is_told_by_its_words(edit, became):
    assert replies.kind("One two three four.", edit) == became


@pytest.fixture
def benchmarks(tmp_path, monkeypatch):
    """Runs all benchmarks; `measured` are the pieces, one of which may be interrupted."""
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- table: speed -->\nSTALE\n<!-- end -->\nafter\n")
    monkeypatch.setattr(command, "PAGES", [readme])
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    monkeypatch.setattr(table, "CPU", tmp_path / "cpu.json")
    measured: list[tuple[str, str | None]] = []

    def measure(piece, dtype, given):
        if len(measured) == measure.most:
            raise KeyboardInterrupt
        measured.append((piece.name, dtype))
        return {**FOUND, "figures": {}, "commit": "abc"}

    def run(*arguments: str, most: int = 100) -> list[tuple[str, str | None]]:
        measured.clear()
        measure.most = most
        monkeypatch.setattr(sys, "argv", ["benchmarks", "--write", *arguments])
        command.main()
        return list(measured)

    monkeypatch.setattr(pieces, "measure", measure)
    run.measured, run.readme = measured, readme  # type: ignore[attr-defined]
    return run


def test_an_interrupted_run_resumes_with_the_piece_that_it_was_in(benchmarks):
    with pytest.raises(KeyboardInterrupt):
        benchmarks(most=3)
    assert len(benchmarks.measured) == 3
    first = list(benchmarks.measured)
    rest = benchmarks()
    assert rest
    assert not set(first) & set(rest)
    assert benchmarks() == []
    assert benchmarks("--anew") == first + rest
    text = benchmarks.readme.read_text()
    assert text.startswith("before\n<!-- table: speed -->\n")
    assert text.endswith("\n<!-- end -->\nafter\n")
    assert "commit abc" in text
    assert "STALE" not in text


def test_figures_of_other_code_are_measured_again(benchmarks):
    every = benchmarks()
    held = json.loads(table.CPU.read_text())
    held["about"]["package"] = "other code"
    table.CPU.write_text(json.dumps(held))
    assert benchmarks() == every


def test_the_saved_figures_have_enough_pairs_for_a_median():
    if not table.CPU.is_file():
        assert table.table().startswith("No figures yet")
        return
    found = json.loads(table.CPU.read_text(encoding="utf-8"))
    counts = {
        (name, case): len(pairs["ours"])
        for name, piece in found["pieces"].items()
        for case, held in piece.get("figures", {}).items()
        for pairs in held.values()
    }
    assert {name: count for name, count in counts.items() if count < FEW} == {}
