from __future__ import annotations

import copy
import pickle
import threading

import pytest
from langchain_core.messages import AIMessage
from pydantic import ValidationError

from langchain_metaaligner import (
    Aligner,
    Alignment,
    EngineError,
    InputTypeError,
    LeakError,
    MetaAlignerError,
    Objective,
    UnknownObjectiveError,
)
from langchain_metaaligner.integrations.reply_policy import ReplySettings
from tests.unit_tests.scripted import ScriptedEngine

EDITED = Alignment(original="old", text="new", objectives=("humour",), model="m", family="f")


def settings(**options):
    return ReplySettings(engine=ScriptedEngine(), **options)


def names(objectives):
    return [one.name for one in objectives]


def test_what_is_asked_for_goes_before_the_instances_own():
    mine = settings(objectives=["humor"])
    assert names(mine.wanted(None)) == ["humour"]
    assert names(mine.wanted(["honesty", "length"])) == ["honesty", "length"]
    assert names(mine.wanted("honesty")) == ["honesty"]
    assert mine.wanted({"name": "a", "description": "Be a"}) == (Objective("a", "Be a"),)


def test_the_instances_own_objectives_are_always_allowed():
    mine = settings(objectives=["humour"], allow_objectives=["honesty"])
    assert names(mine.wanted(["humour", "honesty"])) == ["humour", "honesty"]
    with pytest.raises(UnknownObjectiveError, match="allow"):
        mine.wanted("length")


def test_an_edited_reply_is_a_new_message_and_text_is_text():
    reply = AIMessage("old", id="1", response_metadata={"a": 1})
    settled = settings().settle(reply, EDITED, None)
    assert settled is not reply
    assert (settled.content, settled.id) == ("new", "1")
    assert settled.response_metadata["a"] == 1
    assert settled.response_metadata["metaaligner"]["status"] == "edited"
    assert reply.response_metadata == {"a": 1}
    assert settings().settle("old", EDITED, None) == "new"


def test_a_skipped_reply_is_the_reply_itself_and_nobody_is_told():
    records = []
    reply = AIMessage("")
    skipped = Alignment(original="", text="", status="skipped")
    assert settings(on_edit=records.append).settle(reply, skipped, None) is reply
    assert not records


@pytest.mark.parametrize("error", [InputTypeError("x"), UnknownObjectiveError("x"), LeakError("x")])
@pytest.mark.parametrize("policy", ["raise", "pass", "block"])
def test_mistakes_in_the_code_around_are_raised_whatever_the_policy(policy, error):
    with pytest.raises(type(error)):
        settings(on_error=policy).settle(AIMessage("old"), error, None)


def test_the_record_of_a_failure_names_what_is_known():
    records = []
    mine = settings(on_edit=records.append, on_error="pass")
    mine.settle(AIMessage("old"), EngineError("down"), ["honesty"])
    mine.settle(AIMessage("old"), EngineError("down"), ["hnesty"])
    first, second = records
    assert first.objectives == ("honesty",)
    assert (first.model, first.family) == ("scripted", "HH-RLHF")
    assert first.error == "EngineError: down"
    assert second.objectives == ()


def test_an_error_of_another_package_follows_the_policy_too():
    with pytest.raises(RuntimeError):
        settings().settle("old", RuntimeError("x"), None)
    assert settings(on_error="pass").settle("old", RuntimeError("x"), None) == "old"


def test_what_has_been_read_can_be_replaced_by_no_policy():
    for policy in ("pass", "block"):
        with pytest.raises(MetaAlignerError):
            settings(on_error=policy).settle("old", EngineError("x"), None, begun=True)


def test_in_shadow_mode_the_reply_goes_out_and_the_edit_is_told():
    records = []
    mine = settings(apply=False, on_edit=records.append)
    settled = mine.settle(AIMessage("old"), EDITED, None)
    assert settled.content == "old"
    assert settled.response_metadata["metaaligner"]["status"] == "shadow"
    assert (records[0].original, records[0].text) == ("old", "new")
    assert mine.settle("old", UnknownObjectiveError("x"), ["x"]) == "old"
    assert mine.settle("old", EngineError("x"), None, begun=True) == "old"


def test_an_aligner_is_made_once_for_the_same_options():
    mine = settings()
    made = []
    threads = [threading.Thread(target=lambda: made.append(mine.get_aligner())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(one) for one in made}) == 1
    assert copy.copy(mine).get_aligner() is made[0]
    assert mine.model_copy(update={"on_error": "pass"}).get_aligner() is made[0]
    assert mine.model_copy(update={"max_new_tokens": 7}).get_aligner() is not made[0]


def test_pickled_settings_make_an_aligner_of_their_own():
    mine = settings()
    again = pickle.loads(pickle.dumps(mine))
    assert again.get_aligner() is not mine.get_aligner()


def test_a_given_aligner_is_the_one_that_edits():
    aligner = Aligner(engine=ScriptedEngine())
    assert ReplySettings(aligner=aligner).get_aligner() is aligner
    with pytest.raises(ValidationError, match="max_new_tokens"):
        ReplySettings(aligner=aligner, max_new_tokens=7)


def test_loading_and_closing_reach_the_aligner():
    class Heavy(ScriptedEngine):
        loaded = 0

        def load(self):
            self.loaded += 1

    engine = Heavy()
    mine = ReplySettings(engine=engine)
    assert mine.load() is mine
    assert engine.loaded == 1
    mine.close()
    assert mine.get_aligner().align("c", "a", "humour").text == "a (edited)"
