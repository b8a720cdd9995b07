"""What else of a reply arrives in streams: once, in its place, and the same as in the state."""

from __future__ import annotations

import functools
import operator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langgraph.graph import START, MessagesState, StateGraph

from langchain_metaaligner import (
    ChatMetaAligner,
    MetaAlignerMiddleware,
    MetaAlignerRunnable,
    hushed,
)
from tests.unit_tests.integrations.streams.scripted import (
    EDITED,
    QUESTION,
    RAW,
    Engine,
    Policy,
    collect,
)

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")

ASKED = {"messages": QUESTION}
USAGE = {
    "input_tokens": 7,
    "output_tokens": 12,
    "total_tokens": 19,
    "input_token_details": {"cache_read": 3},
    "output_token_details": {"reasoning": 5},
}
CALL = {"name": "look", "args": {"at": 1}, "id": "call-1", "type": "tool_call"}
IMAGE = {"type": "image", "url": "https://example.org/i.png"}


def reply(content: Any, *, calls: Any = (), kwargs: Any = None, **metadata: Any) -> AIMessage:
    return AIMessage(
        content,
        tool_calls=list(calls),
        additional_kwargs=kwargs or {},
        usage_metadata=USAGE,
        response_metadata={"model_name": "policy", "finish_reason": "stop", **metadata},
    )


REPLIES = {
    "text": reply(RAW),
    "thoughts in additional_kwargs": reply(RAW, kwargs={"reasoning_content": "hm", "tier": "a"}),
    "thoughts in blocks": reply(
        [{"type": "thinking", "thinking": "hm", "signature": "S"}, {"type": "text", "text": RAW}],
        model_provider="anthropic",
    ),
    "standard blocks": reply(
        [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": RAW}, IMAGE],
        output_version="v1",
    ),
    "tool calls": reply(
        [
            {"type": "text", "text": RAW},
            {"type": "tool_use", "id": "call-1", "name": "look", "input": {"at": 1}},
        ],
        calls=[CALL],
        model_provider="anthropic",
    ),
    "several texts": reply(
        [
            {"type": "reasoning", "reasoning": "hm"},
            IMAGE,
            {"type": "text", "text": RAW[:20]},
            {"type": "reasoning", "reasoning": " and more"},
            {"type": "text", "text": RAW[20:]},
        ]
    ),
}


def in_pipe(policy: Any, **options: Any) -> Any:
    chain = policy | MetaAlignerRunnable(engine=Engine(), **options)

    def answer(state: MessagesState) -> Any:
        return {"messages": [chain.invoke(state["messages"])]}

    return graph_of(answer)


def in_async_pipe(policy: Any, **options: Any) -> Any:
    chain = policy | MetaAlignerRunnable(engine=Engine(), **options)

    async def answer(state: MessagesState) -> Any:
        return {"messages": [await chain.ainvoke(state["messages"])]}

    return graph_of(answer)


def in_hushed_node(policy: Any, **options: Any) -> Any:
    aligner = MetaAlignerRunnable(engine=Engine(), **options)

    def answer(state: MessagesState) -> Any:
        state = {"messages": [*state["messages"], policy.invoke(state["messages"])]}
        return aligner.invoke(state)

    return graph_of(hushed(answer))


def in_middleware(policy: Any, **options: Any) -> Any:
    middleware = MetaAlignerMiddleware(engine=Engine(), **options)
    return create_agent(policy, tools=[], middleware=[middleware])


def in_model(policy: Any, **options: Any) -> Any:
    model = ChatMetaAligner(policy, engine=Engine(), **options)

    def answer(state: MessagesState) -> Any:
        return {"messages": [model.invoke(state["messages"])]}

    return graph_of(answer)


def graph_of(node: Any) -> Any:
    return StateGraph(MessagesState).add_node("answer", node).add_edge(START, "answer").compile()


PLACES = [in_pipe, in_async_pipe, in_hushed_node, in_middleware, in_model]
IN_EVERY_PLACE = pytest.mark.parametrize("place", PLACES, ids=lambda one: one.__name__)
OF_EVERY_KIND = pytest.mark.parametrize("kind", REPLIES)


def graph_with(place: Any, kind: str) -> Any:
    return place(Policy(message=REPLIES[kind]), edit_tool_text=True, keep_original=True)


async def read(graph: Any, config: Any = None) -> tuple[list[AIMessageChunk], AIMessage]:
    """The chunks of the reply, and the reply in the state."""
    chunks, states = [], []
    async for mode, part in graph.astream(ASKED, config, stream_mode=["messages", "values"]):
        chunks += [part[0]] if mode == "messages" else []
        states += [part] if mode == "values" else []
    final = states[-1]["messages"][1]
    return [chunk for chunk in chunks if chunk.id == final.id], final


@IN_EVERY_PLACE
@OF_EVERY_KIND
async def test_the_chunks_merge_to_the_message_in_the_state_and_say_nothing_twice(
    place: Any, kind: str
) -> None:
    chunks, final = await read(graph_with(place, kind))
    whole = functools.reduce(operator.add, chunks)

    assert whole.text == final.text == EDITED
    assert whole.additional_kwargs == final.additional_kwargs
    assert whole.response_metadata == final.response_metadata
    assert whole.usage_metadata == final.usage_metadata == USAGE
    assert whole.tool_calls == final.tool_calls
    assert others(whole.content) == others(final.content)

    on_the_last = [False] * (len(chunks) - 1) + [True]
    assert [chunk.usage_metadata is not None for chunk in chunks] == on_the_last
    for key in ("metaaligner", "finish_reason"):
        assert [key in chunk.response_metadata for chunk in chunks] == on_the_last
    assert sum(bool(chunk.tool_calls) for chunk in chunks) == len(REPLIES[kind].tool_calls)
    thoughtful = [at for at, chunk in enumerate(chunks) if "'hm'" in repr(chunk)]
    assert thoughtful == ([0] if "'hm'" in repr(REPLIES[kind]) else [])


def others(content: Any) -> list[Any]:
    return [] if isinstance(content, str) else [one for one in content if one["type"] != "text"]


@IN_EVERY_PLACE
async def test_streamed_usage_is_counted_once(place: Any) -> None:
    counted = UsageMetadataCallbackHandler()
    await read(graph_with(place, "text"), {"callbacks": [counted]})
    assert counted.usage_metadata == {"policy": USAGE}


@IN_EVERY_PLACE
@OF_EVERY_KIND
async def test_v3_messages_have_the_usage_the_metadata_the_calls_and_the_thoughts(
    place: Any, kind: str
) -> None:
    graph, before = graph_with(place, kind), REPLIES[kind]
    stream = await graph.astream_events(ASKED, version="v3")
    messages = [(one, await one.output) async for one in stream.messages]
    (message, made), *rest = messages

    assert not rest or "tool" in kind
    assert await message.text == made.text == EDITED
    assert made.usage_metadata == USAGE
    assert made.response_metadata["metaaligner"]["status"] == "edited"
    assert made.response_metadata["model_name"] == "policy"
    assert made.response_metadata["finish_reason"] == "stop"
    assert made.additional_kwargs == before.additional_kwargs
    assert made.tool_calls == await message.tool_calls == before.tool_calls
    told = repr(before)
    thoughts = [thought for thought in ("hm", " and more") if f"'{thought}'" in told]
    assert await message.reasoning == "".join(thoughts)
    parts = {"reasoning": "'hm'", "text": RAW[:20], "image": "'image'", "tool_call": "'call-1'"}
    kinds = [one["type"] for one in made.content]
    assert set(kinds) == {name for name, said in parts.items() if said in told}
    assert kinds[0] == ("reasoning" if thoughts else "text")


@pytest.mark.parametrize("texts", [1, 2])
async def test_in_v3_messages_one_text_keeps_what_its_block_has_beside_it(texts: int) -> None:
    parts = [RAW] if texts == 1 else [RAW[:20], RAW[20:]]
    blocks = [{"type": "text", "text": text, "id": f"id of {text[:9]}"} for text in parts]
    edited = RAW.replace("rawword11", "the end")
    chain = Policy(message=reply(blocks)) | MetaAlignerRunnable(engine=Engine(edited))
    graph = graph_of(lambda state: {"messages": [chain.invoke(state["messages"])]})
    stream = await graph.astream_events(ASKED, version="v3")
    (made,) = [await one.output async for one in stream.messages]

    (block,) = made.content
    assert block["text"] == edited
    assert block.get("id") == ("id of rawword00" if texts == 1 else None)


async def test_a_thought_arrives_whose_block_has_the_index_of_the_text() -> None:
    # LangChain joins the chunks of some models to such a message.
    text, thought = {"type": "text", "text": RAW}, {"type": "reasoning", "reasoning": "hm"}
    joined = reply([{**text, "index": 0}, {**thought, "index": 0}], output_version="v1")
    asked = {"messages": [*QUESTION, joined]}
    aligner = MetaAlignerRunnable(engine=Engine())
    graph = graph_of(lambda _: aligner.invoke(asked))

    chunks, final = await read(graph)
    assert others(functools.reduce(operator.add, chunks).content) == others(final.content)
    stream = await graph.astream_events(ASKED, version="v3")
    ((text_of_it, thought_of_it),) = [
        (await one.text, await one.reasoning) async for one in stream.messages
    ]
    assert (text_of_it, thought_of_it) == (EDITED, "hm")


def test_synchronous_v3_messages_have_the_usage_too() -> None:
    stream = graph_with(in_pipe, "thoughts in blocks").stream_events(ASKED, version="v3")
    ((text, reasoning, usage),) = [
        (str(one.text), str(one.reasoning), one.output.usage_metadata) for one in stream.messages
    ]
    assert (text, reasoning, usage) == (EDITED, "hm", USAGE)


async def test_the_events_of_an_edit_stream_the_usage_but_do_not_end_with_it() -> None:
    chain = Policy() | MetaAlignerRunnable(engine=Engine())
    events = await collect(
        chain.astream_events(QUESTION, version="v2", include_tags=["metaaligner"])
    )
    *_, last, end = events
    assert last["data"]["chunk"].usage_metadata["total_tokens"] == 19
    assert last["data"]["chunk"].response_metadata["model_name"] == "policy"
    assert end["data"]["output"].usage_metadata is None
    assert end["data"]["output"].response_metadata.keys() == {"metaaligner"}


async def test_an_edit_of_text_streams_its_provenance() -> None:
    chain = Policy() | StrOutputParser() | MetaAlignerRunnable(engine=Engine())
    events = await collect(
        chain.astream_events(QUESTION, version="v2", include_tags=["metaaligner"])
    )
    chunks = [one["data"]["chunk"] for one in events if one["event"] == "on_chat_model_stream"]
    whole = functools.reduce(operator.add, chunks)
    assert whole.text == EDITED
    assert whole.response_metadata["metaaligner"]["status"] == "edited"


async def test_on_edit_is_told_once_of_a_streamed_edit() -> None:
    told: list[Any] = []
    await read(in_pipe(Policy(), on_edit=told.append))
    assert [one.text for one in told] == [EDITED]


def test_a_handler_that_fails_at_the_last_token_ends_the_stream() -> None:
    class Failing(BaseCallbackHandler):
        raise_error = True

        def on_llm_new_token(self, token: str, *, chunk: Any, tags: Any = (), **_: Any) -> None:
            if "metaaligner" in tags and chunk.message.chunk_position == "last":
                raise OSError("the disk is full")

    chain = Policy() | MetaAlignerRunnable(engine=Engine())
    with pytest.raises(OSError, match="disk"):
        list(chain.stream(QUESTION, {"callbacks": [Failing()]}))


def test_a_handler_that_streams_to_nobody_hears_every_token() -> None:
    heard: list[str] = []

    class Listener(BaseCallbackHandler):
        def on_llm_new_token(self, token: str, *, tags: Any = (), **kwargs: Any) -> None:
            if "metaaligner" in tags:
                heard.append(token)

    chain = Policy() | MetaAlignerRunnable(engine=Engine())
    list(chain.stream(QUESTION, {"callbacks": [Listener()]}))
    assert "".join(heard) == EDITED
