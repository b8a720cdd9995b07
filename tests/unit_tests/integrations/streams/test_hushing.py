"""Which steps are hushed when a chain is put together, and what `hushed` does for the rest."""

from __future__ import annotations

import copy
import functools
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import (
    ConfigurableField,
    Runnable,
    RunnableBranch,
    RunnableConfig,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnableSequence,
)
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.runnables.retry import RunnableRetry
from langchain_core.tools import tool
from langgraph.errors import GraphInterrupt
from langgraph.graph import START, MessagesState, StateGraph

from langchain_metaaligner import Edit, LeakError, MetaAlignerRunnable, hushed
from langchain_metaaligner.integrations import leaks, retries
from tests.unit_tests.integrations.streams.compositions import (
    PROMPT,
    called_with_astream,
    called_with_invoke,
    called_with_stream,
    graph_of,
    node,
    two_nodes,
)
from tests.unit_tests.integrations.streams.scripted import (
    EDITED,
    QUESTION,
    RAW,
    Engine,
    Policy,
    collect,
    seen_raw,
)
from tests.unit_tests.integrations.streams.surfaces import ASKED, streamed_texts
from tests.unit_tests.integrations.ways import WAYS, by_turns, run
from tests.unit_tests.scripted import Seen

ALIGNER = MetaAlignerRunnable(engine=Engine())
EDIT_ONCE = [EDITED]


def aligner(**options: Any) -> MetaAlignerRunnable:
    return MetaAlignerRunnable(engine=Engine(), **options)


def messages_of(graph: Any) -> list[Any]:
    return list(graph.stream(ASKED, stream_mode="messages"))


def texts_of(graph: Any) -> list[str]:
    return list(streamed_texts(messages_of(graph)).values())


def in_a_node(chain: Runnable) -> Any:
    return graph_of(called_with_invoke(chain))


def tags_of(step: Any) -> list[str]:
    return list((getattr(step, "config", None) or {}).get("tags") or [])


def is_hushed(step: Any) -> bool:
    return "nostream" in tags_of(step)


# -- when a chain is put together ---------------------------------------------------------------

Later = {
    "a dict": lambda a: {"x": a} | RunnableLambda(lambda d: d["x"]),
    "a retry": lambda a: a.with_retry(),
    "listeners": lambda a: a.with_listeners(on_end=lambda _: None),
    "a binding": lambda a: a.bind(objectives=["harmlessness"]),
    "types": lambda a: a.with_types(input_type=Any),
    "a config": lambda a: a.with_config(tags=["x"]),
    "a fallback": lambda a: RunnableLambda(lambda _: 1 / 0).with_fallbacks([a]),
    "a branch's condition": lambda a: RunnableBranch((a, RunnablePassthrough()), ALIGNER),
    "a branch's default": lambda a: RunnableBranch((lambda _: False, lambda m: m), a),
    "a closure": lambda a: RunnableLambda(lambda reply: a.invoke(reply)),
    "a function in a closure": lambda a: RunnableLambda(calls(lambda reply: a.invoke(reply))),
    "a partial": lambda a: RunnableLambda(functools.partial(call_it, a)),
    "a bound method": lambda a: RunnableLambda(a.invoke),
    "a method": lambda a: RunnableLambda(Holder(a).edit),
    "an object to call": lambda a: RunnableLambda(Holder(a)),
    "a list": lambda a: RunnableLambda(in_a_list([a])),
    "default arguments": lambda a: RunnableLambda(lambda reply, a=a: a.invoke(reply)),
    "a global": lambda _: RunnableLambda(lambda reply: ALIGNER.invoke(reply)),
    "a lambda that returns it": lambda a: RunnableLambda(lambda _: a),
    "an each": lambda a: RunnableLambda(lambda m: [m]) | a.map() | RunnableLambda(lambda ms: ms[0]),
    "a graph": lambda a: subgraph(a),
    "alternatives": lambda a: RunnablePassthrough().configurable_alternatives(
        ConfigurableField(id="which"), default_key="none", aligner=a
    ),
    "a generator": lambda a: stepwise(a),
}


def calls(function: Any) -> Any:
    def outer(reply: Any) -> Any:
        return function(reply)

    return outer


def call_it(one: Any, reply: Any) -> Any:
    return one.invoke(reply)


def in_a_list(ones: list[Any]) -> Any:
    return lambda reply: ones[0].invoke(reply)


class Holder:
    def __init__(self, one: Any) -> None:
        self.one = one

    def edit(self, reply: Any) -> Any:
        return self.one.invoke(reply)

    def __call__(self, reply: Any) -> Any:
        return self.one.invoke(reply)


def subgraph(a: Any) -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("edit", a)
    graph.add_edge(START, "edit")
    return graph.compile()


def stepwise(a: Any) -> Any:
    from langchain_core.runnables import RunnableGenerator

    def edit(replies: Iterator[Any]) -> Iterator[Any]:
        for reply in replies:
            yield a.invoke(reply)

    return RunnableGenerator(edit)


@pytest.mark.parametrize("later", Later.values(), ids=Later.keys())
def test_a_model_is_hushed_before_an_aligner_in(later: Any) -> None:
    chain = Policy() | later(aligner())
    assert is_hushed(chain.first)


Quiet = {
    "no aligner": lambda: StrOutputParser(),
    "an aligner in shadow mode": lambda: aligner(apply=False),
    "a function of its own": lambda: RunnableLambda(lambda reply: reply.text),
    "a function that names a library": lambda: RunnableLambda(lambda _: os.getpid()),
}


@pytest.mark.parametrize("later", Quiet.values(), ids=Quiet.keys())
def test_nothing_is_hushed_before(later: Any) -> None:
    policy = Policy()
    chain = policy | later()
    assert chain.first is policy


def test_other_sequences_are_what_they_were() -> None:
    policy, parser = Policy(), StrOutputParser()
    chain = PROMPT | policy | parser
    assert chain.steps[-2:] == [policy, parser]
    assert isinstance(chain, RunnableSequence)
    assert chain.steps[-2] is policy


def test_what_comes_after_the_aligner_is_left_alone() -> None:
    after, parser = Policy(), StrOutputParser()
    chain = Policy() | aligner() | after | parser
    assert [is_hushed(step) for step in chain.steps] == [True, False, False, False]
    assert chain.steps[2] is after


def test_prompts_and_parsers_stay_what_they_are() -> None:
    prompt, parser = PROMPT.last, StrOutputParser()
    chain = prompt | Policy() | parser | aligner()
    assert chain.steps[0] is prompt
    assert is_hushed(chain.steps[1])
    assert chain.steps[2] is parser


def test_a_parser_with_a_chain_of_its_own_is_hushed() -> None:
    class Mending(StrOutputParser):
        chain: Any = None

    chain = Policy() | Mending(chain=Policy()) | aligner()
    assert is_hushed(chain.steps[1])


def test_a_step_is_hushed_once() -> None:
    chain = Policy() | aligner() | aligner() | aligner()
    assert tags_of(chain.first) == ["nostream", "metaaligner:step"]
    assert type(chain.first.bound) is Policy


def test_a_chain_from_before_the_first_aligner_is_hushed_when_one_is_added() -> None:
    # The wrap is in place by now, so the old chain is made by what it wraps.
    old = RunnableSequence.__new__(RunnableSequence)
    RunnableSequence.__init__.__wrapped__(old, PROMPT, Policy())  # type: ignore[attr-defined]
    assert texts_of(in_a_node(old | aligner())) == EDIT_ONCE


class Plain:
    """An engine that can be copied."""

    def edit(self, requests: Any) -> list[Edit]:
        return [Edit(EDITED) for _ in requests]

    async def aedit(self, requests: Any) -> list[Edit]:
        return self.edit(requests)

    def stream(self, request: Any) -> Iterator[str]:
        yield from (EDITED[:20], EDITED[20:])


Orders = {
    "tags on the chain": lambda a: (Policy() | a).with_config(tags=["x"]),
    "a chain in a chain": lambda a: PROMPT | (Policy() | a),
    "a parser after": lambda a: (Policy() | a) | RunnablePassthrough(),
    "a bound chain": lambda a: (Policy() | a).with_config(run_name="x") | RunnablePassthrough(),
    "tags on the model": lambda a: Policy().with_config(tags=["mine"]) | a,
    "a bound model": lambda a: Policy().bind(stop=["x"]) | a,
    "a model that retries": lambda a: Policy().with_retry() | a,
    "a model with a fallback": lambda a: Policy().with_fallbacks([Policy()]) | a,
    "a configurable model": lambda a: (
        Policy().configurable_fields(text=ConfigurableField(id="text")).with_config(tags=["mine"])
        | a
    ),
    "alternative models": lambda a: (
        Policy().configurable_alternatives(ConfigurableField(id="llm"), other=Policy()) | a
    ),
    "a router in the pipe": lambda a: (
        RunnableParallel(route=Policy(text="rawword-route"), asked=RunnablePassthrough())
        | RunnableLambda(lambda d: d["asked"])
        | Policy()
        | a
    ),
    "a function that returns the model": lambda a: RunnableLambda(lambda _: Policy()) | a,
    "a function with a tagged model": lambda a: (
        RunnableLambda(lambda m: Policy().with_config(tags=["mine"]).invoke(m)) | a
    ),
    "pipe()": lambda a: PROMPT.pipe(Policy(), a),
    "RunnableSequence()": lambda a: RunnableSequence(PROMPT, Policy(), a),
    "a history": lambda a: RunnableLambda(lambda m: m) | Policy() | a.with_listeners(),
    "a deep copy": lambda _: copy.deepcopy(Policy() | MetaAlignerRunnable(engine=Plain())),
    "a copy": lambda a: (Policy() | a).model_copy(),
    "a pickle": lambda _: pickle.loads(
        pickle.dumps(Policy() | MetaAlignerRunnable(engine=Plain()))
    ),
}


@pytest.mark.parametrize(
    ("order", "style"),
    by_turns(Orders, [called_with_invoke, called_with_stream, called_with_astream]),
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)
async def test_only_the_edit_streams_for(order: str, style: Any) -> None:
    graph = graph_of(style(Orders[order](aligner())))
    parts = await collect(graph.astream(ASKED, stream_mode="messages"))
    assert not seen_raw(parts)
    assert list(streamed_texts(parts).values()) == EDIT_ONCE


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainDeprecationWarning")
def test_a_chain_with_history_streams_the_edit_alone() -> None:
    from langchain_core.chat_history import InMemoryChatMessageHistory

    kept = InMemoryChatMessageHistory()
    chain = RunnableWithMessageHistory(
        Policy() | aligner(), lambda: kept, history_factory_config=[]
    )
    assert texts_of(in_a_node(chain)) == EDIT_ONCE
    assert [message.text for message in kept.messages] == ["What now?", EDITED]


def test_several_replies_at_once_stream_as_several() -> None:
    chain = Policy() | aligner()

    def ask_twice(state: MessagesState) -> Any:
        return {"messages": chain.batch([state["messages"]] * 2)}

    parts = messages_of(graph_of(ask_twice))
    assert not seen_raw(parts)
    assert list(streamed_texts(parts).values()) == [EDITED, EDITED]


def test_a_reply_without_an_id_streams_once() -> None:
    chain = RunnableLambda(lambda _: AIMessage(RAW)) | aligner().with_config(
        configurable={"context": QUESTION}
    )
    for style in (called_with_invoke, called_with_stream):
        assert texts_of(graph_of(style(chain))) == EDIT_ONCE


def test_models_that_an_engine_calls_stay_out_of_the_stream() -> None:
    judge = Policy(text="judgeword")

    class Judged(Engine):
        def stream(self, request: Any) -> Iterator[str]:
            judge.invoke("a")
            yield from super().stream(request)

        def edit(self, requests: Any) -> Any:
            judge.invoke("a")
            return super().edit(requests)

    chain = Policy() | MetaAlignerRunnable(engine=Judged())
    for style in (called_with_invoke, called_with_stream):
        parts = messages_of(graph_of(style(chain)))
        assert "judgeword" not in repr(parts)
        assert list(streamed_texts(parts).values()) == EDIT_ONCE
    assert len(judge.asked) >= 2


@pytest.mark.parametrize("way", WAYS)
def test_models_that_an_engine_calls_are_no_part_of_the_chain_s_runs(way: str) -> None:
    judge, seen = Policy(text="judgeword"), Seen()

    class Judged(Engine):
        def stream(self, request: Any) -> Iterator[str]:
            judge.invoke("a")
            yield from super().stream(request)

    inner = Policy() | MetaAlignerRunnable(engine=Judged())
    outer = RunnableLambda(lambda question: run(inner, question, way))
    outer.invoke(QUESTION, {"callbacks": [seen]})
    assert judge.asked
    models = [one for one in seen.runs if one["kind"] == "chat"]
    assert ["metaaligner" in one["tags"] for one in models] == [False, True]


async def test_models_that_an_engine_calls_stay_out_of_events() -> None:
    judge = Policy(text="judgeword")

    class Judged(Engine):
        def stream(self, request: Any) -> Iterator[str]:
            for piece in super().stream(request):
                judge.invoke("a")
                yield piece

    chain = Policy() | MetaAlignerRunnable(engine=Judged())
    assert "judgeword" not in repr(await collect(chain.astream_events(QUESTION, version="v2")))
    assert judge.asked


# -- hushed -------------------------------------------------------------------------------------


def test_hushed_takes_models_and_keeps_them_hushed() -> None:
    policy = Policy()
    quiet = hushed(policy)
    assert is_hushed(quiet)
    assert quiet.bound is policy
    assert not hasattr(policy, "tags") or not policy.tags
    assert is_hushed(quiet.bind(stop=["x"]))
    assert quiet.text == RAW


def test_hushed_models_keep_it_with_tools_and_structured_output() -> None:
    class Tools(Policy):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return self.bind(tools=tools)

        def with_structured_output(self, schema: Any, **kwargs: Any) -> Any:
            return self | RunnableLambda(lambda reply: reply.text)

    @tool
    def look(at: str) -> str:
        """Look."""
        return at

    assert is_hushed(hushed(Tools()).bind_tools([look]))
    assert is_hushed(hushed(Tools()).with_structured_output({}))


def test_hushed_refuses_what_is_neither_runnable_nor_function() -> None:
    with pytest.raises(TypeError, match="not int"):
        hushed(3)


def test_a_hushed_function_keeps_name_and_signature() -> None:
    def answer(state: MessagesState, config: RunnableConfig) -> MessagesState:
        """Answers."""
        return state

    quiet = hushed(answer)
    assert (quiet.__name__, quiet.__doc__) == ("answer", "Answers.")
    assert quiet.__wrapped__ is answer  # type: ignore[attr-defined]


Nodes: dict[str, Any] = {
    "with a tagged model": lambda llm, a: (
        lambda state: {
            "messages": [a.invoke(llm.with_config(tags=["mine"]).invoke(state["messages"]))]
        }
    ),
    "with a named call": lambda llm, a: (
        lambda state: {"messages": [a.invoke(llm.invoke(state["messages"], {"tags": ["mine"]}))]}
    ),
    "with a pipe inside": lambda llm, a: (
        lambda state: {"messages": [(llm | a).invoke(state["messages"])]}
    ),
    "with a chain around the model": lambda llm, a: (
        lambda state: {"messages": [a.invoke((PROMPT | llm).invoke(state["messages"]))]}
    ),
    "that takes its config by position": lambda llm, a: (
        lambda state, config: {
            "messages": [a.invoke(llm.invoke(state["messages"], config), config)]
        }
    ),
    "that is a partial": lambda llm, a: functools.partial(answer_with, llm, a),
    "that is an object": lambda llm, a: Answering(llm, a),
    "that is a method": lambda llm, a: Answering(llm, a).__call__,
    "that returns a runnable": lambda llm, a: (
        lambda state: RunnableLambda(functools.partial(answer_with, llm, a))
    ),
}


def answer_with(llm: Any, a: Any, state: Any) -> Any:
    return {"messages": [a.invoke(llm.invoke(state["messages"]))]}


class Answering:
    def __init__(self, llm: Any, a: Any) -> None:
        self.llm, self.a = llm, a

    def __call__(self, state: Any) -> Any:
        return answer_with(self.llm, self.a, state)


@pytest.mark.parametrize("make", Nodes.values(), ids=Nodes.keys())
def test_a_hushed_node_streams_the_edit_alone(make: Any) -> None:
    parts = messages_of(graph_of(hushed(make(Policy(), aligner()))))
    assert not seen_raw(parts)
    assert len(parts) >= 50
    assert list(streamed_texts(parts).values()) == EDIT_ONCE


def test_a_hushed_node_may_interrupt() -> None:
    def answer(state: Any) -> Any:
        raise GraphInterrupt

    with pytest.raises(GraphInterrupt):
        hushed(answer)({})


async def test_a_hushed_async_object_is_awaited() -> None:
    class Async:
        async def __call__(self, state: Any) -> Any:
            return state

    assert await hushed(Async())(1) == 1


def test_hushed_generators_leave_the_tags_of_who_reads_them_alone() -> None:
    from langchain_core.runnables import ensure_config

    inside: list[Any] = []

    def pieces() -> Iterator[int]:
        for i in range(2):
            inside.append(ensure_config()["tags"])
            yield i

    outside = [ensure_config()["tags"] for _ in hushed(pieces)()]
    assert inside == [["nostream", "metaaligner:hush"]] * 2
    assert outside == [[], []]


async def test_hushed_async_generators_too() -> None:
    from langchain_core.runnables import ensure_config

    async def pieces() -> Any:
        yield ensure_config()["tags"]

    assert [piece async for piece in hushed(pieces)()] == [["nostream", "metaaligner:hush"]]
    assert ensure_config()["tags"] == []


async def test_what_a_hushed_function_returns_and_the_caller_runs_is_hushed_too() -> None:
    from langchain_core.runnables import ensure_config

    def pieces() -> Iterator[Any]:
        yield ensure_config()["tags"]

    async def piece() -> Any:
        return ensure_config()["tags"]

    async def apieces() -> Any:
        yield ensure_config()["tags"]

    async def runnable() -> Any:
        return RunnableLambda(lambda _: ensure_config()["tags"])

    made = [
        await hushed(lambda: piece())(),
        *hushed(lambda: pieces())(),
        *[tags async for tags in hushed(lambda: apieces())()],
        (await hushed(runnable)()).invoke(1),
        (await hushed(lambda: runnable())()).invoke(1),
    ]
    assert all({"nostream", "metaaligner:hush"} <= set(tags) for tags in made)
    assert ensure_config()["tags"] == []


def test_of_two_aligners_in_a_hushed_node_only_the_last_one_s_edit_streams() -> None:
    first = MetaAlignerRunnable(engine=Engine("firstword"))
    parts = messages_of(graph_of(hushed(called_with_invoke(Policy() | first | aligner()))))
    assert "firstword" not in repr(parts)
    assert list(streamed_texts(parts).values()) == EDIT_ONCE


def test_a_user_s_own_nostream_silences_the_edit_too() -> None:
    silenced = (Policy() | aligner()).with_config(tags=["nostream"])
    assert texts_of(in_a_node(silenced)) == EDIT_ONCE  # the node's message, whole
    assert len(messages_of(in_a_node(silenced))) == 1
    assert len(messages_of(in_a_node(Policy() | aligner()))) > 50


# -- what has leaked already --------------------------------------------------------------------


def test_a_leak_is_refused_with_what_to_do() -> None:
    with pytest.raises(LeakError, match=r"hushed\(node\)") as leak:
        messages_of(graph_of(node(Policy(), aligner())))
    assert "on_leak='ignore'" in str(leak.value)


@pytest.mark.parametrize("on_error", ["pass", "block"])
def test_no_error_policy_swallows_a_leak(on_error: Any) -> None:
    with pytest.raises(LeakError):
        messages_of(graph_of(node(Policy(), aligner(on_error=on_error))))


def test_a_leak_may_be_ignored() -> None:
    parts = messages_of(graph_of(node(Policy(), aligner(on_leak="ignore"))))
    assert seen_raw(parts)


def test_a_leak_is_told_where_another_node_wrote_the_reply() -> None:
    with pytest.raises(LeakError, match="another node"):
        messages_of(two_nodes(Policy(), aligner()))


@pytest.mark.parametrize("kinds", [(Exception,), (LeakError, ValueError), (BaseException,)])
def test_with_retry_does_not_repeat_a_leak(kinds: Any) -> None:
    engine, policy = Engine(), Policy()
    a = MetaAlignerRunnable(engine=engine)
    retrying = a.with_retry(retry_if_exception_type=kinds, stop_after_attempt=3)

    def answer(state: Any) -> Any:
        reply = policy.invoke(state["messages"])
        return {"messages": [retrying.invoke(reply)]}

    seen = Seen()
    with pytest.raises(LeakError):
        list(graph_of(answer).stream(ASKED, {"callbacks": [seen]}, stream_mode="messages"))
    assert seen.named("MetaAlignerRunnable")
    assert "retry:attempt:2" not in [tag for run in seen.runs for tag in run["tags"] or ()]
    assert not engine.requests


@pytest.mark.parametrize("kinds", [(Exception,), lambda error: "for once" in str(error)])
def test_with_retry_repeats_what_else_fails(kinds: Any) -> None:
    known = str(RunnableRetry.model_fields["retry_exception_types"].annotation)
    if callable(kinds) and "Callable" not in known:
        pytest.skip("this langchain-core knows kinds of errors only")

    class Flaky(Engine):
        def edit(self, requests: Any) -> Any:
            self.whole += 1
            if self.whole == 1:
                raise OSError("for once")
            return super().edit(requests)

    engine = Flaky()
    a = MetaAlignerRunnable(engine=engine)
    chain = Policy() | a.with_retry(retry_if_exception_type=kinds, wait_exponential_jitter=False)
    assert chain.invoke(QUESTION).text == EDITED


def test_the_kinds_that_are_worth_another_try_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(retries.only_repeatable((Exception, ValueError))))


def test_under_invoke_a_leak_is_warned_of_once() -> None:
    leaks._warn_once.cache_clear()
    graph = graph_of(node(Policy(), aligner()))
    with pytest.warns(UserWarning, match="The model ran unhushed in this graph") as told:
        graph.invoke(ASKED)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph.invoke(ASKED)


def test_a_hushed_graph_warns_of_nothing() -> None:
    leaks._warn_once.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph_of(hushed(node(Policy(), aligner()))).invoke(ASKED)
        in_a_node(Policy() | aligner()).invoke(ASKED)
        (Policy() | aligner()).invoke(QUESTION)


def test_shadow_mode_hushes_nothing_and_opens_no_run() -> None:
    leaks._warn_once.cache_clear()
    for graph in (
        in_a_node(Policy() | aligner(apply=False)),
        graph_of(called_with_stream(Policy() | aligner(apply=False))),
        graph_of(node(Policy(), aligner(apply=False))),
    ):
        parts = messages_of(graph)
        assert list(streamed_texts(parts).values()) == [RAW]
        assert len(parts) > 10
        assert "editword" not in repr(parts)


# -- switched off -------------------------------------------------------------------------------

_OFF = """
from langchain_core.runnables import RunnableSequence
before = RunnableSequence.__init__
import langchain_metaaligner
assert RunnableSequence.__init__ is before
from langchain_metaaligner import MetaAlignerRunnable
assert RunnableSequence.__init__ is before
from langchain_core.language_models import FakeListChatModel
class Engine:
    def edit(self, requests): raise NotImplementedError
chain = FakeListChatModel(responses=["x"]) | MetaAlignerRunnable(engine=Engine())
assert (RunnableSequence.__init__ is before) == {off}
assert hasattr(chain.first, "config") != {off}
"""


@pytest.mark.parametrize(("value", "off"), [("0", True), (None, False)])
def test_the_wrap_comes_with_the_first_aligner_and_can_be_switched_off(
    value: str | None, off: bool
) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "LANGCHAIN_METAALIGNER_HUSH"}
    if value is not None:
        environment["LANGCHAIN_METAALIGNER_HUSH"] = value
    subprocess.run([sys.executable, "-c", _OFF.format(off=off)], env=environment, check=True)


def test_looking_for_an_aligner_ends_even_where_objects_go_round() -> None:
    def one(x: Any) -> Any:
        return two(x)

    def two(x: Any) -> Any:
        return one(x)

    policy = Policy()
    assert (policy | RunnableLambda(one)).first is policy


def test_an_odd_object_is_no_reason_to_fail() -> None:
    class Odd(RunnableLambda[Any, Any]):
        @property
        def bound(self) -> Any:
            raise RuntimeError("not now")

    policy = Policy()
    chain = policy | Odd(lambda reply: reply)
    assert chain.first is policy
    assert chain.invoke([HumanMessage("a")]).text == RAW


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
@pytest.mark.parametrize("style", [called_with_invoke, called_with_stream])
def test_typed_events_carry_the_edit_word_by_word_under_the_reply_s_id(style: Any) -> None:
    run = graph_of(style(Policy() | aligner())).stream_events(ASKED, version="v3")
    (message,) = list(run.messages)
    assert len(list(message.text)) >= 50
    assert run.output["messages"][-1].id == message.message_id


class Started(BaseCallbackHandler):
    """Notes the tags and metadata that a policy's run has."""

    def __init__(self) -> None:
        self.tags: set[str] = set()
        self.metadata: dict[str, Any] = {}

    def on_chat_model_start(self, serialized: Any, messages: Any, **given: Any) -> None:
        if "metaaligner" not in given["tags"]:
            self.tags, self.metadata = set(given["tags"]), given["metadata"]


Configured = {
    "with_config": lambda model: model.with_config(tags=["mine"], metadata={"mine": 1}),
    "bound, too": lambda model: model.with_config(tags=["mine"], metadata={"mine": 1}).bind(seed=1),
    "configurable": lambda model: model.configurable_fields(
        text=ConfigurableField(id="text")
    ).with_config(tags=["mine"], metadata={"mine": 1}),
    "inside": lambda model: (
        RunnablePassthrough() | model.with_config(tags=["mine"], metadata={"mine": 1})
    ),
    "a function": lambda model: RunnableLambda(lambda said: model.invoke(said)).with_config(
        tags=["mine"], metadata={"mine": 1}
    ),
}


@pytest.mark.parametrize(
    ("configured", "quiet"),
    [*by_turns(Configured, ["in a pipe"]), ("with_config", "hushed()"), ("inside", "hushed()")],
)
def test_a_policy_keeps_its_own_tags_and_metadata(configured: str, quiet: str) -> None:
    started = Started()
    policy = Configured[configured](Policy())
    chain = policy | aligner() if quiet == "in a pipe" else hushed(policy)
    chain.invoke("What now?", {"callbacks": [started], "tags": ["call"]})
    assert started.tags >= {"mine", "call", "nostream"}
    assert started.metadata["mine"] == 1


def test_what_a_chain_is_made_in_leaves_no_trace_in_it() -> None:
    made: list[Any] = []

    def make(_: Any) -> None:
        made.append(Policy().with_config(tags=["mine"]) | aligner())

    RunnableLambda(make).invoke(1, {"tags": ["outer"], "metadata": {"outer": 1}})
    started = Started()
    made[0].invoke("What now?", {"callbacks": [started]})
    assert "mine" in started.tags
    assert "outer" not in started.tags
    assert "outer" not in started.metadata


def test_a_quiet_step_is_written_down_as_the_binding_that_it_is() -> None:
    chain = FakeListChatModel(responses=["a"]) | aligner()
    assert dumpd(chain)["kwargs"]["first"]["id"][-1] == "RunnableBinding"


def test_what_config_factories_give_reaches_a_quiet_step() -> None:
    seen = []
    policy = Policy().with_listeners(on_end=lambda run: seen.append(run.name))
    (policy | aligner()).invoke("What now?")
    assert seen == ["Policy"]
