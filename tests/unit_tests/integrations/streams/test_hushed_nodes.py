"""A hushed node, task or tool is to LangGraph what it was before."""

from __future__ import annotations

import functools
import operator
from typing import Annotated, Any, Literal, TypedDict

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda, ensure_config
from langchain_core.tools import BaseTool, StructuredTool, Tool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode, ToolRuntime
from langgraph.types import Command, interrupt

from langchain_metaaligner import MetaAlignerRunnable, hushed
from tests.unit_tests.integrations.streams.compositions import graph_of, inner_graph
from tests.unit_tests.integrations.streams.scripted import Engine, Policy, seen_raw
from tests.unit_tests.integrations.streams.surfaces import ASKED

QUIET = ["nostream", "metaaligner:hush"]


class Private(TypedDict):
    secret: str


class State(TypedDict):
    messages: Annotated[list[Any], add_messages]
    secret: str


seen: list[Any] = []


def routed(state: Private) -> Command[Literal["second"]]:
    seen.append(state)
    return Command(goto="second")


async def arouted(state: Private) -> Command[Literal["second"]]:
    return routed(state)


class Router:
    state: int = 1  # the annotations of a class are not those of its method

    def __call__(self, state: Private) -> Command[Literal["second"]]:
        return routed(state)

    def route(self, state: Private, config: RunnableConfig) -> Command[Literal["second"]]:
        return routed(state)


class ARouter:
    async def __call__(self, state: Private) -> Command[Literal["second"]]:
        return routed(state)


def bound(_: int, state: Private) -> Command[Literal["second"]]:
    return routed(state)


Nodes: dict[str, Any] = {
    "a function": routed,
    "an asynchronous function": arouted,
    "an object": Router(),
    "an asynchronous object": ARouter(),
    "a method": Router().route,
    "a partial": functools.partial(bound, 1),
    "a runnable": RunnableLambda(routed),
}


def routes_of(node: Any) -> tuple[list[str], list[tuple[str, str]], Any]:
    """The names of a graph's nodes, its edges, and what its first node sees of the state."""
    graph: Any = StateGraph(State)
    graph.add_node(node)
    graph.add_node("second", lambda state: {})
    (name, *_) = graph.nodes
    graph.add_edge(START, name)
    return (
        list(graph.nodes),
        sorted((edge.source, edge.target) for edge in graph.compile().get_graph().edges),
        graph.nodes[name].input_schema,
    )


@pytest.mark.parametrize("node", Nodes.values(), ids=Nodes.keys())
def test_a_hushed_node_keeps_its_name_its_edges_and_its_part_of_the_state(node: Any) -> None:
    assert routes_of(hushed(node)) == routes_of(node)


def test_a_hushed_object_sees_its_part_of_the_state_and_goes_its_way() -> None:
    graph: Any = StateGraph(State)
    graph.add_node(hushed(Router()))
    graph.add_node("second", lambda state: {"secret": "found"})
    graph.add_edge(START, "Router")
    seen.clear()
    assert graph.compile().invoke({"messages": [], "secret": "x"})["secret"] == "found"
    assert seen == [{"secret": "x"}]


def test_a_hushed_task_is_called_by_its_name() -> None:
    @hushed
    @task
    def look_up(word: str) -> Any:
        callbacks: Any = ensure_config()["callbacks"]
        return callbacks.inheritable_tags

    @entrypoint()
    def look(word: str) -> Any:
        return look_up(word).result()

    (tags,) = [part["look_up"] for part in look.stream("a") if "look_up" in part]
    assert set(QUIET) <= set(tags)


class Adding:
    def __call__(self, number: int) -> int:
        return number + 1


named = functools.update_wrapper(functools.partial(operator.add, 1), operator.mul)


@pytest.mark.parametrize("function", [functools.partial(operator.add, 1), named, Adding()])
def test_a_task_of_a_hushed_function_has_the_name_that_it_had_before(function: Any) -> None:
    def names_of(made: Any) -> Any:
        @entrypoint()
        def add(number: int) -> Any:
            return made(number).result()

        return list(add.stream(1))

    assert names_of(task(hushed(function))) == names_of(task(function))


def test_a_hushed_model_stays_hushed_with_another_config() -> None:
    quiet: Any = hushed(Policy()).with_config(tags=["mine"])
    assert quiet.config["tags"] == ["mine", *QUIET]


def look(word: str, runtime: ToolRuntime, settings: RunnableConfig) -> str:
    """Look a word up."""
    seen.append([runtime.config, settings, ensure_config()])
    return word


async def alook(word: str, runtime: ToolRuntime, settings: RunnableConfig) -> str:
    """Look a word up."""
    return look(word, runtime, settings)


class Look(BaseTool):
    name: str = "look"
    description: str = "Look a word up."

    def _run(self, word: str, runtime: ToolRuntime) -> str:
        return look(word, runtime, runtime.config)


Tools: dict[str, Any] = {
    "a tool of a hushed function": lambda: tool(hushed(look)),
    "a hushed tool": lambda: hushed(tool(look)),
    "a hushed tool of a class": lambda: hushed(Look()),
    "a hushed tool with two functions": lambda: hushed(
        StructuredTool.from_function(look, coroutine=alook)
    ),
}


@pytest.mark.parametrize("made", Tools.values(), ids=Tools.keys())
@pytest.mark.parametrize("is_async", [False, True])
async def test_every_config_in_a_hushed_tool_is_tagged(made: Any, is_async: bool) -> None:
    one = made()
    assert one.name == "look"
    assert list(one.tool_call_schema.model_json_schema()["properties"]) == ["word"]
    call = {"name": "look", "args": {"word": "a"}, "id": "1", "type": "tool_call"}
    state: Any = {"messages": [AIMessage("", tool_calls=[call])]}
    graph, _ = graph_of(ToolNode([one])), seen.clear()
    made_of = await graph.ainvoke(state) if is_async else graph.invoke(state)
    assert made_of["messages"][-1].content == "a"
    (configs,) = seen
    for config in configs:
        assert set(QUIET) <= set(config["tags"])
        assert set(QUIET) <= set(config["callbacks"].inheritable_tags)


def test_a_hushed_tool_of_one_text_is_the_same_kind_of_tool() -> None:
    policy, tags = Policy(), []

    def ask(word: str) -> str:
        callbacks: Any = ensure_config()["callbacks"]
        tags.append(callbacks.inheritable_tags)
        return policy.invoke(word).text[:0]

    made: Any = hushed(Tool("ask", ask, "Ask a model."))
    assert isinstance(made, Tool)
    call = {"name": "ask", "args": {"__arg1": "a"}, "id": "1", "type": "tool_call"}
    state: Any = {"messages": [AIMessage("", tool_calls=[call])]}
    assert not seen_raw(list(graph_of(ToolNode([made])).stream(state, stream_mode="messages")))
    assert set(QUIET) <= set(tags[0])


def test_the_state_of_a_hushed_graph_is_part_of_the_state_around_it() -> None:
    def ask(state: MessagesState) -> Any:
        return {"messages": [interrupt("who?")]}

    chain = graph_of(ask) | MetaAlignerRunnable(engine=Engine())
    for node in (hushed(graph_of(ask)), chain):
        graph = graph_of(node).copy({"checkpointer": InMemorySaver()})
        config: RunnableConfig = {"configurable": {"thread_id": "1"}}
        graph.invoke(ASKED, config)
        (waiting,) = graph.get_state(config, subgraphs=True).tasks
        assert waiting.state.next == ("answer",)


@pytest.mark.parametrize("wrapped", [lambda graph: graph, lambda graph: graph.bind()])
def test_a_hushed_graph_shows_nothing_where_inner_graphs_are_read(wrapped: Any) -> None:
    quiet = hushed(wrapped(inner_graph(Policy())))
    parts: list[Any] = list(
        graph_of(lambda state: {"messages": quiet.invoke(state)["messages"][:0]}).stream(
            ASKED, stream_mode="messages", subgraphs=True
        )
    )
    assert not seen_raw(parts)
