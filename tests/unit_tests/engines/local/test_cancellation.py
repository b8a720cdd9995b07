"""Threads, tasks and streams that share one engine: nothing blocks, nothing runs on."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.engines.registry import load_engine
from langchain_metaaligner.errors import EditTimeout, EngineError

PROMPT = "hello world | Edit: "
LONG = Request(PROMPT, max_new_tokens=200)
SHORT = Request("the answer | Edit: ", max_new_tokens=4)


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(engine):
    yield
    queue = engine.scheduler
    deadline = time.monotonic() + 30
    while queue._calls or queue._running:
        assert time.monotonic() < deadline
        time.sleep(0.001)


async def until(condition):
    """Wait for a thread, as a loop does that has other things to do."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


def test_sixteen_threads_on_one_engine_get_what_one_thread_gets(engine):
    requests = [
        Request(f"{'the answer ' * (n % 5)}hello {n} | Edit: ", max_new_tokens=5 + n)
        for n in range(16)
    ]
    alone = [engine.edit([request]) for request in requests]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda request: engine.edit([request]), requests)) == alone


def test_threads_and_streams_mix(engine):
    alone = engine.edit([Request(PROMPT, max_new_tokens=20)])[0].text

    def stream(_):
        return "".join(engine.stream(Request(PROMPT, max_new_tokens=20)))

    with ThreadPoolExecutor(8) as pool:
        streams = [pool.submit(stream, n) for n in range(4)]
        edits = [pool.submit(engine.edit, [Request(PROMPT, max_new_tokens=20)]) for _ in range(4)]
        assert {job.result() for job in streams} == {alone}
        assert {job.result()[0].text for job in edits} == {alone}


async def test_an_async_edit_is_the_same_edit(engine):
    requests = [SHORT, Request(PROMPT, max_new_tokens=9)]
    assert await engine.aedit(requests) == engine.edit(requests)


async def test_the_loop_goes_on_while_a_pass_takes_its_time(engine, passes):
    passes.gate.clear()
    passes.began.clear()
    edit = asyncio.create_task(engine.aedit([SHORT]))
    await until(passes.began.is_set)
    ticks = 0
    for _ in range(100):  # every one of them while the model is in the middle of a pass
        await asyncio.sleep(0)
        ticks += 1
    assert ticks == 100
    assert not edit.done()
    assert passes.count == 1
    passes.gate.set()
    assert (await edit)[0].passes == 4


async def test_the_loop_goes_on_while_the_weights_are_loaded(checkpoint, monkeypatch):
    from transformers import AutoModelForCausalLM

    began, gate = threading.Event(), threading.Event()
    real = AutoModelForCausalLM.from_pretrained

    def slow(*args, **kwargs):
        began.set()
        assert gate.wait(30)
        return real(*args, **kwargs)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", slow)
    engine = load_engine(str(checkpoint), dtype="float64")
    edit = asyncio.create_task(engine.aedit([SHORT]))
    await until(began.is_set)
    await asyncio.sleep(0)
    assert not edit.done()
    gate.set()
    assert (await edit)[0].passes == 4
    engine.close()


@pytest.mark.parametrize("way", ["edit", "stream", "aedit", "astream"])
def test_the_wait_for_the_weights_counts_against_the_deadline_of_those_who_load_them_too(
    way, checkpoint, monkeypatch
):
    from transformers import AutoModelForCausalLM

    gate = threading.Event()
    real = AutoModelForCausalLM.from_pretrained

    def slow(*args, **kwargs):
        assert gate.wait(30)
        return real(*args, **kwargs)

    async def tasks():
        request = Request(PROMPT, deadline=time.monotonic() + 0.05)
        if way == "aedit":
            return await engine.aedit([request])
        return [piece async for piece in engine.astream(request)]

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", slow)
    engine = load_engine(str(checkpoint), dtype="float64")
    with pytest.raises(EditTimeout, match="loaded"):
        request = Request(PROMPT, deadline=time.monotonic() + 0.05)
        if way == "edit":
            engine.edit([request])
        elif way == "stream":
            list(engine.stream(request))
        else:
            asyncio.run(tasks())
    gate.set()
    assert engine.edit([SHORT])[0].passes == 4  # the load has gone on for others
    engine.close()


async def test_a_cancelled_edit_stops_within_one_pass(engine, passes):
    passes.gate.clear()
    passes.began.clear()
    edit = asyncio.create_task(engine.aedit([LONG]))
    await until(passes.began.is_set)
    edit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await edit
    passes.gate.set()
    after = await engine.aedit([SHORT])
    assert after[0].passes == 4
    assert passes.count == 1 + 4


async def test_a_cancelled_edit_that_waits_for_its_turn_makes_no_pass(engine, passes):
    passes.gate.clear()
    passes.began.clear()
    first = asyncio.create_task(engine.aedit([SHORT]))
    await until(passes.began.is_set)
    waiting = asyncio.create_task(engine.aedit([LONG]))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    passes.gate.set()
    await first
    await engine.aedit([SHORT])
    assert passes.count == 8


async def test_a_deadline_holds_behind_many_others_who_take_no_thread_each(engine, passes):
    passes.gate.clear()
    passes.began.clear()
    others = [asyncio.create_task(engine.aedit([SHORT])) for _ in range(100)]
    await until(passes.began.is_set)
    began = time.monotonic()
    with pytest.raises(EditTimeout, match="another edit"):
        await engine.aedit([Request(PROMPT, deadline=time.monotonic() + 0.05)])
    with pytest.raises(EditTimeout, match="another edit"):
        await anext(engine.astream(Request(PROMPT, deadline=time.monotonic() + 0.05)))
    assert time.monotonic() - began < 0.5
    assert threading.active_count() < 10
    passes.gate.set()
    assert all(edit.passes == 4 for (edit,) in await asyncio.gather(*others))


def test_waiting_for_another_edit_counts_against_the_deadline(engine, passes):
    passes.gate.clear()
    passes.began.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(engine.edit, [SHORT])
        assert passes.began.wait(30)
        late = Request(PROMPT, deadline=time.monotonic() + 0.01)
        with pytest.raises(EditTimeout, match="another edit"):
            engine.edit([late])
        assert passes.count == 1
        passes.gate.set()
        assert first.result()[0].passes == 4


def test_a_reader_who_stops_reading_stops_the_model(engine, passes):
    stream = engine.stream(LONG)
    next(stream)
    made = passes.count
    assert engine.edit([SHORT])[0].passes == 4  # and others go on meanwhile
    assert passes.count == made + 4
    stream.close()


def test_a_closed_stream_makes_no_further_pass(engine, passes):
    stream = engine.stream(LONG)
    next(stream)
    made = passes.count
    stream.close()
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)
    assert passes.count == made
    engine.edit([SHORT])
    assert passes.count == made + 4


def test_a_stream_that_was_never_read_can_be_closed(engine, passes):
    engine.stream(LONG).close()
    assert passes.count == 0


def test_a_forgotten_stream_leaves_the_engine_free(engine, passes):
    next(engine.stream(LONG))
    gc.collect()
    assert engine.edit([SHORT])[0].passes == 4


def test_another_thread_may_close_a_stream_while_a_piece_is_made(engine, passes):
    stream = engine.stream(LONG)
    next(stream)
    made = passes.count
    passes.gate.clear()
    passes.began.clear()
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(lambda: list(stream))
        assert passes.began.wait(30)
        closing = pool.submit(stream.close)
        assert stream._cancellation._cancelled.wait(30)
        passes.gate.set()
        closing.result(30)
        assert reading.result(30) == [] or passes.count == made + 1
    assert passes.count == made + 1


def test_an_error_thrown_into_a_stream_ends_it(engine, passes):
    stream = engine.stream(LONG)
    next(stream)
    made = passes.count
    with pytest.raises(EngineError):
        stream.throw(KeyError("odd"))
    with pytest.raises(StopIteration):
        next(stream)
    assert passes.count == made


def test_a_stream_keeps_the_engine_that_nobody_else_holds(checkpoint):
    stream = load_engine(str(checkpoint), dtype="float64").stream(SHORT)
    gc.collect()
    assert "".join(stream)


def test_closing_while_another_thread_edits_lets_it_finish(checkpoint):
    engine = load_engine(str(checkpoint), dtype="float64")
    began, gate = threading.Event(), threading.Event()

    def wait(*_):
        began.set()
        assert gate.wait(30)

    engine.model.register_forward_pre_hook(wait)
    with ThreadPoolExecutor(1) as pool:
        edit = pool.submit(engine.edit, [SHORT])
        assert began.wait(30)
        engine.close()
        gate.set()
        assert edit.result()[0].passes == 4
    with pytest.raises(EngineError, match="closed"):
        engine.edit([SHORT])
