"""Work that nobody waits for any longer stops within one step, and frees the engine."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable
from langgraph.checkpoint.memory import InMemorySaver

from langchain_metaaligner import Aligner, Context, Edit, EditTimeout, MetaAlignerRunnable
from langchain_metaaligner.integrations.capture import capture
from tests.unit_tests.integrations.streams.compositions import (
    called_with_ainvoke,
    called_with_astream,
    called_with_invoke,
    called_with_stream,
    graph_of,
)
from tests.unit_tests.integrations.streams.scripted import EDITED, QUESTION, Engine, Policy

ASKED: Any = {"messages": QUESTION}


class Gated(Engine):
    """Stands still in its third step until it is let go; then it makes that step and goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.go = threading.Event(), threading.Event()
        self.first = True

    def stream(self, request: Any) -> Iterator[str]:
        self.requests.append(request)
        self.running += 1
        self.freed.clear()
        stop_here, self.first = self.first, False
        try:
            for i, word in enumerate(self._words(request)):
                if i == 2 and stop_here:
                    self.inside.set()
                    assert self.go.wait(30)
                self.steps += 1
                yield word
        finally:
            self.running -= 1
            self.freed.set()

    async def aedit(self, requests: Any) -> Any:
        pieces, made = self.stream(requests[0]), []
        step = None
        try:
            while True:
                step = asyncio.get_running_loop().run_in_executor(None, next, pieces, None)
                if (piece := await asyncio.shield(step)) is None:
                    return [Edit("".join(made))]
                made.append(piece)
        except asyncio.CancelledError:
            await asyncio.wait([step])
            pieces.close()
            raise


def pipe(engine: Engine, **options: Any) -> Runnable:
    return Policy() | MetaAlignerRunnable(engine=engine, **options)


async def freed(engine: Engine) -> None:
    assert await asyncio.to_thread(engine.freed.wait, 30)


def works_again(engine: Engine) -> None:
    assert pipe(engine).invoke(QUESTION).text == EDITED
    assert engine.running == 0


def test_a_consumer_that_stops_reading_stops_the_engine() -> None:
    engine = Engine()
    pieces = pipe(engine).stream(QUESTION)
    assert [next(pieces).text for _ in range(3)] == ["editword00", " editword01", " editword02"]
    pieces.close()
    assert (engine.steps, engine.running) == (3, 0)
    works_again(engine)


def test_a_forgotten_stream_stops_the_engine() -> None:
    engine = Engine()
    for _ in pipe(engine).stream(QUESTION):
        break
    gc.collect()
    assert (engine.steps, engine.running) == (1, 0)


def test_a_consumer_that_fails_stops_the_engine() -> None:
    engine = Engine()
    with pytest.raises(ZeroDivisionError):
        for _ in pipe(engine).stream(QUESTION):
            raise ZeroDivisionError
    gc.collect()
    assert (engine.steps, engine.running) == (1, 0)


async def test_a_closed_async_generator_stops_the_engine() -> None:
    engine = Engine()
    pieces = pipe(engine).astream(QUESTION)
    assert (await anext(pieces)).text == "editword00"
    await pieces.aclose()
    await freed(engine)
    assert (engine.steps, engine.running) == (1, 0)
    works_again(engine)


async def test_a_closed_aligner_has_stopped_when_aclose_returns() -> None:
    engine = Engine()
    aligner = MetaAlignerRunnable(engine=engine)
    config: Any = {"configurable": {"context": QUESTION}}
    pieces = aligner.astream(AIMessage("raw"), config)
    await anext(pieces)
    await pieces.aclose()
    assert (engine.steps, engine.running) == (1, 0)


async def test_a_task_cancelled_between_steps_stops_the_engine() -> None:
    engine = Engine()
    got, never = asyncio.Event(), asyncio.Event()

    async def consume() -> None:
        async for _ in pipe(engine).astream(QUESTION):
            got.set()
            await never.wait()

    task = asyncio.create_task(consume())
    await got.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await freed(engine)
    assert (engine.steps, engine.running) == (1, 0)
    works_again(engine)


async def consume_all(chain: Runnable) -> None:
    async for _ in chain.astream(QUESTION):
        pass


async def invoke_it(chain: Runnable) -> None:
    await chain.ainvoke(QUESTION)


async def events_of(chain: Runnable) -> None:
    async for _ in chain.astream_events(QUESTION, version="v2"):
        pass


@pytest.mark.parametrize("way", [consume_all, invoke_it, events_of])
async def test_a_task_cancelled_in_the_middle_of_a_step_makes_that_step_and_no_other(
    way: Any,
) -> None:
    engine = Gated()
    task = asyncio.create_task(way(pipe(engine)))
    assert await asyncio.to_thread(engine.inside.wait, 30)
    task.cancel()
    engine.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await freed(engine)
    assert (engine.steps, engine.running) == (3, 0)
    assert (await pipe(engine).ainvoke(QUESTION)).text == EDITED


@pytest.mark.parametrize("node", [called_with_ainvoke, called_with_astream])
@pytest.mark.parametrize("mode", ["values", "messages"])
async def test_a_graph_s_step_timeout_stops_the_engine(node: Any, mode: str) -> None:
    engine = Gated()
    call, tasks = node(pipe(engine)), []

    async def answer(state: Any) -> Any:
        tasks.append(asyncio.current_task())
        return await call(state)

    async def let_go_when_cancelled() -> None:
        await asyncio.to_thread(engine.inside.wait, 30)
        while not tasks[0].cancelling():
            await asyncio.sleep(0)
        engine.go.set()

    graph = graph_of(answer)
    graph.step_timeout = 0.2
    watching = asyncio.create_task(let_go_when_cancelled())
    with pytest.raises(TimeoutError):
        async for _ in graph.astream(ASKED, stream_mode=mode):
            pass
    await watching
    await freed(engine)
    assert (engine.steps, engine.running) == (3, 0)


@pytest.mark.parametrize("node", [called_with_ainvoke, called_with_astream])
async def test_a_cancelled_graph_stops_the_engine_and_stores_nothing(node: Any) -> None:
    engine = Gated()
    graph = graph_of(node(pipe(engine))).copy(update={"checkpointer": InMemorySaver()})
    config: Any = {"configurable": {"thread_id": "one"}}
    task = asyncio.create_task(graph.ainvoke(ASKED, config))
    assert await asyncio.to_thread(engine.inside.wait, 30)
    task.cancel()
    engine.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await freed(engine)
    assert (engine.steps, engine.running) == (3, 0)
    messages = (await graph.aget_state(config)).values["messages"]
    assert [message.type for message in messages] == ["human"]


async def test_a_graph_s_reader_that_leaves_stops_the_engine() -> None:
    engine = Engine()
    graph = graph_of(called_with_astream(pipe(engine)))
    stream = graph.astream(ASKED, stream_mode="messages")
    message, _ = await anext(stream)
    assert message.text == "editword00"
    await stream.aclose()
    await freed(engine)
    assert engine.steps < 50
    assert engine.running == 0


@pytest.mark.parametrize("node", [called_with_invoke, called_with_stream])
def test_in_a_synchronous_graph_the_aligner_s_own_timeout_stops_the_engine(node: Any) -> None:
    # LangGraph can't cancel a thread: leaving a synchronous graph waits for its nodes.
    engine = Engine(gate=threading.Semaphore(0))
    engine.gate.release(60)
    graph = graph_of(node(pipe(engine, timeout=1e-9)))
    with pytest.raises(EditTimeout):
        list(graph.stream(ASKED, stream_mode="messages"))
    assert engine.steps <= 1
    assert engine.running == 0


def test_in_shadow_mode_a_policy_stops_when_its_reader_leaves() -> None:
    said: list[int] = []

    class Counting(Policy):
        def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
            for chunk in super()._stream(messages, *args, **kwargs):
                said.append(1)
                yield chunk

    engine = Engine()
    pieces = (Counting() | MetaAlignerRunnable(engine=engine, apply=False)).stream(QUESTION)
    next(pieces)
    pieces.close()
    assert len(said) == 1
    assert not engine.requests


def test_an_input_that_can_t_be_closed_is_not_read_on_either() -> None:
    class Endless:
        read = 0

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> str:
            self.read += 1
            if self.read == 100:
                raise StopIteration
            return "rawword "

    source = Endless()
    pieces = MetaAlignerRunnable(engine=Engine(), apply=False).transform(source)  # type: ignore[arg-type]
    next(pieces)
    pieces.close()
    assert source.read == 1


async def test_aligner_streams_can_be_left_and_closed_twice() -> None:
    engine = Engine()
    stream = Aligner(engine=engine).astream(Context("What now?"), "raw", ["harmlessness"])
    await anext(stream)
    await stream.aclose()
    await stream.aclose()
    assert (engine.steps, engine.running, stream.alignment) == (1, 0, None)


async def test_nothing_is_kept_of_interrupted_runs() -> None:
    before = capture.kept()
    for _ in range(20):
        pieces = pipe(Engine()).astream(QUESTION)
        await anext(pieces)
        await pieces.aclose()
        stream = pipe(Engine()).stream(QUESTION)
        next(stream)
        stream.close()
    gc.collect()
    # LangChain leaves the closing of its generators to the loop.
    for _ in range(1000):
        if capture.kept() == before:
            break
        await asyncio.sleep(0)
    assert capture.kept() == before


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aligner]:
    from tests.unit_tests.tiny import save

    folder = save(tmp_path_factory.mktemp("tiny"), config={"max_position_embeddings": 1024})
    aligner = Aligner(str(folder), family="HH-RLHF", max_new_tokens=200)
    yield aligner
    aligner.close()


def count_passes(aligner: Aligner) -> list[int]:
    passes: list[int] = []
    aligner.engine.model.register_forward_pre_hook(lambda *_: passes.append(1))
    return passes


ITEM: Any = (Context("What now?"), "the answer is that you should not do this", ["harmlessness"])


@pytest.mark.torch
def test_a_real_model_makes_no_pass_after_its_reader_has_left(tiny: Aligner) -> None:
    passes = count_passes(tiny)
    stream = tiny.stream(*ITEM)
    next(stream)
    stream.close()
    left_after = len(passes)
    assert list(stream) == []
    first = next(again := tiny.stream(*ITEM))
    assert first
    again.close()
    assert len(passes) == 2 * left_after


@pytest.mark.torch
async def test_a_real_model_makes_at_most_one_pass_after_its_task_was_cancelled(
    tiny: Aligner,
) -> None:
    passes, cancelled_at = count_passes(tiny), []
    loop, chain = asyncio.get_running_loop(), Policy() | MetaAlignerRunnable(aligner=tiny)
    task = asyncio.create_task(consume_all(chain))

    def cancel(*_: Any) -> None:
        if len(passes) >= 5 and not cancelled_at:
            asyncio.run_coroutine_threadsafe(cancel_it(), loop).result()

    async def cancel_it() -> None:
        task.cancel()
        cancelled_at.append(len(passes))

    hook = tiny.engine.model.register_forward_hook(cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    hook.remove()
    made = len(passes)
    assert cancelled_at
    assert made <= cancelled_at[0] + 1
    with closing(tiny.stream(*ITEM)) as again:
        assert next(again)
