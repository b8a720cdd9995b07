"""What earlier versions wrote can be read, and what this one writes survives the next move."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import pickletools
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.load import load
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from pydantic import PrivateAttr

import langchain_metaaligner
from langchain_metaaligner import (
    Aligner,
    Alignment,
    AnswerTooLongError,
    ChatMetaAligner,
    Context,
    MetaAlignerMiddleware,
    MetaAlignerRunnable,
    Objective,
)
from langchain_metaaligner.testing import ScriptedEngine

OLD = json.loads((Path(__file__).parent / "data" / "made_by_0_1.json").read_text(encoding="utf-8"))
RHYME = Objective("rhyme", "The response should rhyme")
RECORDS = {
    "Alignment": Alignment(
        original="a reply",
        text="an edit",
        objectives=("readability",),
        model="org/aligner",
        family="hh_rlhf",
        status="edited",
    ),
    "Context": Context("the conversation"),
    "Objective": RHYME,
}


def old(name: str) -> Any:
    return pickle.loads(base64.b64decode(OLD["pickles"][name]))


def is_the_old_runnable(found: Any) -> bool:
    return (
        type(found) is MetaAlignerRunnable
        and tuple(found.objectives) == ("readability", RHYME)
        and (found.model, found.family, found.max_new_tokens) == ("org/aligner", "hh_rlhf", 77)
        and (found.on_error, found.keep_original) == ("pass", True)
    )


def test_a_runnable_of_0_1_has_its_options_and_today_s_defaults():
    found = old("MetaAlignerRunnable")
    assert is_the_old_runnable(found)
    today = MetaAlignerRunnable(
        ["readability", RHYME],
        model="org/aligner",
        family="hh_rlhf",
        max_new_tokens=77,
        on_error="pass",
        keep_original=True,
    )
    assert found.model_dump() == today.model_dump()
    assert found.model_fields_set <= today.model_fields_set


@pytest.mark.parametrize("name", ["pipe", "pipe with retry"])
def test_a_pipe_of_0_1_ends_in_its_aligner_and_is_hushed(name):
    found = old(name)
    sequence = getattr(found, "bound", found)
    assert is_the_old_runnable(sequence.steps[-1])
    assert "nostream" in sequence.steps[-2].config["tags"]


def test_a_pipe_of_0_1_edits():
    *before, _ = old("pipe").steps
    step = old("MetaAlignerRunnable").model_copy(
        update={"engine": ScriptedEngine("an edit"), "model": None}
    )
    assert (before[0] | before[1] | step).invoke({"question": "q"}).text == "an edit"


def test_a_chat_model_of_0_1_has_its_policy_and_options():
    found = old("ChatMetaAligner")
    assert type(found) is ChatMetaAligner
    assert found.policy.responses == ["a reply"]
    assert (found.objectives, found.model) == (("readability",), "org/aligner")
    assert found.max_queue == ChatMetaAligner(policy=found.policy).max_queue


def test_a_middleware_of_0_1_has_its_options():
    found = old("MetaAlignerMiddleware")
    assert type(found) is MetaAlignerMiddleware
    assert found.tools == []
    assert (found.options.objectives, found.options.on_error) == (("readability",), "block")
    assert found.options.model == "org/aligner"


def test_an_aligner_of_0_1_has_its_options():
    found = old("Aligner")
    assert type(found) is Aligner
    assert (found.options.model, found.options.max_new_tokens) == ("org/aligner", 77)
    assert found.family.name == "HH-RLHF"


def test_the_settings_of_0_1_have_the_options_that_were_given():
    found = old("AlignerSettings")
    assert (found.model, found.timeout) == ("org/aligner", 3)
    assert found.dtype == Aligner("org/aligner").options.dtype


def test_a_hushed_model_of_0_1_is_hushed():
    found = old("hushed")
    assert set(found.config["tags"]) == {"nostream", "metaaligner:hush"}
    assert found.invoke("q").text == "a reply"


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_of_0_1_is_equal_to_today_s(name):
    assert old(name) == RECORDS[name]


def test_an_error_of_0_1_is_the_same_kind_with_the_same_words():
    found = old("AnswerTooLongError")
    assert type(found) is AnswerTooLongError
    assert str(found) == "too long"


def test_a_checkpoint_of_0_1_holds_today_s_records():
    kind, data = OLD["checkpoint"]
    found = JsonPlusSerializer().loads_typed((kind, base64.b64decode(data)))
    assert found["objective"] == RECORDS["Objective"]
    assert found["context"] == RECORDS["Context"]


@pytest.mark.filterwarnings("ignore:The function `load` is in beta")
@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (MetaAlignerRunnable, {"objectives": ["readability"]}),
        (ChatMetaAligner, {"policy": FakeListChatModel(responses=["a reply"])}),
    ],
)
def test_ids_stand_at_the_root_and_those_of_0_1_still_load(kind, arguments):
    today, before = kind.lc_id(), OLD["ids"][kind.__name__]
    assert today == ["langchain_metaaligner", kind.__name__]
    # A list of allowed classes allows today's ids alone; LangChain wants the others named.
    for renamed in ({}, {tuple(before): tuple(before)}):
        found = load(
            {"lc": 1, "type": "constructor", "id": before if renamed else today}
            | {"kwargs": arguments},
            allowed_objects="all" if renamed else [kind],
            valid_namespaces=["langchain_metaaligner"],
            additional_import_mappings=renamed,
        )
        assert type(found) is kind


class Mine(MetaAlignerRunnable):
    """A user's own kind of aligner."""

    house: str = "ours"
    _count: int = PrivateAttr(default=0)


class MyMiddleware(MetaAlignerMiddleware):
    """A user's own kind of middleware."""

    count = 0


def test_a_subclass_has_its_own_id_and_all_its_state_in_a_pickle():
    assert Mine.lc_id() == [*Mine.__module__.split("."), "Mine"]
    mine = Mine(["readability"], house="theirs")
    mine._count = 3
    again = pickle.loads(pickle.dumps(mine))
    assert (type(again), again.objectives) == (Mine, ("readability",))
    assert (again.house, again._count) == ("theirs", 3)
    middleware = MyMiddleware(["readability"])
    middleware.count = 3
    again = pickle.loads(pickle.dumps(middleware))
    assert (type(again), again.options.objectives) == (MyMiddleware, ("readability",))
    assert again.count == 3


PUBLIC = {
    **RECORDS,
    "MetaAlignerRunnable": MetaAlignerRunnable(["readability", RHYME], timeout=2, dtype="float32"),
    "ChatMetaAligner": ChatMetaAligner(policy=FakeListChatModel(responses=["r"]), max_queue=3),
    "MetaAlignerMiddleware": MetaAlignerMiddleware(["readability"], on_error="block"),
    "Aligner": Aligner("org/aligner", family="hh_rlhf", max_new_tokens=77),
    "error": AnswerTooLongError("too long"),
}


def options_of(one: Any) -> Any:
    return one.model_dump() if hasattr(one, "model_dump") else vars(one)["options"].model_dump()


@pytest.mark.parametrize("name", PUBLIC)
def test_a_pickle_names_no_module_that_may_move(name):
    made = PUBLIC[name]
    data = pickle.dumps(made)
    named = {
        argument
        for _, argument, _ in pickletools.genops(data)
        if isinstance(argument, str) and argument.startswith("langchain_metaaligner.")
    }
    tops = {"langchain_metaaligner." + top for top in ("errors", "options", "pickles")}
    assert named <= tops
    again = pickle.loads(data)
    assert type(again) is type(made)
    if name in RECORDS:
        assert again == made
    elif name != "error":
        assert options_of(again) == options_of(made)


def test_a_copy_keeps_what_a_pickle_leaves_out():
    made = MetaAlignerRunnable(["readability"], token="hf_secret")
    assert copy.deepcopy(made).token == made.token
    assert pickle.loads(pickle.dumps(made)).token is None


def test_the_modules_of_0_1_are_for_reading_alone():
    moved = Path(langchain_metaaligner.__file__).parent / "_moved_0_1"
    for module in moved.glob("*.py"):
        assert not (moved.parent / module.name).exists()
