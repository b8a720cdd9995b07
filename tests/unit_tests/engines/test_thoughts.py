"""A model's thoughts are never part of its text."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_metaaligner.engines.thoughts import SpokenText, closed, opened, spoken
from langchain_metaaligner.errors import EngineError

MARKS = [
    ("<think>", "</think>"),
    ("<Thinking>", "</Thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
]


def pieces_of(text, cuts):
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in itertools.pairwise(edges)]


def streamed(pieces, inside=None):
    answer = SpokenText(inside)
    return "".join([*map(answer.push, pieces), answer.finish()])


@pytest.mark.parametrize(("begin", "end"), MARKS)
@given(cuts=st.lists(st.integers(min_value=0)))
def test_thoughts_are_left_out_however_the_text_arrives(begin, end, cuts):
    text = f"\n{begin}\na < b, or [not] <x>?\n{end}\n\nSure: a < b [1].{begin}hm{end} <br>"
    assert spoken(text) == "Sure: a < b [1]. <br>"
    assert streamed(pieces_of(text, cuts)) == "Sure: a < b [1]. <br>"


@given(text=st.text(alphabet="ab \n<[|/]>◁▷", max_size=60), cuts=st.lists(st.integers(min_value=0)))
def test_text_without_thoughts_stays_as_it_is(text, cuts):
    assert spoken(text) == text
    assert streamed(pieces_of(text, cuts)) == text


def test_a_stream_waits_only_for_what_may_become_a_mark():
    answer = SpokenText()
    assert answer.push("a < b and [c] <thin") == "a < b and [c] "
    assert answer.push("g> ") == "<thing> "


@pytest.mark.parametrize(("begin", "end"), MARKS)
def test_thoughts_that_the_prompt_begins_are_left_out_too(begin, end):
    prompt = f"<|assistant|>{begin}\n"
    inside = opened(prompt)
    assert inside == end
    assert spoken(f"hm\n{end}\nSure", inside) == "Sure"
    assert opened(closed(prompt)) is None
    assert closed("<|assistant|>") == "<|assistant|>"


def test_an_end_without_a_beginning_ends_thoughts_all_the_same():
    assert spoken("hm, well</think>\nSure") == "Sure"
    answer = SpokenText()
    answer.push("hm, ")
    with pytest.raises(EngineError, match="had not begun"):
        answer.push("well</think>")


@pytest.mark.parametrize("inside", [None, "</think>"])
def test_thoughts_without_an_end_are_an_error(inside):
    with pytest.raises(EngineError, match="no answer"):
        spoken("hm" if inside else "<think>hm", inside)
