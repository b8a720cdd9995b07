"""What goes in comes out the same but for its text."""

from __future__ import annotations

import copy
import json
import re
import warnings
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from langchain_core.load import dumpd, dumps, load, loads
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    HumanMessage,
    ToolMessage,
)
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel

from langchain_metaaligner import Context, Edit, InputTypeError, MetaAlignerRunnable
from tests.unit_tests.integrations.ways import WAYS, by_turns
from tests.unit_tests.integrations.ways import run as run_by
from tests.unit_tests.scripted import Policy, ScriptedEngine

CONFIG = {"configurable": {"context": Context("a context")}}
WHOLE = WAYS[:4]
run = partial(run_by, config=CONFIG)


def aligner_with(engine=None, **options):
    return MetaAlignerRunnable(engine=engine or ScriptedEngine(), **options)


RICH: dict[str, Any] = {
    "id": "msg_1",
    "name": "poet",
    "additional_kwargs": {"refusal": None, "reasoning_content": "hm", "x": {"y": [1]}},
    "response_metadata": {"model_name": "m", "finish_reason": "stop", "logprobs": None},
    "usage_metadata": {
        "input_tokens": 5,
        "output_tokens": 2,
        "total_tokens": 7,
        "input_token_details": {"cache_read": 1},
    },
    "tool_calls": [{"name": "f", "args": {"a": 1}, "id": "call_1", "type": "tool_call"}],
    "invalid_tool_calls": [
        {
            "name": "g",
            "args": "{",
            "id": "call_2",
            "error": "not JSON",
            "type": "invalid_tool_call",
        }
    ],
}


def without_provenance(message):
    fields = copy.deepcopy(message.__dict__)
    fields["response_metadata"].pop("metaaligner")
    return fields


@pytest.mark.parametrize(("kind", "way"), by_turns([AIMessage, AIMessageChunk], WHOLE))
def test_a_message_keeps_everything_but_its_text(kind, way):
    message = kind(content="the text", **RICH)
    before = copy.deepcopy(message)
    edited = run(aligner_with(edit_tool_text=True), message, way)
    assert type(edited) is kind
    assert edited.content == "the text (edited)"
    assert without_provenance(edited) == {**message.__dict__, "content": "the text (edited)"}
    assert message == before
    assert message.__dict__ == before.__dict__


@pytest.mark.parametrize("way", WAYS)
def test_text_beside_tool_calls_passes_as_it_is(way):
    engine = ScriptedEngine()
    message = AIMessage(content="the text", **RICH)
    passed = run(aligner_with(engine), message, way)
    assert (passed.content, passed.tool_calls) == ("the text", message.tool_calls)
    assert "metaaligner" not in passed.response_metadata
    assert not engine.requests


@pytest.mark.parametrize("way", WAYS)
def test_a_reply_that_when_declines_is_skipped_and_says_so(way):
    engine, asked, records = ScriptedEngine(), [], []

    def when(reply, context):
        asked.append((reply.text, context.text))
        return False

    skipped = run(aligner_with(engine, when=when, on_edit=records.append), AIMessage("text"), way)
    assert skipped.text == "text"
    assert provenance(skipped)["status"] == "skipped"
    assert asked == [("text", "a context")]
    assert not engine.requests
    assert not records
    edited = run(aligner_with(engine, when=lambda *_: True), AIMessage("text"), way)
    assert edited.text == "text (edited)"


def test_when_is_asked_even_where_there_is_no_context():
    aligner = MetaAlignerRunnable(engine=ScriptedEngine(), when=lambda _, context: bool(context))
    assert provenance(aligner.invoke(AIMessage("text")))["status"] == "skipped"


def test_a_subclass_of_a_message_keeps_its_class_and_its_fields():
    class Mine(AIMessage):
        mood: str = "good"

    edited = run(aligner_with(), Mine("text", mood="bad", extra=1))
    assert type(edited) is Mine
    assert edited.mood == "bad"
    assert edited.extra == 1
    assert edited.content == "text (edited)"


def test_a_message_without_an_id_gets_none():
    assert run(aligner_with(), AIMessage("text")).id is None


BLOCKS = [
    {"type": "reasoning", "reasoning": "hm", "extras": {"signature": "s"}},
    {"type": "thinking", "thinking": "hm", "signature": "s"},
    {"type": "image", "base64": "AAAA", "mime_type": "image/png"},
    {"type": "tool_use", "id": "call_1", "name": "f", "input": {"a": 1}},
    {"type": "server_tool_call", "id": "2", "name": "search", "args": {}},
    {"type": "something_new", "payload": [1, {"a": None}]},
]


@pytest.mark.parametrize("way", ["invoke", "abatch"])
def test_blocks_that_are_no_text_keep_value_type_and_order(way):
    text = {"type": "text", "text": "the text", "annotations": [{"type": "citation", "url": "u"}]}
    content = [*BLOCKS[:3], text, *BLOCKS[3:]]
    message = AIMessage(content=copy.deepcopy(content))
    edited = run(aligner_with(), message, way)
    assert edited.content == [
        *BLOCKS[:3],
        {**text, "text": "the text (edited)"},
        *BLOCKS[3:],
    ]
    assert message.content == content


blocks = st.lists(
    st.one_of(
        st.sampled_from(BLOCKS),
        st.builds(lambda text: {"type": "text", "text": text}, st.text(max_size=10)),
        st.text(max_size=10),
    ),
    max_size=5,
)
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)
objects = st.dictionaries(st.text(max_size=5), plain, max_size=3)
messages = st.builds(
    lambda kind, **fields: kind(**fields),
    st.sampled_from([AIMessage, AIMessageChunk]),
    content=st.one_of(st.text(max_size=30), blocks),
    id=st.one_of(st.none(), st.text(min_size=1, max_size=8)),
    name=st.one_of(st.none(), st.text(min_size=1, max_size=8)),
    additional_kwargs=objects,
    response_metadata=objects.filter(lambda one: "output_version" not in one),
    usage_metadata=st.one_of(
        st.none(),
        st.builds(
            lambda a, b: {"input_tokens": a, "output_tokens": b, "total_tokens": a + b},
            st.integers(0, 99),
            st.integers(0, 99),
        ),
    ),
    tool_calls=st.lists(
        st.builds(
            lambda name, args, call_id: {
                "name": name,
                "args": args,
                "id": call_id,
                "type": "tool_call",
            },
            st.text(min_size=1, max_size=5),
            objects,
            st.text(min_size=1, max_size=5),
        ),
        max_size=2,
    ),
)


def is_text(block):
    return isinstance(block, str) or block.get("type") == "text"


def text_of(content):
    if isinstance(content, str):
        return content
    return "".join(one if isinstance(one, str) else one["text"] for one in content if is_text(one))


def beside(message):
    content = message.content
    blocks = [] if isinstance(content, str) else [one for one in content if not is_text(one)]
    return [blocks, message.additional_kwargs, message.response_metadata]


WORDS = re.compile(r"\w+")


@given(messages, st.sampled_from(["new text", "{} more", "{}", "a"]))
def test_any_message_keeps_everything_but_its_text(message, edit):
    # What holds words of the text may be a copy of it.
    said = set(WORDS.findall(text_of(message.content)))
    assume(said.isdisjoint(WORDS.findall(repr(beside(message)))))
    new = edit.format(text_of(message.content))
    if not new.strip():
        new = "x"
    engine = ScriptedEngine(new)
    before = copy.deepcopy(message)
    edited = aligner_with(engine, edit_tool_text=True).invoke(message, CONFIG)
    assert message.__dict__ == before.__dict__
    if not text_of(message.content).strip():
        assert edited is message
        assert not engine.requests
        return
    assert type(edited) is type(message)
    assert text_of(edited.content) == new
    kept = without_provenance(edited)
    for name, value in before.__dict__.items():
        if name not in ("content", "response_metadata"):
            assert kept[name] == value
    assert kept["response_metadata"] == {
        key: value for key, value in before.response_metadata.items() if key != "metaaligner"
    }
    if isinstance(message.content, list):
        assert [one for one in edited.content if not is_text(one)] == [
            one for one in message.content if not is_text(one)
        ]
    else:
        assert isinstance(edited.content, str)


# What goes in and what comes out.


@pytest.mark.parametrize("way", WAYS)
def test_text_comes_out_as_text(way):
    assert run(aligner_with(), "some text", way) == "some text (edited)"


WITHOUT_TEXT = [
    AIMessage(""),
    AIMessage(" \n\t"),
    AIMessage(content=[]),
    AIMessage(content=[{"type": "reasoning", "reasoning": "hm"}]),
    AIMessage(content=[{"type": "text", "text": ""}]),
    AIMessage("", tool_calls=RICH["tool_calls"]),
    AIMessageChunk(content="", tool_calls=RICH["tool_calls"]),
    "",
    "  ",
]


@pytest.mark.parametrize(("reply", "way"), by_turns(WITHOUT_TEXT, WHOLE))
def test_a_reply_without_text_is_the_same_object_and_no_request(reply, way):
    engine, records = ScriptedEngine(), []
    aligner = aligner_with(engine, on_edit=records.append)
    assert run(aligner, reply, way) is reply
    assert run(aligner, reply, way, config={}) is reply
    assert not engine.requests
    assert not records


class State(BaseModel):
    messages: list[Any]
    other: int = 1


@dataclass
class DataState:
    messages: list[Any] = field(default_factory=list)
    other: int = 1


TALK = [HumanMessage("why?"), AIMessage("because", id="1")]
STATES = {
    "dict": lambda messages: {"messages": messages, "other": 1},
    "pydantic": lambda messages: State(messages=messages),
    "dataclass": lambda messages: DataState(messages=messages),
}


@pytest.mark.parametrize(("kind", "way"), by_turns(STATES, WAYS))
def test_a_state_comes_out_as_its_edited_message_alone(kind, way):
    engine = ScriptedEngine()
    state = STATES[kind](list(TALK))
    before = copy.deepcopy(state)
    out = run(aligner_with(engine), state, way, config={})
    assert list(out) == ["messages"]
    (edited,) = out["messages"]
    assert type(edited) is AIMessage
    assert (edited.id, edited.text) == ("1", "because (edited)")
    assert "Context: \n\nHuman: why? \n\nAssistant: | Answer: because |" in engine.prompts[0]
    assert state == before


def test_a_state_may_hold_what_langchain_takes_for_messages():
    out = run(aligner_with(), {"messages": [("human", "why?"), ("ai", "because")]}, config={})
    assert out["messages"][0].text == "because (edited)"


def test_a_state_whose_reply_has_no_text_comes_out_with_that_reply():
    reply = AIMessage("", tool_calls=RICH["tool_calls"])
    engine = ScriptedEngine()
    out = run(aligner_with(engine), {"messages": [HumanMessage("x"), reply]}, config={})
    assert list(out) == ["messages"]
    assert out["messages"][0] is reply
    assert not engine.requests


def test_the_keys_of_a_dict_that_arrive_apart_are_one_state():
    runnable = RunnablePassthrough.assign(other=lambda _: 1) | aligner_with()
    (out,) = runnable.stream({"messages": list(TALK)})
    assert out["messages"][0].text == "because (edited)"


WRONG = [
    None,
    5,
    1.5,
    True,
    b"text",
    object(),
    HumanMessage("h"),
    ToolMessage("t", tool_call_id="1"),
    ChatMessage("c", role="user"),
    [AIMessage("x")],
    ("ai", "x"),
    {},
    {"message": AIMessage("x")},
    {"messages": None},
    {"messages": 5},
    {"messages": AIMessage("x")},
    {"messages": [object()]},
    State(messages=[object()]),
]


@pytest.mark.parametrize(
    ("given", "way", "policy"), by_turns(WRONG, WAYS, ["raise", "pass", "block"])
)
def test_anything_else_is_refused_by_the_name_of_its_type(given, way, policy):
    with pytest.raises(InputTypeError, match=type(given).__name__):
        run(aligner_with(on_error=policy), given, way)


@pytest.mark.parametrize(
    ("messages", "last"),
    [
        ([], "nothing"),
        ([HumanMessage("x")], "HumanMessage"),
        ([AIMessage("x"), ToolMessage("t", tool_call_id="1")], "ToolMessage"),
        ("text", "HumanMessage"),
    ],
)
def test_a_state_that_does_not_end_with_a_reply_is_refused_by_what_it_ends_with(messages, last):
    with pytest.raises(InputTypeError, match=last):
        run(aligner_with(), {"messages": messages})


def test_a_prompt_without_a_model_behind_it_is_refused():
    runnable = ChatPromptTemplate.from_messages([("human", "{q}")]) | aligner_with()
    with pytest.raises(InputTypeError):
        runnable.invoke({"q": "x"})


# What was done.


def provenance(message):
    return message.response_metadata["metaaligner"]


def full_engine():
    usage = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    return ScriptedEngine(Edit("edited text", usage=usage, passes=2, agreement=-0.25))


def test_the_provenance_tells_what_was_done():
    edited = run(aligner_with(full_engine(), objectives=["humor"]), AIMessage("text"))
    told = provenance(edited)
    seconds = told.pop("seconds")
    assert isinstance(seconds, float)
    assert told == {
        "status": "edited",
        "changed": True,
        "objectives": ["humour"],
        "model": "scripted",
        "family": "HH-RLHF",
        "finish_reason": "stop",
        "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
        "passes": 2,
        "agreement": -0.25,
        "caution": 0.0,
        "dropped": {},
    }


def test_an_edit_that_changes_nothing_is_told_as_such():
    edited = run(aligner_with(ScriptedEngine("text")), AIMessage("text"))
    assert provenance(edited)["status"] == "unchanged"
    assert provenance(edited)["changed"] is False
    assert edited.text == "text"


def test_the_original_is_in_the_message_only_when_that_is_asked_for():
    assert "my secret" not in repr(run(aligner_with(ScriptedEngine("x")), AIMessage("my secret")))
    edited = run(aligner_with(keep_original=True), AIMessage("text"))
    assert provenance(edited)["original"] == "text"


def test_the_provenance_of_an_earlier_aligner_gives_way():
    once = run(aligner_with(objectives=["humour"]), AIMessage("text"))
    twice = run(aligner_with(objectives=["honesty"]), once)
    assert provenance(twice)["objectives"] == ["honesty"]
    assert provenance(once)["objectives"] == ["humour"]


def test_the_provenance_survives_json_and_langchains_own_serialisation():
    edited = run(aligner_with(full_engine(), keep_original=True), AIMessage("text", id="1"))
    assert json.loads(json.dumps(provenance(edited))) == provenance(edited)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*beta")
        assert load(dumpd(edited), allowed_objects="messages") == edited
        assert loads(dumps(edited), allowed_objects="messages") == edited


@pytest.mark.parametrize("strict", [False, True])
def test_the_provenance_survives_a_checkpoint(strict, monkeypatch):
    if strict:
        monkeypatch.setenv("LANGGRAPH_STRICT_MSGPACK", "true")
    chain = Policy(reply=AIMessage("text", id="1")) | aligner_with(full_engine())
    builder = StateGraph(MessagesState)
    builder.add_node("node", lambda state: {"messages": [chain.invoke(state["messages"])]})
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    graph = builder.compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    out = graph.invoke({"messages": [HumanMessage("q")]}, config)["messages"][-1]
    again = graph.get_state(config).values["messages"][-1]
    assert provenance(again) == provenance(out)
    assert type(provenance(again)) is dict
    assert again.text == "edited text"
