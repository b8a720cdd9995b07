"""An edit that repeats itself ends at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_metaaligner import Aligner, Edit, Engine, GuardError, Request

QUESTION = "\n\nHuman: Tell me. \n\nAssistant:"
ANSWER = "It is a fine day for a walk."
LOOPS = {
    "a word": "ha ",
    "a sentence": "I am sorry, I can not do that for you. ",
    "a row": "| a | b | c |\n",
    "a paragraph": "".join(f"Word number {place} of it. " for place in range(30)),
    "without spaces": "\u6211\u4e0d\u80fd\u3002",
    "a sign": "\n",
}


class Endless(Engine):
    """Writes the same text again and again, a few characters at a time."""

    def __init__(self, unit: str, times: int = 3000) -> None:
        self.text = "Well now. " + unit * times
        self.written = 0

    def edit(self, requests: Sequence[Request]) -> list[Edit]:
        return [Edit(self.text) for _ in requests]

    def stream(self, request: Request) -> Iterator[str]:
        for start in range(0, len(self.text), 5):
            self.written = start + 5
            yield self.text[start : start + 5]


@pytest.mark.parametrize("unit", LOOPS.values(), ids=LOOPS)
def test_a_loop_is_refused_within_a_few_repetitions(unit):
    engine = Endless(unit)
    with pytest.raises(GuardError, match="repeats itself") as caught:
        [*Aligner(engine=engine).stream(QUESTION, ANSWER, "humour")]
    assert (caught.value.guard, caught.value.retryable) == ("repetition", False)
    assert engine.written < 400 + 5 * len(unit)
    with pytest.raises(GuardError, match="repeats itself"):
        Aligner(engine=engine).align(QUESTION, ANSWER, "humour")


def test_an_edit_may_repeat_what_its_answer_repeats_and_half_as_much_again():
    for times in (100, 150):
        engine = Endless("ha ", times)
        made = Aligner(engine=engine).align(QUESTION, f"He laughs: {'ha ' * 100}", "humour")
        assert made.text == engine.text
    with pytest.raises(GuardError):
        Aligner(engine=Endless("ha ", 400)).align(QUESTION, "ha " * 100, "humour")


def test_a_loop_is_let_through_without_its_guard():
    engine = Endless("ha ", 400)
    assert Aligner(engine=engine, guards=()).align(QUESTION, ANSWER, "humour").text == engine.text


@given(
    st.lists(st.sampled_from(["a", "ab ", "x" * 40, "- " * 99]), max_size=30), st.integers(1, 99)
)
def test_a_loop_is_found_however_the_text_is_cut(parts, size):
    text = "Say: " + "".join(part * 3 for part in parts)

    class Cut(Endless):
        def stream(self, request: Request) -> Iterator[str]:
            yield from (self.text[at : at + size] for at in range(0, len(self.text), size))

    engine = Cut("")
    engine.text = text
    try:
        whole = Aligner(engine=engine).align(QUESTION, ANSWER, "humour").text
    except GuardError:
        with pytest.raises(GuardError):
            [*Aligner(engine=engine).stream(QUESTION, ANSWER, "humour")]
    else:
        assert "".join(Aligner(engine=engine).stream(QUESTION, ANSWER, "humour")) == whole


def test_a_loop_in_a_batch_is_the_error_of_its_own_item():
    class Some(Endless):
        def edit(self, requests: Sequence[Request]) -> list[Edit]:
            return [Edit("ok" if one.draft == "b" else self.text) for one in requests]

    items = [(QUESTION, draft, "humour") for draft in "abc"]
    made = Aligner(engine=Some("ha ")).align_batch(items, return_exceptions=True)
    assert [type(one).__name__ for one in made] == ["GuardError", "Alignment", "GuardError"]
