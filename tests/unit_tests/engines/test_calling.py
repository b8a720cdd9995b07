from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
import time
from dataclasses import replace

import pytest

from langchain_metaaligner import (
    Edit,
    EditTimeout,
    EngineError,
    OverloadedError,
    Request,
)
from langchain_metaaligner.engines import deadlines as calling
from tests.unit_tests.scripted import ScriptedEngine, StuckEngine

REQUEST = Request(prompt="p", draft="d")


def soon(request=REQUEST):
    return replace(request, deadline=time.monotonic() + 0.05)


def later(request=REQUEST):
    return replace(request, deadline=time.monotonic() + 600)


def run(engine, requests):
    return calling.edit(engine, requests)


def arun(engine, requests):
    return asyncio.run(calling.aedit(engine, requests))


both = pytest.mark.parametrize("call", [run, arun], ids=["sync", "async"])


class Boom(BaseException):
    pass


OUTSIDE = [
    Boom,
    SystemExit,
    GeneratorExit,
    asyncio.CancelledError,
    concurrent.futures.CancelledError,
    MemoryError,
    TimeoutError,
    StopIteration,
    StopAsyncIteration,
    RuntimeError,
    OSError,
]


@both
def test_edits_come_in_the_order_of_the_requests_from_one_call(call):
    engine = ScriptedEngine()
    requests = [Request(prompt="p", draft=str(i)) for i in range(3)]
    assert [one.text for one in call(engine, requests)] == [
        "0 (edited)",
        "1 (edited)",
        "2 (edited)",
    ]
    assert [len(one) for one in engine.calls] == [3]


@both
@pytest.mark.parametrize("deadline", [None, later], ids=["no deadline", "a deadline"])
@pytest.mark.parametrize("kind", OUTSIDE)
def test_whatever_an_engine_raises_becomes_an_engine_error_with_its_cause(call, kind, deadline):
    request = REQUEST if deadline is None else later()
    (error,) = call(ScriptedEngine(kind("why")), [request])
    assert type(error) is EngineError
    assert error.__cause__ is not None
    if kind not in (StopIteration, StopAsyncIteration):
        assert kind.__name__ in str(error)


@pytest.mark.parametrize("deadline", [None, later], ids=["no deadline", "a deadline"])
@pytest.mark.parametrize("kind", OUTSIDE)
def test_whatever_a_stream_raises_becomes_an_engine_error(kind, deadline):
    request = REQUEST if deadline is None else later()
    with pytest.raises(EngineError):
        list(calling.stream(ScriptedEngine(kind("why")), request))


@both
def test_errors_of_this_package_come_as_they_are(call):
    error = OverloadedError("full")
    assert call(ScriptedEngine(error), [REQUEST]) == [error]


@both
def test_an_interrupt_by_the_user_goes_through(call):
    with pytest.raises(KeyboardInterrupt):
        call(ScriptedEngine(KeyboardInterrupt()), [REQUEST])


@both
def test_where_the_call_fails_each_request_is_tried_alone(call):
    def some(request):
        if request.draft == "1":
            raise RuntimeError("not this one")
        return request.draft

    engine = ScriptedEngine(some)
    made = call(engine, [Request(prompt="p", draft=str(i)) for i in range(3)])
    assert [type(one) for one in made] == [Edit, EngineError, Edit]
    assert [len(one) for one in engine.calls] == [3, 1, 1, 1]


@both
@pytest.mark.parametrize("error", [OverloadedError("full"), EditTimeout("late")])
def test_what_would_only_cost_more_time_is_not_tried_again(call, error):
    engine = ScriptedEngine(error)
    assert call(engine, [REQUEST, REQUEST]) == [error, error]
    assert len(engine.calls) == 1


@both
@pytest.mark.parametrize(
    "answer", [None, [], [Edit("a"), Edit("b")], ["text"], "x", 5, [Edit(None)], iter([Edit("a")])]
)
def test_what_is_no_edit_for_each_request_is_refused(call, answer):
    class Wrong(ScriptedEngine):
        def edit(self, requests):
            return answer

        async def aedit(self, requests):
            return answer

    (error,) = call(Wrong(), [REQUEST])
    assert isinstance(error, EngineError)
    assert "1 requests" in str(error)


@both
def test_a_tuple_of_edits_will_do(call):
    class Tuple(ScriptedEngine):
        def edit(self, requests):
            return (Edit("a"),)

        async def aedit(self, requests):
            return (Edit("a"),)

    assert call(Tuple(), [REQUEST]) == [Edit("a")]


def test_nobody_waits_past_the_deadline_for_an_engine_that_knows_none():
    engine = StuckEngine()
    (error,) = calling.edit(engine, [soon()])
    assert isinstance(error, EditTimeout)
    assert not engine.calls
    engine.let_go.set()


async def test_nobody_waits_past_the_deadline_for_a_thread_behind_an_async_engine():
    engine = StuckEngine()
    (error,) = await calling.aedit(engine, [soon()])
    assert isinstance(error, EditTimeout)
    assert not engine.calls
    engine.let_go.set()


async def test_nobody_waits_for_an_engine_that_does_not_listen_when_it_is_cancelled():
    let_go = asyncio.Event()
    ended = asyncio.Event()

    class Deaf(ScriptedEngine):
        async def aedit(self, requests):
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                await let_go.wait()
            ended.set()
            return [Edit("late")]

    (error,) = await calling.aedit(Deaf(), [soon()])
    assert isinstance(error, EditTimeout)
    assert not ended.is_set()
    let_go.set()
    await ended.wait()


async def test_an_engine_is_cancelled_when_its_time_is_up():
    cancelled = asyncio.Event()

    class Listening(ScriptedEngine):
        async def aedit(self, requests):
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    (error,) = await calling.aedit(Listening(), [soon()])
    assert isinstance(error, EditTimeout)
    await cancelled.wait()


@pytest.mark.parametrize("deadline", [None, later], ids=["no deadline", "a deadline"])
async def test_cancelling_the_task_cancels_the_engine_and_is_no_engine_error(deadline):
    begun, stopped = asyncio.Event(), asyncio.Event()

    class Listening(ScriptedEngine):
        async def aedit(self, requests):
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()

    request = REQUEST if deadline is None else later()
    task = asyncio.create_task(calling.aedit(Listening(), [request]))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stopped.is_set()


def test_the_soonest_deadline_holds_for_a_batch():
    engine = StuckEngine()
    made = calling.edit(engine, [later(), soon()])
    assert [type(one) for one in made] == [EditTimeout, EditTimeout]
    engine.let_go.set()


async def test_the_soonest_deadline_holds_for_an_async_batch():
    engine = StuckEngine()
    made = await calling.aedit(engine, [later(), soon()])
    assert [type(one) for one in made] == [EditTimeout, EditTimeout]
    engine.let_go.set()


@both
def test_an_engine_that_keeps_deadlines_itself_is_left_to_it(call):
    class Keeps(ScriptedEngine):
        keeps_deadlines = True

        def edit(self, requests):
            assert threading.current_thread() is threading.main_thread()
            return super().edit(requests)

    assert call(Keeps(), [replace(REQUEST, deadline=time.monotonic() - 1)]) == [Edit("d (edited)")]


@both
def test_an_engine_in_a_thread_of_its_own_sees_the_callers_context_variables(call):
    here = contextvars.ContextVar("here", default="lost")
    here.set("kept")
    (made,) = call(ScriptedEngine(lambda _: here.get()), [later()])
    assert made.text == "kept"


async def test_an_engine_without_an_async_call_is_called_in_a_thread():
    class Plain:
        def edit(self, requests):
            assert threading.current_thread() is not threading.main_thread()
            return [Edit("a")]

    assert await calling.aedit(Plain(), [REQUEST]) == [Edit("a")]


# Streams.


def whole(pieces):
    texts = []
    while True:
        try:
            texts.append(next(pieces))
        except StopIteration as end:
            return texts, end.value


@pytest.mark.parametrize("deadline", [None, later], ids=["no deadline", "a deadline"])
def test_a_stream_gives_its_pieces_and_returns_the_edit(deadline):
    request = REQUEST if deadline is None else later()
    made = Edit("some edited text", usage={"total_tokens": 3}, passes=2)
    engine = ScriptedEngine(made)
    assert whole(calling.stream(engine, request)) == (["some ", "edite", "d tex", "t"], made)
    assert engine.closed_streams == 1


def test_a_stream_that_returns_nothing_makes_the_edit_of_its_pieces():
    class Plain:
        def stream(self, request):
            return iter(["a", "", "b"])

    assert whole(calling.stream(Plain(), REQUEST)) == (["a", "b"], Edit("ab"))


def test_an_engine_without_a_stream_gives_its_edit_in_one_piece():
    class Plain:
        def edit(self, requests):
            return [Edit("a b")]

    assert whole(calling.stream(Plain(), REQUEST)) == (["a b"], Edit("a b"))


def test_an_engine_without_a_stream_raises_its_error():
    class Plain:
        def edit(self, requests):
            raise RuntimeError("no")

    with pytest.raises(EngineError):
        list(calling.stream(Plain(), REQUEST))


@pytest.mark.parametrize("piece", [None, 5, b"x"])
def test_a_piece_that_is_no_text_is_refused_by_its_type(piece):
    class Wrong:
        def stream(self, request):
            yield piece

    with pytest.raises(EngineError, match=type(piece).__name__):
        list(calling.stream(Wrong(), REQUEST))


@pytest.mark.parametrize("deadline", [None, later], ids=["no deadline", "a deadline"])
def test_closing_a_stream_closes_the_engines(deadline):
    request = REQUEST if deadline is None else later()
    engine = ScriptedEngine("a long edited text")
    pieces = calling.stream(engine, request)
    next(pieces)
    pieces.close()
    assert engine.closed_streams == 1


@pytest.mark.parametrize("deadline", [None, later], ids=["no deadline", "a deadline"])
def test_a_forgotten_stream_closes_the_engines(deadline):
    request = REQUEST if deadline is None else later()
    engine = ScriptedEngine("a long edited text")
    pieces = calling.stream(engine, request)
    next(pieces)
    del pieces
    assert engine.closed_streams == 1


def test_an_error_between_pieces_closes_the_engines_stream():
    class Breaks(ScriptedEngine):
        def stream(self, request):
            try:
                yield "a"
                raise RuntimeError("gone")
            finally:
                self.closed_streams += 1

    engine = Breaks()
    with pytest.raises(EngineError, match="gone"):
        list(calling.stream(engine, REQUEST))
    assert engine.closed_streams == 1


def test_nobody_waits_past_the_deadline_for_a_stream_that_is_stuck():
    engine = StuckEngine()
    pieces = calling.stream(engine, soon())
    assert next(pieces) == "a piece "
    with pytest.raises(EditTimeout):
        next(pieces)
    assert not engine.stream_closed.is_set()
    engine.let_go.set()
    assert engine.stream_closed.wait(30)


def test_a_stream_whose_time_is_up_before_it_begins_is_closed():
    engine = StuckEngine()
    engine.let_go.set()
    pieces = calling.stream(engine, replace(REQUEST, deadline=time.monotonic() - 1))
    with pytest.raises(EditTimeout):
        next(pieces)
    assert engine.stream_closed.wait(30)


def test_a_stream_that_keeps_deadlines_itself_runs_in_the_callers_thread():
    class Keeps(ScriptedEngine):
        keeps_deadlines = True

        def stream(self, request):
            assert threading.current_thread() is threading.main_thread()
            yield from super().stream(request)

    assert list(calling.stream(Keeps(), later())) == ["d (ed", "ited)"]


def test_a_stream_in_a_thread_of_its_own_sees_the_callers_context_variables():
    here = contextvars.ContextVar("here", default="lost")
    here.set("kept")
    assert list(calling.stream(ScriptedEngine(lambda _: here.get()), later())) == ["kept"]
