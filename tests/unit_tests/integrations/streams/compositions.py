"""The ways of putting a model and an aligner together that are looked at; tests and table use them.

A composition is a function of a model and an aligner that gives a runnable from messages to a
reply, or a graph. How a node calls the runnable is a dimension of its own.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import (
    Runnable,
    RunnableBranch,
    RunnableConfig,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    chain,
)
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import StreamWriter

from langchain_metaaligner import MetaAlignerRunnable, hushed

Build = Callable[[Any, MetaAlignerRunnable], Any]
PROMPT = RunnableLambda(lambda messages: {"messages": messages}) | ChatPromptTemplate.from_messages(
    [MessagesPlaceholder("messages")]
)


def pipe(llm: Any, aligner: Any) -> Runnable:
    return llm | aligner


def prompt_pipe(llm: Any, aligner: Any) -> Runnable:
    return PROMPT | llm | aligner


def retry(llm: Any, aligner: Any) -> Runnable:
    return llm | aligner.with_retry(stop_after_attempt=2, wait_exponential_jitter=False)


def fallback(llm: Any, aligner: Any) -> Runnable:
    return llm | aligner.with_fallbacks([RunnableLambda(lambda _: AIMessage("none"))])


def whole_fallback(llm: Any, aligner: Any) -> Runnable:
    return (llm | aligner).with_fallbacks([RunnableLambda(lambda _: AIMessage("none"))])


def parallel(llm: Any, aligner: Any) -> Runnable:
    return llm | RunnableParallel(edited=aligner) | operator.itemgetter("edited")


def parallel_before(llm: Any, aligner: Any) -> Runnable:
    return RunnableParallel(reply=llm) | operator.itemgetter("reply") | aligner


def branch(llm: Any, aligner: Any) -> Runnable:
    return llm | RunnableBranch((lambda reply: bool(reply.text), aligner), RunnablePassthrough())


def assign(llm: Any, aligner: Any) -> Runnable:
    asked = RunnableLambda(lambda messages: {"messages": messages})
    edited = RunnablePassthrough.assign(edited=operator.itemgetter("messages") | llm | aligner)
    return asked | edited | operator.itemgetter("edited")


def assign_twice(llm: Any, aligner: Any) -> Runnable:
    asked = RunnableLambda(lambda messages: {"messages": messages})
    replied = RunnablePassthrough.assign(reply=operator.itemgetter("messages") | llm)
    edited = RunnablePassthrough.assign(edited=operator.itemgetter("reply") | aligner)
    return asked | replied | edited | operator.itemgetter("edited")


def aligner_in_lambda(llm: Any, aligner: Any) -> Runnable:
    def edit(reply: AIMessage, config: RunnableConfig) -> AIMessage:
        return aligner.invoke(reply, config)

    async def aedit(reply: AIMessage, config: RunnableConfig) -> AIMessage:
        return await aligner.ainvoke(reply, config)

    return llm | RunnableLambda(edit, aedit)


def model_in_lambda(llm: Any, aligner: Any) -> Runnable:
    def ask(messages: Any) -> AIMessage:
        return llm.invoke(messages)

    async def aask(messages: Any) -> AIMessage:
        return await llm.ainvoke(messages)

    return RunnableLambda(ask, aask) | aligner


def nested(llm: Any, aligner: Any) -> Runnable:
    return PROMPT | (RunnablePassthrough() | (llm | aligner).with_config(tags=["mine"]))


def two_aligners(llm: Any, aligner: Any) -> Runnable:
    return llm | aligner | aligner


def text(llm: Any, aligner: Any) -> Runnable:
    return llm | StrOutputParser() | aligner | RunnableLambda(_message)


def parsed(llm: Any, aligner: Any) -> Runnable:
    return (llm | aligner) | StrOutputParser() | RunnableLambda(_message)


def _message(text: str) -> AIMessage:
    return AIMessage(text)


def function(llm: Any, aligner: Any) -> Runnable:
    @chain
    def answer(messages: Any) -> AIMessage:
        return aligner.invoke(llm.invoke(messages))

    return answer


def hushed_function(llm: Any, aligner: Any) -> Runnable:
    return hushed(function(llm, aligner))


def function_of_hushed_model(llm: Any, aligner: Any) -> Runnable:
    return function(hushed(llm), aligner)


# -- graphs -------------------------------------------------------------------------------------


def graph_of(node: Any) -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("answer", node)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", END)
    return graph.compile()


def called_with_invoke(runnable: Runnable) -> Any:
    def node(state: MessagesState) -> Any:
        return {"messages": [runnable.invoke(state["messages"])]}

    return node


def called_with_stream(runnable: Runnable) -> Any:
    def node(state: MessagesState) -> Any:
        merged = None
        for piece in runnable.stream(state["messages"]):
            get_stream_writer()(piece)
            merged = piece if merged is None else merged + piece
        return {"messages": [whole(merged)]}

    return node


def called_with_batch(runnable: Runnable) -> Any:
    def node(state: MessagesState) -> Any:
        return {"messages": runnable.batch([state["messages"]])}

    return node


def called_with_ainvoke(runnable: Runnable) -> Any:
    async def node(state: MessagesState) -> Any:
        return {"messages": [await runnable.ainvoke(state["messages"])]}

    return node


def called_with_astream(runnable: Runnable) -> Any:
    async def node(state: MessagesState) -> Any:
        merged = None
        async for piece in runnable.astream(state["messages"]):
            get_stream_writer()(piece)
            merged = piece if merged is None else merged + piece
        return {"messages": [whole(merged)]}

    return node


def called_with_abatch(runnable: Runnable) -> Any:
    async def node(state: MessagesState) -> Any:
        return {"messages": await runnable.abatch([state["messages"]])}

    return node


def as_node(runnable: Runnable) -> Any:
    return RunnableLambda(operator.itemgetter("messages")) | runnable | RunnableLambda(_update)


def _update(reply: Any) -> Any:
    return {"messages": [reply]}


def whole(merged: Any) -> AIMessage:
    """What a chat application makes of merged chunks."""
    known = AIMessage.model_fields
    fields = {name: value for name, value in merged.__dict__.items() if name in known}
    return AIMessage(**{**fields, "type": "ai"})


SYNC_STYLES = {
    "the node itself": as_node,
    "invoke": called_with_invoke,
    "stream": called_with_stream,
    "batch": called_with_batch,
}
ASYNC_STYLES = {
    **SYNC_STYLES,
    "ainvoke": called_with_ainvoke,
    "astream": called_with_astream,
    "abatch": called_with_abatch,
}


def node(llm: Any, aligner: Any) -> Any:
    def answer(state: MessagesState) -> Any:
        return {"messages": [aligner.invoke(llm.invoke(state["messages"]))]}

    return answer


def anode(llm: Any, aligner: Any) -> Any:
    async def answer(state: MessagesState) -> Any:
        return {"messages": [await aligner.ainvoke(await llm.ainvoke(state["messages"]))]}

    return answer


def node_with_config(llm: Any, aligner: Any) -> Any:
    def answer(
        state: MessagesState,
        config: RunnableConfig,
        *,
        runtime: Runtime[Any],
        writer: StreamWriter,
    ) -> Any:
        writer("working")
        runtime.stream_writer("still working")
        return {"messages": [aligner.invoke(llm.invoke(state["messages"], config), config)]}

    return answer


def anode_streaming(llm: Any, aligner: Any) -> Any:
    async def answer(state: MessagesState, runtime: Runtime[Any]) -> Any:
        reply = await llm.ainvoke(state["messages"])
        merged = None
        async for piece in aligner.astream(reply):
            runtime.stream_writer(piece)
            merged = piece if merged is None else merged + piece
        return {"messages": [whole(merged)]}

    return answer


def two_nodes(llm: Any, aligner: Any) -> Any:
    """Model and aligner each in a node: the unedited message is part of the state."""
    graph = StateGraph(MessagesState)
    graph.add_node("ask", lambda state: {"messages": [llm.invoke(state["messages"])]})
    graph.add_node("edit", aligner)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", "edit")
    graph.add_edge("edit", END)
    return graph.compile()


def inner_graph(llm: Any, *, new_message: bool = False) -> Any:
    """A graph such as `create_agent` makes: its node returns the model's message."""

    def answer(state: MessagesState) -> Any:
        reply = llm.invoke(state["messages"])
        return {"messages": [AIMessage(reply.text) if new_message else reply]}

    return graph_of(answer)


def graph_pipe(llm: Any, aligner: Any) -> Any:
    return graph_of(inner_graph(llm) | aligner)


def graph_in_lambda(llm: Any, aligner: Any) -> Any:
    inner = inner_graph(llm)
    return graph_of(RunnableLambda(lambda state: inner.invoke(state)) | aligner)


def nested_graph_pipe(llm: Any, aligner: Any) -> Any:
    return graph_of(graph_of(inner_graph(llm)).with_retry() | aligner)


def graph_node(llm: Any, aligner: Any) -> Any:
    inner = inner_graph(llm)
    return lambda state: aligner.invoke(inner.invoke(state))


# -- all of them --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Composition:
    """One way of putting model and aligner together.

    Attributes:
        name: What the table calls it.
        build: Makes it of a model and an aligner.
        hushed: The same with `hushed`, where it does not do without.
        graph: Whether it is a graph, not a runnable that a node calls.
        text: Whether texts are what passes, which have no message's id.
        only_async: Whether it can't be called synchronously.
        keeps_reply: Whether one of its own steps hands the unedited reply on beside the edit.
        in_state: Whether the unedited reply is put into the state of a graph.
        deeper: Whether it runs in a subgraph, whose messages v3 keeps apart from the graph's own.
        in_inner_state: Whether the unedited reply is put into the state of an inner graph.
    """

    name: str
    build: Build
    hushed: Build | None = None
    graph: bool = False
    text: bool = False
    only_async: bool = False
    keeps_reply: bool = False
    in_state: bool = False
    deeper: bool = False
    in_inner_state: bool = False


def _of_node(
    name: str, make: Build, *, only_async: bool = False, in_inner_state: bool = False
) -> Composition:
    return Composition(
        name,
        lambda llm, aligner: graph_of(make(llm, aligner)),
        hushed=lambda llm, aligner: graph_of(hushed(make(llm, aligner))),
        graph=True,
        only_async=only_async,
        in_inner_state=in_inner_state,
    )


COMPOSITIONS = [
    Composition("`llm | aligner`", pipe),
    Composition("`prompt | llm | aligner`", prompt_pipe),
    Composition("`llm | aligner.with_retry()`", retry),
    Composition("`llm | aligner.with_fallbacks([…])`", fallback),
    Composition("`(llm | aligner).with_fallbacks([…])`", whole_fallback),
    Composition("`llm | RunnableParallel(x=aligner)`", parallel),
    Composition("`RunnableParallel(x=llm) | … | aligner`", parallel_before),
    Composition("`llm | RunnableBranch((…, aligner), …)`", branch),
    Composition("`RunnablePassthrough.assign(x=llm | aligner)`", assign),
    Composition("`….assign(x=llm) | ….assign(y=… | aligner)`", assign_twice, keeps_reply=True),
    Composition("`llm |` a function that calls `aligner`", aligner_in_lambda),
    Composition("a function that calls `llm`, `| aligner`", model_in_lambda),
    Composition("`prompt | (… | (llm | aligner))`, nested", nested),
    Composition("`llm | aligner | aligner`", two_aligners),
    Composition("`llm | StrOutputParser() | aligner`", text, text=True, keeps_reply=True),
    Composition("`llm | aligner | StrOutputParser()`", parsed, text=True),
    Composition("a `@chain` that calls `llm`, then `aligner`", function, hushed_function),
    Composition("the same, only its `llm` hushed", function, function_of_hushed_model),
    _of_node("a node that calls `llm`, then `aligner`", node),
    _of_node("an asynchronous one", anode, only_async=True),
    _of_node("one with `config`, `runtime` and `writer`", node_with_config),
    _of_node("one that streams the edit", anode_streaming, only_async=True),
    Composition(
        "a subgraph with such a node",
        lambda llm, aligner: graph_of(graph_of(node(llm, aligner))),
        lambda llm, aligner: graph_of(hushed(graph_of(node(llm, aligner)))),
        graph=True,
        deeper=True,
    ),
    Composition(
        "a subgraph with `llm | aligner` in a node",
        lambda llm, aligner: graph_of(graph_of(called_with_invoke(llm | aligner))),
        graph=True,
        deeper=True,
    ),
    Composition("`graph | aligner`, as of an agent", graph_pipe, graph=True, in_inner_state=True),
    Composition(
        "a graph in a graph with retries, `| aligner`",
        nested_graph_pipe,
        graph=True,
        in_inner_state=True,
    ),
    Composition(
        "a function that calls a graph, `| aligner`",
        graph_in_lambda,
        graph=True,
        in_inner_state=True,
    ),
    _of_node("a node that calls a graph, then `aligner`", graph_node, in_inner_state=True),
    Composition(
        "a subgraph with `llm` and `aligner` in two nodes",
        lambda llm, aligner: graph_of(two_nodes(llm, aligner)),
        lambda llm, aligner: graph_of(hushed(two_nodes(llm, aligner))),
        graph=True,
        deeper=True,
        in_inner_state=True,
    ),
    Composition("`llm` and `aligner` in two nodes", two_nodes, graph=True, in_state=True),
]
