"""The table of field reports names tests that exist, and results that were recorded."""

from __future__ import annotations

import re

import pytest

from tests import field_reports
from tests.field_reports import Recorder, exists, named_tests, outcomes, reports


def test_every_named_test_exists():
    assert [test for test in named_tests() if not exists(test)] == []


def test_every_named_test_has_a_recorded_result_and_no_other_has():
    assert set(outcomes()) == set(named_tests()), "`make field` records them anew"


def test_every_report_is_proved_or_says_why_not():
    for report in reports():
        assert report.tests or report.open, report.happened
        assert report.sources
        assert all(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", source) for source in report.sources)


def test_a_test_that_was_renamed_is_missed():
    here = "tests/unit_tests/test_field_reports.py::"
    assert exists(f"{here}test_every_named_test_exists")
    assert not exists(f"{here}named_tests")
    assert not exists(f"{here}test_of_another_name")
    assert not exists("tests/unit_tests/test_of_another_file.py::test_every_named_test_exists")


def test_the_table_shows_what_was_recorded(monkeypatch, tmp_path):
    proof = ["tests/a.py::test_a_b", "tests/a.py::test_c"]
    monkeypatch.setattr(field_reports, "REPORTS", tmp_path / "reports.toml")
    monkeypatch.setattr(field_reports, "RESULTS", tmp_path / "results.json")
    (tmp_path / "reports.toml").write_text(
        f"""
        [[report]]
        happened = "It broke."
        sources = ["a/b#1"]
        tests = {proof[:1]}
        [[report]]
        happened = "It broke again."
        sources = ["a/b#2"]
        tests = {proof}
        open = "half of it is not built yet"
        [[report]]
        happened = "It broke elsewhere."
        sources = ["a/b#3"]
        open = "not built yet"
        """
    )
    (tmp_path / "results.json").write_text(
        '{"versions": {"torch": "2"}, "outcomes": {"tests/a.py::test_a_b": "passed"}}'
    )
    rows = [row.strip("|").split("|") for row in field_reports.table().splitlines()[2:5]]
    assert [row[2].strip() for row in rows] == [
        "holds",
        "not run; not proved: half of it is not built yet",
        "not proved: not built yet",
    ]
    assert rows[0][1].strip() == "[a b](../tests/a.py)"


@pytest.mark.parametrize(
    ("cases", "outcome"),
    [
        (["passed", "passed"], "passed"),
        (["passed", "skipped"], "passed"),
        (["skipped", "skipped"], "skipped"),
        (["failed", "passed", "skipped"], "failed"),
    ],
)
def test_of_a_test_with_several_cases_the_worst_counts(cases, outcome):
    recorder = Recorder()
    for case, found in enumerate(cases):
        report = pytest.TestReport(
            f"a.py::test_a[{case}]", ("a.py", 1, ""), {}, found, None, "call"
        )
        recorder.pytest_runtest_logreport(report)
    assert recorder.outcomes == {"a.py::test_a": outcome}
