"""What a reply's text is, and what is left of a message when it changes."""

from __future__ import annotations

import copy
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk
from pydantic import Field

from langchain_metaaligner import InputTypeError
from langchain_metaaligner.editing.reply_message import (
    answer_text,
    blocked,
    left_beside,
    with_text,
)


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


# Text in other clothes.

FORMS = {
    "output_text": {"type": "output_text", "text": "{}", "id": "msg_1"},
    "text-plain": {"type": "text-plain", "text": "{}", "mime_type": "text/plain"},
    "without a type": {"text": "{}"},
    "with a value": {"type": "text", "text": {"value": "{}", "annotations": []}},
    "unknown": {"type": "markdown", "markdown": "{}"},
    "unknown content": {"type": "answer", "content": "{}"},
    "non_standard": {"type": "non_standard", "value": {"type": "x", "text": "{}", "a": 1}},
    "non_standard text": {"type": "non_standard", "value": "{}"},
    "parts": {"parts": [{"text": "{}"}]},
    "named by its key": {"citationsContent": {"content": [{"text": "{}"}], "citations": []}},
    "a list of texts": {"type": "text", "text": ["{}"]},
    "item": {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "{}"}, {"type": "reasoning", "text": "hm"}],
    },
}


def written(form, text):
    if isinstance(form, dict):
        return {key: written(one, text) for key, one in form.items()}
    if isinstance(form, list):
        return [written(one, text) for one in form]
    return text if form == "{}" else form


@pytest.mark.parametrize("kind", FORMS)
def test_text_of_any_form_is_edited_and_keeps_its_form(kind):
    form = FORMS[kind]
    message = AIMessage([written(form, "One. "), {"type": "image", "url": "x"}, "Two."])
    assert answer_text(message) == "One. Two."
    edited = with_text(message, "One or so. Two, too.")
    assert edited.content == [
        written(form, "One or so. "),
        {"type": "image", "url": "x"},
        "Two, too.",
    ]
    assert blocked(message, "No.").content == [{"type": "text", "text": "No."}]


NO_TEXT = [
    {"type": "reasoning", "text": "hm"},
    {"type": "text", "text": "hm", "thought": True},
    {"type": "non_standard", "value": {"type": "thinking", "thinking": "hm"}},
    {"reasoning_content": {"text": "hm"}},
    {"type": "web_search_tool_result", "content": [{"type": "text", "text": "found"}]},
    {"type": "function_call", "arguments": "a b", "name": "f"},
    {"type": "code_execution_result", "code_execution_result": "a b"},
    {"type": "refusal", "refusal": "no"},
]


@pytest.mark.parametrize("block", NO_TEXT)
def test_thoughts_tools_and_refusals_are_no_text(block):
    assert answer_text(AIMessage([block])) == ""
    assert with_text(AIMessage([block, "old"]), "new").content == [block, "new"]


def test_a_refusal_that_is_text_loses_its_mark():
    block = {"type": "refusal", "refusal": "I refuse.", "id": "msg_1", "index": 0, "logprobs": []}
    edited = with_text(AIMessage([block]), "Yes.", refusals=True)
    assert edited.content == [{"type": "text", "text": "Yes.", "id": "msg_1", "index": 0}]
    beside = AIMessage("", additional_kwargs={"refusal": "I refuse.", "a": 1})
    edited = with_text(beside, "Yes.", refusals=True)
    assert (edited.content, edited.additional_kwargs) == ("Yes.", {"a": 1})
    # Its words may stay: whoever reads a stream has read them as text.
    for refused in (AIMessage([block]), beside):
        said = with_text(refused, "I refuse.", refusals=True)
        assert (said.text, answer_text(said)) == ("I refuse.", "I refuse.")
        assert "'refusal'" not in repr(said)


def test_a_refusal_beside_a_text_is_a_part_of_it():
    for content in ("Well. ", [{"type": "text", "text": "Well. "}]):
        message = AIMessage(content, additional_kwargs={"refusal": "I refuse."})
        assert answer_text(message) == "Well. "
        assert answer_text(message, refusals=True) == "Well. I refuse."
        edited = with_text(message, "Well. Yes.", refusals=True)
        assert (edited.text, edited.additional_kwargs) == ("Well. Yes.", {})


@pytest.mark.parametrize("kind", ["json", "search_result", "card"])
def test_a_copy_in_data_beside_the_text_goes(kind):
    data = {"type": kind, "n": 1, "inner": [{"said": "zorp quib"}]}
    for block in (data, {"type": "non_standard", "value": data}):
        edited = with_text(AIMessage([block, "zorp quib"]), "new")
        assert "zorp" not in repr(edited)
        assert "'n': 1" in repr(edited)


# Citations.

BEFORE = "Zürich is big. Bern is small. Basel too."
AFTER = "Well: Zürich is big. Bern is tiny. Basel too."


def span(of, text, **names):
    start = of.index(text)
    first, last = names or ("start_index", "end_index")
    return {first: start, last: start + len(text)}


@pytest.mark.parametrize(
    "cite",
    [
        lambda of, text: {"type": "url_citation", "url": "u", **span(of, text)},
        lambda of, text: {"type": "citation", "cited_text": "A source.", **span(of, text)},
        lambda of, text: {"type": "url_citation", "url_citation": {"url": "u", **span(of, text)}},
        lambda of, text: {"text": text, "ids": [1], **span(of, text, start=0, end=0)},
    ],
)
def test_a_citation_moves_with_its_span_or_goes_with_it(cite):
    spans = ["Zürich is big.", "Bern is small.", "too"]
    cited = [cite(BEFORE, text) for text in spans]
    moved = [cite(AFTER, text) for text in ("Zürich is big.", "too")]
    in_block = AIMessage([{"type": "text", "text": BEFORE, "annotations": cited}])
    assert with_text(in_block, AFTER).content[0]["annotations"] == moved
    for where in ("additional_kwargs", "response_metadata"):
        beside = AIMessage(BEFORE, **{where: {"citations": cited}})
        assert getattr(with_text(beside, AFTER), where)["citations"] == moved
        assert "citations" not in repr(blocked(beside, "No."))


def test_a_citation_without_offsets_goes_with_its_block_and_a_plain_source_stays():
    cited = [{"type": "char_location", "cited_text": "x", "start_char_index": 0}]
    found = [{"type": "citation", "url": "https://a.example"}]
    blocks = [
        {"type": "text", "text": text, "citations": cited, "annotations": found}
        for text in ("All fine. ", "Bad zorp.")
    ]
    first, second = with_text(AIMessage(blocks), "All fine. Good day.").content
    assert first == blocks[0]
    assert second == {"type": "text", "text": "Good day.", "citations": [], "annotations": found}


def test_a_citation_that_a_stream_tells_in_a_block_of_its_own_goes_with_the_text_before_it():
    cited = {"type": "citation", "cited_text": "A source.", "extras": {"encrypted_index": "E"}}
    placed = {"type": "citation", "url": "u", **span(BEFORE, "too")}
    blocks = [
        {"type": "text", "text": BEFORE, "index": 0},
        {"type": "text", "text": "", "annotations": [cited, placed], "index": 1},
    ]
    left = with_text(AIMessage(blocks), AFTER).content[1]["annotations"]
    assert left == [{**placed, **span(AFTER, "too")}]


def test_a_citation_may_count_from_its_own_block():
    segment = {"start_index": 4, "end_index": 9, "text": "rains", "part_index": 1}
    grounding = {"grounding_supports": [{"segment": segment, "grounding_chunk_indices": [0]}]}
    message = AIMessage(["Bad zorp. ", "Now rains."], response_metadata={"g": grounding})
    edited = with_text(message, "Good. Now it rains.")
    assert edited.content == ["Good. ", "Now it rains."]
    ((moved,),) = [one["grounding_supports"] for one in edited.response_metadata.values()]
    assert moved["segment"] == {**segment, "start_index": 7, "end_index": 12}


def test_a_citation_whose_quote_repeats_what_was_edited_goes():
    cited = [
        {"type": "citation", "cited_text": quote, **span(BEFORE, "Zürich is big.")}
        for quote in ("A source.", "Bern is small.")
    ]
    edited = with_text(AIMessage([{"type": "text", "text": BEFORE, "annotations": cited}]), AFTER)
    assert [one["cited_text"] for one in edited.content[0]["annotations"]] == ["A source."]


def test_a_citation_keeps_a_title_that_shares_words_with_what_was_edited():
    source = {"type": "url_citation", "url": "u", "title": "Bern is small, they say", "n": [1]}
    cited = {**source, **span(BEFORE, "Zürich is big."), "note": "Bern is small"}
    moved = {**source, **span(AFTER, "Zürich is big.")}
    for message in (
        AIMessage([{"type": "text", "text": BEFORE, "annotations": [cited]}]),
        AIMessage(BEFORE, response_metadata={"annotations": [cited]}),
    ):
        edited = with_text(message, AFTER)
        held = edited.content[0] if isinstance(edited.content, list) else edited.response_metadata
        assert held["annotations"] == [moved]
    whole = AIMessage([{"type": "text", "text": BEFORE, "annotations": [{"title": BEFORE}]}])
    assert with_text(whole, AFTER).content[0]["annotations"] == []


# Copies of one of several texts.


@pytest.mark.parametrize(
    ("message", "refusals"),
    [
        (AIMessage(["zorp quib", "zorp quib"]), False),
        (AIMessage([{"type": "text", "text": "well"}, {"text": "zorp quib"}, "flum"]), False),
        (AIMessage("zorp quib", additional_kwargs={"refusal": "flum drax"}), True),
        (AIMessage(["zorp quib"], additional_kwargs={"refusal": "flum drax"}), True),
        (AIMessage(["zorp quib", {"type": "refusal", "refusal": "flum drax"}]), True),
    ],
)
def test_texts_that_meet_without_a_space_are_found_by_themselves(message, refusals):
    message.response_metadata.update(raw={"said": "zorp quib"}, model_name="m")
    edited = with_text(message, "All new words.", refusals=refusals)
    assert edited.response_metadata == {"model_name": "m"}
    assert blocked(message, "No.").response_metadata == {"model_name": "m"}
    beside = left_beside(message, "New.", refusals=refusals, plain=False)({"raw": "zorp quib"})
    assert beside == {}


# Blocked messages.

THOUGHTS = {
    "reasoning": {"id": "rs", "summary": [{"text": "SECRET hm"}]},
    "reasoning_content": "SECRET",
    "reasoning_details": [{"type": "reasoning.text", "text": "SECRET hm"}],
    "thinking": "SECRET",
    "thinking_blocks": [{"type": "thinking", "thinking": "SECRET hm", "signature": "S"}],
    "thought": "SECRET",
}


@pytest.mark.parametrize("kind", [AIMessage, AIMessageChunk])
@pytest.mark.parametrize("where", ["additional_kwargs", "response_metadata"])
def test_a_blocked_message_has_no_thoughts_and_no_text_anywhere(kind, where):
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    plain = {"model_name": "m-1", "finish_reason": "stop", "usage": {"reasoning_tokens": 5}}
    rest = {
        "raw": "some SECRET prose",
        "note": "SECRET很好的理由",
        "said": "SECRET words",
        "reason": "SECRET is what the user wanted to hear of me",
        "sources": ["SECRET prose"],
        "words": ["The", "user", "wants", "a", "SECRET", "of", "me"],
        "SECRET prose": 1,
        "a": object(),
    }
    message = kind(
        [{"type": "thinking", "thinking": "SECRET"}, {"type": "text", "text": "SECRET text"}],
        id="1",
        name="poet",
        usage_metadata=usage,
        **{where: {**plain, **THOUGHTS, **rest}},
    )
    made = blocked(message, "No.", metadata={"metaaligner": {}})
    assert type(made) is kind
    assert "SECRET" not in repr(made)
    assert (made.id, made.name, made.usage_metadata) == ("1", "poet", usage)
    assert {**getattr(made, where), "metaaligner": {}} == {
        **plain,
        "sources": [],
        "words": [],
        "metaaligner": {},
    }


CALL = {"name": "f", "args": {"a": 1}, "id": "call_1", "type": "tool_call"}
SIGNED = [
    {"type": "thinking", "thinking": "hm", "signature": "S"},
    {"type": "redacted_thinking", "data": "S"},
    {"type": "reasoning", "reasoning": "hm", "extras": {"signature": "S"}},
    {"type": "reasoning_content", "reasoning_content": {"text": "hm", "signature": "S"}},
]


def test_signed_thoughts_stay_where_a_tool_call_stays_and_others_do_not():
    use = {"type": "tool_use", "id": "call_1", "name": "f", "input": {"a": 1}}
    unsigned = [{"type": "thinking", "thinking": "SECRET"}, {"type": "reasoning"}]
    content = [*SIGNED, *unsigned, {"type": "text", "text": "SECRET"}, use]
    signatures = {"__gemini_function_call_thought_signatures__": {"call_1": "S"}}
    message = AIMessage(content, tool_calls=[CALL], additional_kwargs=signatures)
    made = blocked(message, "No.")
    assert made.content == [*SIGNED, {"type": "text", "text": "No."}, use]
    assert (made.tool_calls, made.additional_kwargs) == ([CALL], signatures)
    assert blocked(AIMessage(content), "No.").content == [{"type": "text", "text": "No."}]


class Told(AIMessage):
    raw: str
    notes: list[str] = Field(default_factory=list)
    mood: str = "good"


def test_a_field_of_another_class_says_nothing_of_the_text():
    beside = {"draft": {"said": "zorp quib", "n": 1}, "other": 1}
    message = Told("zorp quib", raw="zorp quib", notes=["zorp quib"], mood="bad", **beside)
    edited = with_text(message, "new")
    assert (edited.raw, edited.notes, edited.mood) == (None, [], "bad")
    assert (edited.draft, edited.other) == ({"n": 1}, 1)
    made = blocked(message, "No.")
    assert (made.raw, made.notes, made.mood) == (None, [], "good")
    assert (made.draft, made.other) == (None, None)
    assert type(made) is type(edited) is Told


class Derived(AIMessage):
    """Has defaults that are made from its other fields."""

    raw: str = Field(default_factory=lambda known: f"raw {known['content']}")
    shout: str = Field(default_factory=lambda known: known["raw"].upper())


def test_a_default_that_is_made_from_other_fields_is_made_from_the_new_ones():
    message = Derived("zorp quib", raw="zorp quib", shout="ZORP QUIB")
    assert with_text(message, "new").model_dump(include={"raw", "shout"}) == {
        "raw": "raw new",
        "shout": "RAW NEW",
    }
    assert blocked(message, "No.").shout == "RAW NO."


def test_many_texts_in_one_block_take_no_more_time_than_their_number():
    texts = [{"type": "text", "text": f"zorp{number} quib. ", "n": 1} for number in range(12_000)]
    message = AIMessage([{"type": "message", "content": texts}])
    started = time.process_time()
    edited = with_text(message, answer_text(message).replace("zorp", "zarp"))
    assert time.process_time() - started < 4
    assert "zorp" not in repr(edited)


def test_texts_are_compared_only_where_citations_may_point_into_them(monkeypatch):
    monkeypatch.setattr("langchain_metaaligner.editing.copies.share_out", pytest.fail)
    message = AIMessage(["zorp quib", "flum drax"], response_metadata={"raw": "zorp quib", "n": 1})
    assert blocked(message, "No.").response_metadata == {"n": 1}
    left = left_beside(message, "New.", refusals=False, plain=False)
    assert [left({"raw": one}) for one in ("flum drax", "else")] == [{}, {"raw": "else"}]
