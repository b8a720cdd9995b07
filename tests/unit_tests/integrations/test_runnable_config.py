"""What a call can ask for by config, and what traces and copies show of it."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
from contextlib import suppress

import pytest
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import (
    ConfigurableField,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
)
from langchain_core.tracers import BaseTracer
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph

from langchain_metaaligner import (
    Aligner,
    CheckpointError,
    Context,
    EngineError,
    MetaAlignerRunnable,
    Objective,
    UnknownObjectiveError,
)
from tests.unit_tests.integrations.ways import WAYS, by_turns, run
from tests.unit_tests.scripted import Policy, ScriptedEngine, Seen, echo, question_of

CONTEXT = {"context": Context("a context")}
CONFIG = {"configurable": CONTEXT}


def aligner_with(engine=None, **options):
    return MetaAlignerRunnable(engine=engine or ScriptedEngine(), **options)


def aspects(request):
    head = request.prompt.split("considering these aspects: ", 1)[1].split(" | Context: ", 1)[0]
    return [one.split(":", 1)[0] for one in head.split("; ")]


# Objectives.

RHYME = "Rhyme: the response should rhyme"
FORMS = [
    ("humor", ["Humour"]),
    (["humour", "Harmless"], ["Humour", "Harmlessness"]),
    (Objective("rhyme", RHYME), ["Rhyme"]),
    ({"name": "rhyme", "description": RHYME}, ["Rhyme"]),
    (RHYME, ["Rhyme"]),
    ([RHYME, "honesty", {"name": "length"}], ["Rhyme", "Honesty", "Length"]),
    (("humour",), ["Humour"]),
]

PLACES = {
    "constructor": lambda a, given: MetaAlignerRunnable(given, engine=a.engine),
    "keyword": lambda a, given: MetaAlignerRunnable(objectives=given, engine=a.engine),
    "with_config": lambda a, given: a.with_config(configurable={"objectives": given}),
    "bind": lambda a, given: a.bind(objectives=given),
    "retried": lambda a, given: a.with_config(configurable={"objectives": given}).with_retry(),
    "falling back": lambda a, given: a.bind(objectives=given).with_fallbacks([a]),
    "configurable field": lambda a, given: a.configurable_fields(
        objectives=ConfigurableField(id="goal")
    ).with_config(configurable={"goal": given}),
    "configurable field of the same name": lambda a, given: a.configurable_fields(
        objectives=ConfigurableField(id="objectives")
    ).with_config(configurable={"objectives": given}),
}


@pytest.mark.parametrize(("place", "form", "way"), by_turns(PLACES, FORMS, WAYS))
def test_objectives_come_in_any_form_by_any_way(place, form, way):
    engine, (given, worded) = ScriptedEngine(), form
    run(Policy() | PLACES[place](aligner_with(engine), given), "q", way)
    assert [aspects(one) for one in engine.requests] == [worded]


@pytest.mark.parametrize("way", WAYS)
def test_objectives_come_by_the_chains_config(way):
    engine = ScriptedEngine()
    given = {"configurable": {"objectives": RHYME}}
    run(Policy() | aligner_with(engine), "q", way, given)
    assert aspects(engine.requests[0]) == ["Rhyme"]


def test_without_any_the_objectives_are_harmlessness_and_helpfulness():
    engine = ScriptedEngine()
    (Policy() | aligner_with(engine)).invoke("q", {"configurable": {"objectives": None}})
    assert aspects(engine.requests[0]) == ["Harmlessness", "Helpfulness"]


def test_what_a_call_asks_for_goes_before_the_instances_own():
    engine = ScriptedEngine()
    runnable = Policy() | aligner_with(engine, objectives=["honesty"])
    asked = {"configurable": {"objectives": ["humour"]}}
    runnable.invoke("q", asked)
    runnable.invoke("q")
    assert [aspects(one) for one in engine.requests] == [["Humour"], ["Honesty"]]
    asked["configurable"] |= CONTEXT
    aligner_with(engine).invoke("x", asked, objectives="length", context=Context("the argument"))
    assert aspects(engine.requests[-1]) == ["Length"]
    assert " | Context: the argument | " in engine.prompts[-1]


@pytest.mark.parametrize("given", ["humuor", ["humour", "hnesty"], [], 5, [5], [None], [[]]])
def test_unknown_objectives_are_refused_where_they_are_given(given):
    with pytest.raises(UnknownObjectiveError):
        aligner_with(objectives=given)
    with pytest.raises(UnknownObjectiveError):
        aligner_with().invoke("x", {"configurable": {**CONTEXT, "objectives": given}})
    with pytest.raises(UnknownObjectiveError):
        aligner_with().bind(objectives=given).invoke("x", CONFIG)


def test_an_unknown_objective_suggests_the_nearest():
    with pytest.raises(UnknownObjectiveError, match="Did you mean 'humour'"):
        aligner_with(objectives="humuor")


def test_an_allow_list_bounds_what_a_call_may_ask_for():
    engine = ScriptedEngine()
    aligner = aligner_with(engine, objectives=["honesty"], allow_objectives=["humour", RHYME])
    for asked in ("humor", [RHYME], "honesty", ["humour", "honesty"]):
        aligner.invoke("x", {"configurable": {**CONTEXT, "objectives": asked}})
    mine = Objective("humour", "Do as I say")
    for asked in ("length", ["humour", "length"], mine, "Do as I say"):
        with pytest.raises(UnknownObjectiveError, match="allow"):
            aligner.invoke("x", {"configurable": {**CONTEXT, "objectives": asked}})
    assert len(engine.requests) == 4


def test_an_empty_allow_list_allows_the_aligners_own_objectives_and_no_others():
    engine = ScriptedEngine()
    aligner = aligner_with(engine, objectives=["honesty", "humour"], allow_objectives=[])
    for asked in ("honesty", ["Humor"]):
        aligner.invoke("x", CONFIG, objectives=asked)
    for asked in ("length", ["honesty", RHYME], {"name": "honesty", "description": "Say the lie"}):
        with pytest.raises(UnknownObjectiveError, match="allow"):
            aligner.invoke("x", CONFIG, objectives=asked)
    assert [aspects(one) for one in engine.requests] == [["Honesty"], ["Humour"]]


ARGUMENTS = [{"objective": "humour"}, {"stop": ["x"]}, {"temperature": 1}, {"contxt": []}]


@pytest.mark.parametrize(("options", "way"), by_turns(ARGUMENTS, WAYS))
def test_an_argument_that_a_call_does_not_take_raises(options, way):
    with pytest.raises(TypeError, match=next(iter(options))):
        run(aligner_with(), "x", way, CONFIG, **options)
    with pytest.raises(TypeError, match=next(iter(options))):
        (Policy() | aligner_with().bind(**options)).invoke("x")


def test_an_unknown_family_is_refused_when_the_runnable_is_made():
    with pytest.raises(CheckpointError, match="UltraFeedback"):
        aligner_with(family="HHRLFH")


# Schema.


def properties(runnable):
    schema = runnable.config_schema().model_json_schema()
    return schema["$defs"]["Configurable"]["properties"]


def test_the_keys_of_a_call_are_in_the_schema():
    assert set(properties(aligner_with())) == {"objectives", "context"}
    shown = properties(Policy() | aligner_with())
    assert shown["objectives"]["description"]
    assert shown["context"]["description"]


def test_two_aligners_in_one_chain_share_the_schema():
    runnable = (
        Policy()
        | aligner_with(objectives=["humour"])
        | RunnableParallel(a=aligner_with(objectives=["honesty"]), b=aligner_with(apply=False))
    )
    assert {"objectives", "context"} <= set(properties(runnable))


def test_a_configurable_field_of_the_same_name_leaves_the_schema_whole():
    aligner = aligner_with().configurable_fields(objectives=ConfigurableField(id="objectives"))
    assert "objectives" in properties(Policy() | aligner | aligner_with())


def test_other_fields_are_configurable_too():
    engine = ScriptedEngine()
    aligner = aligner_with(engine).configurable_fields(
        max_new_tokens=ConfigurableField(id="most"),
        on_error=ConfigurableField(id="policy"),
        objectives=ConfigurableField(id="objectives"),
    )
    runnable = Policy() | aligner
    runnable.invoke("q", {"configurable": {"most": 7, "objectives": ["humour"]}})
    runnable.invoke("q")
    assert [one.max_new_tokens for one in engine.requests] == [7, 1024]
    assert aspects(engine.requests[0]) == ["Humour"]
    assert {"most", "policy"} <= set(properties(runnable))


def test_an_aligner_among_alternatives_is_chosen_by_config():
    first, second = ScriptedEngine(), ScriptedEngine()
    runnable = Policy() | aligner_with(first).configurable_alternatives(
        ConfigurableField(id="which"),
        default_key="first",
        second=aligner_with(second, objectives=["humour"]),
        none=RunnablePassthrough(),
    )
    runnable.invoke("q")
    runnable.invoke("q", {"configurable": {"which": "second"}})
    assert runnable.invoke("q", {"configurable": {"which": "none"}}).text == "A reply."
    assert (len(first.requests), len(second.requests)) == (1, 1)


def test_input_and_output_have_schemas():
    aligner = aligner_with()
    for schema in (aligner.get_input_schema(), aligner.get_output_schema()):
        assert schema.model_json_schema()
    assert (Policy() | aligner).get_graph().draw_mermaid


# Copies.


def test_nothing_that_makes_a_new_runnable_changes_the_one_it_is_made_of():
    engine = ScriptedEngine()
    aligner = aligner_with(engine, objectives=["honesty"], max_new_tokens=7)
    before = dict(aligner.__dict__)
    others = [
        aligner.with_config(configurable={"objectives": ["humour"]}, tags=["x"]),
        aligner.bind(objectives=["humour"]),
        aligner.configurable_fields(max_new_tokens=ConfigurableField(id="most")),
        aligner.configurable_alternatives(ConfigurableField(id="which"), no=RunnablePassthrough()),
        aligner.model_copy(update={"objectives": ("humour",)}),
        Policy() | aligner,
        aligner | StrOutputParser(),
        aligner.with_retry(),
        aligner.with_fallbacks([RunnablePassthrough()]),
        aligner.with_types(input_type=str),
        copy.copy(aligner),
        copy.deepcopy(aligner),
        pickle.loads(pickle.dumps(aligner)),
    ]
    for other in others:
        other.invoke("x", {"configurable": {**CONTEXT, "objectives": ["length"]}})
    assert aligner.__dict__ == before
    engine.calls.clear()
    aligner.invoke("x", CONFIG)
    assert aspects(engine.requests[0]) == ["Honesty"]
    assert engine.requests[0].max_new_tokens == 7


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda one: one.model_copy(), lambda one: one.model_copy(deep=True)],
)
def test_a_copy_does_as_the_original(copied):
    engine = ScriptedEngine("an edit")
    other = copied(aligner_with(engine, objectives=["humour"], keep_original=True))
    out = other.invoke(AIMessage("x"), CONFIG)
    assert out.text == "an edit"
    assert out.response_metadata["metaaligner"]["objectives"] == ["humour"]
    assert out.response_metadata["metaaligner"]["original"] == "x"


def test_a_copy_with_other_options_uses_them():
    engine = ScriptedEngine()
    aligner = aligner_with(engine)
    other = aligner.model_copy(update={"max_new_tokens": 9, "objectives": ("humour",)})
    other.invoke("x", CONFIG)
    aligner.invoke("x", CONFIG)
    assert [one.max_new_tokens for one in engine.requests] == [9, 1024]
    assert [aspects(one)[0] for one in engine.requests] == ["Humour", "Harmlessness"]


def test_a_runnable_survives_pickling_before_and_after_its_first_use():
    aligner = aligner_with(ScriptedEngine("an edit"), objectives=["humour"], on_error="pass")
    for _ in range(2):
        again = pickle.loads(pickle.dumps(aligner))
        assert again.on_error == "pass"
        assert again.invoke("x", CONFIG) == "an edit"
        assert (Policy() | again).invoke("q").text == "an edit"
        aligner.invoke("x", CONFIG)


def test_aligners_can_be_shared_by_runnables():
    engine = ScriptedEngine()
    aligner = Aligner(engine=engine)
    first = MetaAlignerRunnable("humour", aligner=aligner)
    second = MetaAlignerRunnable("honesty", aligner=aligner)
    (Policy() | first | second).invoke("q")
    assert [aspects(one) for one in engine.requests] == [["Humour"], ["Honesty"]]


# Traces.


class Recorder(BaseTracer):
    """Keeps every finished root run."""

    def __init__(self):
        super().__init__()
        self.roots = []

    def _persist_run(self, run):
        self.roots.append(run)


def flat(runs):
    for one in runs:
        yield one
        yield from flat(one.child_runs)


@pytest.mark.parametrize("way", WAYS)
def test_the_run_in_traces_has_its_own_name_objectives_and_model(way):
    recorder = Recorder()
    runnable = Policy() | aligner_with(objectives=["humor", RHYME])
    run(runnable, "q", way, {"callbacks": [recorder]})
    (root,) = recorder.roots
    (traced,) = [one for one in flat([root]) if one.name == "MetaAlignerRunnable"]
    assert traced.run_type == "chain"
    assert traced.error is None
    assert traced.extra["metadata"]["metaaligner_objectives"] == ["humour", "rhyme"]
    assert traced.extra["metadata"]["metaaligner_model"] == "scripted"
    assert "metaaligner_model" not in (root.extra.get("metadata") or {})


@pytest.mark.parametrize(("place", "way"), by_turns(["config", "argument"], WAYS))
def test_objectives_that_can_be_read_only_once_reach_both_the_trace_and_every_edit(way, place):
    seen, engine = Seen(), ScriptedEngine()
    given = {"objectives": (one for one in ["humor", RHYME])}
    in_config, arguments = (given, {}) if place == "config" else ({}, given)
    config = {"configurable": {**CONTEXT, **in_config}, "callbacks": [seen]}
    aligner = aligner_with(engine)
    if way == "batch":
        aligner.batch(["x", "y"], config, **arguments)
    elif way == "abatch":
        asyncio.run(aligner.abatch(["x", "y"], config, **arguments))
    else:
        run(aligner, "x", way, config, **arguments)
    runs = seen.named("MetaAlignerRunnable")
    assert len(runs) == len(engine.requests) == (2 if "batch" in way else 1)
    assert [one["metadata"]["metaaligner_objectives"] for one in runs] == [
        ["humour", "rhyme"] for _ in runs
    ]
    assert [aspects(one) for one in engine.requests] == [["Humour", "Rhyme"] for _ in runs]


def test_an_iterator_of_objectives_that_another_has_read_says_so():
    given = iter(["humour"])
    aligner = aligner_with()
    aligner.invoke("x", CONFIG, objectives=given)
    with pytest.raises(UnknownObjectiveError, match="read once only"):
        aligner.invoke("x", CONFIG, objectives=given)


def test_a_run_can_be_given_another_name_and_more_metadata():
    seen = Seen()
    aligner = aligner_with().with_config(run_name="mine", tags=["t"], metadata={"a": 1})
    aligner.invoke("x", {**CONFIG, "callbacks": [seen]})
    (named,) = seen.named("mine")
    assert "t" in named["tags"]
    assert named["metadata"]["a"] == 1
    assert named["metadata"]["metaaligner_objectives"] == ["harmlessness", "helpfulness"]


def test_the_metadata_tell_what_the_call_asked_for():
    seen = Seen()
    aligner = aligner_with()
    config = {"configurable": {**CONTEXT, "objectives": ["humor"]}, "callbacks": [seen]}
    aligner.invoke("x", config)
    aligner.bind(objectives="honesty").invoke("x", config)
    told = [one["metadata"]["metaaligner_objectives"] for one in seen.named("MetaAlignerRunnable")]
    assert told == [["humour"], ["honesty"]]


def test_a_failed_run_is_traced_as_failed():
    seen = Seen()
    with pytest.raises(UnknownObjectiveError):
        aligner_with().invoke(
            "x", {"configurable": {**CONTEXT, "objectives": "humuor"}, "callbacks": [seen]}
        )
    assert [kind for kind, _ in seen.ended] == ["error"]


# What is given in confidence.

SECRET = "the secret of the user"
SECRETS = [Context(SECRET), [HumanMessage(SECRET)], [("human", SECRET)]]


def shown_of(traced):
    return repr({key: value for key, value in traced.items() if key != "input"})


@pytest.mark.parametrize(
    ("secret", "way", "on_error"), by_turns(SECRETS, WAYS, ["raise", "pass", "pass", "raise"])
)
def test_a_context_given_by_config_shows_in_no_metadata_tag_or_log_line(
    secret, way, on_error, caplog
):
    seen, recorder = Seen(), Recorder()
    caplog.set_level(logging.DEBUG)
    config = {"configurable": {"context": secret}, "callbacks": [seen, recorder]}
    failing = ScriptedEngine(RuntimeError("down"))
    for engine in (ScriptedEngine(), failing):
        runnable = Policy() | aligner_with(engine, on_error=on_error) | StrOutputParser()
        with suppress(EngineError):
            run(runnable, "q", way, config)
    assert seen.runs
    for one in seen.runs:
        assert SECRET not in shown_of(one)
    for one in flat(recorder.roots):
        assert SECRET not in repr(one.extra)
        assert SECRET not in repr(one.tags)
        assert SECRET not in repr(one.serialized)
        assert SECRET not in repr(one.inputs)
        assert SECRET not in repr(one.outputs)
        assert SECRET not in (one.error or "")
    assert SECRET not in caplog.text


def test_a_context_given_by_config_shows_in_no_checkpoints_metadata():
    saver = InMemorySaver()
    builder = StateGraph(MessagesState)
    llm, aligner = Policy(), aligner_with()
    builder.add_node(
        "node", lambda state: {"messages": [(llm | aligner).invoke(state["messages"])]}
    )
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    graph = builder.compile(checkpointer=saver)
    config = {"configurable": {"thread_id": "1", "context": Context(SECRET)}}
    graph.invoke({"messages": [HumanMessage("q")]}, config)
    for kept in saver.list({"configurable": {"thread_id": "1"}}):
        assert SECRET not in repr(kept.metadata)


@pytest.mark.parametrize("way", WAYS)
def test_a_bare_string_as_context_works_and_warns(way):
    engine = ScriptedEngine()
    runnable = Policy() | aligner_with(engine)
    config = {"configurable": {"context": "a bare text"}}
    with pytest.warns(UserWarning, match=r"Context\(text\)"):
        run(runnable, "q", way, config)
    assert " | Context: a bare text | Answer: " in engine.prompts[0]


def test_a_text_given_as_an_argument_goes_into_no_config_and_warns_of_nothing():
    engine, seen = ScriptedEngine(), Seen()
    aligner_with(engine).invoke("x", {"callbacks": [seen]}, context=SECRET)
    assert SECRET in engine.prompts[0]
    assert SECRET not in shown_of(seen.runs[0])


def test_the_serialised_form_of_a_runnable_is_json_and_holds_no_token():
    aligner = aligner_with(token="hf_secret")
    assert "hf_secret" not in json.dumps(dumpd(aligner), default=repr)
    assert "hf_secret" not in repr(aligner)


def test_both_aligners_of_a_chain_are_given_the_same_context():
    first, second = ScriptedEngine(), ScriptedEngine()
    runnable = RunnableLambda(lambda _: "x") | aligner_with(first) | aligner_with(second)
    runnable.invoke("q", {"configurable": {"context": [HumanMessage("given")]}})
    assert [question_of(one) for one in (*first.requests, *second.requests)] == ["given"] * 2


def test_a_runnable_is_used_inside_a_running_loop_by_its_sync_calls_too():
    async def inside():
        return (Policy(reply=echo) | aligner_with()).invoke("q").text

    assert asyncio.run(inside()) == "reply to q (edited)"
