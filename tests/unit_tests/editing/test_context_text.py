from __future__ import annotations

import datetime as dt
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from langchain_metaaligner.editing.conversation import read_conversation

ENCODED = "QUJD" * 80


def turns(*messages):
    return [(one.role, one.text) for one in read_conversation(messages).turns]


def text(words):
    return [{"type": "text", "text": words}]


READ_BY_THE_POLICY = [
    (
        {
            "type": "search_result",
            "title": "Rome",
            "source": "example.org",
            "content": text("Hot."),
        },
        "Rome\nexample.org\nHot.",
    ),
    ({"searchResult": {"title": "Rome", "content": [{"text": "Hot."}]}}, "Rome\nHot."),
    ({"type": "json", "json": {"a": [1, "é"]}}, '{"a":[1,"é"]}'),
    ({"json": {"a": None}}, '{"a":null}'),
    (
        {"type": "document", "title": "T", "source": {"type": "text", "data": "Read me."}},
        "T\nRead me.",
    ),
    ({"type": "document", "source": {"type": "content", "content": text("Part.")}}, "Part."),
    ({"document": {"name": "a", "format": "txt", "source": {"text": "Read me."}}}, "Read me."),
    ({"type": "document", "document": {"id": "1", "data": "Read me."}}, "Read me."),
    ({"type": "document", "document": {"data": {"title": "T", "text": "Read me."}}}, "T\nRead me."),
    ({"type": "Document", "page_content": "Read me.", "metadata": {"page": 1}}, "Read me."),
    ({"type": "text-plain", "title": "T", "text": "Read me."}, "T\nRead me."),
    ({"type": "file", "source_type": "text", "text": "Read me."}, "Read me."),
    ({"type": "guard_content", "guard_content": {"text": {"text": "Check."}}}, "Check."),
    ({"guardContent": {"text": {"text": "Check.", "qualifiers": ["query"]}}}, "Check."),
    ({"type": "compaction", "content": "What was said."}, "What was said."),
    ({"type": "non_standard", "value": {"type": "json", "json": [1]}}, "[1]"),
    ({"type": "refusal", "refusal": "I can't."}, "I can't."),
    ({"type": "unknown", "content": text("Some text.")}, "Some text."),
]
NOT_READ = [
    ({"type": "document", "title": "T", "source": {"type": "base64", "data": ENCODED}}, "[file]"),
    ({"type": "document", "source": {"type": "url", "url": "https://a"}}, "[file]"),
    ({"document": {"name": "a", "source": {"bytes": b"abc"}}}, "[file]"),
    ({"type": "text-plain", "base64": ENCODED, "mime_type": "text/plain"}, "[file]"),
    ({"type": "file", "file": {"filename": "a.pdf", "file_data": ENCODED}}, "[file]"),
    ({"type": "container_upload", "file_id": "f"}, "[file]"),
    ({"type": "document_url", "document_url": f"data:application/pdf;base64,{ENCODED}"}, "[file]"),
    ({"type": "video_url", "video_url": "https://a"}, "[video]"),
    ({"type": "document", "document": {"data": "QUJD", "format": "pdf"}}, "[file]"),
    ({"inline_data": {"mime_type": "image/png", "data": ENCODED}}, "[file]"),
    ({"image": {"format": "png", "source": {"bytes": b"abc"}}}, "[image]"),
    ({"type": "cache_point"}, ""),
    ({"cachePoint": {"type": "default"}}, ""),
    ({"reasoningContent": {"reasoningText": {"text": "Hm."}}}, ""),
    ({"type": "non_standard", "value": {"type": "thinking", "thinking": "Hm."}}, ""),
]


@pytest.mark.parametrize(("block", "read"), READ_BY_THE_POLICY + NOT_READ)
def test_a_context_holds_what_the_policy_read_in_a_block(block, read):
    asked = "\n".join(one for one in ("See", read) if one)
    assert turns(HumanMessage(content=["See", block])) == [("human", asked)]
    returned = ToolMessage(content=[block], name="f", tool_call_id="1")
    assert turns(returned) == [("assistant", f"[tool f] {read}")]


CALLS_OF_A_PROVIDER = [
    ([{"type": "web_search_call", "id": "1", "action": {"type": "search", "query": "q"}}], ""),
    ([{"type": "executable_code", "executable_code": "print(1)"}], ""),
    ([{"toolUse": {"toolUseId": "1", "name": "f", "input": {"q": "x"}}}], ""),
    ([{"type": "server_tool_use", "id": "1", "name": "f", "input": {"q": "x"}}], ""),
    ([{"type": "image_generation_call", "id": "1", "result": ENCODED}], "[image]"),
    (
        [
            {"type": "server_tool_use", "id": "1", "name": "web_search", "input": {}},
            {
                "type": "web_search_tool_result",
                "tool_use_id": "1",
                "content": [
                    {"type": "web_search_result", "title": "Rome", "encrypted_content": ENCODED}
                ],
            },
        ],
        "[tool web_search] Rome",
    ),
    (
        [
            {"type": "server_tool_call", "id": "1", "name": "weather", "args": {}},
            {"type": "server_tool_result", "tool_call_id": "1", "output": {"degrees": 30}},
        ],
        '[tool weather] {"degrees":30}',
    ),
    (
        [{"type": "mcp_call", "name": "weather", "arguments": "{}", "output": "Hot."}],
        "[tool weather] Hot.",
    ),
    (
        [
            {
                "type": "code_interpreter_call",
                "code": "1",
                "outputs": [{"type": "logs", "logs": "3"}],
            }
        ],
        "[tool code_interpreter] 3",
    ),
    (
        [{"type": "file_search_call", "results": [{"file_id": "f", "score": 1, "text": "Hot."}]}],
        "[tool file_search] Hot.",
    ),
    (
        [
            {
                "type": "bash_code_execution_tool_result",
                "content": {
                    "type": "bash_code_execution_result",
                    "stdout": "3\n",
                    "return_code": 0,
                },
            }
        ],
        "[tool bash_code_execution] 3",
    ),
    (
        [{"type": "code_execution_result", "code_execution_result": "3", "outcome": 1}],
        "[tool code_execution] 3",
    ),
    ([{"type": "tool_result", "tool_use_id": "1", "content": text("Hot.")}], "[tool] Hot."),
]


@pytest.mark.parametrize(("blocks", "read"), CALLS_OF_A_PROVIDER)
def test_a_providers_own_tools_are_silent_but_for_what_they_returned(blocks, read):
    said = "\n".join(one for one in (read, "It is hot.") if one)
    assert turns(AIMessage(content=[*blocks, *text("It is hot.")])) == [("assistant", said)]


@pytest.mark.parametrize(
    ("provider", "blocks"),
    [
        ("anthropic", CALLS_OF_A_PROVIDER[5][0]),
        ("openai", CALLS_OF_A_PROVIDER[0][0]),
        ("google_genai", CALLS_OF_A_PROVIDER[11][0]),
        ("anthropic", [{"type": "thinking", "thinking": "Hm.", "signature": ENCODED}]),
    ],
)
def test_a_reply_reads_the_same_in_its_providers_blocks_and_in_langchains(provider, blocks):
    raw = AIMessage(
        content=[*blocks, *text("It is hot.")], response_metadata={"model_provider": provider}
    )
    assert turns(AIMessage(content=raw.content_blocks)) == turns(raw)


def test_results_that_stand_beside_the_content_are_read_before_it():
    outputs = [{"type": "python", "arguments": "1+2", "output": "3"}]
    reply = AIMessage("It is three.", additional_kwargs={"executed_tools": outputs})
    assert turns(reply) == [("assistant", "[tool python] 3\nIt is three.")]


def test_a_refusal_in_the_history_is_what_the_assistant_said():
    refused = [
        AIMessage("", additional_kwargs={"refusal": "I can't."}),
        AIMessage(content=[{"type": "refusal", "refusal": "I can't."}]),
        AIMessage("I can't.", additional_kwargs={"refusal": "I can't."}),
        AIMessage(
            content=[],
            response_metadata={
                "stop_reason": "refusal",
                "stop_details": {"explanation": "I can't."},
            },
        ),
        AIMessage("", response_metadata={"finish_reason": "SAFETY", "finish_message": "I can't."}),
    ]
    assert [turns(one) for one in refused] == [[("assistant", "I can't.")]] * 5


@pytest.mark.parametrize(
    "spoken",
    [
        AIMessage("", additional_kwargs={"audio": {"id": "a", "transcript": "It is hot."}}),
        AIMessage(content=[{"type": "audio", "base64": ENCODED, "transcript": "It is hot."}]),
        AIMessage("It is hot.", additional_kwargs={"audio": {"transcript": "It is hot."}}),
    ],
)
def test_a_recording_in_the_history_is_what_the_assistant_said(spoken):
    assert turns(spoken) == [("assistant", "It is hot.")]


def test_what_a_tool_returned_to_a_human_turn_is_no_words_of_the_human():
    result = {"type": "tool_result", "tool_use_id": "1", "content": "Hot."}
    assert turns(HumanMessage(content=[result])) == [("assistant", "[tool] Hot.")]
    assert turns(HumanMessage(content=[result, *text("And now?")])) == [
        ("assistant", "[tool] Hot."),
        ("human", "And now?"),
    ]


@pytest.mark.parametrize(
    ("block", "read"),
    [
        ({"type": "custom_tool_call_output", "output": "Hot."}, "Hot."),
        ({"type": "tool_result", "tool_use_id": "1", "content": "Hot."}, "Hot."),
        ({"type": "Feature", "city": "Rome"}, '{"type":"Feature","city":"Rome"}'),
    ],
)
def test_a_tools_message_is_read_under_the_tools_own_name(block, read):
    call = {"name": "f", "args": "{", "id": "1", "error": None, "type": "invalid_tool_call"}
    asked, returned = (
        AIMessage("", invalid_tool_calls=[call]),
        ToolMessage(content=[block], tool_call_id="1"),
    )
    assert turns(asked, returned) == [("assistant", f"[tool f] {read}")]


def test_data_from_a_tool_is_json_without_what_nobody_reads():
    data = {"when": dt.date(2026, 1, 2), "what": object(), "scan": ENCODED, "price": 3}
    (turn,) = turns(ToolMessage(content=[data], tool_call_id="1"))
    read = json.loads(turn[1].removeprefix("[tool] "))
    assert read == {"when": "2026-01-02", "what": "[data]", "scan": "[data]", "price": 3}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "content", "source", "json", "output", "id", "x"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
kinds = st.sampled_from(["json", "document", "search_result", "server_tool_result", "x", "refusal"])


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(["type", "a"]), kinds), st.dictionaries(st.text(), anything))
def test_no_block_can_make_a_context_fail(named, block):
    given = {**block, **named}
    for message in (
        HumanMessage.model_construct(content=[given]),
        AIMessage.model_construct(content=[given]),
        ToolMessage.model_construct(content=[given], tool_call_id="1"),
    ):
        assert all(isinstance(words, str) for _, words in turns(message))
