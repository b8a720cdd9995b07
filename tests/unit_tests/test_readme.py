"""The README and the pages in docs/ are true: code runs, links lead somewhere, tables match."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
from langchain_core.language_models import FakeListChatModel
from pydantic import BaseModel

from langchain_metaaligner import (
    Aligner,
    Alignment,
    Edit,
    EngineError,
    MetaAlignerError,
    MetaAlignerRunnable,
    Request,
    errors,
)
from langchain_metaaligner.checkpoints import PUBLISHED
from langchain_metaaligner.editing.objectives import CATALOGUE
from langchain_metaaligner.editing.prompts import FAMILIES
from langchain_metaaligner.engines.completions.server_kind import KINDS as SERVERS
from langchain_metaaligner.options import AlignerOptions, LoadOptions, ReplyOptions, effect_of
from tests import field_reports
from tests.benchmarks import table as speed
from tests.pages import PAGES, README, ROOT, SLOW_PAGES, TABLE, Block, blocks_of, with_tables
from tests.unit_tests.integrations.streams import table as streams

INDEX = ROOT / "docs" / "index.md"
DOCUMENTS = [
    *PAGES,
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "CHANGELOG.md",
    ROOT / "cookbook" / "README.md",
]
# A link in Markdown or in HTML; one that leads out of the project is not followed.
LINK = re.compile(r"""(?:\]\(|(?:src|href)=")(?!https?:)([^)"#]*)(?:#([^)"]*))?[)"]""")

# Blocks that are only compiled, of pages that are about real checkpoints and servers.
NOT_RUN = {"seven_b.md": 4, "where_the_model_runs.md": 2}


@pytest.fixture(scope="module")
def loaded_once() -> Iterator[None]:
    """Keeps the embedded aligner in memory; each block would load it anew otherwise."""
    aligner = Aligner().load()
    yield
    aligner.close()


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize(
    "block",
    [one for path in PAGES if path.name not in SLOW_PAGES for one in blocks_of(path)],
    ids=str,
)
def test_a_python_block_runs_as_it_is(block: Block) -> None:
    block.run()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_blocks_are_found_and_nearly_all_of_them_are_run(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    blocks = list(blocks_of(path))
    assert len(blocks) == text.count("```python")
    compiled = [block.note for block in blocks if block.note is not None]
    assert len(compiled) <= NOT_RUN.get(path.name, 1)
    assert all(note.startswith("compiled only") for note in compiled)
    opened = re.findall(r"^```(.*)$", text, re.MULTILINE)[::2]
    assert set(opened) <= {"python", "sh", "bibtex"}, "code of another name would not be run"


def test_the_readme_stays_short() -> None:
    assert len(README.read_text(encoding="utf-8").split()) < 2_200


def test_the_landing_page_leads_to_every_page() -> None:
    linked = {INDEX.parent / name for name, _ in LINK.findall(INDEX.read_text(encoding="utf-8"))}
    assert linked >= set(PAGES) - {README, INDEX}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_module_that_a_document_runs_exists(path: Path) -> None:
    for name in re.findall(
        r"python -m ((?:langchain_metaaligner|cookbook|tests)[\w.]*)", path.read_text("utf-8")
    ):
        found = find_spec(name)
        assert found, name
        assert not found.submodule_search_locations or find_spec(f"{name}.__main__"), name


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_installs_the_locked_releases(path: Path) -> None:
    locked = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    for pin in re.findall(r"\b([a-z][\w-]*==[\d.]+)", path.read_text(encoding="utf-8")):
        assert pin in locked


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


def markdown(*rows: Sequence[str]) -> str:
    """A table in Markdown; the first row is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def objectives_table() -> str:
    def trained(name: str) -> str:
        families = [one.name for one in FAMILIES if name in one.objectives and not one.fixed]
        return ", ".join(families) or "–"

    rows = [(f"`{name}`", CATALOGUE[name], trained(name)) for name in sorted(CATALOGUE)]
    return markdown(("name", "description", "trained"), *rows)


def checkpoints_table() -> str:
    head = ("checkpoint", "prompts", "window, tokens", "memory in bfloat16, estimated", "licence")
    rows = [
        (
            f"`{one.name}`",
            one.family,
            f"{one.window:,}",
            f"{one.gib} GiB + {one.kib_per_token} KiB per token",
            one.licence,
        )
        for one in PUBLISHED
    ]
    return markdown(head, *rows)


def checkpoint_series_table() -> str:
    """One row for each family: its sizes, and what it was trained towards."""
    rows = []
    for family in FAMILIES:
        sizes = {
            re.sub(r"(?i)-\d[\d.]*b\b", "-*", one.name): [
                re.findall(r"(?i)-(\d[\d.]*b)\b", two.name)[0].upper()
                for two in PUBLISHED
                if two.family == family.name
            ]
            for one in PUBLISHED
            if one.family == family.name
        }
        purpose = "one fixed purpose" if family.fixed else ", ".join(family.objectives)
        rows += [(f"`{name}`", ", ".join(found), purpose) for name, found in sizes.items()]
    return markdown(("checkpoints", "sizes", "trained towards"), *rows)


def kinds_table() -> str:
    """Every error, what it means, and whether to try again."""
    rows = []
    for kind in vars(errors).values():
        if inspect.isclass(kind) and issubclass(kind, MetaAlignerError):
            meaning = (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")
            again = "yes" if kind.retryable else "no"
            if kind is EngineError:  # each one says so for itself
                again = "as its `retryable` says"
            rows.append((f"`{kind.__name__}`", meaning, again))
    # The first is the base of all others.
    return markdown(("error", "meaning", "may work when tried again"), *rows[1:])


def options_table(options: type[BaseModel]) -> str:
    """The options that a class declares itself, each with what it changes."""
    rows = [
        (
            f"`{name}`",
            f"`{options.model_fields[name].get_default(call_default_factory=True)!r}`",
            str(effect_of(options, name)),
            (options.model_fields[name].description or "").replace("\n", " ").replace("|", "\\|"),
        )
        for name in inspect.get_annotations(options)
        if name in options.model_fields
    ]
    return markdown(("option", "default", "changes", "meaning"), *rows)


def servers_table() -> str:
    """How each server is started, and what it can't give."""
    rows = [
        (kind.name, f"`{kind.serve}`" if kind.serve else "as its own pages say", kind.lacks)
        for kind in SERVERS
    ]
    return markdown(("server", "serve with", "what it can't give"), *rows)


TABLES: dict[str, Callable[[], str]] = {
    "aligner_options": lambda: options_table(AlignerOptions),
    "checkpoint_series": checkpoint_series_table,
    "checkpoints": checkpoints_table,
    "field": field_reports.table,
    "kinds": kinds_table,
    "load_options": lambda: options_table(LoadOptions),
    "objectives": objectives_table,
    "servers": servers_table,
    "reply_options": lambda: options_table(ReplyOptions),
    **speed.TABLES,
    "streams": streams.table,
}
PLACES = [
    pytest.param(path, found[2], id=f"{path.name} {found[2]}")
    for path in PAGES
    for found in TABLE.finditer(path.read_text(encoding="utf-8"))
    if found[2] != "errors"  # written by hand, and proved below
]


@pytest.mark.parametrize(("path", "name"), PLACES)
def test_a_table_is_the_code_s(path: Path, name: str) -> None:
    text = path.read_text(encoding="utf-8")
    wanted = with_tables(text, {name: TABLES[name]})
    if os.environ.get("UPDATE_README"):  # make format
        path.write_text(wanted, encoding="utf-8")
        return
    assert text == wanted, "`make format` writes it anew"


def test_every_table_is_on_a_page() -> None:
    assert {place.values[1] for place in PLACES} == set(TABLES)


def test_the_page_on_the_faces_explains_every_key_of_the_metadata() -> None:
    page = (ROOT / "docs" / "faces.md").read_text(encoding="utf-8")
    section = page.partition("## The metadata\n")[2].partition("\n## ")[0]
    explained = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (.*?) \|", section, re.MULTILINE)))
    told = {"error": "EngineError: no device", "reason": "when", "caution": 2.0}
    record = Alignment("Hi", "Hi", **told)
    assert set(explained) == set(record.provenance(keep_original=True))


class Broken:
    """An engine that fails."""

    def edit(self, requests: Sequence[Request]) -> list[Edit]:
        raise OSError("no device")

    async def aedit(self, requests: Sequence[Request]) -> list[Edit]:
        raise OSError("no device")

    def stream(self, request: Request) -> Iterator[str]:
        raise OSError("no device")


@pytest.mark.parametrize("path", [README, ROOT / "docs" / "failures.md"], ids=lambda one: one.name)
def test_the_table_of_failures_is_what_happens(path: Path) -> None:
    [table] = [one[3] for one in TABLE.finditer(path.read_text("utf-8")) if one[2] == "errors"]
    rows = [
        [cell.strip(" `") for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]
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
