"""One queue for all callers: shared passes, fairness, bounds, and failures that stay alone."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import torch

from langchain_metaaligner.engines import deadlines, threads
from langchain_metaaligner.engines.base import Edit, Request
from langchain_metaaligner.engines.cancellation import Cancellation, Cancelled
from langchain_metaaligner.engines.local.loaded_model import LoadedModel
from langchain_metaaligner.engines.local.scheduler import Limits
from langchain_metaaligner.engines.local.sequence import SequenceState
from langchain_metaaligner.engines.registry import load_engine
from langchain_metaaligner.errors import EditTimeout, EngineError, OverloadedError
from tests.unit_tests.engines.conftest import Passes
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
        until(lambda: engine.stats.calls >= callers)
        passes.gate.set()

    return release


def until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def limited(checkpoint):
    """Makes engines with other limits."""
    made = []

    def make(**limits):
        made.append(load_engine(str(checkpoint), limits=Limits(**limits)).__enter__())
        return made[-1]

    yield make
    for engine in made:
        engine.close()


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


def test_one_call_with_many_requests_does_not_hold_up_a_small_one(limited):
    engine = limited(sequences=2, prefill=1)
    passes = Passes(engine)
    passes.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        many = pool.submit(engine.edit, [request(n, tokens=4) for n in range(20)])
        assert passes.began.wait(30)
        one = pool.submit(engine.edit, [request(3, tokens=4)])
        until(lambda: engine.stats.calls == 2)
        passes.gate.set()
        one.result(60)
        assert passes.count < 15
        many.result(60)


def test_no_more_sequences_than_allowed_keep_keys_and_values(limited):
    engine = limited(sequences=3)
    seen = []
    engine.model.register_forward_pre_hook(lambda *_: seen.append(engine.stats))
    assert len(engine.edit([request(n) for n in range(12)])) == 12
    assert max(one.running for one in seen) == 3
    assert max(one.waiting for one in seen) == 9
    assert (engine.stats.calls, engine.stats.running, engine.stats.passes) == (0, 0, len(seen))


def test_prompts_are_taken_on_one_by_one_where_a_pass_has_room_for_one_only(limited):
    engine = limited(prefill=1)
    seen = []
    engine.model.register_forward_pre_hook(lambda *_: seen.append(engine.stats.running))
    engine.edit([request(n) for n in range(6)])
    assert seen[:6] == [1, 2, 3, 4, 5, 6]


def test_a_long_prompt_goes_in_chunks_and_others_go_on_meanwhile(engine, limited):
    long = Request("the answer is " * 20, max_new_tokens=5)
    alone = engine.edit([long, request(1)])
    chunked = limited(chunk=16, prefill=16)
    passes = Passes(chunked)
    assert [edit.text for edit in chunked.edit([long, request(1)])] == [edit.text for edit in alone]
    assert max(tokens for _, tokens in passes.prompts) <= 32 + 16


def test_a_full_queue_turns_further_callers_away_and_takes_them_on_again(checkpoint):
    engine = load_engine(str(checkpoint), max_queue=2)
    began, gate = threading.Event(), threading.Event()

    def wait(*_):
        began.set()
        assert gate.wait(30)

    engine.model.register_forward_pre_hook(wait)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(engine.edit, [LONG])]
        assert began.wait(30)
        jobs += [pool.submit(engine.edit, [request(n)]) for n in range(2)]
        until(lambda: engine.stats.calls == 3)
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


async def test_a_full_queue_turns_tasks_away_at_once_and_a_cancelled_task_frees_its_place(
    checkpoint,
):
    engine = load_engine(str(checkpoint), max_queue=10)
    counted = Passes(engine)
    counted.gate.clear()

    async def read(one):
        return [piece async for piece in engine.astream(one)]

    first = asyncio.create_task(engine.aedit([LONG]))
    while not counted.began.is_set():
        await asyncio.sleep(0.001)
    edits = [asyncio.create_task(engine.aedit([request(n)])) for n in range(30)]
    streams = [asyncio.create_task(read(request(n))) for n in range(30)]
    await asyncio.sleep(0.05)
    refused = [task for task in edits + streams if task.done()]
    assert len(refused) == 50
    assert {type(task.exception()) for task in refused} == {OverloadedError}
    for task in edits[:3]:
        task.cancel()
    await asyncio.sleep(0.01)
    more = [asyncio.create_task(engine.aedit([request(n)])) for n in range(4)]
    await asyncio.sleep(0.01)
    assert [task.done() for task in more] == [False, False, False, True]
    counted.gate.set()
    await asyncio.gather(first, *edits[3:10], *more[:3])
    assert engine.stats.calls == 0
    assert isinstance(more[3].exception(), OverloadedError)
    counted.remove()
    engine.close()


def fail_on(engine, token: int) -> None:
    def check(module, args, kwargs):
        if token in kwargs["input_ids"]:
            message = "a bad one"
            raise ZeroDivisionError(message)

    engine.model.register_forward_pre_hook(check, with_kwargs=True)


def test_a_request_that_makes_the_model_fail_fails_alone(engine):
    bad = engine.prompt_tokenizer.encode("~")[-1]
    alone = [engine.edit([request(n)])[0].text for n in range(5)]
    fail_on(engine, bad)
    requests = [*(request(n) for n in range(3)), Request("~ | Edit: "), request(3), request(4)]
    made = engine.edit_each(requests)
    assert isinstance(made[3], EngineError)
    assert "a bad one" in str(made[3])
    assert [edit.text for n, edit in enumerate(made) if n != 3] == alone
    with pytest.raises(EngineError, match="a bad one"):
        engine.edit(requests)
    assert deadlines.edit(engine, requests)[4] == made[4]


def test_a_strangers_failure_is_not_ours(engine, passes, held_up):
    bad = engine.prompt_tokenizer.encode("~")[-1]
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
    while engine.stats.calls < 2:
        await asyncio.sleep(0)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    passes.gate.set()
    (edit,) = await staying
    assert passes.count <= 1 + edit.passes
    assert edit.text == engine.edit([request(1)])[0].text


class Endless:
    """A caller who waits for a long edit, in a thread."""

    def __init__(self, engine, asked: Request, cancellation: Cancellation) -> None:
        self.sequence = engine._sequence(asked)
        self._run = threads.start(
            lambda: engine.scheduler.run([self.sequence], cancellation), "test"
        )

    def end(self) -> BaseException | None:
        return self._run.exception(30)


def test_callers_take_turns_where_a_pass_is_for_one_sequence_only(engine, passes, monkeypatch):
    monkeypatch.setattr(type(engine.scheduler.decoder.forward), "packs", False)
    passes.gate.clear()
    calls = [Endless(engine, request(n, tokens=8), Cancellation()) for n in range(3)]
    until(lambda: engine.stats.calls == 3)
    seen = []
    engine.model.register_forward_hook(
        lambda *_: seen.append([one.sequence.passes for one in calls])
    )
    passes.gate.set()
    assert [one.end() for one in calls] == [None] * 3
    assert {width for _, width in passes.prompts[3:]} <= {1, *range(1, 32)}
    # While all three wait nobody is more than one turn ahead, whoever was first.
    together = [one for one in seen if max(one) < 3]
    assert all(max(one) - min(one) <= 1 for one in together)


def test_what_nobody_waits_for_is_left_out(engine, passes):
    cancellation = Cancellation()
    left = Endless(engine, LONG, cancellation)
    until(lambda: left.sequence.passes >= 3)
    passes.gate.clear()
    cancellation.cancel()
    passes.gate.set()
    assert isinstance(left.end(), Cancelled)
    made = left.sequence.passes
    engine.edit([request(1, tokens=3)])
    assert left.sequence.passes == made < 60
    late = Endless(engine, Request("hello | Edit: ", deadline=time.monotonic() - 1), Cancellation())
    assert late.end() is None
    assert isinstance(late.sequence.error, EditTimeout)
    assert late.sequence.passes == 0


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


def test_whoever_waits_is_told_and_does_not_have_to_look(limited):
    engine = limited(glance=60.0)
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


def test_the_thread_ends_when_it_is_idle_and_starts_again(limited):
    engine = limited(idle=0.01)
    for n in range(3):
        assert engine.edit([request(n)])
        until(lambda: not engine.stats.has_thread)


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
    read = LoadedModel._read_model

    def noted(held):
        seen.append(threading.current_thread())
        return read(held)

    monkeypatch.setattr(LoadedModel, "_read_model", noted)
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


def test_sequences_that_ended_keep_no_keys_and_values(engine):
    call = Endless(engine, request(1), Cancellation())
    assert call.end() is None
    assert call.sequence.state is SequenceState.FINISHED
    assert call.sequence.cache is None


def test_a_sequence_goes_through_its_states_in_order(engine):
    seen = []
    call = None
    engine.model.register_forward_pre_hook(lambda *_: call and seen.append(call.sequence.state))
    sequence = engine._sequence(LONG)
    assert sequence.state is SequenceState.WAITING
    call = type("Call", (), {"sequence": sequence})
    engine.scheduler.run([sequence], Cancellation())
    assert seen[0] is SequenceState.PREFILLING
    assert set(seen[1:]) == {SequenceState.DECODING}
    assert sequence.state is SequenceState.FINISHED
    sequence.fail(EditTimeout("late"))
    sequence.finish("stop")
    assert sequence.state is SequenceState.FAILED


def test_a_model_that_cannot_be_packed_edits_one_by_one_with_drafts(tmp_path, monkeypatch):
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
    assert not engine.scheduler.decoder.forward.packs
    made = [request(n) for n in range(6)]
    requests = [Request(f"hello world {one.prompt}", one.draft, max_new_tokens=12) for one in made]
    failed = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    assert [edit.text for edit in engine.edit(requests)] == [
        engine.edit([one])[0].text for one in requests
    ]
    assert not failed
    engine.close()
