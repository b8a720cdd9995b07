from __future__ import annotations

import asyncio
import copy
import gc
import logging
import pickle
import sys
import threading
import time
import uuid
import weakref

import pytest
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.runnables import RunnableLambda, RunnableParallel, chain
from langgraph.graph import END, START, MessagesState, StateGraph

from langchain_metaaligner import MetaAlignerRunnable, MissingContextError
from langchain_metaaligner.integrations.capture import Capture, ModelRun, RunTree, capture, install
from tests.unit_tests.scripted import (
    Completion,
    Policy,
    ScriptedEngine,
    StreamingPolicy,
    echo,
    question_of,
)


class Told:
    """A capture that is told of runs by hand."""

    def __init__(self):
        self.capture = RunTree()

    def run(self, parent=None):
        run_id = uuid.uuid4()
        self.capture.on_chain_start({}, None, run_id=run_id, parent_run_id=parent)
        return run_id

    def ask(self, question, parent, reply=None, reply_id=None):
        run_id = uuid.uuid4()
        self.capture.on_chat_model_start(
            {}, [[HumanMessage(question)]], run_id=run_id, parent_run_id=parent
        )
        if reply is not None:
            self.answer(run_id, reply, reply_id)
        return run_id

    def answer(self, run_id, reply, reply_id=None):
        generation = ChatGeneration(message=AIMessage(reply, id=reply_id))
        self.capture.on_llm_end(LLMResult(generations=[[generation]]), run_id=run_id)

    def found(self, run, text, reply_id=None):
        models = Capture().find([self.capture], run, reply_id=reply_id, reply_text=text).models
        asked = [model.messages[0].content for model in models]
        return asked[0] if len(asked) == 1 else asked or None


@pytest.fixture
def told():
    return Told()


def test_a_reply_is_found_by_its_id_before_its_text(told):
    root = told.run()
    told.ask("first", root, "same", "id 1")
    told.ask("second", root, "same", "id 2")
    assert told.found(root, "same", "id 1") == "first"
    assert told.found(root, "same", "id 2") == "second"
    assert told.found(root, "another text", "id 1") == "first"


def test_a_reply_that_still_streams_is_found_by_its_runs_id(told):
    root = told.run()
    run_id = told.ask("first", root)
    told.ask("second", root, "x")
    assert told.found(root, "some", f"lc_run--{run_id}") == "first"


def test_an_id_that_two_replies_share_is_told_apart_by_the_text(told):
    root = told.run()
    told.ask("first", root, "one", "id")
    told.ask("second", root, "two", "id")
    told.ask("third", root, "two", "id")
    assert told.found(root, "one", "id") == "first"
    assert told.found(root, "two", "id") == ["second", "third"]
    assert told.found(root, "three", "id") == ["first", "second", "third"]


def test_a_reply_is_found_by_its_text_where_it_has_no_known_id(told):
    root = told.run()
    told.ask("first", root, "one", "id 1")
    told.ask("second", root, "two", "id 2")
    assert told.found(root, "one") == "first"
    assert told.found(root, "one", "a new id") == "first"


def test_a_reply_that_was_trimmed_is_found_by_what_is_left_of_it(told):
    root = told.run()
    told.ask("first", root, "<think>hm</think>\nthe answer\n")
    told.ask("second", root, "math")
    assert told.found(root, "the answer") == "first"


def test_a_reply_that_was_rewritten_is_that_of_the_only_model(told):
    root = told.run()
    told.ask("first", root, "one")
    assert told.found(root, "ONE") == "first"
    assert told.found(root, "ONE", "an id given by a step") == "first"
    told.ask("second", root, "two")
    assert told.found(root, "ONE OR TWO") == ["first", "second"]


def test_a_reply_of_a_run_that_is_not_around_is_never_taken_for_another_models(told):
    root = told.run()
    told.ask("first", root, "one")
    assert told.found(root, "another", f"lc_run--{uuid.uuid4()}") is None


def test_models_that_were_sent_the_same_need_no_telling_apart(told):
    root = told.run()
    told.ask("same", root, "one")
    told.ask("same", root, "two")
    assert told.found(root, "ONE OR TWO") == "same"


def test_the_nearest_run_goes_before_those_around_it(told):
    root = told.run()
    inner = told.run(root)
    told.ask("inner", inner, "same")
    told.ask("outer", root, "same")
    assert told.found(inner, "same") == "inner"
    assert told.found(root, "same") == ["inner", "outer"]
    assert told.found(inner, "rewritten") == ["inner", "outer"]


def test_a_run_with_no_model_looks_around_itself_and_never_into_other_roots(told):
    root, other = told.run(), told.run()
    told.ask("here", root, "same", "id")
    assert told.found(told.run(told.run(root)), "x") == "here"
    assert told.found(other, "same", "id") is None
    assert told.found(None, "same", "id") is None
    assert told.found(uuid.uuid4(), "same", "id") is None


def test_models_below_an_edit_are_not_noted(told):
    root = told.run()
    edit = told.run(root)
    Capture().find([told.capture], root, reply_id=None, reply_text="", editing=edit)
    told.ask("of the engine", told.run(edit), "x")
    told.ask("of the engine", edit, "x")
    assert told.found(root, "x") is None


def test_a_model_with_no_run_around_it_is_not_noted(told):
    told.ask("alone", None, "x")
    assert told.capture.kept() == 0


@pytest.mark.parametrize("error", [RuntimeError("x"), asyncio.CancelledError()])
def test_a_model_that_failed_is_forgotten(told, error):
    root = told.run()
    run_id = told.ask("q", root)
    told.capture.on_llm_error(error, run_id=run_id)
    assert told.found(root, "x", f"run-{run_id}") is None


def test_a_model_whose_reader_left_is_kept_as_one_that_answered(told):
    root = told.run()
    run_id = told.ask("q", root)
    told.capture.on_llm_error(GeneratorExit(), run_id=run_id)
    assert told.found(root, "some", f"run-{run_id}") == "q"
    assert told.capture.kept() == 1


@pytest.mark.parametrize("how", ["on_chain_end", "on_chain_error", "on_tool_end", "on_tool_error"])
def test_a_run_that_goes_on_after_its_root_keeps_what_it_was_asked(told, how):
    root = told.run()
    node = told.run(root)
    pipe = told.run(node)
    told.ask("before", pipe, "x")
    for one in (node, root):
        getattr(told.capture, how)(None, run_id=one)
    assert told.found(pipe, "x") == told.found(told.run(node), "x") == "before"
    told.ask("after", node, "y")
    assert told.found(node, "y") == "after"


def test_of_runs_that_have_ended_little_is_kept(told):
    root = told.run()
    for i in range(2000):
        run = told.run(root)
        told.ask(f"q{i}", run, f"r{i}")
        told.capture.on_chain_end(None, run_id=run)
    assert told.found(run, "r1999") == "q1999"
    told.capture.on_chain_end(None, run_id=root)
    gc.collect()
    held = {one for one in gc.get_objects() if isinstance(one, ModelRun)}
    assert len(held) <= 256
    assert told.capture.kept() == 0


def test_ends_of_runs_never_heard_of_are_no_matter(told):
    told.capture.on_chain_end(None, run_id=uuid.uuid4())
    told.capture.on_llm_end(LLMResult(generations=[]), run_id=uuid.uuid4())
    told.capture.on_llm_error(ValueError(), run_id=uuid.uuid4())
    root = told.run()
    run_id = told.ask("q", root)
    told.capture.on_llm_end(LLMResult(generations=[[]]), run_id=run_id)
    assert told.found(root, "x") == "q"


def test_a_long_agent_keeps_a_bounded_number_of_its_models_runs(told):
    root = told.run()
    for i in range(3000):
        told.ask(f"q{i}", root, f"r{i}")
    assert told.found(root, "r2999") == "q2999"
    assert told.found(root, "r2500") == "q2500"
    assert len(told.found(root, "r0")) == len(told.found(root, "r1900")) == 1024
    assert told.capture.kept() == 1


def test_copies_of_the_capture_are_the_capture():
    tree = RunTree()
    assert copy.copy(tree) is tree
    assert copy.deepcopy(tree) is tree


def test_installing_twice_tells_the_capture_once():
    install()
    install()
    MetaAlignerRunnable(engine=ScriptedEngine())
    seen = []

    def look(_, config):
        seen.extend(config["callbacks"].handlers)
        return "x"

    RunnableLambda(look).invoke("q")
    assert sum(isinstance(one, RunTree) for one in seen) == 1


def test_an_unpickled_runnable_captures_too():
    data = pickle.dumps(MetaAlignerRunnable(engine=ScriptedEngine()))
    (Policy(reply=echo) | pickle.loads(data)).invoke("q")


# What goes on after the run that it began in.


def test_a_task_that_outlives_its_root_knows_what_its_models_were_asked():
    engine = ScriptedEngine()
    aligner, policy = MetaAlignerRunnable(engine=engine), Policy(reply=echo)

    async def run():
        gate, tasks = asyncio.Event(), []

        async def waits_with_a_reply(reply):
            await gate.wait()
            return await aligner.ainvoke(reply)

        async def asks_in_a_pipe(question):
            await gate.wait()
            return await (policy | aligner).ainvoke(question)

        async def asks(question):
            await gate.wait()
            return await aligner.ainvoke((await policy.ainvoke(question)).text)

        @chain
        async def root(_):
            later = [
                waits_with_a_reply(await policy.ainvoke("asked in time")),
                asks_in_a_pipe("asked in a pipe"),
                asks("asked too late"),
            ]
            tasks.extend(asyncio.create_task(one) for one in later)
            await asyncio.sleep(0)
            return "x"

        await root.ainvoke("q")
        gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())
    asked = {question_of(one) for one in engine.requests}
    assert asked == {"asked in time", "asked in a pipe", "asked too late"}
    assert capture.kept() == 0


def test_a_thread_that_outlives_its_root_knows_what_its_models_were_asked():
    engine, gate, threads = ScriptedEngine(), threading.Event(), []

    def node(_, config):
        def work():
            gate.wait(10)
            reply = Policy(reply=echo).invoke("asked late", config)
            MetaAlignerRunnable(engine=engine).invoke(reply, config)

        threads.append(threading.Thread(target=work))
        threads[0].start()
        return "x"

    RunnableLambda(node).invoke("q")
    gate.set()
    threads[0].join()
    assert [question_of(one) for one in engine.requests] == ["asked late"]


# A guess is no context.


def two_models(first, second, then):
    """Two models asked different questions; a step makes one reply of theirs."""
    both = RunnableParallel(
        a=RunnableLambda(lambda _: "first") | first, b=RunnableLambda(lambda _: "second") | second
    )
    return both | RunnableLambda(then)


def last_words(made):
    return made["b"].text


@pytest.mark.parametrize(
    ("first", "second", "then"),
    [
        ("Yes.", "Yes.", last_words),
        ("One.", "Two.", lambda made: f"{made['a'].text} {made['b'].text}"),
        ("One.", "Two.", lambda _: AIMessage("Three.")),
        ("One.", "Two.", lambda _: AIMessage("Three.", id="mine")),
        (AIMessage("Yes.", id="1"), AIMessage("Yes.", id="1"), lambda made: made["a"]),
    ],
)
def test_a_reply_that_may_be_of_several_models_has_no_context(first, second, then):
    engine = ScriptedEngine()
    chain = two_models(Policy(reply=first), Policy(reply=second), then)
    with pytest.raises(MissingContextError, match="several models"):
        (chain | MetaAlignerRunnable(engine=engine)).invoke("?")
    assert engine.requests == []
    given = {"configurable": {"context": [HumanMessage("given")]}}
    (chain | MetaAlignerRunnable(engine=engine)).invoke("?", given)
    assert [question_of(one) for one in engine.requests] == ["given"]


def test_a_model_that_ran_nearer_than_the_one_that_made_a_reply_is_not_taken_for_it():
    """A function asks a judge before it lets the rewritten reply be edited."""
    judge, engine = Policy(reply="I can say yes."), ScriptedEngine()

    def judged(text):
        judge.invoke("Is it good?")
        return text

    inner = RunnableLambda(judged) | MetaAlignerRunnable(engine=engine)
    for change in (str.upper, lambda _: "yes"):
        outer = Policy(reply="A reply.") | StrOutputParser() | change | RunnableLambda(inner.invoke)
        with pytest.raises(MissingContextError, match="several models"):
            outer.invoke("?")
    assert engine.requests == []


def test_a_reply_that_was_rewritten_in_a_pipe_is_of_the_model_in_the_pipe():
    engine = ScriptedEngine()
    pipe = Policy(reply="Two.") | StrOutputParser() | str.upper | MetaAlignerRunnable(engine=engine)

    @chain
    def node(_):
        Policy(reply="One.").invoke("first")
        return pipe.invoke("second")

    node.invoke("?")
    assert [question_of(one) for one in engine.requests] == ["second"]


def test_a_reply_that_tells_its_model_has_that_models_context():
    engine = ScriptedEngine()
    chain = two_models(
        Policy(reply="One."), Policy(reply=" Two.\n"), lambda x: last_words(x).strip()
    )
    (chain | MetaAlignerRunnable(engine=engine)).invoke("?")
    assert [question_of(one) for one in engine.requests] == ["second"]


def test_in_a_pipe_the_last_model_made_a_reply_that_an_earlier_one_made_too():
    engine = ScriptedEngine()
    model = Policy(reply="Yes.") | StrOutputParser()
    other = RunnableLambda(lambda _: "second")
    (model | other | model | MetaAlignerRunnable(engine=engine)).invoke("first")
    assert [question_of(one) for one in engine.requests] == ["second"]


# Nothing is kept.


@pytest.fixture(scope="module", autouse=True)
def _collect_only_what_tests_make():
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Secret(HumanMessage):
    """A message that can be watched."""


def chain_of(reply=echo, engine=None, policy=Policy, **options):
    return policy(reply=reply) | MetaAlignerRunnable(engine=engine or ScriptedEngine(), **options)


def streaming():
    return chain_of(policy=StreamingPolicy, reply="one two three")


def fail(_):
    raise RuntimeError("later")


def ignoring(call):
    try:
        call()
    except Exception:
        return


def finished(m):
    chain_of().invoke([m])


def model_failed(m):
    ignoring(lambda: chain_of(RuntimeError("down")).invoke([m]))


def engine_failed(m):
    ignoring(lambda: chain_of(engine=ScriptedEngine(RuntimeError("down"))).invoke([m]))


def later_step_failed(m):
    ignoring(lambda: (chain_of() | fail).invoke([m]))


def nested_and_failed(m):
    ignoring(lambda: RunnableParallel(a=chain_of(), b=chain_of() | fail).invoke([m]))


def streamed(m):
    list(chain_of(policy=StreamingPolicy, reply="one two three").stream([m]))


def stream_abandoned(m):
    pieces = chain_of(policy=StreamingPolicy, reply="one two three").stream([m])
    next(pieces)
    del pieces


def stream_abandoned_at_once(m):
    chain_of(policy=StreamingPolicy, reply="one two three").stream([m])


def stream_closed(m):
    pieces = chain_of(policy=StreamingPolicy, reply="one two three").stream([m])
    next(pieces)
    pieces.close()


def stream_failed(m):
    ignoring(lambda: list((chain_of(policy=StreamingPolicy, reply="one two") | fail).stream([m])))


def batched(m):
    chain_of().batch([[m], [m]])


def batch_with_failures(m):
    def some(messages):
        if len(messages) > 1:
            raise RuntimeError("down")
        return "x"

    chain_of(some).batch([[m], [m, m]], return_exceptions=True)
    ignoring(lambda: chain_of(some).batch([[m], [m, m]]))


def completed_out_of_order(m):
    for _ in chain_of().batch_as_completed([[m], [m]]):
        break


def completion_model(m):
    (Completion() | MetaAlignerRunnable(engine=ScriptedEngine())).invoke([m])


def in_a_thread(m):
    thread = threading.Thread(target=lambda: finished(m))
    thread.start()
    thread.join()


def in_a_graph(m):
    builder = StateGraph(MessagesState)
    builder.add_node("node", lambda state: {"messages": [chain_of().invoke(state["messages"])]})
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    builder.compile().invoke({"messages": [m]})


def graph_stream_abandoned(m):
    builder = StateGraph(MessagesState)
    builder.add_node("node", lambda state: {"messages": [chain_of().invoke(state["messages"])]})
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    for _ in builder.compile().stream({"messages": [m]}, stream_mode="messages"):
        break


def timed_out(m):
    class Slow(ScriptedEngine):
        def edit(self, requests):
            gate.wait(30)
            return super().edit(requests)

    gate = threading.Event()
    ignoring(lambda: chain_of(engine=Slow(), timeout=0.01).invoke([m]))
    gate.set()


def asynchronous(m):
    asyncio.run(chain_of().ainvoke([m]))


def async_stream_abandoned(m):
    async def run():
        async for _ in chain_of(policy=StreamingPolicy, reply="one two three").astream([m]):
            break

    asyncio.run(run())


def async_task_cancelled(m):
    async def run():
        begun = asyncio.Event()

        class Endless(ScriptedEngine):
            async def aedit(self, requests):
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(chain_of(engine=Endless()).ainvoke([m]))
        await begun.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def async_batch_cancelled(m):
    async def run():
        begun = asyncio.Event()

        class Endless(ScriptedEngine):
            async def aedit(self, requests):
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(chain_of(engine=Endless()).abatch([[m], [m]]))
        await begun.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def async_model_cancelled(m):
    async def run():
        begun = asyncio.Event()

        async def wait(_):
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.create_task((chain_of() | RunnableLambda(wait)).ainvoke([m]))
        await begun.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def left_running_when_the_root_ended(m):
    async def run():
        gate = asyncio.Event()
        tasks = []

        async def slow(_):
            await gate.wait()
            return "x"

        @chain
        async def root(given):
            tasks.append(asyncio.create_task((RunnableLambda(slow) | chain_of()).ainvoke(given)))
            await asyncio.sleep(0)
            return await chain_of().ainvoke(given)

        await root.ainvoke([m])
        gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


def in_a_loop_that_is_closed(begin):
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(begin())
    finally:
        loop.close()


def stream_in_a_loop_that_was_closed(m):
    in_a_loop_that_is_closed(lambda: anext(streaming().astream([m])))


def log_in_a_closed_loop(m):
    in_a_loop_that_is_closed(lambda: anext(aiter(streaming().astream_log([m]))))


def events_in_a_loop_that_was_closed(m):
    in_a_loop_that_is_closed(lambda: anext(aiter(streaming().astream_events([m], version="v2"))))


def task_in_a_loop_that_was_closed(m):
    async def begin():
        begun = asyncio.Event()

        async def wait(_):
            begun.set()
            await asyncio.Event().wait()

        tasks.append(asyncio.create_task((chain_of() | RunnableLambda(wait)).ainvoke([m])))
        await begun.wait()

    tasks = []
    in_a_loop_that_is_closed(begin)


def log_abandoned(m):
    async def run():
        async for _ in streaming().astream_log([m]):
            break

    asyncio.run(run())


def chain_without_an_aligner_in_a_loop_that_was_closed(m):
    plain = StreamingPolicy(reply="one two three") | RunnableLambda(lambda reply: reply)
    in_a_loop_that_is_closed(lambda: anext(aiter(plain.astream_events([m], version="v2"))))


ENDINGS = [
    finished,
    model_failed,
    engine_failed,
    later_step_failed,
    nested_and_failed,
    streamed,
    stream_abandoned,
    stream_abandoned_at_once,
    stream_closed,
    stream_failed,
    batched,
    batch_with_failures,
    completed_out_of_order,
    completion_model,
    in_a_thread,
    in_a_graph,
    graph_stream_abandoned,
    timed_out,
    asynchronous,
    async_stream_abandoned,
    async_task_cancelled,
    async_batch_cancelled,
    async_model_cancelled,
    left_running_when_the_root_ended,
    stream_in_a_loop_that_was_closed,
    log_in_a_closed_loop,
    events_in_a_loop_that_was_closed,
    task_in_a_loop_that_was_closed,
    log_abandoned,
    chain_without_an_aligner_in_a_loop_that_was_closed,
]


@pytest.fixture
def nothing_logged(monkeypatch):
    """Keeps pytest from records of errors, which hold the frames of runs."""
    logging.disable(logging.CRITICAL)
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("nothing_logged")
@pytest.mark.filterwarnings("ignore:astream_log is deprecated")
@pytest.mark.parametrize("ending", ENDINGS, ids=lambda one: one.__name__)
def test_however_a_run_ends_nothing_of_it_is_kept(ending):
    message = Secret("q")
    watched = weakref.ref(message)
    ending(message)
    del message
    for _ in range(100):  # a thread of a loop that was closed may still be reading
        gc.collect()
        if watched() is None and not capture.kept():
            break
        time.sleep(0.02)
    assert capture.kept() == 0
    assert watched() is None


@pytest.mark.usefixtures("nothing_logged")
@pytest.mark.filterwarnings("ignore:astream_log is deprecated")
def test_after_many_mixed_runs_nothing_is_kept():
    watched = []
    slow = (
        in_a_graph,
        graph_stream_abandoned,
        timed_out,
        in_a_thread,
        log_in_a_closed_loop,
    )
    quick = [one for one in ENDINGS if one not in slow]
    for i in range(300):
        message = Secret(f"q{i}")
        watched.append(weakref.ref(message))
        quick[i % len(quick)](message)
        del message
    gc.collect()
    assert capture.kept() == 0
    assert [one for one in watched if one() is not None] == []


def test_while_a_root_runs_only_its_own_runs_are_kept():
    runnable, kept = chain_of(), []

    @chain
    def root(_):
        for i in range(50):
            runnable.invoke(f"q{i}")
            kept.append(capture.kept())
        return "x"

    root.invoke("q")
    assert set(kept) == {1}
    assert capture.kept() == 0


def test_a_manager_that_is_used_again_keeps_nothing_of_the_request_before():
    class Handler(BaseCallbackHandler):
        pass

    used_again = CallbackManager.configure(inheritable_callbacks=[Handler()])
    of_request = Handler()
    watched = weakref.ref(of_request)

    def ask(_):
        return Policy().invoke("q", {"callbacks": used_again})

    RunnableLambda(ask).invoke("q", {"callbacks": [of_request]})
    del of_request
    ask("q")
    gc.collect()
    assert watched() is None


def test_threads_that_share_a_root_leave_nothing():
    engine = ScriptedEngine()
    runnable = RunnableParallel(
        {
            str(i): RunnableLambda(lambda q, i=i: f"{q} {i}") | chain_of(engine=engine)
            for i in range(8)
        }
    )
    for _ in range(20):
        runnable.invoke("q")
    assert capture.kept() == 0
    assert len({question_of(one) for one in engine.requests}) == 8
