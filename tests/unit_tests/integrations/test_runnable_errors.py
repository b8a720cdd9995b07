"""What becomes of a reply when its edit fails, and who is told."""

from __future__ import annotations

import asyncio
import logging
import threading
from functools import partial
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from pydantic import ValidationError

from langchain_metaaligner import (
    Aligner,
    AnswerTooLongError,
    Context,
    EditTimeout,
    EngineError,
    InputTypeError,
    LeakError,
    MetaAlignerRunnable,
    MissingContextError,
    UnknownObjectiveError,
)
from langchain_metaaligner.integrations.capture import EDIT
from tests.unit_tests.integrations.ways import WAYS, by_turns
from tests.unit_tests.integrations.ways import run as run_by
from tests.unit_tests.scripted import Policy, ScriptedEngine, StuckEngine

CONFIG = {"configurable": {"context": Context("a context")}}
run = partial(run_by, config=CONFIG)


class Silent(ScriptedEngine):
    """Fails before the first piece of a stream, so that nothing has been read."""

    def stream(self, request):
        made = self.make(request)
        if made.finish_reason != "stop":
            return made
        yield from super().stream(request)


# What else fails, and for every face: test_faults.py.
FAULTS = {
    "refused": (lambda: Silent(ConnectionRefusedError("refused")), CONFIG, EngineError),
    "no context": (Silent, {}, MissingContextError),
    "empty context": (Silent, {"configurable": {"context": []}}, MissingContextError),
    "too long": (lambda: Silent(window=20), CONFIG, AnswerTooLongError),
}
faults = pytest.mark.parametrize(("fault", "way"), by_turns(FAULTS, WAYS))
ways = pytest.mark.parametrize("way", WAYS)


def failing(fault, **options):
    make, config, error = FAULTS[fault]
    records = []
    return (
        MetaAlignerRunnable(engine=make(), on_edit=records.append, **options),
        config,
        error,
        records,
    )


def reply():
    return AIMessage("the text", id="1", response_metadata={"model_name": "m"})


@faults
def test_raise_raises_the_error_and_tells_on_edit(fault, way):
    aligner, config, error, records = failing(fault)
    with pytest.raises(error):
        run(aligner, reply(), way, config=config)
    (record,) = records
    assert record.status == "failed"
    assert record.original == record.text == "the text"
    assert record.error.startswith(error.__name__)
    assert record.objectives == ("harmlessness", "helpfulness")


@faults
def test_pass_lets_the_original_through_and_says_so(fault, way, caplog):
    aligner, config, error, records = failing(fault, on_error="pass")
    with caplog.at_level(logging.WARNING):
        out = run(aligner, reply(), way, config=config)
    assert out.content == "the text"
    assert out.id == "1"
    assert out.response_metadata["model_name"] == "m"
    told = out.response_metadata["metaaligner"]
    assert told["status"] == "passed"
    assert told["changed"] is False
    assert told["error"].startswith(error.__name__)
    assert [one.status for one in records] == ["passed"]
    assert error.__name__ in caplog.text or "not edited" in caplog.text


@faults
def test_block_puts_a_fixed_message_in_its_place(fault, way):
    aligner, config, _, records = failing(fault, on_error="block", block_message="Not now.")
    out = run(aligner, reply(), way, config=config)
    assert out.content == "Not now."
    assert out.id == "1"
    told = out.response_metadata["metaaligner"]
    assert told["status"] == "blocked"
    assert told["changed"] is True
    assert "the text" not in str(out)
    (record,) = records
    assert (record.status, record.original, record.text) == ("blocked", "the text", "Not now.")


@pytest.mark.parametrize(
    ("fault", "way", "policy"), by_turns(FAULTS, WAYS, ["raise", "pass", "block"])
)
def test_in_shadow_mode_no_error_touches_the_reply(fault, way, policy):
    aligner, config, _, records = failing(fault, on_error=policy, apply=False)
    out = run(aligner, reply(), way, config=config)
    assert out.content == "the text"
    assert out.id == "1"
    assert [one.status for one in records] == ["passed"]


@faults
def test_text_follows_the_policy_too(fault, way):
    aligner, config, error, _ = failing(fault)
    with pytest.raises(error):
        run(aligner, "the text", way, config=config)
    aligner, config, _, _ = failing(fault, on_error="pass")
    assert run(aligner, "the text", way, config=config) == "the text"
    aligner, config, _, _ = failing(fault, on_error="block", block_message="Not now.")
    assert run(aligner, "the text", way, config=config) == "Not now."


@pytest.mark.parametrize(("policy", "way"), by_turns(["pass", "block"], WAYS))
def test_mistakes_in_the_code_around_are_raised_whatever_the_policy(policy, way):
    records = []
    aligner = MetaAlignerRunnable(engine=ScriptedEngine(), on_error=policy, on_edit=records.append)
    asked = {"configurable": {**CONFIG["configurable"], "objectives": ["humuor"]}}
    with pytest.raises(UnknownObjectiveError, match="humour"):
        run(aligner, reply(), way, config=asked)
    with pytest.raises(UnknownObjectiveError):
        run(aligner, reply(), way, config={"configurable": {"objectives": ["humuor"]}})
    with pytest.raises(InputTypeError):
        run(aligner, HumanMessage("x"), way)
    with pytest.raises(InputTypeError):
        run(aligner, reply(), way, config={"configurable": {"context": 5}})
    assert [one.status for one in records] == ["failed"] * len(records)


@pytest.mark.parametrize("policy", ["raise", "pass", "block"])
def test_a_leak_is_raised_whatever_the_policy(policy):
    aligner = MetaAlignerRunnable(engine=ScriptedEngine(LeakError("leak")), on_error=policy)
    with pytest.raises(LeakError):
        run(aligner, reply())


@pytest.mark.parametrize("way", ["invoke", "abatch", "stream"])
def test_in_shadow_mode_mistakes_do_not_touch_the_reply_either(way):
    aligner = MetaAlignerRunnable(engine=ScriptedEngine(), apply=False)
    asked = {"configurable": {**CONFIG["configurable"], "objectives": ["humuor"]}}
    assert run(aligner, reply(), way, config=asked).content == "the text"
    given = HumanMessage("x")
    assert run(aligner, given, way) is given


@pytest.mark.parametrize(
    ("way", "policy"),
    [("invoke", "raise"), ("ainvoke", "pass"), ("batch", "pass"), ("abatch", "raise")],
)
def test_a_timeout_ends_the_waiting_and_follows_the_policy(way, policy):
    engine = StuckEngine()
    aligner = MetaAlignerRunnable(engine=engine, timeout=0.03, on_error=policy)

    async def call():
        try:
            if way == "ainvoke":
                return await aligner.ainvoke(reply(), CONFIG)
            return (await aligner.abatch([reply()], CONFIG))[0]
        finally:
            engine.let_go.set()

    def go():
        return run(aligner, reply(), way) if way in ("invoke", "batch") else asyncio.run(call())

    if policy == "raise":
        with pytest.raises(EditTimeout):
            go()
    else:
        assert go().content == "the text"
    engine.let_go.set()


def test_a_stream_that_is_stuck_ends_at_its_timeout_and_is_closed():
    engine = StuckEngine()
    aligner = MetaAlignerRunnable(engine=engine, timeout=0.05, on_error="pass")
    pieces = []
    with pytest.raises(EditTimeout):
        pieces.extend(aligner.stream(reply(), CONFIG))
    assert not engine.let_go.is_set()
    engine.let_go.set()
    assert engine.stream_closed.wait(30)


# Shadow mode.


@ways
def test_shadow_mode_returns_the_original_and_reports_the_edit(way):
    records = []
    engine = ScriptedEngine()
    aligner = MetaAlignerRunnable(engine=engine, apply=False, on_edit=records.append)
    out = run(aligner, reply(), way)
    assert out.content == "the text"
    assert out.id == "1"
    told = out.response_metadata["metaaligner"]
    assert told["status"] == "shadow"
    assert told["changed"] is True
    (record,) = records
    assert (record.original, record.text) == ("the text", "the text (edited)")
    assert record.status == "shadow"
    assert len(engine.requests) == 1


@pytest.mark.parametrize("way", ["invoke", "abatch", "stream"])
def test_shadow_mode_returns_text_as_it_came(way):
    aligner = MetaAlignerRunnable(engine=ScriptedEngine(), apply=False)
    assert run(aligner, "some text", way) == "some text"


def test_shadow_mode_in_a_pipe():
    runnable = Policy(reply="r") | MetaAlignerRunnable(engine=ScriptedEngine(), apply=False)
    assert runnable.invoke("q").content == "r"
    assert "".join(one.text for one in runnable.stream("q")) == "r"


# on_edit.


@ways
def test_on_edit_gets_the_whole_record_of_each_edit(way):
    records = []
    aligner = MetaAlignerRunnable(
        engine=ScriptedEngine(), objectives=["humor"], on_edit=records.append
    )
    run(aligner, reply(), way)
    (record,) = records
    assert record.original == "the text"
    assert record.text == "the text (edited)"
    assert record.status == "edited"
    assert record.objectives == ("humour",)
    assert record.model == "scripted"
    assert record.diff()


def test_on_edit_is_told_of_edits_that_change_nothing_and_not_of_what_is_skipped():
    records = []
    aligner = MetaAlignerRunnable(engine=ScriptedEngine("same"), on_edit=records.append)
    aligner.batch([AIMessage("same"), AIMessage(""), AIMessage("other")], CONFIG)
    assert [one.status for one in records] == ["unchanged", "edited"]


@pytest.mark.parametrize("way", ["invoke", "abatch", "stream"])
def test_what_on_edit_raises_is_logged_and_nothing_more(way, caplog):
    def on_edit(_):
        raise RuntimeError("a broken report")

    aligner = MetaAlignerRunnable(engine=ScriptedEngine(), on_edit=on_edit)
    assert run(aligner, reply(), way).content == "the text (edited)"
    assert "a broken report" in caplog.text
    aligner = MetaAlignerRunnable(engine=ScriptedEngine(RuntimeError("down")), on_edit=on_edit)
    with pytest.raises(EngineError):
        run(aligner, reply(), way)


def test_on_edit_is_called_once_for_each_reply_of_many_threads():
    records = []
    runnable = Policy(reply="r") | MetaAlignerRunnable(
        engine=ScriptedEngine(), on_edit=records.append
    )
    threads = [threading.Thread(target=runnable.invoke, args=("q",)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(records) == 20


# Options.


@pytest.mark.parametrize(
    "options",
    [
        {"on_eror": "pass"},
        {"on_error": "ignore"},
        {"on_leak": "pass"},
        {"objective": "humour"},
        {"timeout": -1},
        {"max_new_tokens": 0},
        {"block_message": ""},
        {"on_edit": "print"},
    ],
)
def test_an_unknown_option_or_value_is_refused_when_the_runnable_is_made(options):
    with pytest.raises(ValidationError, match=next(iter(options))):
        MetaAlignerRunnable(engine=ScriptedEngine(), **options)


def test_an_aligner_and_options_for_one_exclude_each_other():
    aligner = Aligner(engine=ScriptedEngine("by the shared one"))
    assert run(MetaAlignerRunnable(aligner=aligner), "x") == "by the shared one"
    with pytest.raises(ValidationError, match="timeout"):
        MetaAlignerRunnable(aligner=aligner, timeout=5)


def test_a_missing_context_says_how_to_give_one():
    with pytest.raises(MissingContextError) as raised:
        MetaAlignerRunnable(engine=ScriptedEngine()).invoke(AIMessage("x"))
    for way in ("llm | aligner", "configurable", "Context(text)", '"messages"'):
        assert way in str(raised.value)


@pytest.mark.parametrize("way", ["invoke", "astream"])
def test_a_model_asked_in_a_bare_thread_leaves_no_context(way):
    llm = Policy(reply="r")

    def in_a_thread(q):
        made = []
        thread = threading.Thread(target=lambda: made.append(llm.invoke(q)))
        thread.start()
        thread.join()
        return made[0]

    chain = RunnableLambda(in_a_thread) | MetaAlignerRunnable(engine=ScriptedEngine())
    with pytest.raises(MissingContextError):
        run(chain, "q", way, config={})


def quote(request):
    msg = f"can't read {request.prompt}"
    raise ValueError(msg)


@pytest.mark.parametrize("way", ["invoke", "astream"])
def test_a_blocked_message_shows_neither_text_nor_reasoning_nor_what_the_error_quotes(way):
    reply = AIMessage(
        [{"type": "reasoning", "reasoning": "SECRET"}, {"type": "text", "text": "SECRET"}],
        additional_kwargs={"reasoning_content": "SECRET", "other": 1},
        tool_calls=[{"name": "look", "args": {}, "id": "1"}],
    )
    aligner = MetaAlignerRunnable(
        engine=ScriptedEngine(quote), on_error="block", edit_tool_text=True
    )
    settled = run(aligner, reply, way)
    assert "SECRET" not in str(settled)
    assert [one["name"] for one in settled.tool_calls] == ["look"]
    assert settled.additional_kwargs["other"] == 1
    assert settled.response_metadata["metaaligner"]["error"] == "EngineError"


def test_a_hook_that_would_have_to_be_awaited_is_refused():
    async def hook(alignment):
        pass

    with pytest.raises(ValidationError, match="plain function"):
        MetaAlignerRunnable(on_edit=hook)


class Refusing(BaseCallbackHandler):
    """Ends a run on purpose, as a budget does."""

    raise_error = True

    def __init__(self, event: str) -> None:
        setattr(self, event, self.refuse)

    def refuse(self, *_: Any, tags: Any = None, **__: Any) -> None:
        if EDIT in (tags or ()):
            raise ZeroDivisionError


@pytest.mark.parametrize("on_error", ["pass", "block"])
@pytest.mark.parametrize(
    ("event", "way"),
    by_turns(["on_chat_model_start", "on_llm_end"], WAYS)
    + by_turns(["on_llm_new_token"], ["stream", "astream"]),
)
def test_what_a_handler_raises_is_no_failed_edit(event: str, way: str, on_error: str) -> None:
    records: list[Any] = []
    aligner = MetaAlignerRunnable(
        engine=ScriptedEngine(), on_error=on_error, on_edit=records.append
    )
    config = {"callbacks": [Refusing(event)]}
    with pytest.raises(ZeroDivisionError):
        run_by(Policy() | aligner, "q", way, config)
    assert [record.status for record in records][-1:] == ["failed"]
