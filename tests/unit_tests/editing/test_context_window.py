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


@given(st.lists(turn, min_size=1, max_size=6).map(tuple), st.integers(0, 30))
def test_the_rest_is_the_end_of_the_talk_and_nothing_goes_without_need(talk, most):
    kept, dropped = shorten(talk, within(most))
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
