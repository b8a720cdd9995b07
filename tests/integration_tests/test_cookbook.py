"""Notebooks are executed and compared as `make cookbook` does it: drift is found, and only that."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

COOKBOOK = Path(__file__).parents[2] / "cookbook"
NOTEBOOKS = sorted(COOKBOOK.glob("*.ipynb"))


def load_execute() -> Any:
    spec = importlib.util.spec_from_file_location("cookbook_execute", COOKBOOK / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


execute = load_execute()


def notebook(*sources: str, tags: tuple[str, ...] = ()) -> nbformat.NotebookNode:
    cells = [nbformat.v4.new_code_cell(source, metadata={"tags": tags}) for source in sources]
    for place, cell in enumerate(cells):
        cell["id"] = f"cell-{place}"
    return nbformat.v4.new_notebook(cells=cells)


def run(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    # In a process of its own: a kernel's client opens sockets, which tests must not.
    command = [sys.executable, str(COOKBOOK / "execute.py"), *options, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def make(tmp_path: Path, *sources: str, tags: tuple[str, ...] = ()) -> Path:
    path = tmp_path / "made.ipynb"
    nbformat.write(notebook(*sources, tags=tags), path)
    return path


def shown(text: str) -> nbformat.NotebookNode:
    made = notebook("...")
    made.cells[0].outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
    return made


def test_outputs_are_written_and_then_found_to_be_the_same(tmp_path: Path):
    path = make(tmp_path, "import time, uuid\nprint(uuid.uuid4(), f'{time.perf_counter():.2f} s')")
    assert run(path).returncode == 0
    kept = path.read_text()
    assert "stdout" in kept

    checked = run(path, "--check")

    assert checked.returncode == 0, checked.stdout
    assert path.read_text() == kept


def test_another_output_fails_the_check_and_is_shown(tmp_path: Path):
    path = make(tmp_path, "print('as it is')")
    assert run(path).returncode == 0
    path.write_text(path.read_text().replace("as it is\\n", "as it was\\n"))
    kept = path.read_text()

    checked = run(path, "--check")

    assert checked.returncode == 1
    assert "-as it was" in checked.stdout
    assert "+as it is" in checked.stdout
    assert path.read_text() == kept


def test_a_cell_that_varies_is_compared_by_the_kinds_of_its_outputs_alone(tmp_path: Path):
    path = make(tmp_path, "import random\nprint(random.random())", tags=("varies",))
    assert run(path).returncode == 0
    assert run(path, "--check").returncode == 0
    path.write_text(path.read_text().replace("print(", "repr("))

    assert run(path, "--check").returncode == 1


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import warnings\nwarnings.warn('of age')", "of age"),
        ("raise ValueError('by purpose')", "by purpose"),
        (
            "import urllib.request\nurllib.request.urlopen('http://192.0.2.1', timeout=5)",
            "runs offline",
        ),
    ],
    ids=["warning", "error", "network"],
)
def test_a_notebook_fails_that_warns_raises_or_asks_for_the_network(
    source: str, told: str, tmp_path: Path
):
    path = make(tmp_path, source)
    kept = path.read_text()

    done = run(path)

    assert done.returncode == 1
    assert told in done.stdout
    assert path.read_text() == kept


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("edited in 0.52 s", "edited in 11 s"),
        ("'seconds': 0.123456", "'seconds': 2.5"),
        ("<Thing at 0x7f448daa2690>", "<Thing at 0x7f448daa1111>"),
        ("run 019ab0c2-0000-7000-8000-000000000000", "run 019ab0c2-1111-7000-8000-00000000000a"),
        ("torch 2.13.0", "torch 2.14.1"),
        ("agreement -0.0571548388", "agreement -0.0571548412"),
    ],
)
def test_what_differs_by_nature_is_no_drift(before: str, after: str):
    assert execute.drift(shown(before), shown(after)) == ""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("36 passes", "2 passes"),
        ("agreement -0.0571548388", "agreement -0.1171548388"),
        ("I can't help.", "I can help."),
        ("12.6 GiB", "13.6 GiB"),
    ],
)
def test_whatever_else_differs_is_drift(before: str, after: str):
    assert execute.drift(shown(before), shown(after)) != ""


def test_the_picture_is_compared_and_not_its_repr():
    def drawn(markup: str, repr_: str) -> nbformat.NotebookNode:
        made = notebook("...")
        data = {"text/html": markup, "text/plain": repr_}
        made.cells[0].outputs = [nbformat.v4.new_output("display_data", data=data)]
        return made

    assert execute.drift(drawn("<p>a</p>", "one"), drawn("<p>a</p>", "another")) == ""
    assert execute.drift(drawn("<p>a</p>", "one"), drawn("<p>b</p>", "one")) != ""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_as_a_clean_run_left_it(path: Path):
    kept = nbformat.read(path, as_version=4)
    nbformat.validate(kept)
    code = [cell for cell in kept.cells if cell.cell_type == "code"]
    text = path.read_text(encoding="utf-8")

    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert set(kept.metadata) == {"kernelspec", "language_info"}
    assert not re.search(r"/(?:home|root|work|tmp|Users)/", text)
    assert len(text) < 200_000
    assert any("text/html" in output.get("data", {}) for cell in code for output in cell.outputs)
    assert all(cell.metadata.keys() <= {"tags"} for cell in kept.cells)


def test_the_index_lists_every_notebook_and_links_lead_somewhere():
    index = (COOKBOOK / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\((\d\d_\w+\.ipynb)\)", index) == [path.name for path in NOTEBOOKS]
    for page in [COOKBOOK / "README.md", *NOTEBOOKS]:
        for link in re.findall(r"\]\(([^)#:\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            assert (COOKBOOK / link).exists(), f"{page.name}: {link}"
