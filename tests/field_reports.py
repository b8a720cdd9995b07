"""What users of other tools reported, what proves it right here, and what came of that proof.

`tests/field/reports.toml` is the table that people write. `python -m tests.field_reports` runs the
tests that it names and notes in `tests/field/results.json` what came of them.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

import pytest

from tests.pages import ROOT

REPORTS = ROOT / "tests" / "field" / "reports.toml"
RESULTS = ROOT / "tests" / "field" / "results.json"
LIBRARIES = ("langchain-core", "langchain", "langgraph", "transformers", "torch")


@dataclass(frozen=True)
class Report:
    """What somebody ran into, and how it stands with it here.

    Attributes:
        happened: What went wrong elsewhere.
        sources: Where it was reported, as `owner/name#number`.
        tests: Ids of the tests that prove that it can't happen here.
        open: What no test proves yet, and why.
    """

    happened: str
    sources: tuple[str, ...]
    tests: tuple[str, ...] = ()
    open: str = ""


def reports() -> list[Report]:
    """All reports, in the order of the table."""
    rows = tomllib.loads(REPORTS.read_text(encoding="utf-8"))["report"]
    return [
        Report(**{name: tuple(one) if type(one) is list else one for name, one in row.items()})
        for row in rows
    ]


def named_tests() -> list[str]:
    """The ids of all tests that prove something, each once."""
    return list(dict.fromkeys(test for report in reports() for test in report.tests))


def exists(test: str) -> bool:
    """Whether there is a test of this id.

    Args:
        test: The id; the cases of a test have none of their own.
    """
    path, _, name = test.partition("::")
    return name in _tests_of(path)


@cache
def _tests_of(path: str) -> frozenset[str]:
    try:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return frozenset()
    functions = (
        one for one in tree.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return frozenset(one.name for one in functions if one.name.startswith("test_"))


def outcomes() -> dict[str, str]:
    """What came of each test when it was recorded: `passed`, `failed` or `skipped`."""
    found: dict[str, str] = json.loads(RESULTS.read_text(encoding="utf-8"))["outcomes"]
    return found


def table() -> str:
    """The table in docs/field_reports.md."""
    recorded = json.loads(RESULTS.read_text(encoding="utf-8"))
    lines = ["| reported | what the tests prove | result |", "| --- | --- | --- |"]
    for report in reports():
        links = ", ".join(_link(source) for source in report.sources)
        proof = "; ".join(_sentence(test) for test in report.tests) or "–"
        lines.append(
            f"| {report.happened} {links} | {proof} | {_result(report, recorded['outcomes'])} |"
        )
    ran = [recorded["outcomes"].get(test) for test in named_tests()]
    counts = ", ".join(f"{ran.count(one)} {one}" for one in ("passed", "skipped", "failed"))
    versions = ", ".join(f"{name} {found}" for name, found in recorded["versions"].items())
    return "\n".join([*lines, "", f"{len(ran)} tests: {counts}, with {versions}."]) + "\n"


def _link(source: str) -> str:
    repository, _, number = source.partition("#")
    return f"[{source}](https://github.com/{repository}/issues/{number})"


def _sentence(test: str) -> str:
    path, _, name = test.partition("::")
    return f"[{name.removeprefix('test_').replace('_', ' ')}](../{path})"


def _result(report: Report, outcomes: dict[str, str]) -> str:
    missing = f"not proved: {report.open}" if report.open else ""
    if not report.tests:
        return missing
    found = {outcomes.get(test, "not run") for test in report.tests}
    result = "holds" if found == {"passed"} else ", ".join(sorted(found - {"passed"}))
    return f"{result}; {missing}" if missing else result


class Recorder:
    """Notes what comes of each test; of one with several cases, what is worst."""

    _WORST = ("skipped", "passed", "failed")

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        test = re.sub(r"\[.*", "", report.nodeid, flags=re.DOTALL)
        known = self.outcomes.get(test, report.outcome)
        self.outcomes[test] = max(known, report.outcome, key=self._WORST.index)


def record() -> int:
    """Run all named tests and write down what came of them.

    Returns:
        The exit status of pytest.
    """
    recorder = Recorder()
    status = pytest.main(["--quiet", *named_tests()], plugins=[recorder])
    versions = {name: version(name).partition("+")[0] for name in LIBRARIES}
    found = {"versions": versions, "outcomes": dict(sorted(recorder.outcomes.items()))}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(status)


if __name__ == "__main__":
    sys.exit(record())
