"""Where the last tokens of a text occurred before."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from langchain_metaaligner.engines.local.phrases import LONGEST, Phrases


def slowly(tokens: list[int], most: int) -> list[int]:
    for length in range(LONGEST, 0, -1):
        for end in range(len(tokens) - 1, length - 1, -1):
            if len(tokens) >= length and tokens[end - length : end] == tokens[-length:]:
                return tokens[end : end + most]
    return []


@given(
    tokens=st.lists(st.integers(0, 4), max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=5),
    most=st.integers(0, 4),
)
def test_the_longest_phrase_goes_on_as_where_it_last_occurred(tokens, cuts, most):
    ends = [*sorted(cuts), len(tokens)]
    phrases = Phrases(tokens[: ends[0]])
    for start, end in pairwise(ends):
        phrases.extend(tokens[start:end])
    assert phrases.go_on(most)[0] == slowly(tokens, most)


def test_it_tells_how_many_tokens_in_a_row_occurred_before():
    assert Phrases([1, 2, 3, 4, 5, 2, 3, 4]).go_on(2) == ([5, 2], 3)
    assert Phrases([1, 2, 3, 9, 3]).go_on(2) == ([9, 3], 1)
    assert Phrases([1, 2, 3]).go_on(2) == ([], 0)
