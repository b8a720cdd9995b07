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
from langchain_metaaligner.engines import deadlines
from langchain_metaaligner.engines.base import TokenAgreement, as_engine
from tests.unit_tests.scripted import ScriptedEngine, StuckEngine

REQUEST = Request(prompt="p", draft="d")


def soon(request=REQUEST):
    return replace(request, deadline=time.monotonic() + 0.05)


def later(request=REQUEST):
    return replace(request, deadline=time.monotonic() + 600)


def run(engine, requests):
    return deadlines.edit(as_engine(engine), requests)


def arun(engine, requests):
    return asyncio.run(deadlines.aedit(as_engine(engine), requests))


def stream(engine, request):
    return deadlines.stream(as_engine(engine), request)


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


@pytest.mark.parametrize("kind", OUTSIDE)
def test_whatever_an_engine_raises_becomes_an_engine_error_with_its_cause(kind):
    (error,) = run(ScriptedEngine(kind("why")), [REQUEST])
    assert type(error) is EngineError
    assert error.__cause__ is not None
    if kind not in (StopIteration, StopAsyncIteration):
        assert kind.__name__ in str(error)


@pytest.mark.parametrize("request_", [REQUEST, later()], ids=["no deadline", "a deadline"])
@pytest.mark.parametrize("kind", [SystemExit, asyncio.CancelledError, StopIteration])
def test_an_async_engine_and_a_thread_let_no_more_out(kind, request_):
    for call in (run, arun):
        (error,) = call(ScriptedEngine(kind("why")), [request_])
        assert type(error) is EngineError


@pytest.mark.parametrize("request_", [REQUEST, later()], ids=["no deadline", "a deadline"])
@pytest.mark.parametrize(
    "kind", [SystemExit, GeneratorExit, asyncio.CancelledError, StopIteration, TimeoutError]
)
def test_whatever_a_stream_raises_becomes_an_engine_error(kind, request_):
    with pytest.raises(EngineError):
        list(stream(ScriptedEngine(kind("why")), request_))


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


@pytest.mark.parametrize(
    "answer", [None, [], [Edit("a"), Edit("b")], "x", 5, {1: Edit("a")}, iter([Edit("a")])]
)
def test_what_is_no_list_of_one_edit_for_each_request_is_refused(answer):
    class Wrong(ScriptedEngine):
        def edit(self, requests):
            return answer

    (error,) = run(Wrong(), [REQUEST])
    assert isinstance(error, EngineError)
    assert "1 requests" in str(error)


def test_an_edit_that_is_a_coroutine_is_refused_with_the_reason():
    class Wrong:
        async def edit(self, requests):
            return []

    (error,) = run(Wrong(), [REQUEST])
    assert "aedit" in str(error)


@both
@pytest.mark.parametrize("deadline", [None, later], ids=["no deadline", "a deadline"])
def test_a_short_list_for_each_is_an_error_of_every_item(call, deadline):
    class Short(ScriptedEngine):
        def edit_each(self, requests):
            return [Edit("only one")]

        async def aedit_each(self, requests):
            return [Edit("only one")]

    made = call(Short(), [REQUEST if deadline is None else later()] * 2)
    assert [type(one) for one in made] == [EngineError, EngineError]
    assert "1 items for 2 requests" in str(made[0])


WRONG = {
    "no edit": ("a text", "str"),
    "no text": (Edit(None), "NoneType"),
    "an end of its own": (Edit("a", finish_reason="content_filter"), "content_filter"),
    "no end": (Edit("a", finish_reason=None), "None"),
    "usage is a number": (Edit("a", usage=5), "usage=5"),
    "usage below 0": (Edit("a", usage={"input_tokens": -1}), "usage"),
    "usage is no number": (Edit("a", usage={"input_tokens": True}), "usage"),
    "half a pass": (Edit("a", passes=0.5), "passes=0.5"),
    "agreement is nan": (Edit("a", agreement=float("nan")), "agreement=nan"),
    "no agreement at all": (Edit("a", agreement=-float("inf")), "agreement=-inf"),
    "a probability above 1": (Edit("a", agreement=0.5), "agreement=0.5"),
    "agreement is no number": (Edit("a", agreement="high"), "agreement='high'"),
    "a token behind the draft": (Edit("a", token_agreement=(TokenAgreement(0, 2, -1.0),)), "draft"),
    "tokens in no order": (
        Edit("a", token_agreement=(TokenAgreement(1, 1, -1.0), TokenAgreement(0, 1, -1.0))),
        "in order",
    ),
    "tokens are no tuple": (Edit("a", token_agreement=5), "token_agreement"),
}


@pytest.mark.parametrize(("answer", "named"), WRONG.values(), ids=WRONG)
def test_an_edit_that_can_not_be_is_refused_and_takes_no_other_with_it(answer, named):
    class Wrong(ScriptedEngine):
        def edit(self, requests):
            return [Edit("good"), answer]

    good, error = run(Wrong(), [REQUEST, REQUEST])
    assert good == Edit("good")
    assert isinstance(error, EngineError)
    assert named in str(error)
    assert "docs/your_own_engine.md" in str(error)


def test_an_edit_that_can_not_be_is_refused_in_every_way():
    wrong = Edit("a", agreement=float("nan"))
    (error,) = arun(ScriptedEngine(wrong), [REQUEST])
    assert isinstance(error, EngineError)
    with pytest.raises(EngineError, match="nan"):
        list(stream(ScriptedEngine(wrong), REQUEST))


def test_what_rounding_lifts_above_certainty_is_certainty():
    assert run(ScriptedEngine(Edit("a", agreement=1e-6)), [REQUEST]) == [Edit("a", agreement=0.0)]


def test_edits_that_say_all_there_is_to_say_pass_as_they_are():
    tokens = (TokenAgreement(0, 1, -0.5), TokenAgreement(0, 1, -0.25))
    whole = Edit(
        "a", "length", usage={"input_tokens": 0}, passes=0, agreement=-0.375, token_agreement=tokens
    )
    assert run(ScriptedEngine(whole), [REQUEST]) == [whole]


@both
def test_errors_that_an_engine_returns_in_place_of_edits_become_errors_of_ours(call):
    full = OverloadedError("full")

    class Each(ScriptedEngine):
        def edit_each(self, requests):
            return [Edit("a"), full, OSError("no device")]

        async def aedit_each(self, requests):
            return self.edit_each(requests)

    first, second, third = call(Each(), [REQUEST] * 3)
    assert (first, second) == (Edit("a"), full)
    assert isinstance(third, EngineError)
    assert isinstance(third.__cause__, OSError)


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
    (error,) = run(engine, [soon()])
    assert isinstance(error, EditTimeout)
    assert not engine.calls
    engine.let_go.set()


async def test_nobody_waits_past_the_deadline_for_a_thread_behind_an_async_engine():
    engine = StuckEngine()
    (error,) = await deadlines.aedit(as_engine(engine), [soon()])
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

    (error,) = await deadlines.aedit(as_engine(Deaf()), [soon()])
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

    (error,) = await deadlines.aedit(as_engine(Listening()), [soon()])
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
    task = asyncio.create_task(deadlines.aedit(as_engine(Listening()), [request]))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stopped.is_set()


@pytest.mark.parametrize("name", ["edit_each", "aedit_each"])
def test_nobody_waits_past_the_deadline_for_an_engine_that_takes_each_by_itself(name):
    engine = StuckEngine()

    async def wait(requests):
        await asyncio.Event().wait()

    setattr(engine, name, engine.edit if name == "edit_each" else wait)
    call = run if name == "edit_each" else arun
    (error,) = call(engine, [soon()])
    engine.let_go.set()
    assert isinstance(error, EditTimeout)


def test_an_edit_that_has_held_up_the_event_loop_past_its_deadline_is_late():
    class Blocks(ScriptedEngine):
        async def aedit(self, requests):
            StuckEngine().let_go.wait(0.1)
            return await super().aedit(requests)

    (error,) = arun(Blocks(), [soon()])
    assert isinstance(error, EditTimeout)


def test_a_batch_that_fails_after_its_deadline_is_not_tried_again_one_by_one():
    class Fails(StuckEngine):
        def edit(self, requests):
            self.calls.append(requests)
            self.let_go.wait(30)
            raise RuntimeError("late")

    engine, request = Fails(), replace(REQUEST, deadline=time.monotonic() - 1)
    engine.let_go.set()
    made = as_engine(engine).edit_each([request, request])
    assert [type(one) for one in made] == [EditTimeout, EditTimeout]
    assert len(engine.calls) == 1


def test_the_soonest_deadline_holds_for_a_batch():
    engine = StuckEngine()
    made = run(engine, [later(), soon()])
    assert [type(one) for one in made] == [EditTimeout, EditTimeout]
    engine.let_go.set()


async def test_the_soonest_deadline_holds_for_an_async_batch():
    engine = StuckEngine()
    made = await deadlines.aedit(as_engine(engine), [later(), soon()])
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

    assert await deadlines.aedit(as_engine(Plain()), [REQUEST]) == [Edit("a")]


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
    assert whole(stream(engine, request)) == (["some ", "edite", "d tex", "t"], made)
    assert engine.closed_streams == 1


def test_a_stream_that_returns_nothing_makes_the_edit_of_its_pieces():
    class Plain(ScriptedEngine):
        def stream(self, request):
            return iter(["a", "", "b"])

    assert whole(stream(Plain(), REQUEST)) == (["a", "b"], Edit("ab"))


def test_an_engine_without_a_stream_gives_its_edit_in_one_piece():
    class Plain:
        def edit(self, requests):
            return [Edit("a b")]

    assert whole(stream(Plain(), REQUEST)) == (["a b"], Edit("a b"))


def test_an_engine_without_a_stream_raises_its_error():
    class Plain:
        def edit(self, requests):
            raise RuntimeError("no")

    with pytest.raises(EngineError):
        list(stream(Plain(), REQUEST))


@pytest.mark.parametrize("piece", [None, 5, b"x"])
def test_a_piece_that_is_no_text_is_refused_by_its_type(piece):
    class Wrong(ScriptedEngine):
        def stream(self, request):
            yield piece

    with pytest.raises(EngineError, match=type(piece).__name__):
        list(stream(Wrong(), REQUEST))


@pytest.mark.parametrize("deadline", [None, later], ids=["no deadline", "a deadline"])
def test_closing_a_stream_closes_the_engines(deadline):
    request = REQUEST if deadline is None else later()
    engine = ScriptedEngine("a long edited text")
    pieces = stream(engine, request)
    next(pieces)
    pieces.close()
    assert engine.closed_streams == 1


@pytest.mark.parametrize("deadline", [None, later], ids=["no deadline", "a deadline"])
def test_a_forgotten_stream_closes_the_engines(deadline):
    request = REQUEST if deadline is None else later()
    engine = ScriptedEngine("a long edited text")
    pieces = stream(engine, request)
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
        list(stream(engine, REQUEST))
    assert engine.closed_streams == 1


def test_nobody_waits_past_the_deadline_for_a_stream_that_does_not_begin_or_end():
    let_go = threading.Event()

    class Slow(ScriptedEngine):
        def stream(self, request):
            let_go.wait(30)
            return iter(())

    class NeverCloses(ScriptedEngine):
        def stream(self, request):
            try:
                yield "a piece"
                yield "and another"
            finally:
                let_go.wait(30)

    started = time.monotonic()
    with pytest.raises(EditTimeout):
        next(stream(Slow(), soon()))
    assert time.monotonic() - started < 15
    pieces = stream(NeverCloses(), soon())
    assert next(pieces) == "a piece"
    pieces.close()
    assert not let_go.is_set()
    let_go.set()


def test_nobody_waits_past_the_deadline_for_a_stream_that_is_stuck():
    engine = StuckEngine()
    pieces = stream(engine, soon())
    assert next(pieces) == "a piece "
    with pytest.raises(EditTimeout):
        next(pieces)
    assert not engine.stream_closed.is_set()
    engine.let_go.set()
    assert engine.stream_closed.wait(30)


def test_a_stream_that_keeps_deadlines_itself_runs_in_the_callers_thread():
    class Keeps(ScriptedEngine):
        keeps_deadlines = True

        def stream(self, request):
            assert threading.current_thread() is threading.main_thread()
            yield from super().stream(request)

    assert list(stream(Keeps(), later())) == ["d (ed", "ited)"]


def test_a_stream_in_a_thread_of_its_own_sees_the_callers_context_variables():
    here = contextvars.ContextVar("here", default="lost")
    here.set("kept")
    assert list(stream(ScriptedEngine(lambda _: here.get()), later())) == ["kept"]
