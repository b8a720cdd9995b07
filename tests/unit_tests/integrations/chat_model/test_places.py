"""The chat model in the places where people put chat models."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel

from langchain_metaaligner import ChatMetaAligner, MetaAlignerMiddleware, MetaAlignerRunnable
from tests.unit_tests.integrations.middleware.consumers import (
    TELLING_WAYS,
    WAYS,
    Way,
    events,
    texts_by_id,
)
from tests.unit_tests.integrations.middleware.parts import (
    ASKED,
    EDITED,
    RAW,
    Engine,
    Policy,
    calls_tool,
    final,
    weather,
)
from tests.unit_tests.integrations.middleware.test_stopping import WAIT, Endless

EVERY_WAY = [*WAYS, events("v1"), events("v2")]


def model_of(*replies: Any, engine: Any = None, **options: Any) -> ChatMetaAligner:
    policy = Policy(replies=list(replies) or [final()])
    engine = Engine() if engine is None else engine
    return ChatMetaAligner(policy, ["harmlessness"], engine=engine, **options)


def agent(**options: Any) -> Any:
    return create_agent(model_of(calls_tool(), final(), **options), tools=[weather])


def prebuilt(**options: Any) -> Any:
    from langgraph.prebuilt import create_react_agent

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return create_react_agent(model_of(calls_tool(), final(), **options), tools=[weather])


def prebuilt_of_a_pipe(**options: Any) -> Any:
    """The agent takes the tools of a pipe from the model's binding in it."""
    from langgraph.prebuilt import create_react_agent

    tools = [convert_to_openai_tool(weather)]
    model: Any = Policy(replies=[calls_tool(), final()]).bind(tools=tools)
    pipe = model | MetaAlignerRunnable(["harmlessness"], engine=Engine(), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return create_react_agent(pipe, tools=[weather])


def node(**options: Any) -> Any:
    model = model_of(final(), **options)

    def ask(state: MessagesState) -> Any:
        return {"messages": [model.invoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("ask", ask)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", END)
    return graph.compile()


def node_that_streams(**options: Any) -> Any:
    model = model_of(final(id="r1"), **options)

    async def ask(state: MessagesState) -> Any:
        whole: Any = None
        async for chunk in model.astream(state["messages"]):
            whole = chunk if whole is None else whole + chunk
        return {"messages": [AIMessage(whole.content, id=whole.id)]}

    graph = StateGraph(MessagesState)
    graph.add_node("ask", ask)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", END)
    return graph.compile()


@pytest.mark.parametrize(
    ("place", "way"),
    [(agent, way) for way in EVERY_WAY]
    + [(place, way) for place in (prebuilt, node) for way in (*TELLING_WAYS, events("v2"))],
    ids=lambda one: getattr(one, "name", None) or one.__name__,
)
def test_no_way_of_reading_shows_a_word_of_the_policys_answer(place: Any, way: Way):
    parts = way.seen(place(), ASKED)

    assert "rawword" not in repr(parts)
    if way.messages:
        edits = [one for one in texts_by_id(parts).values() if "".join(one) == EDITED]
        assert len(edits) == 1
        assert len(edits[0]) >= len(EDITED.split())


@pytest.mark.parametrize("way", [*TELLING_WAYS[1:], events("v2")], ids=lambda way: way.name)
def test_a_node_that_streams_the_model_shows_none_either(way: Way):
    assert "rawword" not in repr(way.seen(node_that_streams(), ASKED))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_events_of_the_model_itself_are_the_edits(version: str):
    seen = events(version).seen(model_of(), [HumanMessage("What now?")])

    assert "rawword" not in repr(seen)
    streamed = [one["data"]["chunk"].text for one in seen if one["event"].endswith("model_stream")]
    assert "".join(streamed) == EDITED


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_typed_events_of_the_model_itself_are_the_edits_and_hear_the_config(is_async: bool):
    engine = Engine()
    model = model_of(engine=engine)
    config = {"configurable": {"objectives": ["honesty"]}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if is_async:
            stream = await model.astream_events("What now?", config, version="v3")
            text = "".join([piece async for piece in stream.text])
        else:
            text = "".join(model.stream_events("What now?", config, version="v3").text)

    assert text == EDITED
    assert "Honesty" in engine.requests[0].prompt


@pytest.mark.parametrize(
    "place", [agent, prebuilt, prebuilt_of_a_pipe, node], ids=lambda one: one.__name__
)
def test_objectives_in_a_runs_config_reach_the_model_inside(place: Any):
    state = place().invoke(ASKED, {"configurable": {"objectives": ["honesty"]}})

    told = state["messages"][-1].response_metadata["metaaligner"]
    assert told["objectives"] == ["honesty"]


def test_objectives_in_a_runs_context_reach_the_model_inside():
    inside = create_agent(model_of(), context_schema=dict)
    state = inside.invoke(ASKED, context={"objectives": ["honesty"]})

    assert state["messages"][-1].response_metadata["metaaligner"]["objectives"] == ["honesty"]


class Weather(BaseModel):
    """The weather in a city."""

    city: str


@pytest.mark.parametrize(
    ("strategy", "reply"),
    [
        (
            ToolStrategy(Weather),
            AIMessage("", tool_calls=[{"name": "Weather", "args": {"city": "Rome"}, "id": "c"}]),
        ),
        (ProviderStrategy(Weather), AIMessage('{"city": "Rome"}')),
    ],
    ids=["tool", "provider"],
)
def test_structured_answers_of_an_agent_are_left_alone(strategy: Any, reply: AIMessage):
    engine = Engine()
    inside = create_agent(model_of(reply, engine=engine), response_format=strategy)

    assert inside.invoke(ASKED)["structured_response"] == Weather(city="Rome")
    assert engine.requests == []


def test_a_profile_decides_the_strategy_as_with_the_policy_itself():
    policy = Policy(replies=[AIMessage('{"city": "Rome"}')], profile={"structured_output": True})
    model = ChatMetaAligner(policy, engine=Engine())

    state = create_agent(model, response_format=Weather).invoke(ASKED)
    assert state["structured_response"] == Weather(city="Rome")


def test_an_agent_with_memory_reads_what_the_user_read():
    policy = Policy(replies=[final(), final()])
    model = ChatMetaAligner(policy, engine=Engine())
    inside = create_agent(model, checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    inside.invoke(ASKED, config)
    inside.invoke({"messages": [("human", "And then?")]}, config)

    assert EDITED in repr(policy.asked[1])
    assert "rawword" not in repr(policy.asked[1])


def test_middleware_around_an_agent_of_the_model_edits_its_edit():
    inner = model_of(engine=Engine("innerword00 innerword01"))
    for way in TELLING_WAYS[:2]:
        outer = create_agent(inner, middleware=[MetaAlignerMiddleware(engine=Engine())])
        parts = way.seen(outer, ASKED)
        assert "rawword" not in repr(parts), way.name
        assert "innerword" not in repr(parts), way.name


class Shelf(BaseRetriever):
    def _get_relevant_documents(self, query: str, *, run_manager: Any = None) -> list[Document]:
        return [Document("Owls hunt at night.")]


def retrieval_chain(model: Any) -> Any:
    prompt = ChatPromptTemplate.from_messages(
        [("human", "Documents: {documents}\n\nQuestion: {question}")]
    )
    documents = Shelf() | (lambda found: "\n".join(one.page_content for one in found))
    given = {"documents": documents, "question": RunnablePassthrough()}
    return given | prompt | model | StrOutputParser()


def test_a_retrieval_chain_gives_the_edit_and_the_aligner_reads_the_documents():
    engine = Engine()
    chain = retrieval_chain(model_of(engine=engine))

    assert chain.invoke("When?") == EDITED
    assert next(iter(chain.stream("When?"))) == EDITED.split()[0]
    assert all("Owls hunt at night." in request.prompt for request in engine.requests)


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream", "astream"])
async def test_an_agent_executor_answers_with_the_edit(how: str):
    classic = pytest.importorskip("langchain_classic.agents")
    prompt = ChatPromptTemplate.from_messages(
        [("human", "{input}"), MessagesPlaceholder("agent_scratchpad")]
    )
    inside = classic.create_tool_calling_agent(model_of(calls_tool(), final()), [weather], prompt)
    executor = classic.AgentExecutor(agent=inside, tools=[weather])
    given = {"input": "What now?"}
    if how == "invoke":
        parts = [executor.invoke(given)]
    elif how == "ainvoke":
        parts = [await executor.ainvoke(given)]
    elif how == "stream":
        parts = list(executor.stream(given))
    else:
        parts = [part async for part in executor.astream(given)]

    assert parts[-1]["output"] == EDITED
    assert "rawword" not in repr(parts)


def test_an_agent_executor_streams_the_edit_in_its_events():
    classic = pytest.importorskip("langchain_classic.agents")
    prompt = ChatPromptTemplate.from_messages(
        [("human", "{input}"), MessagesPlaceholder("agent_scratchpad")]
    )
    inside = classic.create_tool_calling_agent(model_of(calls_tool(), final()), [weather], prompt)
    executor = classic.AgentExecutor(agent=inside, tools=[weather])

    assert "rawword" not in repr(events("v2").seen(executor, {"input": "What now?"}))


def test_an_evaluator_of_the_old_kind_takes_the_model():
    evaluation = pytest.importorskip("langchain_classic.evaluation.criteria.eval_chain")
    judge = model_of(final("It is good.\nY"), engine=Engine("It is good.\nY"))
    evaluator = evaluation.CriteriaEvalChain.from_llm(judge, criteria="conciseness")

    assert evaluator.evaluate_strings(prediction="Yes.", input="Is it?")["score"] == 1


# -- stopping ---------------------------------------------------------------------------------


def test_closing_a_stream_stops_the_engine():
    engine = Endless()
    stream = model_of(engine=engine).stream("What now?")
    next(stream)
    stream.close()

    assert engine.freed.wait(WAIT)
    assert engine.steps <= 2


async def test_closing_an_asynchronous_stream_stops_the_engine():
    engine = Endless()
    stream = model_of(engine=engine).astream("What now?")
    await anext(stream)
    await stream.aclose()

    assert await asyncio.to_thread(engine.freed.wait, WAIT)
    assert engine.steps <= 2


@pytest.mark.parametrize("how", ["ainvoke", "astream"])
async def test_cancelling_a_call_stops_the_engine(how: str):
    engine = Endless()
    model = model_of(engine=engine)

    async def read() -> None:
        if how == "ainvoke":
            await model.ainvoke("What now?")
        async for _ in model.astream("What now?"):
            pass

    task = asyncio.create_task(read())
    assert await asyncio.to_thread(engine.stepped.wait, WAIT)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await asyncio.to_thread(engine.freed.wait, WAIT)
    assert engine.running == 0


async def test_cancelling_a_call_while_the_policy_talks_stops_the_policy():
    stopped = asyncio.Event()

    class Talks(Policy):
        async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
            from langchain_core.messages import AIMessageChunk
            from langchain_core.outputs import ChatGenerationChunk

            try:
                while True:
                    await asyncio.sleep(0)
                    yield ChatGenerationChunk(message=AIMessageChunk(content="rawword "))
            finally:
                stopped.set()

    model = ChatMetaAligner(Talks(), engine=Engine())

    async def read() -> None:
        async for _ in model.astream("What now?"):
            pass

    task = asyncio.create_task(read())
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(stopped.wait(), WAIT)


def test_the_reply_of_a_policy_never_reaches_the_consumer_of_a_plain_stream():
    assert RAW.split()[0] not in repr(list(model_of().stream("What now?")))
