from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_metaaligner import Alignment
from langchain_metaaligner.editing import word_diff
from langchain_metaaligner.editing.word_diff import compare_words, split_words

words = st.lists(st.sampled_from(["a", "b", " ", "the", "c1", "c2", "c3", "c4"]), max_size=14)


@pytest.fixture(params=[word_diff._WORK, 30, 0], ids=["all", "little", "no"])
def work(request, monkeypatch):
    monkeypatch.setattr(word_diff, "_WORK", request.param)
    monkeypatch.setattr(word_diff, "_BLOCK", 4)


@pytest.mark.usefixtures("work")
@settings(max_examples=60)
@given(words, words, words)
def test_the_moves_lead_from_one_text_to_the_other_whatever_work_they_may_take(before, after, end):
    before, after = before + end, after + end
    moves = compare_words(before, after)
    i = j = 0
    for tag, i1, i2, j1, j2 in moves:
        assert (i1, j1) == (i, j)
        same = before[i1:i2] == after[j1:j2]
        kinds = {(True, False): "delete", (False, True): "insert", (True, True): "replace"}
        assert tag == ("equal" if same else kinds[i2 > i1, j2 > j1])
        i, j = i2, j2
    assert (i, j) == (len(before), len(after))


def test_a_long_text_is_compared_between_words_that_it_holds_once(monkeypatch):
    monkeypatch.setattr(word_diff, "_WORK", 0)
    before = ["old", *(f"{n}" for n in range(100)), "end"]
    after = ["new", *before[1:50], "more", *before[60:101], "stop"]
    assert compare_words(before, after) == [
        ("replace", 0, 1, 0, 1),
        ("equal", 1, 50, 1, 50),
        ("replace", 50, 60, 50, 51),
        ("equal", 60, 101, 51, 92),
        ("replace", 101, 102, 92, 93),
    ]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x{0} c{0} ", "y{0} c{0} "),
        ("a b ", "b a "),
        ("foo bar ", "foo baz bar "),
        ("c{0} ", "d{0} "),
        ("!?", "?.!"),
    ],
)
def test_no_two_texts_take_more_time_than_their_length(before, after):
    before, after = ("".join(map(one.format, range(6_000))) for one in (before, after))
    started = time.monotonic()
    diff = Alignment(original=before, text=after).diff()
    # Far more than it takes.
    assert time.monotonic() - started < 30
    assert "".join(piece for op, piece in diff if op != "insert") == before
    assert "".join(piece for op, piece in diff if op != "delete") == after


def test_words_are_split_so_that_nothing_is_lost():
    assert "".join(split_words("a  b,c\n\ud83d")) == "a  b,c\n\ud83d"
