"""What a reply's text is, and what is left of a message when it changes."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage

from langchain_metaaligner import InputTypeError
from langchain_metaaligner.editing.reply_message import answer_text, with_text


def test_the_text_of_an_answer_is_all_its_text_blocks():
    message = AIMessage(
        content=[
            {"type": "reasoning", "reasoning": "hm"},
            {"type": "text", "text": "One. "},
            {"type": "image", "url": "x"},
            "Two.",
        ]
    )
    assert answer_text(message) == "One. Two."
    assert answer_text("text") == "text"


@pytest.mark.parametrize("given", [None, 5, {}, [], object()])
def test_what_is_no_answer_is_refused_by_the_name_of_its_type(given):
    with pytest.raises(InputTypeError, match=type(given).__name__):
        answer_text(given)


def test_the_same_text_gives_the_same_message():
    message = AIMessage(content=[{"type": "text", "text": "a"}, {"type": "image", "url": "x"}])
    assert with_text(message, "a") is message
    text = AIMessage("a")
    assert with_text(text, "a") is text


def test_each_text_block_gets_its_share_of_the_new_text():
    image = {"type": "image", "url": "x"}
    message = AIMessage(
        content=[
            {"type": "text", "text": "The first part. ", "annotations": [{"type": "citation"}]},
            image,
            {"type": "text", "text": "The second part."},
        ]
    )
    edited = with_text(message, "The first, better part. The second part, too.")
    assert edited.content == [
        {
            "type": "text",
            "text": "The first, better part. ",
            "annotations": [{"type": "citation"}],
        },
        image,
        {"type": "text", "text": "The second part, too."},
    ]


content = st.lists(
    st.one_of(
        st.text("ab .\n", max_size=12),
        st.builds(
            lambda text, extra: {"type": "text", "text": text, **extra},
            st.text("ab .\n", max_size=12),
            st.sampled_from([{}, {"index": 0}, {"annotations": []}]),
        ),
        st.sampled_from(
            [
                {"type": "reasoning", "reasoning": "hm", "signature": "s"},
                {"type": "image", "url": "x"},
                {"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}},
                {"type": "text"},
            ]
        ),
    ),
    max_size=6,
)


def is_text(block):
    return isinstance(block, str) or (block.get("type") == "text" and "text" in block)


@given(content, st.text("abc .\n", min_size=1, max_size=40))
def test_a_new_text_changes_text_blocks_alone(blocks, text):
    message = AIMessage(content=blocks, id="1")
    before = copy.deepcopy(message)
    edited = with_text(message, text)
    assert message == before
    assert answer_text(edited) == text
    assert [one for one in edited.content if not is_text(one)] == [
        one for one in blocks if not is_text(one)
    ]
    kept = [
        {key: value for key, value in one.items() if key != "text"}
        for one in edited.content
        if isinstance(one, dict) and is_text(one)
    ]
    of_old = [
        {key: value for key, value in one.items() if key != "text"}
        for one in blocks
        if isinstance(one, dict) and is_text(one)
    ]
    rest = iter(of_old)
    assert any(is_text(one) for one in blocks) is False or all(one in rest for one in kept)
