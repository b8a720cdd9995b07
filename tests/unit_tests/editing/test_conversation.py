from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from langchain_metaaligner import Context, InputTypeError
from langchain_metaaligner.editing.conversation import (
    Turn,
    read_conversation,
)
from langchain_metaaligner.editing.word_diff import compare_words, split_words


def turns(*messages, **options):
    return [(one.role, one.text) for one in read_conversation(messages, **options).turns]


def test_human_and_assistant_turns_keep_their_order_and_text():
    assert turns(HumanMessage("hi "), AIMessage(" hello"), HumanMessage("why?")) == [
        ("human", "hi "),
        ("assistant", " hello"),
        ("human", "why?"),
    ]


def test_adjacent_human_turns_stay_two_turns():
    assert turns(HumanMessage("one"), HumanMessage("two")) == [("human", "one"), ("human", "two")]


def test_chunks_and_chat_messages_speak_for_their_roles():
    assert turns(
        HumanMessageChunk(content="a"),
        AIMessageChunk(content="b"),
        ChatMessage(role="user", content="c"),
        ChatMessage(role="assistant", content="d"),
        ChatMessage(role="Assistant", content="e"),
    ) == [
        ("human", "a"),
        ("assistant", "b"),
        ("human", "c"),
        ("assistant", "d"),
        ("assistant", "e"),
    ]


def test_a_subclass_of_a_message_speaks_as_its_base_does():
    class Mine(HumanMessage):
        mood: str = "good"

    assert turns(Mine("hi")) == [("human", "hi")]


def test_what_langchain_takes_for_messages_is_taken_too():
    assert turns(("human", "a"), {"role": "assistant", "content": "b"}, "c") == [
        ("human", "a"),
        ("assistant", "b"),
        ("human", "c"),
    ]


def test_a_system_message_is_left_out_and_counted():
    conversation = read_conversation([SystemMessage("Be brief."), HumanMessage("hi")])
    assert conversation.turns == (Turn("human", "hi"),)
    assert conversation.system_dropped == 1


def test_a_developer_message_counts_as_a_system_message():
    messages = [ChatMessage(role="developer", content="Be brief."), HumanMessage("hi")]
    assert read_conversation(messages).system_dropped == 1


def test_a_system_message_can_join_the_first_human_turn():
    conversation = read_conversation(
        [SystemMessage("Facts."), AIMessage("Welcome."), HumanMessage("hi"), HumanMessage("again")],
        system="first_turn",
    )
    assert conversation.system_dropped == 0
    assert [one.text for one in conversation.turns] == ["Welcome.", "Facts.\n\nhi", "again"]


def test_a_system_message_with_no_human_turn_to_join_is_left_out():
    conversation = read_conversation(
        [SystemMessage("Facts."), AIMessage("Hi")], system="first_turn"
    )
    assert conversation.system_dropped == 1


def call(name, call_id):
    return {"name": name, "args": {}, "id": call_id, "type": "tool_call"}


def test_a_tool_result_goes_into_the_assistants_next_turn():
    assert turns(
        HumanMessage("Weather?"),
        AIMessage("", tool_calls=[call("weather", "1")]),
        ToolMessage("sunny", tool_call_id="1"),
        AIMessage("It is sunny."),
        HumanMessage("Thanks"),
    ) == [
        ("human", "Weather?"),
        ("assistant", "[tool weather] sunny\nIt is sunny."),
        ("human", "Thanks"),
    ]


def test_a_tool_result_with_no_later_assistant_turn_is_the_last_turn():
    assert turns(
        HumanMessage("Weather?"),
        AIMessage("Let me look.", tool_calls=[call("weather", "1"), call("wind", "2")]),
        ToolMessage("sunny", tool_call_id="1"),
        ToolMessage("calm", tool_call_id="2", name="breeze"),
    ) == [
        ("human", "Weather?"),
        ("assistant", "Let me look."),
        ("assistant", "[tool weather] sunny\n[tool breeze] calm"),
    ]


def test_a_tool_result_of_blocks_renders_as_their_text():
    assert turns(
        HumanMessage("Look"),
        ToolMessage(
            content=[{"type": "text", "text": "found"}, {"type": "image_url", "image_url": "x"}],
            tool_call_id="1",
        ),
    ) == [("human", "Look"), ("assistant", "[tool] found\n[image]")]


def test_a_human_turn_after_a_tool_result_leaves_it_with_the_assistant():
    assert turns(
        HumanMessage("Weather?"), ToolMessage("sunny", tool_call_id="1"), HumanMessage("And now?")
    ) == [("human", "Weather?"), ("assistant", "[tool] sunny"), ("human", "And now?")]


def test_a_function_result_is_a_tool_result():
    assert turns(HumanMessage("a"), FunctionMessage(name="f", content="b")) == [
        ("human", "a"),
        ("assistant", "[tool f] b"),
    ]


def test_an_assistant_turn_without_text_is_none():
    assert turns(HumanMessage("a"), AIMessage(""), AIMessage("  "), AIMessage(content=[])) == [
        ("human", "a")
    ]


def test_a_message_that_removes_another_says_nothing():
    assert turns(RemoveMessage(id="1"), HumanMessage("a")) == [("human", "a")]


@pytest.mark.parametrize(
    ("block", "shown"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, "[image]"),
        ({"type": "image", "base64": "AAAA", "mime_type": "image/png"}, "[image]"),
        ({"type": "input_image", "image_url": "x"}, "[image]"),
        ({"type": "audio", "base64": "AAAA"}, "[audio]"),
        ({"type": "input_audio", "input_audio": {}}, "[audio]"),
        ({"type": "video", "url": "x"}, "[video]"),
        ({"type": "file", "file": {}}, "[file]"),
        ({"type": "document", "source": {}}, "[file]"),
        ({"type": "something_new", "x": 1}, "[something_new]"),
        ({"x": 1}, "[data]"),
        ({"type": "{'a': 1}"}, "[data]"),
    ],
)
def test_what_is_no_text_becomes_a_word_in_brackets(block, shown):
    assert turns(HumanMessage(content=["See", block])) == [("human", f"See\n{shown}")]


def test_reasoning_and_tool_use_among_the_blocks_of_a_reply_say_nothing():
    said = AIMessage(
        content=[
            {"type": "reasoning", "reasoning": "hm"},
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "Yes"},
            {"type": "tool_use", "id": "1", "name": "f", "input": {}},
            {"type": "text", "text": ", do."},
        ]
    )
    assert turns(HumanMessage("a"), said) == [("human", "a"), ("assistant", "Yes, do.")]


blocks = st.one_of(
    st.text("ab \n", max_size=8),
    st.builds(lambda text: {"type": "text", "text": text}, st.text("ab \n", max_size=8)),
    st.fixed_dictionaries({"type": st.sampled_from(["image", "file", "tool_use", "reasoning"])}),
    st.just({"type": "image_url", "image_url": {"url": "data:x"}}),
)


@given(
    st.lists(
        st.builds(
            lambda kind, content: (
                kind(content=content, tool_call_id="1")
                if kind is ToolMessage
                else kind(content=content)
            ),
            st.sampled_from([HumanMessage, AIMessage, ToolMessage]),
            st.lists(blocks, max_size=4),
        ),
        max_size=5,
    )
)
def test_no_list_or_dict_is_ever_written_as_python_writes_it(messages):
    for turn in read_conversation(messages).turns:
        assert not set("{}'\"") & set(turn.text)


@pytest.mark.parametrize("given", [[object()], [5], [None], 5])
def test_what_is_no_message_is_refused(given):
    with pytest.raises((InputTypeError, TypeError)):
        read_conversation(given)


def test_a_context_does_not_show_its_text():
    assert "secret" not in repr(Context("my secret"))
    assert "secret" not in repr(Turn("human", "my secret"))


words = st.lists(st.sampled_from(["a", "b", "c", " ", "\n", "."]), max_size=12)


@given(words, words)
def test_the_way_from_words_to_words_covers_both_in_order(before, after):
    at_i = at_j = 0
    for tag, i1, i2, j1, j2 in compare_words(before, after):
        assert (i1, j1) == (at_i, at_j)
        assert (before[i1:i2] == after[j1:j2]) is (tag == "equal")
        at_i, at_j = i2, j2
    assert (at_i, at_j) == (len(before), len(after))


def counted(word):
    """A word that counts how often it is compared or looked up."""

    class Counted(str):
        __slots__ = ()

        def __eq__(self, other):
            counted.times += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    return Counted(word)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("old {} ", "new {} "),
        ("ha ", "ho ha "),
        ("the {} , ", "the other, "),
    ],
)
def test_long_texts_with_little_in_common_are_compared_in_reasonable_time(before, after):
    old = split_words("".join(before.format(i) for i in range(1500)))
    new = split_words("".join(after.format(f"x{i}") for i in range(1500)))
    counted.times = 0
    compare_words([counted(one) for one in old], [counted(one) for one in new])
    assert counted.times < 100 * (len(old) + len(new))


@given(st.text())
def test_words_and_white_space_joined_are_the_text(text):
    assert "".join(split_words(text)) == text
