"""What a call may ask for, in every face: whose objectives, whose context, under which keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import ValidationError

from langchain_metaaligner import (
    ChatMetaAligner,
    Context,
    InputTypeError,
    MetaAlignerMiddleware,
    MetaAlignerRunnable,
    Objective,
    UnknownObjectiveError,
)
from tests.unit_tests.integrations.ways import WAYS, by_turns, run
from tests.unit_tests.scripted import Policy, ScriptedEngine

OPPOSITE = {"name": "harmlessness", "description": "Say the opposite"}


def chain(**options: Any) -> Any:
    return Policy() | MetaAlignerRunnable(engine=ScriptedEngine(), **options)


def model(**options: Any) -> Any:
    return ChatMetaAligner(policy=Policy(), engine=ScriptedEngine(), **options)


def agent(**options: Any) -> Any:
    middleware = MetaAlignerMiddleware(engine=ScriptedEngine(), **options)
    return create_agent(Policy(), middleware=[middleware])


def reply_of(face: Any, way: str = "invoke", **configurable: Any) -> AIMessage:
    """The reply of a chain, a model or an agent, with this configurable."""
    config = {"configurable": configurable}
    if hasattr(face, "nodes"):
        return face.invoke({"messages": [HumanMessage("q")]}, config)["messages"][-1]
    return run(face, "q", way, config)


def pursued(reply: AIMessage) -> list[str]:
    return reply.response_metadata["metaaligner"]["objectives"]


FACES = pytest.mark.parametrize("face", [chain, model, agent])
FACES_AND_WAYS = pytest.mark.parametrize(
    ("face", "way"), by_turns([chain, model, agent, chain, model, chain], WAYS)
)


@FACES_AND_WAYS
def test_required_objectives_come_first_whatever_a_call_asks_for(face: Any, way: str) -> None:
    a = face(objectives=["helpfulness"], required_objectives=["harmless"])
    assert pursued(reply_of(a, way)) == ["harmlessness", "helpfulness"]
    for asked in ("honesty", ["honesty", "Harmlessness"], ["harmlessness", "honesty"]):
        assert pursued(reply_of(a, way, objectives=asked)) == ["harmlessness", "honesty"]


@FACES
@pytest.mark.parametrize(
    "asked",
    [
        OPPOSITE,
        {**OPPOSITE, "name": " Harmless"},
        Objective("HARMLESSNESS", "Say the opposite"),
        "harmlessness: say the opposite",
        ["honesty", OPPOSITE],
    ],
)
def test_no_call_gives_a_required_or_an_allowed_objective_another_meaning(
    face: Any, asked: Any
) -> None:
    for options in (
        {"required_objectives": ["harmlessness"]},
        {"objectives": ["harmlessness"], "allow_objectives": []},
        {"allow_objectives": ["harmlessness", "honesty"]},
    ):
        with pytest.raises(UnknownObjectiveError, match=r"(?i)harmless"):
            reply_of(face(**options), objectives=asked)


@FACES
def test_an_empty_allow_list_leaves_the_choice_among_the_aligners_own(face: Any) -> None:
    a = face(objectives=["harmlessness", "honesty"], allow_objectives=[])
    assert pursued(reply_of(a, objectives="honesty")) == ["honesty"]
    for asked in ("length", Objective("mine", "Rhyme"), "Answer in verse."):
        with pytest.raises(UnknownObjectiveError, match="allow-list"):
            reply_of(a, objectives=asked)


@pytest.mark.parametrize(
    "options",
    [
        {"required_objectives": ["harmlesness"]},
        {"required_objectives": 5},
        {"required_objectives": [Objective("honesty", "Lie")], "objectives": ["honesty"]},
        {"required_objectives": ["honesty"], "allow_objectives": [Objective("Honesty", "Lie")]},
    ],
)
@FACES
def test_required_objectives_are_checked_where_they_are_given(face: Any, options: Any) -> None:
    with pytest.raises(UnknownObjectiveError):
        face(**options)


@FACES_AND_WAYS
def test_a_context_is_refused_where_calls_may_give_none(face: Any, way: str) -> None:
    a = face(allow_context=False, on_error="pass")
    assert pursued(reply_of(a, way)) == ["harmlessness", "helpfulness"]
    for context in (Context("c"), [HumanMessage("c")]):
        with pytest.raises(InputTypeError, match="allow_context=False"):
            reply_of(a, way, context=context)


def test_a_context_is_refused_as_an_argument_too_but_not_in_a_state() -> None:
    aligner = MetaAlignerRunnable(engine=ScriptedEngine(), allow_context=False)
    with pytest.raises(InputTypeError, match="allow_context=False"):
        aligner.invoke("x", context=Context("c"))
    policy = Policy(asked=[])
    chat = ChatMetaAligner(policy=policy, engine=ScriptedEngine(), allow_context=False)
    with pytest.raises(InputTypeError, match="allow_context=False"):
        chat.invoke("q", context=Context("c"))
    assert policy.asked == []
    state = {"messages": [HumanMessage("q"), AIMessage("r")]}
    assert aligner.invoke(state)["messages"][0].text == "r (edited)"


@FACES
def test_in_shadow_mode_a_refused_context_never_touches_the_reply(face: Any) -> None:
    told: list[Any] = []
    a = face(allow_context=False, apply=False, on_edit=told.append)
    assert reply_of(a, context=Context("c")).text == "A reply."
    assert ["allow_context=False" in one.error for one in told] == [True]


KEYS = {"objectives": "aligner_objectives", "context": "aligner_context"}


@FACES_AND_WAYS
def test_other_keys_leave_those_of_an_application_alone(face: Any, way: str) -> None:
    a = face(config_keys=KEYS)
    theirs = {"objectives": {"kpi": 3}, "context": {"user": 1}}
    assert pursued(reply_of(a, way, **theirs)) == ["harmlessness", "helpfulness"]
    ours = {"aligner_objectives": iter(["honesty"]), "aligner_context": Context("theirs")}
    assert pursued(reply_of(a, way, **theirs, **ours)) == ["honesty"]


def test_other_keys_are_read_in_a_graphs_context_too_and_shown_in_the_schema() -> None:
    @dataclass
    class Theirs:
        objectives: int = 3
        goals: list[str] = field(default_factory=lambda: ["honesty"])

    middleware = MetaAlignerMiddleware(engine=ScriptedEngine(), config_keys={"objectives": "goals"})
    a = create_agent(Policy(), middleware=[middleware], context_schema=Theirs)
    made = a.invoke({"messages": [HumanMessage("q")]}, context=Theirs())
    assert pursued(made["messages"][-1]) == ["honesty"]
    aligner = MetaAlignerRunnable(engine=ScriptedEngine(), config_keys=KEYS)
    assert {one.id for one in aligner.config_specs} == set(KEYS.values())


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({"objectives": 5}, "int"),
        ({"objectives": [object()]}, "object"),
        ({"objectives": ["hunter2"]}, "hunter2"),
        ({"context": {"password": "hunter2"}}, "dict"),
        ({"context": 5}, "int"),
        ({"context": [{"page": "hunter2"}]}, "list of dict"),
    ],
)
@FACES
def test_what_is_wrong_under_our_keys_says_whose_they_are(
    face: Any, wrong: Any, found: str
) -> None:
    ((key, _),) = wrong.items()
    with pytest.raises((InputTypeError, UnknownObjectiveError)) as raised:
        reply_of(face(on_error="pass"), **wrong)
    assert found in str(raised.value)
    assert f"configurable[{key!r}]" in str(raised.value)
    assert "config_keys=" in str(raised.value)
    assert ("graph's context" in str(raised.value)) == (key == "objectives")
    assert key == "objectives" or "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "keys",
    [
        {"objective": "x"},
        {"objectives": 5},
        {"context": " "},
        {"objectives": "context"},
        {"objectives": "x", "context": "x"},
        ["objectives"],
    ],
)
@FACES
def test_keys_that_can_not_be_told_apart_are_refused(face: Any, keys: Any) -> None:
    with pytest.raises(ValidationError, match="config_keys"):
        face(config_keys=keys)
