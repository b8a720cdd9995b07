"""What is made from the code matches it: the picture, the reference, and slow pages' blocks."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ET
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

import langchain_metaaligner
from tests.pages import PAGES, SLOW_PAGES, Block, blocks_of

DOCS = Path(__file__).parents[2] / "docs"


def script(name: str) -> ModuleType:
    spec = spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_shows_what_the_embedded_aligner_makes_of_these_replies() -> None:
    picture = script("picture")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notice that the embedded aligner is a demonstration
        made = picture.edits()
    assert [one.status for one in made] == ["edited", "unchanged"]
    shown = picture.PICTURE.read_text(encoding="utf-8")
    assert shown == picture.draw(made), "`make picture` draws it anew"
    ET.fromstring(shown)


@pytest.mark.parametrize(
    "block",
    [one for path in PAGES if path.name in SLOW_PAGES for one in blocks_of(path)],
    ids=str,
)
def test_a_python_block_of_a_slow_page_runs_as_it_is(block: Block) -> None:
    block.run()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(DOCS / "reference.py"), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_reference_has_every_public_name_with_its_words(pages: Path) -> None:
    page = (pages / "langchain_metaaligner.html").read_text(encoding="utf-8")
    for name in langchain_metaaligner.__all__:
        section = re.search(rf'<section id="{name}">(.*?)</section>', page, re.DOTALL)
        assert section, name
        assert 'class="docstring"' in section[1], name


def test_the_sections_of_docstrings_are_read_as_such(pages: Path) -> None:
    for page in pages.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(
            r"^\s*(?:Args|Returns|Raises|Yields|Attributes):$", text, re.MULTILINE
        ), page


def test_the_reference_lists_every_option_of_the_runnable(pages: Path) -> None:
    page = (pages / "langchain_metaaligner.html").read_text(encoding="utf-8")
    first_cells = re.findall(r"<tr>\s*<td>(.*?)</td>", page, re.DOTALL)
    listed = {re.sub(r"<[^>]+>", "", cell) for cell in first_cells}
    fields = langchain_metaaligner.MetaAlignerRunnable.model_fields
    ours = {name for name in fields if name not in {"name", "shared"}}
    assert ours <= listed, ours - listed


def test_the_reference_has_the_function_for_generate_and_the_training(pages: Path) -> None:
    below = pages / "langchain_metaaligner"
    assert 'id="edit_draft_decoding"' in (below / "engines/generation.html").read_text("utf-8")
    assert (below / "training.html").exists()
