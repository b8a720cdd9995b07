from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_metaaligner import Alignment
from langchain_metaaligner.engines.base import TokenAgreement

text = st.lists(
    st.one_of(st.sampled_from(["word", "other", " ", "\n", "<b>", ".", "é"]), st.text(max_size=3)),
    max_size=12,
).map("".join)


@given(text, text)
def test_what_is_equal_or_deleted_is_the_original_and_equal_or_inserted_the_text(original, edited):
    diff = Alignment(original=original, text=edited).diff()
    assert "".join(piece for op, piece in diff if op != "insert") == original
    assert "".join(piece for op, piece in diff if op != "delete") == edited
    assert all(piece for _, piece in diff)


def test_the_diff_goes_by_words():
    diff = Alignment(original="Go away, now!", text="Please go away, now!").diff()
    assert diff == [("delete", "Go"), ("insert", "Please go"), ("equal", " away, now!")]


def test_a_rewrite_is_shown_in_one_piece_whatever_small_words_it_keeps():
    alignment = Alignment(
        original="Just put some poison into a piece of meat and throw it over.",
        text="I can't help you get rid of the dog that barks and barks all night.",
    )
    assert [op for op, _ in alignment.diff()] == ["delete", "insert", "equal"]


def test_single_words_that_change_are_shown_one_by_one():
    alignment = Alignment(original="a red cat and a big dog", text="a blue cat and a small dog")
    assert [op for op, _ in alignment.diff()] == [
        "equal", "delete", "insert", "equal", "delete", "insert", "equal",
    ]  # fmt: skip


def test_the_same_text_is_no_change():
    alignment = Alignment(original="a b", text="a b")
    assert alignment.changed is False
    assert alignment.diff() == [("equal", "a b")]
    assert Alignment(original="", text="").diff() == []


def test_the_picture_for_a_notebook_escapes_what_it_shows():
    alignment = Alignment(
        original="<script>alert('x')</script> &amp; old",
        text='<img src=x onerror="y"> &amp; new',
        objectives=("<b>mine</b>",),
        model="<i>model</i>",
    )
    shown = alignment._repr_html_()
    for forged in ("<script", "<img", "<b>", "<i>", 'onerror="'):
        assert forged not in shown
    assert "&lt;" in shown
    assert "script" in shown
    assert "<del" in shown
    assert "<ins" in shown


@given(text, text)
def test_no_text_brings_a_tag_of_its_own_into_the_picture(original, edited):
    shown = Alignment(original=original, text=edited)._repr_html_()
    for tag in ("<div", "</div>", "<del ", "</del>", "<ins ", "</ins>"):
        shown = shown.replace(tag, "")
    assert "<" not in shown


def test_the_picture_for_a_terminal_holds_both_texts_coloured():
    shown = Alignment(original="old text", text="new text", objectives=("humour",)).__rich__()
    assert "humour" in shown.plain
    assert shown.plain.endswith("oldnew text")
    styles = {shown.plain[span.start : span.end]: str(span.style) for span in shown.spans}
    assert "red" in styles["old"]
    assert "green" in styles["new"]


def agreed(text: str, *odds: float) -> tuple[TokenAgreement, ...]:
    """A token for each word of a text, with the space before it."""
    ends = [i for i, one in enumerate(text) if one == " "] + [len(text)]
    return tuple(map(TokenAgreement, [0, *ends[:-1]], ends, odds))


def test_the_picture_for_a_notebook_shades_what_the_aligner_would_hardly_have_written():
    original = "a <fine> old word"
    odds = agreed(original, 0.0, math.log(0.1), math.log(0.02), math.log(0.9))
    shown = Alignment(
        original=original, text="a <fine> new word", token_agreement=odds
    )._repr_html_()
    shades = re.findall(r'rgba\(255,160,0,(.*?)\)" title="(.*?)">(.*?)</span>', shown)
    assert [(chance, text) for _, chance, text in shades] == [
        ("10.0%", " &lt;fine&gt;"),
        ("2.0%", " "),
        ("2.0%", "old"),
    ]
    assert shades[0] < shades[1]
    plain = Alignment(original=original, text="a <fine> new word")._repr_html_()
    assert re.sub(r"<span.*?>|</span>", "", shown) == plain


def test_tokens_that_are_parts_of_one_character_are_shaded_as_one():
    odds = tuple(TokenAgreement(*one) for one in [(0, 1, -0.5), (0, 1, -0.5), (1, 2, 0.0)])
    shown = Alignment(original="éa", text="éa", token_agreement=odds)._repr_html_()
    assert re.findall(r'title="(.*?)">(.*?)</span>', shown) == [("36.8%", "é")]


@given(text, text, st.data())
def test_whatever_is_shaded_the_picture_holds_the_same_words(original, edited, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(original)), max_size=5)))
    ends = [*cuts, len(original)]
    odds = tuple(map(TokenAgreement, [0, *cuts], ends, [-3.0, 0.0, -0.1, -9.0, -1.0, -2.0]))
    shown = Alignment(original=original, text=edited, token_agreement=odds)._repr_html_()
    plain = Alignment(original=original, text=edited)._repr_html_()
    assert re.sub(r"<span.*?>|</span>", "", shown) == plain


def test_no_message_carries_the_agreement_of_tokens():
    record = Alignment(original="a", text="b", token_agreement=agreed("a", -1.0)).provenance(
        keep_original=True
    )
    assert "token" not in " ".join(record)


def test_markup_in_a_text_is_shown_and_not_obeyed():
    shown = Alignment(original="x", text="[red]y[/red]").__rich__()
    assert shown.plain.endswith("x[red]y[/red]")


def test_the_provenance_is_plain_json_without_the_texts():
    alignment = Alignment(
        original="my secret",
        text="my edit",
        objectives=("humour", "honesty"),
        model="a/b",
        family="HH-RLHF",
        finish_reason="stop",
        usage={"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
        passes=2,
        seconds=0.25,
        agreement=-0.5,
        dropped={"turns": 1},
    )
    provenance = alignment.provenance()
    assert provenance == {
        "status": "edited",
        "changed": True,
        "objectives": ["humour", "honesty"],
        "model": "a/b",
        "family": "HH-RLHF",
        "finish_reason": "stop",
        "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
        "passes": 2,
        "seconds": 0.25,
        "agreement": -0.5,
        "dropped": {"turns": 1},
    }
    assert json.loads(json.dumps(provenance)) == provenance


def test_the_provenance_holds_the_original_when_that_is_asked_for():
    alignment = Alignment(original="old", text="new")
    assert alignment.provenance(keep_original=True)["original"] == "old"
    assert "original" not in alignment.provenance()


def test_the_kind_of_an_error_is_part_of_the_provenance_and_what_it_quotes_is_not():
    alignment = Alignment(original="a", text="a", status="passed", error="EngineError: gone")
    assert alignment.provenance()["error"] == "EngineError"
    assert "error" not in Alignment(original="a", text="a").provenance()


def test_a_record_does_not_show_its_texts_and_does_not_change():
    alignment = Alignment(original="my secret", text="my edit")
    assert "secret" not in repr(alignment)
    with pytest.raises(AttributeError):
        alignment.text = "x"  # type: ignore[misc]


def test_the_summary_is_one_line():
    alignment = Alignment(
        original="a", text="b", objectives=("humour", "honesty"), model="a/b", seconds=1.234
    )
    assert alignment.summary() == "edited · humour, honesty · a/b · 1.23 s"
