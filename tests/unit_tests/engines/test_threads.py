"""However many calls an engine never ends, its threads are bounded, and others go on."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace

import pytest

from langchain_metaaligner import Edit, EditTimeout, Engine, OverloadedError, Request
from langchain_metaaligner.engines import deadlines, threads
from langchain_metaaligner.engines.base import as_engine

REQUEST = Request(prompt="p", draft="d")
SHORT = 0.05


def soon(seconds=SHORT):
    return replace(REQUEST, deadline=time.monotonic() + seconds)


class Hangs(Engine):
    """Knows no deadlines and ends when it is let go."""

    def __init__(self):
        self.let_go = threading.Event()
        self.lock = threading.Lock()
        self.running = self.most = 0

    def edit(self, requests):
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.let_go.wait(30)
        with self.lock:
            self.running -= 1
        return [Edit(request.draft) for request in requests]


class Streams(Hangs):
    def stream(self, request):
        yield request.draft
        self.edit([request])


class Works(Engine):
    def edit(self, requests):
        return [Edit(request.draft) for request in requests]


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    """Two threads for what is wanted and three for what is not, for each engine."""
    made = threads.Pool
    monkeypatch.setattr(
        threads, "Pool", lambda name, _most, **rest: made(name, 2, forsaken=3, **rest)
    )


def edit(engine):
    return deadlines.edit(engine, [soon()])[0]


async def aedit(engine):
    return (await deadlines.aedit(engine, [soon()]))[0]


def cancelled(engine):
    """A task without a deadline whose caller gives up."""

    async def main():
        try:
            async with asyncio.timeout(SHORT):
                return (await deadlines.aedit(engine, [REQUEST]))[0]
        except TimeoutError:
            return EditTimeout("given up")

    return asyncio.run(main())


def stream(engine):
    try:
        return list(deadlines.stream(engine, soon()))
    except (EditTimeout, OverloadedError) as error:
        return error


async def astream(engine):
    pieces = deadlines.Pieces(engine, soon())
    try:
        while isinstance(await pieces.anext(), str):
            pass
    except (EditTimeout, OverloadedError) as error:
        return error


async def given_up(engine):
    pieces = deadlines.Pieces(engine, REQUEST)
    try:
        async with asyncio.timeout(SHORT):
            while isinstance(await pieces.anext(), str):
                pass
    except TimeoutError:
        return EditTimeout("given up")
    except OverloadedError as error:
        return error


WAYS = {
    "edit": edit,
    "aedit": lambda engine: asyncio.run(aedit(engine)),
    "a cancelled aedit": cancelled,
    "stream": stream,
    "astream": lambda engine: asyncio.run(astream(engine)),
    "a cancelled astream": lambda engine: asyncio.run(given_up(engine)),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_engine_that_hangs_takes_a_bounded_number_of_threads_and_then_refuses(way):
    engine, other = Streams(), Works()
    call, end = WAYS[way], time.monotonic() + 20
    while isinstance(refused := call(engine), EditTimeout):
        assert time.monotonic() < end
    assert isinstance(refused, OverloadedError)
    assert "nobody waits for" in str(refused)
    assert engine.most == 3
    assert not isinstance(call(other), Exception)
    engine.let_go.set()
    while isinstance(made := call(engine), Exception) and time.monotonic() < end:
        time.sleep(0.01)
    assert not isinstance(made, Exception)


def test_calls_that_are_wanted_wait_for_a_thread_until_their_deadline():
    engine = Hangs()

    async def main():
        busy = [asyncio.ensure_future(deadlines.aedit(engine, [REQUEST])) for _ in range(2)]
        while engine.running < 2:
            await asyncio.sleep(0.001)
        async with asyncio.timeout(20):
            late = await aedit(engine)
        waiting = asyncio.ensure_future(deadlines.aedit(engine, [REQUEST]))
        await asyncio.sleep(0.01)
        engine.let_go.set()
        return late, await asyncio.gather(*busy, waiting)

    late, made = asyncio.run(main())
    assert isinstance(late, EditTimeout)
    assert made == [[Edit("d")]] * 3
    assert engine.most == 2


async def test_a_wait_for_a_thread_ends_at_the_deadline_with_engines_that_keep_deadlines_too():
    class Keeps(Hangs):
        keeps_deadlines = True

    engine = Keeps()
    busy = [asyncio.ensure_future(deadlines.aedit(engine, [REQUEST])) for _ in range(2)]
    while engine.running < 2:
        await asyncio.sleep(0.001)
    async with asyncio.timeout(20):
        assert isinstance(await aedit(engine), EditTimeout)
        assert isinstance(await astream(engine), EditTimeout)
    engine.let_go.set()
    await asyncio.gather(*busy)


def test_streams_that_nobody_reads_any_more_give_their_threads_back_at_the_deadline():
    engine = Streams()
    left = [deadlines.stream(engine, soon()) for _ in range(2)]
    assert [next(pieces) for pieces in left] == ["d", "d"]
    time.sleep(2 * SHORT)
    engine.let_go.set()
    assert list(deadlines.stream(engine, soon(10))) == ["d"]


def test_what_is_late_before_it_begins_takes_no_thread():
    engine, late = Streams(), replace(REQUEST, deadline=time.monotonic() - 1)
    assert isinstance(deadlines.edit(engine, [late])[0], EditTimeout)
    with pytest.raises(EditTimeout):
        next(deadlines.stream(engine, late))
    assert engine.most == 0


def test_an_engine_that_nobody_uses_any_more_leaves_nothing():
    keys = []
    for engine in (Works(), Works()):
        assert deadlines.edit(engine, [soon(10)]) == [Edit("d")]
        keys.append(id(engine))
    del engine
    end = time.monotonic() + 10
    while any(key in threads._pools for key in keys) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(key in threads._pools for key in keys)


def test_an_object_that_several_aligners_wrap_has_one_pool_of_threads():
    class Foreign:
        def edit(self, requests):
            return [Edit(request.draft) for request in requests]

    engine = Foreign()
    assert threads.calls_of(as_engine(engine)) is threads.calls_of(as_engine(engine))
    assert threads.calls_of(as_engine(engine)) is not threads.calls_of(as_engine(Foreign()))


def test_an_object_without_weak_references_can_be_an_engine():
    class Slotted:
        __slots__ = ()

        def edit(self, requests):
            return [Edit(request.draft) for request in requests]

    wrapped = as_engine(Slotted())
    assert threads.calls_of(wrapped) is threads.calls_of(wrapped)


def test_engines_that_are_equal_or_have_no_hash_have_threads_of_their_own():
    class Equal(Hangs):
        __hash__ = None

        def __eq__(self, other):
            return True

    one, other = Equal(), Equal()
    assert threads.calls_of(one) is threads.calls_of(one)
    assert threads.calls_of(one) is not threads.calls_of(other)
