"""The leak check rests on the runs, whatever is in the config of a call."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.messages import AIMessage
from langchain_core.runnables import (
    RunnableGenerator,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    ensure_config,
)
from langgraph.func import entrypoint, task
from langgraph.graph.message import push_message

from langchain_metaaligner import LeakError, MetaAlignerRunnable, hushed
from tests.unit_tests.integrations.streams.compositions import graph_of, inner_graph
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


class Handler(BaseCallbackHandler):
    """A handler of the application's own."""


CONTEXT: dict[str, Any] = {"configurable": {"context": QUESTION}}


def aligner(**options: Any) -> MetaAlignerRunnable:
    return MetaAlignerRunnable(engine=Engine(), **options)


def in_a_thread(call: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def outside(call: Callable[[], Any]) -> Any:
    return contextvars.Context().run(call)


Configured: dict[str, Callable[[Any, AIMessage], Any]] = {
    "metadata": lambda a, reply: a.with_config(metadata={"team": "x"}).invoke(reply),
    "metadata of the call": lambda a, reply: a.invoke(reply, {"metadata": {"team": "x"}}),
    "tags": lambda a, reply: a.with_config(tags=["nostream"]).invoke(reply),
    "a name": lambda a, reply: a.with_config(run_name="x").invoke(reply),
    "callbacks": lambda a, reply: a.with_config(callbacks=[Handler()]).invoke(reply),
    "no callbacks": lambda a, reply: a.invoke(reply, {"callbacks": []}),
    "a manager": lambda a, reply: a.invoke(reply, {"callbacks": CallbackManager([Handler()])}),
    "configurable": lambda a, reply: a.with_config(**CONTEXT).invoke(reply),
    "arguments": lambda a, reply: a.bind(context=QUESTION).invoke(reply),
    "a whole config": lambda a, reply: a.invoke(reply, ensure_config({"metadata": {"x": 1}})),
    "a chain": lambda a, reply: (
        (RunnablePassthrough() | a).with_config(metadata={"x": 1}).invoke(reply)
    ),
    "callbacks of a chain": lambda a, reply: (
        (RunnablePassthrough() | a).with_config(callbacks=[Handler()]).invoke(reply)
    ),
    "callbacks of a parallel, and a context": lambda a, reply: RunnableParallel(x=a).invoke(
        reply, {"callbacks": [], **CONTEXT}
    )["x"],
    "a batch": lambda a, reply: a.batch([reply], [{"callbacks": [Handler()], "metadata": {}}])[0],
    "a stream": lambda a, reply: [*a.with_config(metadata={"x": 1}).stream(reply)][-1],
    "a thread": lambda a, reply: in_a_thread(lambda: a.invoke(reply, CONTEXT)),
    "a text in a thread": lambda a, reply: in_a_thread(lambda: a.invoke(reply.text, CONTEXT)),
    "a state in a thread": lambda a, reply: in_a_thread(
        lambda: a.invoke({"messages": [*QUESTION, reply]})
    ),
    "another context": lambda a, reply: outside(lambda: a.invoke(reply, CONTEXT)),
    "a changed reply": lambda a, reply: a.invoke(AIMessage(reply.text.upper()), CONTEXT),
}  # fmt: skip


@pytest.mark.parametrize("call", Configured.values(), ids=Configured.keys())
def test_a_leak_is_refused_whatever_the_call_is_given(call: Any) -> None:
    policy, a = Policy(), aligner()

    def answer(state: Any) -> Any:
        return {"messages": [call(a, policy.invoke(state["messages"]))]}

    with pytest.raises(LeakError):
        list(graph_of(answer).stream(ASKED, stream_mode="messages"))


@pytest.mark.parametrize("given", [{"callbacks": [Handler()]}, {"metadata": {"team": "x"}}])
async def test_a_leak_is_refused_asynchronously_whatever_the_call_is_given(given: Any) -> None:
    policy, a = Policy(), aligner()

    async def answer(state: Any) -> Any:
        reply = await policy.ainvoke(state["messages"])
        return {"messages": [await a.with_config(given).ainvoke(reply)]}

    with pytest.raises(LeakError):
        await collect(graph_of(answer).astream(ASKED, stream_mode="messages"))


def test_a_leak_is_refused_in_a_thread_when_the_chain_with_the_model_has_ended() -> None:
    policy, a = Policy() | RunnablePassthrough(), aligner()

    def answer(state: Any) -> Any:
        return {"messages": [Configured["a thread"](a, policy.invoke(state["messages"]))]}

    with pytest.raises(LeakError):
        list(graph_of(answer).stream(ASKED, stream_mode="messages"))


@pytest.mark.parametrize("edit", [lambda a, reply: a.invoke(reply), Configured["a thread"]])
@pytest.mark.parametrize("with_chain", [False, True])
def test_a_model_with_callbacks_of_its_own_has_not_leaked_and_its_context_is_known(
    with_chain: bool, edit: Any
) -> None:
    policy: Any = Policy() | RunnablePassthrough() if with_chain else Policy()
    a = aligner()

    def answer(state: Any) -> Any:
        reply = policy.invoke(state["messages"], {"callbacks": [Handler()]})
        return {"messages": [edit(a, reply)]}

    parts = list(graph_of(answer).stream(ASKED, stream_mode="messages"))
    assert list(streamed_texts(parts).values()) == [EDITED]


@pytest.mark.parametrize("call", [Configured["callbacks"], Configured["no callbacks"]])
def test_callbacks_of_a_call_do_not_take_it_out_of_its_chain(call: Any) -> None:
    policy, a = Policy(), aligner()

    @hushed
    def answer(state: Any) -> Any:
        return {"messages": [call(a, policy.invoke(state["messages"]))]}

    parts = list(graph_of(answer).stream(ASKED, stream_mode="messages"))
    assert list(streamed_texts(parts).values()) == [EDITED]
    assert len(parts) > 40


async def test_callbacks_of_an_asynchronous_call_do_not_take_it_out_of_its_chain() -> None:
    policy, a = Policy(), aligner().with_config(callbacks=[Handler()])

    @hushed
    async def answer(state: Any) -> Any:
        return {"messages": [await a.ainvoke(await policy.ainvoke(state["messages"]))]}

    parts = await collect(graph_of(answer).astream(ASKED, stream_mode="messages"))
    assert list(streamed_texts(parts).values()) == [EDITED]


@pytest.mark.parametrize("where", [lambda call: call(), in_a_thread])
def test_a_reply_that_an_application_reads_from_a_stream_of_its_own_is_no_leak(where: Any) -> None:
    a, inner = aligner(), inner_graph(Policy())

    def answer(_: Any) -> str:
        read = [chunk.text for chunk, _ in inner.stream(ASKED, stream_mode="messages")]
        edited: str = where(lambda: a.invoke("".join(read), CONTEXT))
        return edited

    assert RunnablePassthrough().pipe(answer).invoke("") == EDITED


def test_a_model_that_uses_an_id_again_has_not_leaked() -> None:
    again = AIMessage("rawword", id="always the same")
    asked = {"messages": [*QUESTION, again, *QUESTION]}
    chain = Policy(message=again) | aligner()
    parts = list(
        graph_of(lambda state: {"messages": [chain.invoke(state["messages"])]}).stream(
            asked, stream_mode="messages"
        )
    )
    assert list(streamed_texts(parts).values()) == [EDITED]


def test_a_reply_that_takes_the_place_of_an_older_one_has_not_leaked() -> None:
    policy, a = Policy(), aligner()
    asked = {"messages": [*QUESTION, AIMessage("old", id="old"), *QUESTION]}

    @hushed
    def answer(state: Any) -> Any:
        reply = policy.invoke(state["messages"]).model_copy(update={"id": "old"})
        return {"messages": [a.invoke(reply)]}

    assert not seen_raw(list(graph_of(answer).stream(asked, stream_mode="messages")))


@pytest.mark.parametrize("reply", [AIMessage("Yes."), AIMessage(RAW, id="lc_run--another")])
def test_what_another_request_shows_meanwhile_is_no_leak(reply: AIMessage) -> None:
    policy, edits = Policy(text=reply.text), []

    def answer(state: Any) -> Any:
        said = policy.invoke(state["messages"])
        edits.append(outside(lambda: in_a_thread(lambda: aligner().invoke(reply, CONTEXT))))
        edits.append(outside(lambda: aligner().invoke("Yes.", CONTEXT)))
        return {"messages": [said]}

    list(graph_of(answer).stream(ASKED, stream_mode="messages"))
    assert [edits[0].text, edits[1]] == [EDITED, EDITED]


def test_a_reply_that_is_shown_between_its_first_piece_and_its_edit_is_refused() -> None:
    class Prefilling(Engine):
        def warm(self, *_: Any, **__: Any) -> None:
            pass

    policy, a = Policy(), MetaAlignerRunnable(engine=Prefilling(), eager=True)

    def push(pieces: Any) -> Any:
        whole = None
        for piece in pieces:
            whole = piece if whole is None else whole + piece
            yield piece
        push_message(whole)

    pipe = policy | RunnableGenerator(push) | a

    def answer(state: Any) -> Any:
        return {"messages": ["".join(one.text for one in pipe.stream(state["messages"]))]}

    with pytest.raises(LeakError, match="push_message"):
        list(graph_of(hushed(answer)).stream(ASKED, stream_mode="messages"))


def tasks_with(llm: Any, hush: Any = lambda one: one) -> Any:
    a = aligner()

    @task
    def ask(messages: Any) -> Any:
        return llm.invoke(messages)

    @entrypoint()
    @hush
    def answer(state: Any) -> Any:
        return {"messages": [a.invoke(ask(state["messages"]).result())]}

    return answer


def pushing(llm: Any) -> Any:
    def answer(state: Any) -> Any:
        reply = llm.invoke(state["messages"])
        push_message(reply)
        return {"messages": [reply]}

    return graph_of(graph_of(answer) | aligner())


def calling(inner: Any) -> Any:
    a = aligner()
    return graph_of(lambda state: a.invoke(inner.invoke(state)))


Passed: dict[str, Callable[[], Any]] = {
    "an inner graph's node": lambda: calling(inner_graph(hushed(Policy()))),
    "an inner graph of its own": lambda: calling(inner_graph(hushed(Policy()), new_message=True)),
    "a task": lambda: tasks_with(hushed(Policy())),
    "a pushed message": lambda: pushing(Policy()),
}


@pytest.mark.parametrize("graph", Passed.values(), ids=Passed.keys())
def test_a_message_that_a_node_has_shown_is_refused_though_its_tokens_were_hushed(
    graph: Any,
) -> None:
    with pytest.raises(LeakError, match="another node or graph"):
        list(graph().stream(ASKED, stream_mode="messages", subgraphs=True))


@pytest.mark.parametrize("in_pipe", [False, True])
def test_a_reply_that_its_own_node_has_pushed_is_refused(in_pipe: bool) -> None:
    policy, a = Policy(), aligner()

    def push(reply: Any) -> Any:
        push_message(reply)
        return reply

    pipe = policy | RunnableLambda(push) | a

    def answer(state: Any) -> Any:
        asked = state["messages"]
        return {
            "messages": [pipe.invoke(asked) if in_pipe else a.invoke(push(policy.invoke(asked)))]
        }

    with pytest.raises(LeakError, match="push_message"):
        list(graph_of(hushed(answer)).stream(ASKED, stream_mode="messages"))


@pytest.mark.parametrize("of_inner_graph", [False, True])
def test_two_edits_of_one_reply_are_no_leak(of_inner_graph: bool) -> None:
    policy, a = Policy(), aligner()
    inner = inner_graph(policy)

    @hushed
    def answer(state: Any) -> Any:
        if of_inner_graph:
            reply = inner.invoke(state)["messages"][-1]
        else:
            reply = policy.invoke(state["messages"])
        return {"messages": [a.invoke(reply), a.invoke(reply)]}

    assert not seen_raw(list(graph_of(answer).stream(ASKED, stream_mode="messages")))


def test_a_reader_who_sees_no_inner_graphs_gets_the_edit_alone() -> None:
    graph = calling(inner_graph(hushed(Policy())))
    parts = list(graph.stream(ASKED, stream_mode="messages"))
    assert list(streamed_texts(parts).values()) == [EDITED]


def test_a_hushed_entrypoint_shows_the_edit_alone() -> None:
    parts = list(tasks_with(Policy(), hushed).stream(ASKED, stream_mode="messages"))
    assert not seen_raw(parts)
    assert list(streamed_texts(parts).values()) == [EDITED]
