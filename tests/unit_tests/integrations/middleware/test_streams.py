"""What consumers of an agent see: the edit as it is made, and nothing of the unedited answer."""

from __future__ import annotations

import json
import threading

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain.agents.middleware.types import ModelResponse
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from langchain_metaaligner import MetaAlignerMiddleware, hushed
from tests.unit_tests.integrations.middleware.consumers import (
    MODES,
    STREAMS_OF_MESSAGES,
    TELLING_WAYS,
    WAYS,
    Way,
    events,
    streamed,
    texts_by_id,
)
from tests.unit_tests.integrations.middleware.parts import (
    ASKED,
    EDITED,
    RAW,
    TOOL_TEXT,
    Engine,
    Policy,
    agent_of,
    calls_tool,
    final,
    weather,
)


def in_graph(agent):
    graph = StateGraph(MessagesState)
    graph.add_node("agent", agent)
    graph.add_edge(START, "agent")
    graph.add_edge("agent", END)
    return graph.compile()


def shows_edit_once(parts):
    texts = {"".join(pieces) for pieces in texts_by_id(parts).values()}
    edits = [pieces for pieces in texts_by_id(parts).values() if "".join(pieces) == EDITED]
    return len(edits) == 1 and len(edits[0]) >= 50 and RAW not in texts


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_no_way_of_reading_an_agent_shows_a_word_of_the_unedited_answer(way: Way):
    assert "rawword" not in repr(way.seen(agent_of(calls_tool(), final()), ASKED))


@pytest.mark.parametrize("way", TELLING_WAYS, ids=lambda way: way.name)
def test_no_way_of_reading_a_graph_around_an_agent_shows_a_word_of_it(way: Way):
    assert "rawword" not in repr(way.seen(in_graph(agent_of(calls_tool(), final())), ASKED))


@pytest.mark.parametrize("way", STREAMS_OF_MESSAGES, ids=lambda way: way.name)
def test_every_stream_of_messages_shows_the_edit_once_and_word_by_word(way: Way):
    parts = way.seen(agent_of(calls_tool(), final()), ASKED)

    assert shows_edit_once(parts)


@pytest.mark.parametrize("way", TELLING_WAYS, ids=lambda way: way.name)
def test_text_beside_tool_calls_arrives_whole_and_once(way: Way):
    texts = texts_by_id(way.seen(agent_of(calls_tool(), final()), ASKED)).values()

    assert [pieces for pieces in texts if "toolword00" in "".join(pieces)] == [[TOOL_TEXT]]


@pytest.mark.parametrize("subgraphs", [True, False])
def test_the_first_word_of_an_edit_is_there_before_the_engine_has_made_the_second(subgraphs: bool):
    gate = threading.Semaphore(0)
    engine = Engine(gate=gate)
    parts = agent_of(final(), engine=engine).stream(
        ASKED, stream_mode=["messages", "values"], subgraphs=subgraphs
    )
    assert next(part for part in parts if "editword00" in repr(part))
    assert engine.steps == 1
    gate.release(len(EDITED.split()))
    assert EDITED in repr(list(parts)[-1])


async def test_an_agent_read_asynchronously_shows_each_word_before_the_next_is_made():
    gate = threading.Semaphore(0)
    engine = Engine(gate=gate)
    steps = []
    async for message, _ in agent_of(final(), engine=engine).astream(ASKED, stream_mode="messages"):
        if message.content:
            steps.append(engine.steps)
            gate.release()

    assert steps == list(range(1, len(EDITED.split()) + 1))


def test_the_streamed_edit_ends_with_its_provenance_on_one_chunk():
    agent = agent_of(final())
    parts = [part[0] for part in agent.stream(ASKED, stream_mode="messages")]

    carriers = [one for one in parts if "metaaligner" in one.response_metadata]
    assert len(carriers) == 1
    assert carriers[0] is parts[-1]
    assert carriers[0].response_metadata["metaaligner"]["status"] == "edited"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_unfiltered_events_show_the_policys_own_run_and_say_so_in_its_tags(version: str):
    seen = events(version).seen(agent_of(final()), ASKED)

    leaking = [event for event in seen if "rawword" in repr(event)]
    assert leaking
    assert all("nostream" in event["tags"] for event in leaking)


def test_marks_of_a_models_own_config_do_not_bring_its_words_back():
    quiet = Policy(replies=[final()]).with_config(tags=["mine"], metadata={"a": 1})

    for way in TELLING_WAYS:
        agent = agent_of(policy=quiet, tools=())
        assert "rawword" not in repr(way.seen(agent, ASKED)), way.name


def test_marks_of_the_model_itself_do_not_bring_its_words_back():
    for way in TELLING_WAYS:
        policy = Policy(replies=[calls_tool(), final()], tags=["mine"], metadata={"a": 1})
        assert "rawword" not in repr(way.seen(agent_of(policy=policy), ASKED)), way.name


def test_tags_given_with_the_run_do_not_bring_its_words_back():
    for way in TELLING_WAYS:
        parts = way.seen(agent_of(calls_tool(), final()), ASKED, {"tags": ["mine"]})
        assert "rawword" not in repr(parts), way.name
        assert shows_edit_once(parts), way.name


def test_an_agent_that_its_user_hushed_still_shows_the_edit():
    for way in TELLING_WAYS:
        if "v3" in way.name:
            continue
        parts = way.seen(hushed(agent_of(calls_tool(), final())), ASKED)
        assert "rawword" not in repr(parts), way.name
        assert shows_edit_once(parts), way.name


def test_two_aligners_in_one_agent_show_the_outer_edit_alone():
    class Inner(MetaAlignerMiddleware):
        pass

    inner = Inner(["readability"], engine=Engine("innerword00 innerword01"))
    for way in TELLING_WAYS:
        parts = way.seen(agent_of(final(), after=[inner]), ASKED)
        assert "rawword" not in repr(parts), way.name
        assert "innerword" not in repr(parts), way.name
        assert shows_edit_once(parts), way.name


def test_a_message_without_an_id_is_streamed_and_kept_under_one_id():
    class Canned(AgentMiddleware):
        def wrap_model_call(self, request, handler):
            return ModelResponse(result=[AIMessage(RAW)])

        async def awrap_model_call(self, request, handler):
            return ModelResponse(result=[AIMessage(RAW)])

    for way in TELLING_WAYS:
        parts = way.seen(agent_of(after=[Canned()]), ASKED)
        assert "rawword" not in repr(parts), way.name
        assert shows_edit_once(parts), way.name


@pytest.mark.parametrize("way", TELLING_WAYS, ids=lambda way: way.name)
def test_the_answer_of_a_subagent_is_left_to_the_tool_and_the_outer_answer_edited(way: Way):
    from langchain_core.tools import tool

    inner = create_agent(Policy(replies=[AIMessage("innerreply00 innerreply01")]), tools=[])

    @tool
    def ask_colleague(question: str) -> str:
        """Ask a colleague."""
        return inner.invoke({"messages": [("human", question)]})["messages"][-1].text

    outer = agent_of(
        calls_tool("ask_colleague", question="Why?"), final(), tools=[ask_colleague, weather]
    )
    parts = way.seen(outer, ASKED)

    assert "rawword" not in repr(parts)
    if way.messages:
        assert shows_edit_once(parts)


def test_an_aligner_in_a_subagent_edits_the_subagents_answer_and_shows_it_where_asked_for():
    inner = agent_of(final(RAW), engine=Engine("innerword00 innerword01"))
    outer = in_graph(inner)

    parts = streamed(MODES, is_async=False, subgraphs=True).seen(outer, ASKED)

    assert "rawword" not in repr(parts)
    assert "innerword00 innerword01" in {"".join(one) for one in texts_by_id(parts).values()}


def test_writers_of_custom_data_are_heard_beside_the_edit():
    from langchain_core.tools import tool
    from langgraph.config import get_stream_writer

    @tool
    def progress(city: str) -> str:
        """Tell of progress."""
        get_stream_writer()({"progress": city})
        return "done"

    agent = agent_of(calls_tool("progress"), final(), tools=[progress])
    parts = streamed(["custom", "messages"], is_async=False).seen(agent, ASKED)

    # The two calls run side by side.
    heard = [part[1]["progress"] for part in parts if part[0] == "custom"]
    assert sorted(heard) == ["Oslo", "Rome"]
    assert shows_edit_once(parts)


def test_what_is_streamed_and_what_is_stored_is_the_same_message():
    agent = agent_of(calls_tool(), final(id="reply-7"))
    parts = list(agent.stream(ASKED, stream_mode=["messages", "values"]))

    streamed_ids = {part[1][0].id for part in parts if part[0] == "messages"}
    stored = parts[-1][1]["messages"][-1]
    assert stored.id == "reply-7"
    assert stored.text == EDITED
    assert "reply-7" in streamed_ids
    assert json.dumps(stored.response_metadata)
