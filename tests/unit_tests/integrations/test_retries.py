"""Retries and fallbacks around an aligner, a chat model and a graph's node."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRetryMiddleware
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, RetryPolicy, interrupt

from langchain_metaaligner import (
    AnswerTooLongError,
    ChatMetaAligner,
    EditTimeout,
    EngineError,
    InputTypeError,
    LeakError,
    MetaAlignerError,
    MetaAlignerMiddleware,
    MetaAlignerRunnable,
    UnknownObjectiveError,
    hushed,
)
from tests.unit_tests.integrations.ways import by_turns
from tests.unit_tests.scripted import Policy, ScriptedEngine

ASKED = {"messages": [HumanMessage("q")]}
QUICK = {"wait_exponential_jitter": False}


class Breaks(ScriptedEngine):
    """Fails its first edits, after two pieces or before the first."""

    def __init__(self, error: Exception, *, after: int = 2, times: int = 1) -> None:
        super().__init__()
        self.error, self.after, self.times = error, after, times
        self.tried = 0

    def stream(self, request: Any) -> Iterator[str]:
        self.tried += 1
        pieces = ["ONE ", "TWO ", "THREE"]
        if self.tried > self.times:
            yield from pieces
            return
        yield from pieces[: self.after]
        raise self.error

    def edit(self, requests: Any) -> Any:
        self.tried += 1
        if self.tried <= self.times:
            raise self.error
        return super().edit(requests)


def graph_of(runnable: Any, **options: Any) -> Any:
    graph = StateGraph(MessagesState)
    node = {"messages": lambda state: [runnable.invoke(state["messages"])]}["messages"]
    graph.add_node("n", lambda state: {"messages": node(state)}, **options)
    graph.add_edge(START, "n")
    return graph.compile()


def read(runnable: Any, surface: str) -> tuple[list[str], Exception | None]:
    got: list[str] = []
    try:
        if surface == "stream":
            got.extend(one.text for one in runnable.stream("q") if one.text)
        else:
            for one, _ in graph_of(runnable).stream(ASKED, stream_mode="messages"):
                got += [one.text] if one.text else []
    except Exception as error:
        return got, error
    return got, None


def reply(_: Any) -> Any:
    return AIMessage("a fallback")


KEEP = ConfigurableField("keep")

OWN = {
    "retry": lambda a: a.with_retry(**QUICK),
    "a function chooses": lambda a: a.with_retry(retry_if_exception_type=(EngineError,), **QUICK),
    "configured retry": lambda a: a.with_config(tags=["x"]).with_retry(**QUICK),
    "fallback": lambda a: a.with_fallbacks([RunnableLambda(reply)]),
    "bound fallback": lambda a: a.bind(objectives="honesty").with_fallbacks(
        [RunnableLambda(reply)]
    ),
    "retry and fallback": lambda a: a.with_retry(**QUICK).with_fallbacks([RunnableLambda(reply)]),
    "listened to": lambda a: a.with_listeners(on_end=lambda _: None).with_fallbacks(
        [RunnableLambda(reply)]
    ),
    "hushed": lambda a: (
        (
            hushed(a) if isinstance(a, MetaAlignerRunnable) else a  # a hushed model streams nothing
        ).with_fallbacks([RunnableLambda(reply)])
    ),
    "typed": lambda a: a.with_types(output_type=AIMessage).with_fallbacks([RunnableLambda(reply)]),
    "configurable": lambda a: a.configurable_fields(keep_original=KEEP).with_retry(**QUICK),
    "configurable fallback": lambda a: a.configurable_fields(keep_original=KEEP).with_fallbacks(
        [RunnableLambda(reply)]
    ),
    "alternatives": lambda a: a.configurable_alternatives(
        ConfigurableField("which"), other=RunnableLambda(reply)
    ).with_retry(**QUICK),
    "fallback and retry": lambda a: a.with_fallbacks([RunnableLambda(reply)]).with_retry(**QUICK),
}
FACES = {
    "aligner": lambda wrap, engine: Policy() | wrap(MetaAlignerRunnable(engine=engine)),
    "chat model": lambda wrap, engine: wrap(ChatMetaAligner(policy=Policy(), engine=engine)),
}


@pytest.mark.parametrize("wrap", OWN)
@pytest.mark.parametrize(
    ("face", "surface"),
    [("aligner", "messages"), ("chat model", "messages"), ("aligner", "stream")],
)
def test_once_a_part_of_an_edit_was_read_the_error_ends_it(
    face: str, wrap: str, surface: str
) -> None:
    got, error = read(FACES[face](OWN[wrap], Breaks(ConnectionError("lost"))), surface)
    assert got == ["ONE ", "TWO "]
    assert isinstance(error, EngineError)
    assert error.begun
    assert not error.retryable


@pytest.mark.parametrize(("face", "wrap"), by_turns(FACES, OWN))
def test_where_nobody_has_read_anything_the_next_attempt_is_made(face: str, wrap: str) -> None:
    runnable = FACES[face](OWN[wrap], Breaks(ConnectionError("lost"), after=0))
    got, error = read(runnable, "messages")
    assert error is None
    assert "".join(got) in ("ONE TWO THREE", "a fallback")


def test_a_second_aligner_that_breaks_off_ends_the_fallbacks_too() -> None:
    first = MetaAlignerRunnable(engine=Breaks(ConnectionError("lost"), after=0))
    second = MetaAlignerRunnable(engine=Breaks(ConnectionError("lost")))
    both = first.with_fallbacks([second, RunnableLambda(reply)]).with_retry(**QUICK)
    got, error = read(Policy() | both, "messages")
    assert (got, type(error)) == (["ONE ", "TWO "], EngineError)


def test_a_leak_goes_to_no_fallback() -> None:
    policy, aligner = Policy(), MetaAlignerRunnable(engine=ScriptedEngine())
    both = aligner.with_fallbacks([RunnableLambda(reply)])
    got, error = read(RunnableLambda(lambda given: both.invoke(policy.invoke(given))), "messages")
    assert "a fallback" not in got
    assert isinstance(error, LeakError)


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (ConnectionError("lost"), 3),
        (EngineError("busy", retryable=True), 3),
        (EditTimeout("late"), 3),
        (EngineError("NaN"), 1),
        (RuntimeError("a bug"), 1),
        (AnswerTooLongError("long"), 1),
    ],
)
def test_only_what_may_pass_is_repeated_by_langchain_and_by_langgraph(
    error: Exception, attempts: int
) -> None:
    for kinds in ((Exception,), (MetaAlignerError,), (EngineError, Exception)):
        engine = Breaks(error, times=9)
        aligner = MetaAlignerRunnable(engine=engine)
        with pytest.raises(MetaAlignerError):
            (Policy() | aligner.with_retry(retry_if_exception_type=kinds, **QUICK)).invoke("q")
        assert engine.tried == attempts
    policy = Policy(asked=[])
    chain = policy | MetaAlignerRunnable(engine=Breaks(error, times=9))
    again = RetryPolicy(initial_interval=0.001, jitter=False)
    with pytest.raises(MetaAlignerError):
        graph_of(chain, retry_policy=again).invoke(ASKED)
    assert len(policy.asked) == attempts


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [({"objectives": "hnesty"}, UnknownObjectiveError), ({"context": 5}, InputTypeError)],
)
def test_a_mistake_of_the_caller_is_paid_for_once(wrong: Any, kind: Any) -> None:
    policy = Policy(asked=[])
    chain = (policy | MetaAlignerRunnable(engine=ScriptedEngine())).with_config(configurable=wrong)
    again = RetryPolicy(initial_interval=0.001, jitter=False)
    with pytest.raises(kind):
        graph_of(chain, retry_policy=again).invoke(ASKED)
    assert len(policy.asked) == 1


AROUND: dict[str, Any] = {
    "the aligner": lambda policy, engine, retry: create_agent(
        policy, [], middleware=[retry, MetaAlignerMiddleware(engine=engine)]
    ),
    "the chat model": lambda policy, engine, retry: create_agent(
        ChatMetaAligner(policy, engine=engine), [], middleware=[retry]
    ),
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize(
    ("error", "after", "attempts"),
    [
        (EngineError("busy", retryable=True), 0, 3),
        (EngineError("NaN"), 0, 1),
        (EngineError("busy", retryable=True), 2, 1),
    ],
)
def test_retry_middleware_repeats_only_what_may_pass_and_nothing_that_was_read(
    around: str, error: Exception, after: int, attempts: int
) -> None:
    policy = Policy(asked=[])
    retry = ModelRetryMiddleware(initial_delay=0, backoff_factor=0, on_failure="error")
    agent = AROUND[around](policy, Breaks(error, after=after, times=9), retry)
    with pytest.raises(EngineError):
        list(agent.stream(ASKED, stream_mode="messages"))
    assert len(policy.asked) == attempts


@pytest.mark.parametrize("wrap", OWN)
def test_what_wraps_an_aligner_is_copied_pickled_and_serialised_like_langchains(wrap: str) -> None:
    aligner = MetaAlignerRunnable(engine=ScriptedEngine("an edit"))
    made = OWN[wrap](aligner)
    assert not made.get_name().startswith("_")
    assert dumpd(made)["id"][0] == "langchain"
    one = made.with_config(configurable={"context": [HumanMessage("q")]})
    for again in (one, copy.deepcopy(one)):
        assert again.invoke("x") == "an edit"
    if "fallback" not in wrap and wrap != "listened to":
        assert pickle.loads(pickle.dumps(one)).invoke("x") == "an edit"


ASKING: dict[str, Any] = {
    "a pipe": lambda **given: graph_of(Policy() | MetaAlignerRunnable(**given)),
    "a batch": lambda **given: graph_of(
        RunnableLambda(lambda asked: (Policy() | MetaAlignerRunnable(**given)).batch([asked])[0])
    ),
    "a chat model": lambda **given: graph_of(ChatMetaAligner(policy=Policy(), **given)),
    "a middleware": lambda **given: create_agent(
        Policy(), [], middleware=[MetaAlignerMiddleware(**given)]
    ),
    "retries": lambda **given: graph_of(Policy() | MetaAlignerRunnable(**given).with_retry()),
    "fallbacks": lambda **given: graph_of(
        Policy()
        | MetaAlignerRunnable(**given).with_fallbacks([RunnableLambda(lambda _: AIMessage("no"))])
    ),
}


@pytest.mark.parametrize(
    ("made", "on_error", "apply"), by_turns(ASKING, ["raise", "pass", "block"], [True, True, False])
)
def test_an_interrupt_in_when_waits_for_an_answer_and_is_no_failure(
    made: str, on_error: str, apply: bool
) -> None:
    asked: list[Any] = []
    records: list[Any] = []

    def when(reply: Any, _: Any) -> Any:
        asked.append(reply)
        return interrupt("edit this?")

    graph = ASKING[made](
        engine=ScriptedEngine(), when=when, on_error=on_error, apply=apply, on_edit=records.append
    ).copy({"checkpointer": InMemorySaver()})
    config = {"configurable": {"thread_id": "1"}}
    (waiting,) = graph.invoke(ASKED, config)["__interrupt__"]
    assert waiting.value == "edit this?"
    assert len(asked) == 1
    assert not records
    reply = graph.invoke(Command(resume=True), config)["messages"][-1]
    assert reply.text == ("A reply. (edited)" if apply else "A reply.")
