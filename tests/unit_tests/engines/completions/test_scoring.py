from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from langchain_metaaligner.engines.base import TokenAgreement
from langchain_metaaligner.engines.completions.base import Scores
from langchain_metaaligner.engines.completions.departure import agreement, kept_tokens
from langchain_metaaligner.engines.completions.scoring import scores_of, spans_of
from langchain_metaaligner.engines.completions.stop_texts import StopTexts


@given(some.text(max_size=40), some.lists(some.integers(0, 40)))
def test_tokens_that_make_up_a_text_have_their_places(text, cuts):
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    spans = list(pairwise(places))
    assert spans_of([text[start:end] for start, end in spans], text) == spans


@pytest.mark.parametrize(
    ("tokens", "text", "spans"),
    [
        (["It", "is"], "It is", [(0, 2), (2, 5)]),  # each was decoded without its space
        ([" It", " is"], "It is", [(0, 2), (2, 5)]),  # one was added
        (["▁It", "▁is"], "It is", [(0, 2), (2, 5)]),
        (["a", "\ufffd", "\ufffd", " b"], "a😀 b", [(0, 1), (1, 2), (1, 2), (2, 4)]),
        (["<0xE6>", "<0xBC>", "<0xA2>"], "漢", [(0, 1), (0, 1), (0, 1)]),
        (["\ufffd", "\ufffd"], "漢", [(0, 1), (0, 1)]),
        (["a", ""], "a", None),
        (["Other"], "It is", None),
        (["It"], "It is", None),
        (["It", " is", " so"], "It is", None),
    ],
)
def test_what_decoding_each_token_loses_is_found_again(tokens, text, spans):
    assert spans_of(tokens, text) == spans


def told(**changes):
    """The echo of `ab| ` and `one two`, and the next token."""
    row = {
        "tokens": ["<s>", "ab| ", "one", " two", "</s>"],
        "token_logprobs": [None, -3.0, -0.5, -0.25, -0.1],
        "top_logprobs": [None, {"x": -0.1}, {"one": -0.5}, {" or": -0.2, " two": -0.25}, {}],
        "text_offset": [0, 0, 4, 7, 11],
    }
    return {"logprobs": row | changes, "finish_reason": "stop"}


def test_an_answers_own_log_probabilities_are_read_and_no_others():
    scores = scores_of(told(), "ab| ", "one two")
    assert scores.tokens == (TokenAgreement(0, 3, -0.5), TokenAgreement(3, 7, -0.25))
    assert scores.likeliest == (-0.5, -0.2)
    assert (scores.end, scores.after, scores.input_tokens) == (-0.1, -0.1, 2)
    assert scores.prompts == ("ab| ", "ab| one", "ab| one two")
    assert agreement(scores) == -0.375


@pytest.mark.parametrize(
    "changes",
    [
        {"token_logprobs": None},
        {"token_logprobs": [None, -3.0, None, -0.25, -0.1]},
        {"token_logprobs": [None, -3.0, 0.5, -0.25, -0.1]},
        {"token_logprobs": [None, -3.0, "x", -0.25, -0.1]},
        {"token_logprobs": [0, 0, 0, 0, 0], "top_logprobs": [{}, {}, {}, {}, {}]},
        {"token_logprobs": [-1.0]},
        {"top_logprobs": None},
        {"top_logprobs": [None] * 5},
        {"text_offset": [0]},
        {"text_offset": None},
        {"tokens": ["ab| ", "one", " two"]},
        {"tokens": ["<s>", "ab| ", "one", " three", "</s>"]},
    ],
)
def test_what_is_no_log_probability_of_the_answer_is_not_read_as_one(changes):
    assert scores_of(told(**changes), "ab| ", "one two") is None


def test_no_end_among_the_likeliest_counts_as_less_likely_than_all_of_them():
    choice = told(top_logprobs=[None, {}, {"one": -0.5}, {}, {" more": -0.1, " yet": -4.0}])
    choice["logprobs"]["tokens"][-1] = " more"
    scores = scores_of(choice | {"finish_reason": "length"}, "ab| ", "one two")
    assert (scores.end, scores.after) == (-4.0, -0.1)


@pytest.mark.parametrize(
    ("gaps", "caution", "kept"),
    [
        ([0, 0, 0, 0, 0], 0.0, None),
        ([0, 1, 0, 0, 0], 2.0, 1),  # the first three tokens have no margin
        ([0, 0, 0, 1, 0], 2.0, None),
        ([0, 0, 0, 1, 0], 0.0, 3),
        ([0, 0, 0, 3, 0], 2.0, 3),
        ([0, 0, 0, 0, 3], 2.0, 4),  # the end
        ([0, 0, 0, 0, 1], 2.0, None),
    ],
)
def test_an_edit_parts_where_another_token_is_likelier_by_the_margin(gaps, caution, kept):
    tokens = tuple(TokenAgreement(at, at + 1, -5.0) for at in range(4))
    likeliest = tuple(-5.0 + gap for gap in gaps[:4])
    scores = Scores(tokens, likeliest, -5.0, -5.0 + gaps[4], (), 1)
    assert kept_tokens(scores, caution) == kept


@given(
    some.text("ab\n", max_size=30),
    some.lists(some.text("ab\n", min_size=1, max_size=4), max_size=3),
    some.lists(some.integers(1, 5)),
)
def test_a_text_ends_at_its_first_stop_text_however_it_comes(text, stop, sizes):
    cutter, given_out, rest = StopTexts(stop), "", text
    for size in [*sizes, len(text) or 1]:
        given_out += cutter.push(rest[:size])
        rest = rest[size:]
    found = [(at + len(one), at) for one in stop if (at := text.find(one)) >= 0]
    assert cutter.found == bool(found)
    given_out += "" if cutter.found else cutter.finish()
    assert given_out == (text[: min(found)[1]] if found else text)
