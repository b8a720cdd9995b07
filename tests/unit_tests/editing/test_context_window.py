from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from langchain_metaaligner.editing.context_window import shorten
from langchain_metaaligner.editing.conversation import Turn

TALK = (
    Turn("human", "one two"),
    Turn("assistant", "three four"),
    Turn("human", "five six"),
    Turn("assistant", "seven eight"),
    Turn("human", "nine ten eleven"),
)


def words(context):
    texts = [context] if isinstance(context, str) else [turn.text for turn in context]
    return sum(len(text.split()) for text in texts)


def within(most):
    return lambda context: words(context) <= most


def texts(context):
    return [turn.text for turn in context]


def test_what_fits_stays_whole():
    assert shorten(TALK, within(11)) == (TALK, {})
    assert shorten("some text", within(2)) == ("some text", {})


def test_the_oldest_turns_go_first_and_the_rest_begins_with_a_human_turn():
    assert shorten(TALK, within(10)) == (TALK[2:], {"turns": 2})
    assert shorten(TALK, within(7)) == (TALK[2:], {"turns": 2})
    assert shorten(TALK, within(6)) == (TALK[4:], {"turns": 4})


def test_of_the_last_human_turn_the_oldest_words_go():
    kept, dropped = shorten(TALK, within(2))
    assert texts(kept) == ["ten eleven"]
    assert dropped == {"turns": 4, "words": 1}


def test_results_of_tools_after_the_last_human_turn_lose_words_before_it_does():
    talk = (*TALK, Turn("assistant", "[tool f] result"))
    kept, dropped = shorten(talk, within(4))
    assert texts(kept) == ["nine ten eleven", "result"]
    assert dropped == {"turns": 4, "words": 2}
    kept, dropped = shorten(talk, within(2))
    assert texts(kept) == ["ten eleven", ""]
    assert dropped == {"turns": 4, "words": 4}


def test_of_a_context_given_as_text_the_oldest_words_go():
    assert shorten("one two  three\nfour", within(2)) == ("three\nfour", {"words": 2})


def test_a_context_can_go_whole_and_then_nothing_is_left_to_take():
    assert shorten("one two", within(0)) == ("", {"words": 2})
    assert shorten("one two", lambda _: False) is None
    assert shorten(TALK, lambda _: False) is None


def test_a_talk_that_only_the_assistant_has_is_shortened_too():
    kept, dropped = shorten((Turn("assistant", "a b"), Turn("assistant", "c d")), within(3))
    assert words(kept) <= 3
    assert sum(dropped.values()) == 1


turn = st.builds(
    Turn,
    st.sampled_from(["human", "assistant"]),
    st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=5).map(" ".join),
)


@given(st.lists(turn, min_size=1, max_size=6).map(tuple), st.integers(0, 30), st.integers(1, 40))
def test_the_rest_is_the_end_of_the_talk_and_nothing_goes_without_need(talk, most, step):
    kept, dropped = shorten(talk, within(most), step=step)
    assert words(kept) <= most
    gone = dropped.get("turns", 0)
    assert len(kept) == len(talk) - gone
    assert words(talk) - words(talk[:gone]) - words(kept) == dropped.get("words", 0)
    for old, new in zip(talk[gone:], kept, strict=True):
        assert old.role == new.role
        assert old.text.endswith(new.text)
    if words(talk) <= most:
        assert kept == talk
    elif dropped.get("words"):
        assert words(kept) == most


@given(
    st.lists(st.sampled_from(["a", "bb ", "  ", "\n", "ccc"]), max_size=20).map("".join), st.data()
)
def test_of_any_text_the_longest_end_is_kept_whatever_is_tried_first(text, data):
    most, step = data.draw(st.integers(0, 8)), data.draw(st.integers(1, 30))
    assert shorten(text, within(most), step=step) == shorten(text, within(most), step=1000)


def looked_at(context, most):
    """How many characters of contexts are looked at to shorten this one."""
    seen = 0

    def fits(one):
        nonlocal seen
        seen += len(one) if isinstance(one, str) else sum(len(turn.text) + 16 for turn in one)
        return words(one) <= most

    kept, _ = shorten(context, fits, step=1000)
    assert words(kept) == most
    return seen


def test_what_is_much_too_long_costs_no_more_than_what_is_a_little_too_long():
    for make in (
        lambda n: "some words " * n,
        lambda n: (Turn("human", "some words"),) * n,
        lambda n: (Turn("human", "some words " * n),),
        lambda n: (
            Turn("human", "x"),
            *(Turn("assistant", "some words"),) * 5,
            Turn("human", "y " * n),
        ),
    ):
        assert looked_at(make(20_000), 100) < 2 * looked_at(make(2_000), 100)


def test_many_results_after_the_last_question_are_not_taken_away_one_by_one():
    talk = (Turn("human", "one two"), *(Turn("assistant", "x y"),) * 3_000)
    calls = []
    kept, dropped = shorten(talk, lambda one: calls.append(1) or words(one) <= 7)
    assert (words(kept), dropped) == (7, {"words": 5_995})
    assert texts(kept)[-3:] == ["y", "x y", "x y"]
    assert len(calls) < 60
