"""One queue for all callers: shared passes, fairness, bounds, and failures that stay alone."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import torch

from langchain_metaaligner.engines import deadlines as calling
from langchain_metaaligner.engines.base import Edit, Request
from langchain_metaaligner.engines.cancellation import Watch
from langchain_metaaligner.engines.local.loaded_model import Held
from langchain_metaaligner.engines.local.scheduler import Limits, _Call
from langchain_metaaligner.engines.registry import load_engine
from langchain_metaaligner.errors import EditTimeout, EngineError, OverloadedError
from tests.unit_tests.tiny import WORDS

LONG = Request("hello world | Edit: ", max_new_tokens=60)


def request(n: int, tokens: int = 12) -> Request:
    text = " ".join(WORDS[n % 7 : n % 7 + 4 + n % 5])
    return Request(f"{text} | Edit: ", draft=text, max_new_tokens=tokens)


@pytest.fixture
def held_up(engine, passes):
    """The first pass waits until all other callers wait, too."""
    passes.gate.clear()
    passes.began.clear()

    def release(callers: int) -> None:
        queue = engine._held.queue()
        deadline = time.monotonic() + 30
        while len(queue._calls) < callers:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        passes.gate.set()

    return release


def test_sixteen_callers_share_passes_and_none_gets_anothers_edit(engine, passes, held_up):
    requests = [request(n) for n in range(16)]
    with ThreadPoolExecutor(17) as pool:
        first = pool.submit(engine.edit, [LONG])
        assert passes.began.wait(30)
        jobs = [pool.submit(engine.edit, [one]) for one in requests]
        held_up(17)
        edits = [job.result(60)[0] for job in jobs]
        first.result(60)
    assert passes.count <= 60 + 4  # those of the long one; the others joined it
    for one, edit in zip(requests, edits, strict=True):
        assert engine.edit([one])[0].text == edit.text


async def test_tasks_share_passes(engine, passes):
    requests = [request(n) for n in range(16)]
    alone = [engine.edit([one])[0].text for one in requests]
    passes.count = 0
    edits = await asyncio.gather(*(engine.aedit([one]) for one in requests))
    assert [edit.text for (edit,) in edits] == alone
    assert passes.count < sum(edit.passes for (edit,) in edits) / 2


def test_a_request_that_comes_during_a_pass_joins_at_the_next_and_waits_for_no_stranger(
    engine, passes, held_up
):
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(engine.edit, [LONG])
        assert passes.began.wait(30)
        short = pool.submit(engine.edit, [request(1, tokens=3)])
        held_up(2)
        (edit,) = short.result(60)
        assert edit.passes <= 3
        long.result(60)
    assert passes.count == 60


def test_one_call_with_many_requests_does_not_hold_up_a_small_one(engine, passes, held_up):
    engine._held.queue()._limits = Limits(rows=2, prompts=1)
    with ThreadPoolExecutor(2) as pool:
        many = pool.submit(engine.edit, [request(n, tokens=4) for n in range(20)])
        assert passes.began.wait(30)
        one = pool.submit(engine.edit, [request(3, tokens=4)])
        held_up(2)
        one.result(60)
        assert passes.count < 15
        many.result(60)


def test_no_more_rows_than_allowed_keep_keys_and_values(engine):
    queue = engine._held.queue()
    queue._limits = Limits(rows=3)
    most = 0
    step = queue._decoder.step

    def counted(rows, *given):
        nonlocal most
        most = max(most, sum(row.cache is not None for call in queue._calls for row in call.rows))
        step(rows, *given)

    queue._decoder.step = counted
    assert len(engine.edit([request(n) for n in range(12)])) == 12
    assert most == 3


def test_a_long_prompt_goes_in_pieces_and_others_go_on_meanwhile(engine, passes):
    queue = engine._held.queue()
    long = Request("the answer is " * 20, max_new_tokens=5)
    alone = engine.edit([long, request(1)])
    queue._prefixes.clear()
    queue._limits = Limits(piece=16, prompts=16)
    passes.prompts.clear()
    assert [edit.text for edit in engine.edit([long, request(1)])] == [edit.text for edit in alone]
    assert max(tokens for _, tokens in passes.prompts) <= 32 + 16


def test_a_full_queue_turns_further_callers_away_and_takes_them_on_again(checkpoint):
    engine = load_engine(str(checkpoint), max_queue=2)
    began, gate = threading.Event(), threading.Event()

    def wait(*_):
        began.set()
        assert gate.wait(30)

    engine.model.register_forward_pre_hook(wait)
    queue = engine._held.queue()
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(engine.edit, [LONG])]
        assert began.wait(30)
        jobs += [pool.submit(engine.edit, [request(n)]) for n in range(2)]
        while len(queue._calls) < 3:
            time.sleep(0.001)
        with pytest.raises(OverloadedError, match="max_queue") as raised:
            engine.edit([request(5)])
        assert raised.value.retryable
        with pytest.raises(OverloadedError):
            next(engine.stream(request(5)))
        gate.set()
        for job in jobs:
            assert job.result(60)
    assert engine.edit([request(5)])
    # One call may be of any size.
    assert len(engine.edit([request(n) for n in range(8)])) == 8
    engine.close()


def fail_on(engine, token: int) -> None:
    def check(module, args, kwargs):
        if token in kwargs["input_ids"]:
            message = "a bad one"
            raise ZeroDivisionError(message)

    engine.model.register_forward_pre_hook(check, with_kwargs=True)


def test_a_request_that_makes_the_model_fail_fails_alone(engine):
    bad = engine._held.codec.encode("~")[-1]
    alone = [engine.edit([request(n)])[0].text for n in range(5)]
    fail_on(engine, bad)
    requests = [*(request(n) for n in range(3)), Request("~ | Edit: "), request(3), request(4)]
    made = engine.edit_each(requests)
    assert isinstance(made[3], EngineError)
    assert "a bad one" in str(made[3])
    assert [edit.text for n, edit in enumerate(made) if n != 3] == alone
    with pytest.raises(EngineError, match="a bad one"):
        engine.edit(requests)
    assert calling.edit(engine, requests)[4] == made[4]


def test_a_strangers_failure_is_not_ours(engine, passes, held_up):
    bad = engine._held.codec.encode("~")[-1]
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(engine.edit, [LONG])
        assert passes.began.wait(30)
        fail_on(engine, bad)
        good, wrong = (
            pool.submit(engine.edit, [request(1)]),
            pool.submit(engine.edit, [Request("~ | Edit: ")]),
        )
        held_up(3)
        assert isinstance(good.result(60)[0], Edit)
        with pytest.raises(EngineError, match="a bad one"):
            wrong.result(60)
        assert first.result(60)[0].passes == 60


def test_each_request_has_a_deadline_of_its_own(engine, passes, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(
        "langchain_metaaligner.engines.cancellation.time.monotonic", lambda: clock[0]
    )

    def tick(*_):
        clock[0] += 1

    engine.model.register_forward_hook(tick)
    late = Request("hello world | Edit: ", max_new_tokens=50, deadline=103.0)
    made = engine.edit_each([late, request(1)])
    assert isinstance(made[0], EditTimeout)
    assert isinstance(made[1], Edit)
    assert passes.count == 12
    assert max(n for n, (_, tokens) in enumerate(passes.prompts) if tokens > 1) <= 3


async def test_each_request_has_a_deadline_of_its_own_in_tasks_too(engine):
    made = await engine.aedit_each(
        [Request("hello | Edit: ", deadline=time.monotonic() - 1), request(1)]
    )
    assert isinstance(made[0], EditTimeout)
    assert isinstance(made[1], Edit)


def test_a_prompt_that_does_not_fit_fails_alone(engine):
    made = engine.edit_each([Request("the answer " * 300), request(1)])
    assert "window" in str(made[0])
    assert isinstance(made[1], Edit)


async def test_a_cancelled_task_takes_only_its_own_row_along(engine, passes):
    passes.gate.clear()
    passes.began.clear()
    going = asyncio.create_task(engine.aedit([LONG]))
    while not passes.began.is_set():
        await asyncio.sleep(0)
    staying = asyncio.create_task(engine.aedit([request(1)]))
    queue = engine._held.queue()
    while len(queue._calls) < 2:
        await asyncio.sleep(0)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    passes.gate.set()
    (edit,) = await staying
    assert passes.count <= 1 + edit.passes
    assert edit.text == engine.edit([request(1)])[0].text


def test_callers_take_turns_where_a_pass_is_for_one_row_only(engine, monkeypatch):
    queue = engine._held.queue()
    monkeypatch.setattr(type(queue._decoder.passes), "packs", False)
    rows = [engine._row(request(n)) for n in range(3)]
    for row in rows:
        queue._calls.append(_Call([row], Watch(), lambda row: row.finish is not None))
    chosen = [queue._choose() for _ in range(6)]
    assert [len(one) for one in chosen] == [1] * 6
    assert {id(row) for (row,) in chosen[:3]} == {id(row) for row in rows}
    queue._calls.clear()


def idle(queue) -> None:
    deadline = time.monotonic() + 30
    while queue._running or queue._choose():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_rows_whose_callers_have_gone_are_left_out(engine):
    queue = engine._held.queue()
    gone = Watch()
    row = engine._row(LONG)
    queue._calls.append(_Call([row], gone, lambda row: row.finish is not None))
    engine.edit([request(1, tokens=3)])
    assert row.passes >= 3
    gone.cancel()
    idle(queue)
    passes = row.passes
    engine.edit([request(1, tokens=3)])
    assert row.passes == passes < 60
    late = engine._row(Request("hello | Edit: ", deadline=time.monotonic() - 1))
    queue._calls[0] = _Call([late], Watch(), lambda row: row.finish is not None)
    engine.edit([request(1, tokens=3)])
    assert late.passes == 0
    queue._calls.clear()


def test_a_caller_whose_time_is_up_in_the_middle_of_a_pass_holds_up_nobody(engine, passes, held_up):
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(
            engine.edit, [Request("hello | Edit: ", deadline=time.monotonic() + 0.3)]
        )
        assert passes.began.wait(30)
        second = pool.submit(engine.edit, [request(2)])
        time.sleep(0.3)
        held_up(1)
        with pytest.raises(EditTimeout):
            first.result(60)
        assert second.result(60)


def test_a_caller_who_leaves_in_the_middle_of_a_pass_waits_for_its_end(engine, passes):
    passes.gate.clear()
    passes.began.clear()
    with ThreadPoolExecutor(1) as pool:
        soon = time.monotonic() + 0.1
        job = pool.submit(engine.edit, [Request("hello | Edit: ", deadline=soon)])
        assert passes.began.wait(30)
        wait({job}, timeout=0.4)
        assert not job.done()
        passes.gate.set()
        with pytest.raises(EditTimeout):
            job.result(30)


def test_whoever_waits_is_told_and_does_not_have_to_look(engine, monkeypatch):
    monkeypatch.setattr("langchain_metaaligner.engines.local.scheduler._GLANCE", 60)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(engine.edit, [request(1)]).result(30)
        assert pool.submit(lambda: list(engine.stream(request(2)))).result(30)


async def test_one_thread_runs_the_model_whoever_asks(engine):
    seen = set()
    engine.model.register_forward_pre_hook(lambda *_: seen.add(threading.current_thread()))
    requests = [request(n) for n in range(4)]
    engine.edit(requests)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: engine.edit([one]), requests))
    await asyncio.gather(*(engine.aedit([one]) for one in requests))
    "".join(engine.stream(requests[0]))
    engine.warm("hello world the answer is")
    assert len(seen) == 1
    assert threading.current_thread() not in seen


def test_the_thread_ends_when_it_is_idle_and_starts_again(engine, monkeypatch):
    monkeypatch.setattr("langchain_metaaligner.engines.local.scheduler._IDLE", 0.01)
    queue = engine._held.queue()
    threads = set()
    for n in range(3):
        engine.edit([request(n)])
        thread = queue._thread
        if thread is not None:
            threads.add(thread)
            thread.join(30)
        assert queue._thread is None
    assert not any(thread.is_alive() for thread in threads)


def test_closing_ends_the_thread_and_loading_leaves_none(checkpoint):
    def ours():
        return {one for one in threading.enumerate() if one.name.startswith("metaaligner-")}

    before = ours()
    engine = load_engine(str(checkpoint))
    engine.load()
    assert ours() <= before
    engine.edit([request(1)])
    (thread,) = ours() - before
    engine.close()
    thread.join(0.5)
    assert not thread.is_alive()


def test_loading_runs_in_a_thread_that_ends(checkpoint, monkeypatch):
    seen = []
    read = Held._read_model

    def noted(held):
        seen.append(threading.current_thread())
        return read(held)

    monkeypatch.setattr(Held, "_read_model", noted)
    with load_engine(str(checkpoint)) as engine:
        engine.load()
    (thread,) = seen
    assert thread is not threading.current_thread()
    thread.join(5)
    assert not thread.is_alive()


def test_what_stops_a_pass_for_good_is_raised_where_it_is_waited_for(engine):
    def stop(*_):
        raise SystemExit(3)

    hook = engine.model.register_forward_pre_hook(stop)
    with pytest.raises(SystemExit):
        engine.edit([request(1)])
    hook.remove()
    assert engine.edit([request(1)])


def test_rows_that_ended_keep_no_keys_and_values(engine):
    rows = []
    queue = engine._held.queue()
    run = queue.run
    queue.run = lambda given, *more: (rows.extend(given), run(given, *more))
    engine.edit([request(n) for n in range(3)])
    assert [row.cache for row in rows] == [None] * 3


def test_a_model_that_cannot_be_packed_edits_row_by_row_with_drafts(tmp_path):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    from tests.unit_tests.tiny import save, spm_tokenizer

    tokenizer = spm_tokenizer()
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, sliding_window=64,
        max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    engine = load_engine(str(save(tmp_path, tokenizer=tokenizer, model=Gemma2ForCausalLM(config))))
    assert not engine._held.queue()._decoder.passes.packs
    requests = [request(n) for n in range(6)]
    assert [edit.text for edit in engine.edit(requests)] == [
        engine.edit([one])[0].text for one in requests
    ]
    engine.close()
