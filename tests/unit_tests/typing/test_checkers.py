"""What mypy, pyright and an editor tell a user about the code that they write with this package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
# Kept, so that what does not change is read once.
CACHE = ROOT / ".mypy_cache" / "user"
CORRECT, MISTAKES = FILES = (HERE / "correct.py", HERE / "mistakes.py")


def marked(file: Path) -> set[int]:
    """The numbers of the lines that are marked as mistakes."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return {number for number, line in enumerate(lines, 1) if "# mistake: " in line}


def mypy(place: Path) -> dict[str, dict[int, str]]:
    """Run mypy as a user may: strictly, and with no plugin.

    Args:
        place: A folder for its settings.

    Returns:
        By file and line, what it found.
    """
    settings = place / "mypy.ini"
    # What stands behind the faces takes a minute to read, and their signatures hold none of it.
    settings.write_text(
        "[mypy]\nstrict = True\nfollow_imports = silent\n"
        "[mypy-torch.*,transformers.*]\nfollow_imports = skip\n",
        encoding="utf-8",
    )
    options = [f"--config-file={settings}", "--no-error-summary"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, f"--cache-dir={CACHE}", *map(str, FILES)],
        cwd=place,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr, done.stderr
    found: dict[str, dict[int, str]] = {file.name: {} for file in FILES}
    for path, line, message in re.findall(r"^(.+?):(\d+): error: (.*)$", done.stdout, re.MULTILINE):
        found[Path(path).name][int(line)] = message
    return found


def pyright(place: Path) -> dict[str, dict[int, str]]:
    """Run pyright with its own defaults; a file may ask for more.

    Args:
        place: A folder for its settings.

    Returns:
        By file and line, what it found.
    """
    settings = {
        "include": [str(file) for file in FILES],
        "extraPaths": [str(ROOT)],
        "typeCheckingMode": "standard",
        "pythonVersion": "3.11",
    }
    project = place / "pyrightconfig.json"
    project.write_text(json.dumps(settings), encoding="utf-8")
    checker = Path(sys.executable).parent / "basedpyright"
    done = subprocess.run(
        [checker, "-p", project, "--pythonpath", sys.executable, "--outputjson"],
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == len(FILES), report
    found: dict[str, dict[int, str]] = {file.name: {} for file in FILES}
    for one in report["generalDiagnostics"]:
        if one["severity"] in ("error", "warning"):
            found[Path(one["file"]).name][one["range"]["start"]["line"] + 1] = one["message"]
    return found


@pytest.fixture(scope="module", params=[mypy, pyright])
def found(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("checker"))


def test_a_checker_finds_each_mistake_of_a_user_and_nothing_else(found):
    assert len(marked(MISTAKES)) > 10
    assert set(found["mistakes.py"]) == marked(MISTAKES), found["mistakes.py"]


def test_a_checker_has_nothing_against_a_correct_file(found):
    assert found["correct.py"] == {}
