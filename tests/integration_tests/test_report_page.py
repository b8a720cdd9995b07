"""The report's page in a real Chromium: its filters, diffs and charts, and its width on a phone."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

pytest.importorskip("altair")
pytest.importorskip("jinja2")
pytest.importorskip("scipy")
pytest.importorskip("vl_convert")

from langchain_metaaligner.evaluation.records import Comparison, EvaluatedRow
from langchain_metaaligner.evaluation.report import Summary, page, to_html

pytestmark = pytest.mark.slow

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

OBJECTIVES = ("harmlessness", "<b>honesty</b> & \x01\u202e\ufffe")
POLICIES = ("small", "large", "</svg><script>document.title='broken'</script>")
VERDICTS = {"win": (1, 2), "tie": (0, 0), "loss": (2, 1)}
WORDS = (
    "a careful answer names what can be done today and whom to ask before money is spent".split()
)


def rows(count: int) -> list[EvaluatedRow]:
    chance = random.Random(0)
    made = []
    for number in range(count):
        original = " ".join(chance.choices(WORDS, k=chance.randint(5, 120)))
        edited = original.replace("money", "time") + chance.choice(("", " Ask first."))
        outcomes = [chance.choice(list(VERDICTS)) for _ in OBJECTIVES]
        made.append(
            EvaluatedRow(
                key=str(number),
                place=f"row {number}",
                conversation=str(number // 2),
                policy=POLICIES[number % 3],
                context="Human: " + "unbroken" * 40,
                original=original,
                edited=edited,
                status="unchanged" if edited == original else "edited",
                comparisons={
                    name: Comparison(outcome, VERDICTS[outcome])
                    for name, outcome in zip(OBJECTIVES, outcomes, strict=True)
                },
                agreement=-chance.random(),
                seconds=chance.random(),
            )
        )
    return made


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    to_html(Summary.of(rows(300), judge="The judge looks sound."), path)
    return path


def dom(path: Path, fragment: str, *options: str) -> str:
    assert CHROMIUM
    return subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={path.parent / 'profile'}",
            "--virtual-time-budget=3000",
            *options,
            "--dump-dom",
            path.as_uri() + fragment,
        ],
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=120,
    ).stdout


def shown_articles(text: str) -> list[str]:
    return [
        tag
        for tag in re.findall(r"<article[^>]*>", text)
        if not re.search(r"\shidden(=|\s|>)", tag)
    ]


def test_the_page_is_small_and_names_no_address(report: Path) -> None:
    text = report.read_text("utf-8")
    assert len(text.encode()) < page.MOST_BYTES
    assert not re.search(r"https?:|\b(?:src|href|srcset)\s*=|url\(|@import", text)


def test_charts_are_svg_with_text_and_hold_no_foreign_element(report: Path) -> None:
    drawn = re.findall(r"<svg.*?</svg>", report.read_text("utf-8"), re.DOTALL)
    assert len(drawn) == 3 + 3 * 4  # outcomes of each policy; three of all and of each policy
    for svg in drawn:
        tags = {one.tag for one in ET.fromstring(svg).iter()}
        assert tags <= {"svg", "g", "path", "line", "text", "rect", "title", "tspan"}
        assert "text" in tags
        assert not re.search(r"#[0-9a-f]{3,6}", svg.replace("&#", "")), (
            "a colour that is not the page's"
        )


@needs_chromium
def test_without_a_choice_the_edits_of_all_are_shown_as_diffs(report: Path) -> None:
    text = dom(report, "")
    assert "<ins>" in text
    assert "<del>" in text
    assert "broken" not in re.findall(r"<title>(.*?)</title>", text, re.DOTALL)[0]
    assert len(shown_articles(text)) == text.count("<article") > 60
    form = re.search(r"<form[^>]*>", text)
    assert form
    assert "hidden" not in form[0]


@needs_chromium
def test_a_choice_in_the_address_filters_tables_charts_and_edits(report: Path) -> None:
    text = dom(report, "#policy=1&objective=0")
    shown = shown_articles(text)
    assert 0 < len(shown) < text.count("<article")
    for tag in shown:
        assert 'data-policy="1"' in tag
        assert re.search(r'data-objective="0( 1)?"', tag)
    figures = [one for one in re.findall(r"<figure[^>]*>", text) if "hidden" not in one]
    assert len(figures) == 4
    assert all('data-policy="1"' in one for one in figures)
    lines = [one for one in re.findall(r"<tr data-[^>]*>", text) if "hidden" not in one]
    assert len(lines) == 1
    assert sum(map(int, re.findall(r'data-shown=""[^>]*>(\d+)<', text))) == len(shown)


@needs_chromium
@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_but_the_boxes_of_tables_scrolls_sideways(report: Path, width: int) -> None:
    frame = report.with_name(f"frame-{width}.html")
    frame.write_text(
        f'<iframe src="{report.name}" style="border:0;width:{width}px;height:800px"></iframe>'
        "<script>onload = () => { const page = document.querySelector('iframe').contentDocument;"
        "const all = page.documentElement;"
        "document.title = `${all.clientWidth} ${all.scrollWidth}` }</script>",
        encoding="utf-8",
    )
    text = dom(frame, "", "--allow-file-access-from-files")
    found = re.search(r"<title>(\d+) (\d+)</title>", text)
    assert found
    assert width - 20 <= int(found[1]) == int(found[2])  # a scroll bar takes some of the width
