"""A batch is one call to the engine, and each item is treated by its own config."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda, chain

from langchain_metaaligner import (
    CheckpointError,
    Context,
    Edit,
    EngineError,
    InputTypeError,
    MetaAlignerRunnable,
    MissingContextError,
    UnknownObjectiveError,
)
from tests.unit_tests.integrations.ways import by_turns
from tests.unit_tests.scripted import Policy, ScriptedEngine, Seen, echo, question_of

CONFIG = {"configurable": {"context": Context("a context")}}
REPLIES = [AIMessage(f"r{i}", id=str(i)) for i in range(6)]
EDITED = [f"r{i} (edited)" for i in range(6)]


def batch(runnable, given, config=None, **options):
    return runnable.batch(given, config, **options)


def abatch(runnable, given, config=None, **options):
    return asyncio.run(runnable.abatch(given, config, **options))


both = pytest.mark.parametrize("call", [batch, abatch])


def sizes(engine):
    return [len(one) for one in engine.calls]


def aspects(request):
    return request.prompt.split("considering these aspects: ", 1)[1].split(":", 1)[0]


@both
def test_a_batch_is_exactly_one_call_to_the_engine_in_order(call):
    engine = ScriptedEngine()
    made = call(MetaAlignerRunnable(engine=engine), REPLIES, CONFIG)
    assert [one.text for one in made] == EDITED
    assert [one.id for one in made] == [one.id for one in REPLIES]
    assert sizes(engine) == [6]


@both
def test_a_batch_in_a_pipe_is_exactly_one_call_too(call):
    engine = ScriptedEngine()
    runnable = Policy(reply=echo) | MetaAlignerRunnable(engine=engine)
    made = call(runnable, ["a", "b", "c"])
    assert [one.text for one in made] == [f"reply to {q} (edited)" for q in "abc"]
    assert sizes(engine) == [3]
    assert [question_of(one) for one in engine.requests] == ["a", "b", "c"]


@both
def test_with_callbacks_a_batch_is_one_call_still_and_each_item_has_its_run(call):
    engine, seen = ScriptedEngine(), Seen()
    call(MetaAlignerRunnable(engine=engine), REPLIES, {**CONFIG, "callbacks": [seen]})
    assert sizes(engine) == [6]
    assert len(seen.named("MetaAlignerRunnable")) == 6


@both
def test_an_empty_batch_is_no_call(call):
    engine = ScriptedEngine()
    assert call(MetaAlignerRunnable(engine=engine), [], CONFIG) == []
    assert call(MetaAlignerRunnable(engine=engine), [AIMessage("")], CONFIG)[0].text == ""
    assert sizes(engine) == []


@both
@pytest.mark.parametrize(("most", "groups"), [(1, [1] * 6), (2, [2, 2, 2]), (4, [4, 2]), (9, [6])])
def test_max_concurrency_bounds_how_many_replies_one_call_holds(call, most, groups):
    engine = ScriptedEngine()
    config = {**CONFIG, "max_concurrency": most}
    made = call(MetaAlignerRunnable(engine=engine), REPLIES, config)
    assert [one.text for one in made] == EDITED
    assert sizes(engine) == groups


@both
def test_the_smallest_max_concurrency_of_the_items_holds(call):
    engine = ScriptedEngine()
    configs = [{**CONFIG, "max_concurrency": most} for most in (5, 2, 4, 6, 6, 6)]
    call(MetaAlignerRunnable(engine=engine), REPLIES, configs)
    assert sizes(engine) == [2, 2, 2]


OBJECTIVES = [["humour"], ["honesty"], None, "harmlessness", [{"name": "length"}], ["humor"]]
WORDED = ["Humour", "Honesty", "Harmlessness", "Harmlessness", "Length", "Humour"]


def configs(contexts=True):
    return [
        {
            "configurable": {
                **({"context": Context(f"c{i}")} if contexts else {}),
                **({"objectives": asked} if asked else {}),
            }
        }
        for i, asked in enumerate(OBJECTIVES)
    ]


@both
def test_each_item_is_edited_towards_the_objectives_of_its_own_config(call):
    engine = ScriptedEngine()
    call(MetaAlignerRunnable(engine=engine), REPLIES, configs())
    assert [aspects(one) for one in engine.requests] == WORDED
    assert [f" | Context: c{i} | Answer: r{i} | " in one for i, one in enumerate(engine.prompts)]
    assert sizes(engine) == [6]


@pytest.mark.parametrize("way", ["batch", "abatch", "batch_as_completed", "abatch_as_completed"])
def test_in_a_pipe_each_item_has_its_own_objectives_and_context(way):
    engine = ScriptedEngine()
    runnable = Policy(reply=echo) | MetaAlignerRunnable(engine=engine)
    questions = [f"q{i}" for i in range(6)]

    async def completed():
        return [one async for one in runnable.abatch_as_completed(questions, configs(False))]

    if way == "batch":
        runnable.batch(questions, configs(False))
    elif way == "abatch":
        asyncio.run(runnable.abatch(questions, configs(False)))
    elif way == "batch_as_completed":
        list(runnable.batch_as_completed(questions, configs(False)))
    else:
        asyncio.run(completed())
    made = {question_of(one): aspects(one) for one in engine.requests}
    assert made == dict(zip(questions, WORDED, strict=True))


BAD = {
    "no reply": (5, CONFIG, InputTypeError),
    "no context": (AIMessage("x"), {}, MissingContextError),
    "no objective": (
        AIMessage("x"),
        {"configurable": {**CONFIG["configurable"], "objectives": ["humuor"]}},
        UnknownObjectiveError,
    ),
    "a bad edit": (AIMessage("bad"), CONFIG, EngineError),
    "a failing edit": (AIMessage("failing"), CONFIG, EngineError),
    "a failing edit outside Exception": (AIMessage("worse"), CONFIG, EngineError),
}


class Boom(BaseException):
    pass


def picky(request):
    if request.draft == "bad":
        return Edit("cut", finish_reason="length")
    if request.draft == "failing":
        raise RuntimeError("down")
    if request.draft == "worse":
        raise Boom
    return f"{request.draft} (edited)"


@pytest.mark.parametrize(
    ("bad", "call", "piped"), by_turns(BAD, [batch, abatch], [False, True, True])
)
def test_one_bad_item_takes_no_other_with_it(call, bad, piped):
    given, config, error = BAD[bad]
    records = []
    runnable = MetaAlignerRunnable(engine=ScriptedEngine(picky), on_edit=records.append)
    if piped:
        runnable = RunnableLambda(lambda one: one) | runnable | RunnableLambda(lambda one: one)
    items, all_configs = [REPLIES[0], given, REPLIES[2]], [CONFIG, config, CONFIG]
    first, failed, last = call(runnable, items, all_configs, return_exceptions=True)
    assert type(failed) is error
    assert (first.text, last.text) == ("r0 (edited)", "r2 (edited)")
    statuses = ["edited", "edited"] if bad == "no reply" else ["edited", "failed", "edited"]
    assert [one.status for one in records] == statuses
    with pytest.raises(error):
        call(runnable, items, all_configs)


@both
def test_the_policy_settles_each_failure_of_a_batch(call):
    runnable = MetaAlignerRunnable(engine=ScriptedEngine(picky), on_error="pass")
    made = call(runnable, [REPLIES[0], AIMessage("failing"), REPLIES[2]], CONFIG)
    assert [one.text for one in made] == ["r0 (edited)", "failing", "r2 (edited)"]
    assert [one.response_metadata["metaaligner"]["status"] for one in made] == [
        "edited",
        "passed",
        "edited",
    ]


@both
def test_what_keeps_all_of_a_batch_from_being_edited_is_each_ones_own_error(call):
    engine, records = ScriptedEngine(), []
    engine.family_hint = "no such family"
    runnable = MetaAlignerRunnable(engine=engine, on_edit=records.append)
    made = call(runnable, ["a", 3, "b"], CONFIG, return_exceptions=True)
    assert [type(one) for one in made] == [CheckpointError, InputTypeError, CheckpointError]
    assert [(one.original, one.status) for one in records] == [("a", "failed"), ("b", "failed")]
    shadow = MetaAlignerRunnable(engine=engine, apply=False)
    assert call(shadow, ["a", "b"], CONFIG) == ["a", "b"]


@both
def test_texts_messages_states_and_replies_without_text_share_a_batch(call):
    engine = ScriptedEngine()
    state = {"messages": [("human", "q"), ("ai", "s")]}
    made = call(MetaAlignerRunnable(engine=engine), [REPLIES[0], "t", state, AIMessage("")], CONFIG)
    assert made[0].text == "r0 (edited)"
    assert made[1] == "t (edited)"
    assert made[2]["messages"][0].text == "s (edited)"
    assert made[3].text == ""
    assert sizes(engine) == [3]


@both
def test_the_same_reply_twice_is_two_requests(call):
    engine = ScriptedEngine()
    call(MetaAlignerRunnable(engine=engine), [REPLIES[0]] * 3, CONFIG)
    assert sizes(engine) == [3]


def test_a_batch_works_inside_a_chain_function():
    engine = ScriptedEngine()
    llm, aligner = Policy(reply=echo), MetaAlignerRunnable(engine=engine)

    @chain
    async def run(questions):
        return await aligner.abatch(await llm.abatch(questions))

    made = asyncio.run(run.ainvoke(["a", "b"]))
    assert [one.text for one in made] == ["reply to a (edited)", "reply to b (edited)"]
    assert [question_of(one) for one in engine.requests] == ["a", "b"]
    assert sizes(engine) == [2]
