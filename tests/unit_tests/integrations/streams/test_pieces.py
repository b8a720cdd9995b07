"""What an edit's stream is made of."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import Runnable, RunnableLambda

from langchain_metaaligner import Aligner, Context, MetaAlignerRunnable
from tests.unit_tests.integrations.streams.compositions import whole
from tests.unit_tests.integrations.streams.scripted import (
    EDITED,
    QUESTION,
    RAW,
    USAGE,
    Engine,
    Policy,
    collect,
    seen_raw,
)

CONFIG: Any = {"configurable": {"context": QUESTION}}


def pipe(engine: Any = None, **options: Any) -> Runnable:
    return Policy() | MetaAlignerRunnable(engine=engine or Engine(), **options)


async def one(item: Any) -> Any:
    yield item


async def pieces_of(chain: Runnable, way: str, given: Any = QUESTION) -> list[Any]:
    if way == "stream":
        return list(chain.stream(given))
    if way == "transform":
        return list(chain.transform(iter([given])))
    if way == "astream":
        return await collect(chain.astream(given))
    return await collect(chain.atransform(one(given)))


def merged(pieces: list[Any]) -> Any:
    total = pieces[0]
    for piece in pieces[1:]:
        total += piece
    return total


WAYS = pytest.mark.parametrize("way", ["stream", "transform", "astream", "atransform"])


@WAYS
async def test_an_edit_of_fifty_words_comes_in_pieces_that_join_to_it(way: str) -> None:
    pieces = await pieces_of(pipe(), way)
    assert len(pieces) >= 50
    assert all(isinstance(piece, AIMessageChunk) for piece in pieces)
    assert "".join(piece.text for piece in pieces) == EDITED


@WAYS
async def test_the_first_piece_comes_before_the_engine_goes_on(way: str) -> None:
    engine = Engine(gate=threading.Semaphore(0))
    chain = pipe(engine)
    if way in ("stream", "transform"):
        pieces = chain.stream(QUESTION) if way == "stream" else chain.transform(iter([QUESTION]))
        first = next(iter(pieces))
        steps = engine.steps
        engine.gate.release(50)
        rest = list(pieces)
    else:
        apieces = chain.astream(QUESTION) if way == "astream" else chain.atransform(one(QUESTION))
        first = await anext(apieces)
        steps = engine.steps
        engine.gate.release(50)
        rest = await collect(apieces)
    assert (first.text, steps) == ("editword00", 1)
    assert first.text + "".join(piece.text for piece in rest) == EDITED


@WAYS
async def test_all_pieces_have_the_reply_s_id_and_one_is_marked_as_the_last(way: str) -> None:
    pieces = await pieces_of(pipe(), way)
    assert len({piece.id for piece in pieces}) == 1
    assert pieces[0].id.startswith("lc_run--")
    assert [piece.chunk_position for piece in pieces[-2:]] == [None, "last"]
    assert sum(piece.chunk_position == "last" for piece in pieces) == 1


@WAYS
async def test_usage_and_provenance_are_on_one_piece(way: str) -> None:
    pieces = await pieces_of(pipe(), way)
    assert sum(piece.usage_metadata is not None for piece in pieces) == 1
    assert sum("metaaligner" in piece.response_metadata for piece in pieces) == 1
    assert sum("model_name" in piece.response_metadata for piece in pieces) == 1


@WAYS
async def test_the_merged_pieces_are_the_message_that_invoke_returns(way: str) -> None:
    chain = pipe()
    invoked = chain.invoke(QUESTION)
    streamed = whole(merged(await pieces_of(chain, way)))
    for message in (invoked, streamed):
        assert message.response_metadata["metaaligner"].pop("seconds") >= 0
    assert streamed.model_copy(update={"id": None}) == invoked.model_copy(update={"id": None})
    assert streamed.usage_metadata == USAGE
    assert streamed.response_metadata["metaaligner"]["status"] == "edited"


def content_blocks(text: str) -> list[Any]:
    return [
        {"type": "reasoning", "reasoning": "hm", "index": 0},
        {"type": "text", "text": text, "annotations": [], "index": 1},
        {"type": "image", "url": "https://example.org/i.png", "index": 2},
    ]


CALL = {"name": "look", "args": {"at": 1}, "id": "call-1", "type": "tool_call"}


@WAYS
@pytest.mark.parametrize("indexed", [True, False])
async def test_blocks_keep_their_order_and_tool_calls_stay(way: str, indexed: bool) -> None:
    blocks = content_blocks("raw text")
    if not indexed:
        for block in blocks:
            del block["index"]
    reply = AIMessage(blocks, tool_calls=[CALL], usage_metadata=USAGE, id="reply-1", name="poet")
    aligner = MetaAlignerRunnable(engine=Engine(), edit_tool_text=True)
    chain = RunnableLambda(lambda _: reply) | aligner
    chain = chain.with_config(CONFIG)
    pieces = await pieces_of(chain, way)
    assert len(pieces) >= 50
    streamed, invoked = whole(merged(pieces)), chain.invoke(QUESTION)
    assert streamed.text == invoked.text == EDITED
    assert [block["type"] for block in streamed.content] == ["reasoning", "text", "image"]
    assert streamed.tool_calls == invoked.tool_calls == [CALL]
    assert (streamed.id, streamed.usage_metadata) == ("reply-1", USAGE)
    # LangChain drops names when it merges chunks.
    assert (pieces[-1].name, invoked.name) == ("poet", "poet")
    for block, other, before in zip(streamed.content, invoked.content, blocks, strict=True):
        without = {key: value for key, value in block.items() if key != "index"}
        assert without == {key: value for key, value in other.items() if key != "index"}
        assert without | {"text": ""} == {
            **{key: value for key, value in before.items() if key != "index"},
            "text": "",
        }


@WAYS
async def test_several_texts_in_one_message_are_shared_out_at_the_end(way: str) -> None:
    blocks = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    reply = AIMessage(blocks, id="reply-1")
    chain = RunnableLambda(lambda _: reply) | MetaAlignerRunnable(engine=Engine())
    pieces = await pieces_of(chain.with_config(CONFIG), way)
    assert merged(pieces).text == chain.invoke(QUESTION, CONFIG).text == EDITED
    assert pieces[-1].chunk_position == "last"


@WAYS
async def test_text_streams_as_text_after_a_chain_of_strings(way: str) -> None:
    shout = RunnableLambda(lambda text: text)
    for chain in (
        Policy() | StrOutputParser() | MetaAlignerRunnable(engine=Engine()),
        Policy() | StrOutputParser() | shout | MetaAlignerRunnable(engine=Engine()),
        pipe() | StrOutputParser(),
        Policy() | MetaAlignerRunnable(engine=Engine()) | StrOutputParser(),
    ):
        pieces = await pieces_of(chain, way)
        assert all(isinstance(piece, str) for piece in pieces)
        assert sum(bool(piece) for piece in pieces) == 50
        assert "".join(pieces) == EDITED


@WAYS
async def test_a_lambda_before_the_aligner_hands_its_message_on_in_one_and_the_edit_in_many(
    way: str,
) -> None:
    chain = Policy() | RunnableLambda(lambda reply: reply) | MetaAlignerRunnable(engine=Engine())
    pieces = await pieces_of(chain, way)
    assert len(pieces) >= 50
    assert "".join(piece.text for piece in pieces) == EDITED


@WAYS
async def test_an_edit_is_streamed_word_for_word_where_it_changes_nothing(way: str) -> None:
    text = "Answer: x | Edit: y | Context: z\n\nHuman: </s> [INST] ｜ <|im_end|>  two  spaces\t\n"
    policy = Policy(text=text)
    chain = policy | MetaAlignerRunnable(engine=Engine(None))
    streamed = whole(merged(await pieces_of(chain, way)))
    assert streamed.text == chain.invoke(QUESTION).text == text
    assert streamed.response_metadata["metaaligner"]["status"] == "unchanged"


FORGERIES = [
    "| Edit:",
    "| Answer:",
    "| Context:",
    "Human:",
    "Assistant:",
    "</s>",
    "<s>",
    "｜",
    "\n",
]
FORGED = st.lists(st.sampled_from([*FORGERIES, " ", "a", "ß", "|", "\n\n"]), min_size=1)


class EchoInPieces(Engine):
    """Gives the draft back, cut into pieces of a fixed length."""

    control_tokens = ("<s>", "</s>")

    def __init__(self, length: int) -> None:
        super().__init__(None)
        self.length = length

    def stream(self, request: Any) -> Iterator[str]:
        draft = request.draft
        yield from (draft[i : i + self.length] for i in range(0, len(draft), self.length))


@given(parts=FORGED, length=st.integers(1, 9))
@settings(max_examples=150)
def test_look_alikes_are_undone_in_every_piece(parts: list[str], length: int) -> None:
    text = "".join(parts)
    stream = Aligner(engine=EchoInPieces(length)).stream("A question", text, ["harmlessness"])
    pieces = list(stream)
    assert "".join(pieces) == text
    assert stream.alignment is not None
    assert stream.alignment.text == text


async def test_a_message_without_text_goes_through_whole_and_reaches_no_engine() -> None:
    engine = Engine()
    aligner = MetaAlignerRunnable(engine=engine)
    reply = AIMessage("", tool_calls=[CALL], id="reply-1")
    assert merged(list(aligner.stream(reply))).tool_calls == [CALL]
    assert merged(await collect(aligner.astream(reply))).id == "reply-1"
    assert not engine.requests


@pytest.mark.parametrize("way", ["stream", "astream"])
async def test_a_state_is_streamed_whole(way: str) -> None:
    aligner = MetaAlignerRunnable(engine=Engine())
    (piece,) = await pieces_of(aligner, way, {"messages": [*QUESTION, AIMessage(RAW, id="r")]})
    assert [message.text for message in piece["messages"]] == [EDITED]
    assert piece["messages"][0].id == "r"


async def test_nothing_in_nothing_out() -> None:
    aligner = MetaAlignerRunnable(engine=Engine())
    assert list(aligner.transform(iter([]))) == []


@WAYS
async def test_in_shadow_mode_the_policy_streams_live_and_provenance_comes_last(way: str) -> None:
    noted: list[Any] = []
    chain = pipe(apply=False, on_edit=noted.append)
    pieces = await pieces_of(chain, way)
    assert "".join(piece.text for piece in pieces) == RAW
    assert len(pieces) > 10
    assert "metaaligner" in pieces[-1].response_metadata
    assert sum("metaaligner" in piece.response_metadata for piece in pieces) == 1
    assert merged(pieces).usage_metadata == USAGE
    assert noted[0].text == EDITED


def test_in_shadow_mode_a_policy_s_words_go_out_before_it_has_ended() -> None:
    policy = Policy()
    chain = policy | MetaAlignerRunnable(engine=(engine := Engine()), apply=False)
    first = next(iter(chain.stream(QUESTION)))
    assert first.text == "rawword00"
    assert not engine.requests


@pytest.mark.parametrize("streamed", [False, True])
def test_usage_is_counted_once(streamed: bool) -> None:
    counted = UsageMetadataCallbackHandler()
    config: Any = {"callbacks": [counted]}
    if streamed:
        list(pipe().stream(QUESTION, config))
    else:
        pipe().invoke(QUESTION, config)
    assert [dict(one) for one in counted.usage_metadata.values()] == [USAGE]


async def test_usage_is_counted_once_asynchronously() -> None:
    counted = UsageMetadataCallbackHandler()
    await pipe().ainvoke(QUESTION, {"callbacks": [counted]})
    await collect(pipe().astream(QUESTION, {"callbacks": [counted]}))
    assert [one["total_tokens"] for one in counted.usage_metadata.values()] == [2 * 19]


async def test_the_edit_s_run_says_nothing_of_the_conversation() -> None:
    events = await collect(
        pipe().astream_events(
            [HumanMessage("secretword")], version="v2", include_tags=["metaaligner"]
        )
    )
    assert {event["event"] for event in events} == {
        "on_chat_model_start",
        "on_chat_model_stream",
        "on_chat_model_end",
    }
    assert not seen_raw(events)
    # LangChain puts the whole chain's input into the first event that a consumer gets.
    assert events[0]["data"].pop("input")
    assert "secretword" not in repr(events)
    assert events[-1]["data"]["output"].usage_metadata is None


async def test_events_of_the_edit_have_the_reply_s_id() -> None:
    events = await collect(pipe().astream_events(QUESTION, version="v2"))
    chunks = [e["data"]["chunk"] for e in events if e["event"] == "on_chain_stream"]
    edits = [
        event["data"]["chunk"]
        for event in events
        if event["event"] == "on_chat_model_stream" and "metaaligner" in event["tags"]
    ]
    assert {chunk.id for chunk in edits} == {chunks[-1].id}
    assert "".join(chunk.text for chunk in edits) == EDITED
    assert not [
        e for e in events if e["event"] == "on_chat_model_end" and not e["data"]["output"].id
    ]


def test_without_anybody_listening_no_run_is_opened() -> None:
    aligner = MetaAlignerRunnable(engine=Engine())
    reply = aligner.invoke(AIMessage(RAW), CONFIG)
    assert (reply.text, reply.id) == (EDITED, None)


def test_a_context_as_text_streams_too() -> None:
    aligner = MetaAlignerRunnable(engine=Engine())
    config: Any = {"configurable": {"context": Context("What now?")}}
    assert "".join(piece.text for piece in aligner.stream(AIMessage(RAW), config)) == EDITED


TEXT = {"type": "text", "text": "raw text"}
CITED = {"type": "citation", "start_index": 0, "end_index": 3, "url": "https://example.org"}
IMAGE = {"type": "image", "url": "https://example.org/i.png"}
FORMS: dict[str, list[Any]] = {
    "citations": [{**TEXT, "id": "msg_1", "annotations": [CITED], "logprobs": ["raw"]}],
    "a signature": ["raw text", {**TEXT, "text": "", "extras": {"signature": "S"}}],
    "an empty block first": [{**TEXT, "text": ""}, {**TEXT, "index": 1}, IMAGE],
    "no type": [{"text": "raw text"}],
    "output_text": [{"type": "output_text", "text": "raw text", "id": "msg_1"}, IMAGE],
    "a refusal": [{"type": "refusal", "refusal": "raw text", "id": "msg_1"}],
}
AT_ONCE: dict[str, list[Any]] = {
    "a copy before": [{"type": "card", "title": "raw text", "a": 1}, TEXT],
    "two texts": [TEXT, IMAGE, {**TEXT, "text": " raw"}],
    "non_standard": [{"type": "non_standard", "value": TEXT}],
}


@WAYS
@pytest.mark.parametrize("form", [*FORMS, *AT_ONCE])
async def test_no_piece_repeats_the_text_before_the_edit(way: str, form: str) -> None:
    content = {**FORMS, **AT_ONCE}[form]
    reply = AIMessage(content, id="1", response_metadata={"logprobs": ["raw"]})
    aligner = MetaAlignerRunnable(engine=Engine(), edit_refusals=True).with_config(CONFIG)
    chain = RunnableLambda(lambda _: reply) | aligner
    pieces, invoked = await pieces_of(chain, way), chain.invoke(QUESTION)
    assert "raw" not in repr(pieces)
    assert len(pieces) > 50 or form in AT_ONCE
    streamed = whole(merged(pieces))
    assert len(streamed.content) == len(invoked.content)
    for block, other in zip(streamed.content, invoked.content, strict=True):
        if isinstance(other, str):
            assert block["text"] == other
        else:
            assert {**block, "index": None} == {**other, "index": None}


@WAYS
async def test_json_streams_in_pieces_and_is_the_json_that_invoke_returns(way: str) -> None:
    reply = AIMessage('{"a": "caf\\u00e9 text", "b": [1, "raw text"]}', id="1")
    chain = RunnableLambda(lambda _: reply) | MetaAlignerRunnable(engine=Engine())
    chain = chain.with_config(CONFIG)
    pieces = await pieces_of(chain, way)
    assert len(pieces) > 100
    assert json.loads("".join(piece.text for piece in pieces)) == {"a": EDITED, "b": [1, EDITED]}
    assert merged(pieces).text == chain.invoke(QUESTION).text
