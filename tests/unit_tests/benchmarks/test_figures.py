"""Figures say what was measured: medians inside their quartiles, and few values one by one."""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from pathlib import Path
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


def real_edits(policies: list[str], seconds: list[tuple[float, float]]) -> dict:
    figures = Figures()
    for theirs, ours in seconds:
        figures.add(labels.REAL_EDIT, labels.AUTHORS, theirs, ours, passes=100, tokens=150)
        figures.add(labels.REAL_EDIT, labels.LOOKUP, theirs / 2, ours)
    return {**FOUND, "figures": figures.raw(), "policies": policies}


def played(*rates: float) -> dict[str, list[float]]:
    return {"rates": list(rates), "ratios": [rate - 0.1 for rate in rates]}


REAL = {
    f"{labels.REAL}, bfloat16": real_edits(
        ["a", "a", "b", "b", "b"], [(2, 1), (3, 1), (4, 1), (5, 1), (6, 1)]
    ),
    labels.PLAYED: {
        **{name: value for name, value in FOUND.items() if name != "format"},
        "played": {
            "real": {"a": played(1, 1, 2, 3, 3), "b": played(1, 2, 2, 2, 3)},
            "made up": {"unchanged": played(10, 20, 30, 40, 50)},
        },
    },
    labels.LARGE: real_edits(["a", "b"], [(3, 2), (5, 2)]),
}


def test_real_edits_stand_first_with_each_policy_and_the_worst(tmp_path, monkeypatch):
    single = Figures()
    for seconds in range(FEW):
        single.add(labels.UNCHANGED, labels.AUTHORS, 9 + seconds, 1)
    found = {"single, bfloat16": {**FOUND, "figures": single.raw()}, **REAL}
    monkeypatch.setattr(table, "CPU", tmp_path / "cpu.json")
    table.CPU.write_text(json.dumps({"about": ABOUT, "pieces": found}))
    text = table.headline()
    assert "| a | 2.00 (1.00 to 3.00; 5) | 2.00, 3.00 | not measured |" in text
    assert "| b | 2.00 (2.00 to 2.00; 5) | 4.00, 5.0, 6.0 | not measured |" in text
    assert "| all | 2.00 (1.25 to 2.75; 10) | 4.00 (worst 2.00; 5) | not measured |" in text
    assert text.index("| all |") < text.index("| unchanged |")
    assert text.index("| all |") < table.table().index("| unchanged |")


def test_what_was_not_measured_on_real_edits_is_said():
    text = table.cpu_table({"about": ABOUT, "pieces": REAL})
    assert (
        "In bfloat16, times as fast as prompt lookup of transformers with 10 tokens: 2.00 (worst"
        " 1.00; 5); as llama.cpp with the same weights and no draft: not measured. Tokens a pass"
        " of these edits: 1.50 (worst 1.50; 5)." in text
    )
    assert "In float32, times" not in text
    assert (
        "of 100 to 160 words, of answers of a 1.50 at 1.50 tokens a pass; b 2.50 at 1.50 tokens a"
        " pass." in text
    )
    assert "| real, of a | 2.00 (1.00 to 3.00; 5) | 1.90 (0.90 to 2.90; 5) | 0.900 |" in text
    assert "| unchanged | 30 (20 to 40; 5) | 30 (20 to 40; 5) | 9.900 |" in text


@pytest.mark.parametrize("name", [*REAL, None])
def test_a_table_without_some_pieces_has_the_others(name):
    kept = {one: held for one, held in REAL.items() if one != name}
    for some in (kept, {name: REAL[name]} if name else {}):
        text = table.cpu_table({"about": ABOUT, "pieces": some})
        assert ("With a model of" in text) == (labels.LARGE in some)
        assert ("**Played through" in text) == (labels.PLAYED in some)
        assert ("In bfloat16, times" in text) == (f"{labels.REAL}, bfloat16" in some)


def test_without_the_edits_their_tables_are_left_out():
    nothing = {**FOUND, "figures": {}, "policies": []}
    found = {
        f"{labels.REAL}, bfloat16": nothing,
        labels.LARGE: nothing,
        labels.PLAYED: {**FOUND, "played": {}},
    }
    text = table.cpu_table({"about": ABOUT, "pieces": found})
    assert "dits" not in text
    assert "| ---" not in text


@pytest.mark.parametrize(("wanted", "counts"), [(9, {2, 1, 9}), (1, {1})])
def test_long_pieces_measure_few_pairs_however_many_are_wanted(wanted, counts, monkeypatch):
    seen = set()

    def run(command, **_):
        seen.add(int(command[command.index("--count") + 1]))
        out = command[command.index("--out") + 1]
        Path(out).write_text("{}", encoding="utf-8")

    monkeypatch.setattr(pieces.subprocess, "run", run)
    monkeypatch.setattr(pieces, "busy", lambda: 0.0)
    for piece in pieces.PIECES:
        pieces.measure(piece, None, Namespace(count=wanted, threads=1, jemalloc=None))
    assert seen == counts


def test_the_saved_figures_have_enough_pairs_for_a_median():
    if not table.CPU.is_file():
        assert table.table().startswith("No figures yet")
        return
    found = json.loads(table.CPU.read_text(encoding="utf-8"))
    counts = {
        (name, case): len(pairs["ours"])
        for name, piece in found["pieces"].items()
        if name != labels.LARGE  # said one by one
        for case, held in piece.get("figures", {}).items()
        for pairs in held.values()
    }
    assert {name: count for name, count in counts.items() if count < FEW} == {}
