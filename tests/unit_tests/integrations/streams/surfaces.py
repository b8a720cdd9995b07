"""The ways of consuming a graph or a chain that are looked at; tests and table use them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver

from tests.unit_tests.integrations.streams.scripted import QUESTION

ASKED = {"messages": QUESTION}
MODES = ["values", "updates", "messages", "custom", "tasks", "debug", "checkpoints"]


@dataclass(frozen=True)
class Surface:
    """One way of consuming.

    Attributes:
        name: What it is called.
        read: All that a consumer sees, synchronously; `None` where there is no such way.
        aread: The same, asynchronously.
        shows_policy: Whether LangChain shows the policy's run there, whatever its tags.
        steps_too: Whether it shows what passes between a chain's steps.
        state: Whether it shows a graph's state.
        messages: Whether it streams messages, so that the edit must come there exactly once.
        model_runs: Whether it streams the tokens of models that are not hushed.
        inner_state: Whether it shows the state of graphs inside a graph.
    """

    name: str
    read: Callable[[Any], Iterator[Any]] | None
    aread: Callable[[Any], AsyncIterator[Any]]
    shows_policy: bool = False
    steps_too: bool = False
    state: bool = False
    messages: bool = False
    model_runs: bool = False
    inner_state: bool = False


def _graph_stream(name: str, modes: Any, **options: Any) -> Surface:
    def read(graph: Any) -> Iterator[Any]:
        yield from graph.stream(ASKED, stream_mode=modes, **options)

    async def aread(graph: Any) -> AsyncIterator[Any]:
        async for part in graph.astream(ASKED, stream_mode=modes, **options):
            yield part

    listed = [modes] if isinstance(modes, str) else modes
    streams = "messages" in listed
    stateless = listed in (["messages"], ["custom"])
    return Surface(
        name,
        read,
        aread,
        messages=streams,
        model_runs=streams,
        state=not stateless,
        inner_state=not stateless and bool(options.get("subgraphs")),
    )


def _checkpoints() -> Surface:
    config: Any = {"configurable": {"thread_id": "one"}}

    def read(graph: Any) -> Iterator[Any]:
        kept = graph.copy(update={"checkpointer": InMemorySaver()})
        yield from kept.stream(ASKED, config, stream_mode="checkpoints")
        yield list(kept.get_state_history(config))

    async def aread(graph: Any) -> AsyncIterator[Any]:
        kept = graph.copy(update={"checkpointer": InMemorySaver()})
        async for part in kept.astream(ASKED, config, stream_mode="checkpoints"):
            yield part
        yield [state async for state in kept.aget_state_history(config)]

    return Surface("checkpoints", read, aread, state=True)


def _invoked() -> Surface:
    def read(graph: Any) -> Iterator[Any]:
        yield graph.invoke(ASKED)
        yield from graph.batch([ASKED, ASKED])

    async def aread(graph: Any) -> AsyncIterator[Any]:
        yield await graph.ainvoke(ASKED)
        for made in await graph.abatch([ASKED, ASKED]):
            yield made

    return Surface("`invoke`, `batch`", read, aread)


def _events(version: str, given: Any) -> Surface:
    async def aread(target: Any) -> AsyncIterator[Any]:
        async for event in target.astream_events(given, version=version):
            yield event

    return Surface(f"`astream_events`, {version}", None, aread, shows_policy=True)


def _log(given: Any) -> Surface:
    async def aread(target: Any) -> AsyncIterator[Any]:
        async for patch in target.astream_log(given):
            yield patch

    return Surface("`astream_log`", None, aread, shows_policy=True)


def _without_hushed(given: Any) -> Surface:
    """What is streamed under steps that are not hushed; other events have inputs in them."""

    async def aread(target: Any) -> AsyncIterator[Any]:
        async for event in target.astream_events(given, version="v2", exclude_tags=["nostream"]):
            if event["event"].endswith("_stream"):
                yield event

    name = "`astream_events`, `exclude_tags=['nostream']`: `on_…_stream`"
    return Surface(name, None, aread, steps_too=True, model_runs=True, state=True)


def _edit_alone(given: Any) -> Surface:
    async def aread(target: Any) -> AsyncIterator[Any]:
        async for event in target.astream_events(given, version="v2", include_tags=["metaaligner"]):
            yield event

    return Surface("`astream_events`, `include_tags=['metaaligner']`", None, aread)


def _events_v3() -> Surface:
    """The typed event stream of graphs: its log of events, and its messages."""

    def read(graph: Any) -> Iterator[Any]:
        yield from graph.stream_events(ASKED, version="v3")

    async def aread(graph: Any) -> AsyncIterator[Any]:
        async for event in await graph.astream_events(ASKED, version="v3"):
            yield event

    return Surface(
        "`stream_events`, v3", read, aread, model_runs=True, state=True, inner_state=True
    )


def _messages_v3() -> Surface:
    def read(graph: Any) -> Iterator[Any]:
        run = graph.stream_events(ASKED, version="v3")
        for message in run.messages:
            yield {"id": message.message_id, "pieces": list(message.text)}
        yield run.output

    async def aread(graph: Any) -> AsyncIterator[Any]:
        run = await graph.astream_events(ASKED, version="v3")
        async for message in run.messages:
            pieces = [piece async for piece in message.text]
            yield {"id": message.message_id, "pieces": pieces}
        yield await run.output()

    return Surface("`stream_events`, v3: `.messages`", read, aread, messages=True, model_runs=True)


def _chain_stream() -> Surface:
    def read(runnable: Any) -> Iterator[Any]:
        yield from runnable.stream(QUESTION)

    async def aread(runnable: Any) -> AsyncIterator[Any]:
        async for piece in runnable.astream(QUESTION):
            yield piece

    return Surface("`stream`", read, aread)


def _chain_transform() -> Surface:
    def read(runnable: Any) -> Iterator[Any]:
        yield from runnable.transform(iter([QUESTION]))

    async def aread(runnable: Any) -> AsyncIterator[Any]:
        async def asked() -> AsyncIterator[Any]:
            yield QUESTION

        async for piece in runnable.atransform(asked()):
            yield piece

    return Surface("`transform`", read, aread)


def _chain_invoke() -> Surface:
    def read(runnable: Any) -> Iterator[Any]:
        yield runnable.invoke(QUESTION)
        yield from runnable.batch([QUESTION, QUESTION])
        for _, made in runnable.batch_as_completed([QUESTION, QUESTION]):
            yield made

    async def aread(runnable: Any) -> AsyncIterator[Any]:
        yield await runnable.ainvoke(QUESTION)
        for made in await runnable.abatch([QUESTION, QUESTION]):
            yield made
        async for _, made in runnable.abatch_as_completed([QUESTION, QUESTION]):
            yield made

    return Surface("`invoke`, `batch`", read, aread)


GRAPH_SURFACES = [
    _invoked(),
    *[_graph_stream(mode, mode) for mode in MODES if mode != "checkpoints"],
    _graph_stream("messages, `subgraphs=True`", "messages", subgraphs=True),
    _checkpoints(),
    _graph_stream("all modes, `version='v2'`", MODES, version="v2"),
    _graph_stream("all modes, `subgraphs=True`", MODES, subgraphs=True),
    _events_v3(),
    _messages_v3(),
    _events("v2", ASKED),
    _without_hushed(ASKED),
    _edit_alone(ASKED),
    _log(ASKED),
]
CHAIN_SURFACES = [
    _chain_invoke(),
    _chain_stream(),
    _chain_transform(),
    _events("v1", QUESTION),
    _events("v2", QUESTION),
    _without_hushed(QUESTION),
    _edit_alone(QUESTION),
    _log(QUESTION),
]


def streamed_texts(payloads: list[Any]) -> dict[str, str]:
    """The texts of a stream of messages, by message id.

    Args:
        payloads: What a surface with `messages` gave.
    """
    texts: dict[str, str] = {}
    for one in payloads:
        if isinstance(one, dict) and "messages" in one:  # the final state
            continue
        if isinstance(one, dict) and "pieces" in one:
            assert one["id"] not in texts
            texts[one["id"]] = "".join(one["pieces"])
            continue
        message = _streamed_message(one)
        if message is not None:
            texts[message.id] = texts.get(message.id, "") + message.text
    return texts


def _streamed_message(part: Any) -> Any:
    if isinstance(part, dict):  # version="v2"
        return part["data"][0] if part["type"] == "messages" else None
    if isinstance(part[0], tuple):  # subgraphs=True
        part = part[1:] if len(part) == 3 else part[1]
    if isinstance(part[0], str):  # several modes
        return part[1][0] if part[0] == "messages" else None
    return part[0]
