from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("scipy")
pytest.importorskip("jinja2")

from langchain_metaaligner.errors import EvaluationError
from langchain_metaaligner.evaluation.records import Comparison, EvaluatedRow
from langchain_metaaligner.evaluation.report import (
    Summary,
    markdown,
    page,
    plain,
    terminal,
    to_html,
)
from langchain_metaaligner.evaluation.report.diffs import distance, pieces, rough_distance
from langchain_metaaligner.evaluation.report.highlights import choose
from langchain_metaaligner.evaluation.report.shown_text import label, visible

VERDICTS = {"win": (1, 2), "tie": (0, 0), "loss": (2, 1)}
HOSTILE = (
    "<script>alert(1)</script></style><!-- {{ 7 * 7 }}",
    '"onload="alert(1)" x=\'&amp;',
    "\u202egnp.exe\u2066\x00\x1b[31m\ud800\ufffe",
    "| a | [b](https://c.d) | `@you` ![](e)",
    "word" * 25_000,
)


@pytest.fixture(autouse=True)
def without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts take seconds; the integration tests draw them."""
    for name in ("outcomes", "lengths", "distances", "agreements"):
        monkeypatch.setattr(page.charts, name, lambda _: None)


def row(number: int = 0, outcome: str | None = "win", **given: object) -> EvaluatedRow:
    told = Comparison(outcome, VERDICTS.get(outcome, (None, None)), None if outcome else "timeout")
    made = EvaluatedRow(
        key=str(number),
        place=f"rows.jsonl:{number}",
        conversation=str(number),
        policy="small",
        context="Human: How do I boil an egg?",
        original="Boil it for 8 minutes, then cool it.",
        edited=f"Boil it for 8 minutes, then cool it in water {number}.",
        status="edited",
        comparisons={"helpfulness": told},
    )
    return replace(made, **given)


class Page(HTMLParser):
    """The elements of a page, and the texts between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def handle_data(self, data: str) -> None:
        where = self.open[-1] if self.open else ""
        self.texts[where] = self.texts.get(where, "") + data

    def count(self, tag: str) -> int:
        return sum(one == tag for one, _ in self.elements)


def hostile_rows() -> Iterator[EvaluatedRow]:
    for number, text in enumerate(HOSTILE):
        found = dict.fromkeys(HOSTILE, Comparison("loss", (2, 1)))
        found[text] = Comparison(None, (None, None), text)
        yield row(
            number,
            policy=text,
            place=text,
            context=text,
            original=f"{text} one",
            edited=f"two {text}",
            status=text,
            comparisons=found,
            kept={text: False},
            guards={text: {text: 1}},
            error=text,
        )


def test_no_text_becomes_part_of_the_page_whatever_it_holds() -> None:
    summary = Summary.of(
        list(hostile_rows()),
        judge=HOSTILE[0],
        problems=HOSTILE,
        settings=dict.fromkeys(HOSTILE, HOSTILE),
    )
    text = page.html(summary)
    shown = Page(text)
    assert shown.open == []
    assert (shown.count("script"), shown.count("style"), shown.count("svg")) == (1, 1, 0)
    assert "alert" not in shown.texts["script"] + shown.texts["style"]
    for _, attributes in shown.elements:
        assert not [name for name in attributes if name.startswith("on") and name != "oncepolicy"]
        assert not {"src", "href", "srcset", "action", "style"} & set(attributes)
    assert "49" not in shown.texts["h1"]
    assert not re.search("[\x00\x1b\u202e\u2066\ud800]", text)
    assert "[U+202E]" in text
    assert len(text) < 200_000


@settings(max_examples=20, deadline=None)
@given(st.text(), st.text(), st.text(min_size=1))
def test_any_text_is_shown_and_can_be_written(original: str, edited: str, name: str) -> None:
    told = {name: Comparison("win", (1, 2))}
    summary = Summary.of([row(original=original, edited=edited, policy=name, comparisons=told)])
    text = page.html(summary)
    assert Page(text).open == []
    text.encode()
    markdown(summary).encode()
    plain(summary).encode()


def test_the_page_asks_for_nothing_and_runs_only_its_own_script() -> None:
    text = page.html(Summary.of([row()]))
    assert "http:" not in text
    assert "https:" not in text
    assert "//" not in text.replace("// Without this", "")
    assert "@import" not in text
    assert "url(" not in text
    assert "default-src 'none'" in text
    assert re.search("script-src 'sha256-[A-Za-z0-9+/=]{44}'", text.replace("&#43;", "+"))


def test_the_judge_is_the_first_line_and_the_figures_follow() -> None:
    rows = [
        row(number, outcome) for number, outcome in enumerate(["win"] * 8 + ["tie", "loss", None])
    ]
    text = page.html(Summary.of(rows, judge="Don't rely on this judge: it always says the first."))
    body = Page(text)
    tags = [tag for tag, _ in body.elements]
    assert tags[tags.index("body") :][:5] == ["body", "main", "p", "strong", "h1"]
    assert body.texts["strong"] == "Don't rely on this judge: it always says the first."
    assert "80.0\N{NO-BREAK SPACE}% of 10 judged pairs from 10 conversations" in body.texts["p"]
    assert "1 more has no verdict" in body.texts["p"]
    assert "timeout" in body.texts["td"]


def test_without_rows_verdicts_or_changes_the_report_says_so() -> None:
    failed = [
        row(number, None, edited=row().original, error="EditTimeout: 3 s") for number in range(3)
    ]
    same = [row(number, "tie", edited=row().original) for number in range(3)]
    for rows, said in (
        ([], "No pair was judged"),
        ([row(0, None)], "No pair was judged"),
        (failed, "No pair was judged"),
        (same, "The edits changed nothing"),
        ([replace(one, error="EngineError: down") for one in same], "Every edit failed"),
        ([row()], "The judge prefers neither side clearly"),
        ([row(number) for number in range(30)], "The judge prefers the edits"),
        ([row(number, "loss") for number in range(30)], "The judge prefers the originals"),
    ):
        summary = Summary.of(rows)
        assert summary.verdict() == said
        assert said in page.html(summary)
        assert said in markdown(summary)
        assert said in plain(summary)


def test_a_page_stays_below_its_size_and_says_how_many_edits_it_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [
        # What hidden characters are written out as is eight times as long.
        row(number, outcome, original=f"{number} " + "\x00" * 2000, edited="\x01" * 2000)
        for number, outcome in enumerate(["win", "loss", "tie"] * 8)
    ]
    monkeypatch.setattr(page, "MOST_BYTES", 200_000)
    text = page.html(Summary.of(rows))
    assert 100_000 < len(text.encode()) <= 200_000
    shown = Page(text).count("article")
    listed = [int(number) for number in re.findall(r"shown of\s+(\d+) listed", text)]
    assert 0 < shown == sum(listed) < 40
    assert "more characters" in text
    monkeypatch.setattr(page, "MOST_BYTES", 20_000)
    assert "did not fit" in page.html(Summary.of(rows))


def test_more_policies_than_can_be_read_are_counted_together() -> None:
    rows = [row(number, policy=f"p{number}") for number in range(80)]
    summary = Summary.of(rows)
    assert (len(summary.policies), summary.other_policies) == (50, 30)
    assert summary.total is not None
    assert summary.total.rates.judged == 80
    shown = page.html(summary)
    assert "30 policies with fewer rows have no line of their own" in shown
    assert Page(shown).count("article") == 2 * page.MOST_EDITS


def test_what_was_broken_is_counted_by_policy() -> None:
    rows = [
        row(0, refuses=(False, True), kept={"numbers": False, "urls": True}, seconds=1.0),
        row(1, refuses=(True, False), guards={"facts": {"restored": 2}}, seconds=2.0),
        row(2, policy="large", refuses=(False, False), kept={"numbers": True}, seconds=9.0),
        row(
            3,
            policy="large",
            refuses=(True, True),
            edited=row().original,
            usage={"total_tokens": 7},
            agreement=-0.5,
        ),
    ]
    whole, small, large = Summary.of(rows).effects
    assert (whole.policy, small.policy, large.policy) == (None, "small", "large")
    assert (whole.over_refusals, whole.answered, whole.answers, whole.refused) == (1, 2, 1, 2)
    assert whole.kept == {"numbers": (1, 2), "urls": (1, 1)}
    assert whole.guards == {"facts": {"restored": 2}}
    assert whole.seconds == (2.0, 9.0)
    assert (whole.unchanged, whole.tokens, whole.agreement) == (1, 7, -0.5)
    assert (small.over_refusals, large.over_refusals) == (1, 0)


def test_verdicts_that_are_missing_are_counted_for_both_judges_and_the_reference() -> None:
    won, none = Comparison("win", (1, 2)), Comparison(None, (1, None), "timeout")
    lost = Comparison("loss", (2, 1))
    rows = [
        row(0, second={"helpfulness": won}, against_reference={"helpfulness": (won, lost)}),
        row(1, second={"helpfulness": lost}, against_reference={"helpfulness": (won, none)}),
        row(2, None, second={"helpfulness": none}),
    ]
    summary = Summary.of(rows)
    told = {"timeout": 1, "second judge: timeout": 1, "reference: timeout": 1}
    assert summary.unjudged == {"helpfulness": told}
    assert summary.second == {"helpfulness": (1, 2)}
    assert "Second judge, same outcome: helpfulness 50.0" in plain(summary)
    (reference,) = summary.references
    assert (reference.edit, reference.original) == ((2, 2), (0, 1))
    assert "50.0 % (1 of 2)" in page.html(summary)


def test_a_text_and_itself_is_no_agreement_of_two_judges() -> None:
    told = {"helpfulness": Comparison("tie")}
    same = row(0, "tie", edited=row().original, second=told)
    assert Summary.of([same]).second == {}


def test_the_time_of_a_judge_counts_once() -> None:
    each = Comparison("win", (1, 2), seconds=1.0)
    both = {"helpfulness": Comparison("tie", seconds=2.0)}
    one = row(0, comparisons=both, against_reference={"helpfulness": (each, each)})
    assert Summary.of([one]).judge_seconds == 2.0


def test_listed_edits_come_from_all_policies_and_are_what_they_are_called() -> None:
    rows = [
        row(number, ("win", "loss", "tie")[number % 3], policy="small" if number < 200 else "large")
        for number in range(206)
    ]
    rows.append(row(900, "win", edited=row().original))
    rows.append(row(901, "tie", edited="Something else altogether"))
    chosen = choose(rows, 6)
    for kind, outcome in (("best", "win"), ("worst", "loss")):
        told = [one.row.comparisons["helpfulness"].outcome for one in chosen[kind]]
        assert set(told) == {outcome}
        assert {one.row.policy for one in chosen[kind]} == {"small", "large"}
        assert all(one.row.changed for one in chosen[kind])
    assert chosen["most changed"][0].row.key == "901"
    assert all(len(edits) <= 6 for edits in chosen.values())


def test_an_edit_is_listed_for_each_objective_that_it_wins() -> None:
    told = {
        "a": Comparison("win", (1, 2)),
        "b": Comparison("loss", (2, 1)),
        "c": Comparison("win", (1, 2)),
    }
    chosen = choose([row(comparisons=told)], 5)
    assert chosen["best"][0].objectives == ("a", "c")
    assert chosen["worst"][0].objectives == ("b",)
    shown = Page(page.html(Summary.of([row(comparisons=told)])))
    marks = [attributes["data-objective"] for tag, attributes in shown.elements if tag == "article"]
    assert marks == ["0 2", "1", "0 1 2"]


@given(st.text(max_size=200), st.text(max_size=200))
def test_a_short_diff_holds_both_texts(original: str, edited: str) -> None:
    shown = pieces(original, edited, 1000)
    assert "".join(one.text for one in shown if one.op != "insert") == original
    assert "".join(one.text for one in shown if one.op != "delete") == edited
    assert 0 <= rough_distance(original, edited) <= distance(original, edited) + 1e-9 <= 1 + 2e-9


def test_a_change_deep_in_a_long_text_is_shown_and_what_is_cut_off_is_no_deletion() -> None:
    words = " ".join(f"word{number}" for number in range(30_000))
    edited = words.replace("word9000 ", "new ") + " end"
    shown = pieces(words, edited, 4000)
    assert [one.text.strip() for one in shown if one.op == "delete"] == ["word9000"]
    assert "new" in [one.text.strip() for one in shown if one.op == "insert"]
    assert sum(len(one.text) for one in shown) < 5000
    # Longer than what is compared: the change is shown, the shift at the end is no change.
    longer = words[:50_000]
    shown = pieces(longer, "new " + longer.replace("word99 ", "") + " end", 4000)
    assert [one.text.strip() for one in shown if one.op == "insert"] == ["new"]
    assert [one.text.strip() for one in shown if one.op == "delete"] == ["word99"]
    assert "not compared" in shown[-1].text + shown[-2].text
    alike = pieces("x " + "a b " * 20_000, "y " + "b a c " * 15_000, 4000)
    assert {one.op for one in alike} >= {"delete", "insert"}
    assert pieces("a" * 9000, "b" * 9000, 4000)[-1].text == "7,500 more characters inserted"


def test_a_markdown_table_keeps_its_cells_and_links_nothing() -> None:
    made = markdown(Summary.of(list(hostile_rows())))
    table = [line for line in made.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    outside = re.sub(r"(`+).*?(?<!`)\1(?!`)", "", made)
    assert not re.search(r"[<@\[]|https", outside.replace("< 0.001", ""))


def test_the_terminal_shows_names_as_they_are_and_no_colour_if_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    console = pytest.importorskip("rich.console")
    summary = Summary.of([row(policy="[red]small[/red]\x1b[2J"), row(1, policy="large")])
    monkeypatch.setenv("NO_COLOR", "1")
    out = console.Console(width=200, force_terminal=True)
    with out.capture() as caught:
        out.print(terminal(summary))
    assert "[red]small[/red][U+001B][2J" in caught.get()
    assert not re.search(r"\x1b\[(?!0m|[1-4]m)", caught.get())
    monkeypatch.setitem(sys.modules, "rich", None)
    assert terminal(summary) == plain(summary)
    assert "[red]small[/red][U+001B][2J" in plain(summary)


@pytest.mark.parametrize("width", [40, 80])
def test_no_cell_of_the_terminals_table_is_broken_where_it_is_narrow(width: int) -> None:
    console = pytest.importorskip("rich.console")
    out = console.Console(width=width)
    with out.capture() as shown:
        out.print(terminal(Summary.of([row(), row(1)])))
    lines = shown.get().splitlines()
    assert max(map(len, lines)) <= width
    assert any(line.split()[:2] == ["95", "%"] and " to " in line for line in lines)


def test_a_report_is_replaced_when_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "report.html"
    to_html(Summary.of([row()]), path)
    before = path.read_text("utf-8")
    monkeypatch.setattr(page, "html", lambda _: "\ud800")
    with pytest.raises(UnicodeEncodeError):
        to_html(Summary.of([row()]), path)
    assert path.read_text("utf-8") == before
    assert [one.name for one in path.parent.iterdir()] == ["report.html"]


def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    page._template.cache_clear()
    with pytest.raises(EvaluationError, match=r'pip install "langchain-metaaligner\[eval\]"'):
        page.html(Summary.of([row()]))


def test_names_in_one_line_hide_nothing() -> None:
    assert label("a\nb\t c") == "a b c"
    assert len(label("x" * 1000)) == 80
    assert visible("a\r\nb\rc\u202ed\tא\u200f") == "a\nb[U+000D]c[U+202E]d\tא\u200f"
