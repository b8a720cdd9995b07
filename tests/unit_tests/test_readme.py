"""The README says what is so: its code runs, its tables are what the code does."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
from langchain_core.language_models import FakeListChatModel

from langchain_metaaligner import Aligner, Edit, EngineError, MetaAlignerRunnable, Request
from langchain_metaaligner.checkpoints import PUBLISHED
from langchain_metaaligner.editing.objectives import CATALOGUE
from langchain_metaaligner.editing.prompts import FAMILIES
from tests.benchmarks import table as speed

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"]
BLOCK = re.compile(
    r"(?P<note><!-- test: (?P<why>[^\n]*) -->\n)?```python\n(?P<code>.*?)^```",
    re.DOTALL | re.MULTILINE,
)
BLOCKS = [
    pytest.param(
        path, block, id=f"{path.name} line {block.string.count(chr(10), 0, block.start())}"
    )
    for path in PAGES
    for block in BLOCK.finditer(path.read_text(encoding="utf-8"))
]
# A link in Markdown or in HTML; one that leads out of the project is not followed.
LINK = re.compile(r"""(?:\]\(|(?:src|href)=")(?!https?:)([^)"#]*)(?:#([^)"]*))?[)"]""")


@pytest.fixture(scope="module")
def loaded_once() -> Iterator[None]:
    """Keeps the embedded aligner in memory; each block would load it anew otherwise."""
    aligner = Aligner().load()
    yield
    aligner.close()


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize(("path", "block"), BLOCKS)
def test_a_python_block_runs_as_it_stands(path: Path, block: re.Match[str]) -> None:
    # Empty lines before it make a traceback point at the document's own line.
    before = block.string.count("\n", 0, block.start("code"))
    code = compile("\n" * before + block["code"], str(path), "exec")
    if block["note"]:
        # To run it would download gigabytes, or train for hours.
        assert block["why"].startswith("compiled only")
        return
    exec(code, {"__name__": "readme"})


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_blocks_are_found_and_nearly_all_of_them_are_run(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    assert len(blocks) == text.count("```python")
    assert sum(block["note"] is not None for block in blocks) <= 2
    opened = re.findall(r"^```(.*)$", text, re.MULTILINE)[::2]
    assert set(opened) <= {"python", "sh", "bibtex"}, "code of another name would not be run"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_module_that_a_document_runs_exists(path: Path) -> None:
    for name in re.findall(r"python -m (langchain_metaaligner[\w.]*)", path.read_text("utf-8")):
        assert find_spec(f"{name}.__main__"), name


def anchors_of(path: Path) -> set[str]:
    """The headings of a document as GitHub names them in links."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_inside_the_project_leads_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for name, anchor in LINK.findall(text):
        target = path.parent / name if name else path
        assert target.exists(), name
        assert not anchor or anchor in anchors_of(target), f"{name}#{anchor}"


def objectives_table() -> str:
    def trained(name: str) -> str:
        families = [one.name for one in FAMILIES if name in one.objectives and not one.fixed]
        return ", ".join(families) or "–"

    rows = [f"| `{name}` | {CATALOGUE[name]} | {trained(name)} |" for name in sorted(CATALOGUE)]
    return "\n".join(["| name | description | trained |", "| --- | --- | --- |", *rows])


def checkpoints_table() -> str:
    rows = [
        f"| `{one.name}` | {one.family} | {one.window:,} |"
        f" {one.gib} GiB + {one.kib_per_token} KiB a token | {one.licence} |"
        for one in PUBLISHED
    ]
    head = "| checkpoint | prompts | window, tokens | memory in bfloat16, estimated | licence |"
    return "\n".join([head, "| --- | --- | --- | --- | --- |", *rows])


TABLES = {"objectives": objectives_table, "checkpoints": checkpoints_table, "speed": speed.table}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_the_code_s(name: str) -> None:
    place = re.compile(rf"(<!-- table: {name} -->\n)(.*?)(<!-- end -->)", re.DOTALL)
    found = place.search(TEXT)
    assert found
    wanted = TABLES[name]() + "\n"
    if os.environ.get("UPDATE_README"):  # make format
        README.write_text(
            place.sub(lambda old: old[1] + wanted + old[3], README.read_text("utf-8")), "utf-8"
        )
        return
    assert found[2] == wanted, "`make format` writes it anew"


class Broken:
    """An engine that fails."""

    def edit(self, requests: Sequence[Request]) -> list[Edit]:
        raise OSError("no device")

    async def aedit(self, requests: Sequence[Request]) -> list[Edit]:
        raise OSError("no device")

    def stream(self, request: Request) -> Iterator[str]:
        raise OSError("no device")


def test_the_table_of_failures_is_what_happens() -> None:
    table = re.search(r"<!-- table: errors -->\n(.*?)<!-- end -->", TEXT, re.DOTALL)
    assert table
    rows = [
        [cell.strip(" `") for cell in row.strip("|").split("|")]
        for row in table[1].splitlines()[2:]
    ]
    assert [re.sub(r"[^a-z]|default", "", row[0]) for row in rows] == ["raise", "pass", "block"]
    for policy, row in zip(("raise", "pass", "block"), rows, strict=True):
        llm = FakeListChatModel(responses=["What the model wrote."])
        chain = llm | MetaAlignerRunnable(engine=Broken(), on_error=policy)
        if policy == "raise":
            with pytest.raises(EngineError):
                chain.invoke("Hello?")
            continue
        reply = chain.invoke("Hello?")
        assert reply.response_metadata["metaaligner"]["status"] == row[2]
        assert (reply.content == "What the model wrote.") == (policy == "pass")
