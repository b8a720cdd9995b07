from __future__ import annotations

import copy
import json
import pickle
import threading
from dataclasses import dataclass
from functools import partial

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import ValidationError

from langchain_metaaligner import (
    Aligner,
    Alignment,
    ChatMetaAligner,
    CheckpointError,
    Context,
    EngineError,
    InputTypeError,
    LeakError,
    MetaAlignerError,
    MetaAlignerMiddleware,
    MetaAlignerRunnable,
    Objective,
    UnknownObjectiveError,
)
from langchain_metaaligner.integrations.reply_policy import FaceOptions, ReplyPolicy
from tests.unit_tests.integrations.ways import by_turns, run
from tests.unit_tests.scripted import ScriptedEngine

EDITED = Alignment(original="old", text="new", objectives=("humour",), model="m", family="f")


def policy_with(**options):
    return ReplyPolicy(FaceOptions(engine=ScriptedEngine(), **options))


def names(objectives):
    return [one.name for one in objectives]


def test_what_is_asked_for_goes_before_the_instances_own():
    mine = policy_with(objectives=["humor"])
    assert names(mine.wanted(None)) == ["humour"]
    assert names(mine.wanted(["honesty", "length"])) == ["honesty", "length"]
    assert names(mine.wanted("honesty")) == ["honesty"]
    assert mine.wanted({"name": "a", "description": "Be a"}) == (Objective("a", "Be a"),)


def test_the_instances_own_objectives_are_always_allowed():
    mine = policy_with(objectives=["humour"], allow_objectives=["honesty"])
    assert names(mine.wanted(["humour", "honesty"])) == ["humour", "honesty"]
    with pytest.raises(UnknownObjectiveError, match="allow"):
        mine.wanted("length")


def test_an_edited_reply_is_a_new_message_and_text_is_text():
    reply = AIMessage("old", id="1", response_metadata={"a": 1})
    settled = policy_with().settle(reply, EDITED, None)
    assert settled is not reply
    assert (settled.content, settled.id) == ("new", "1")
    assert settled.response_metadata["a"] == 1
    assert settled.response_metadata["metaaligner"]["status"] == "edited"
    assert reply.response_metadata == {"a": 1}
    assert policy_with().settle("old", EDITED, None) == "new"


def test_the_record_of_an_edit_says_what_was_left_alone():
    told = []
    reply = AIMessage(["old", {"type": "refusal", "refusal": "I refuse."}])
    settled = policy_with(on_edit=told.append).settle(reply, EDITED, None)
    made = settled.response_metadata["metaaligner"]
    assert (made["status"], made["reason"], told[0].reason) == ("edited", "refusal", "refusal")
    settled = policy_with(edit_refusals=True).settle(reply, EDITED, None)
    assert "reason" not in settled.response_metadata["metaaligner"]


def test_a_skipped_reply_is_the_reply_itself_and_nobody_is_told():
    records = []
    reply = AIMessage("")
    skipped = Alignment(original="", text="", status="skipped")
    assert policy_with(on_edit=records.append).settle(reply, skipped, None) is reply
    assert not records


@pytest.mark.parametrize(
    "kind", [CheckpointError, InputTypeError, UnknownObjectiveError, LeakError]
)
@pytest.mark.parametrize("policy", ["raise", "pass", "block"])
def test_mistakes_around_the_aligner_are_raised_whatever_the_policy(policy, kind):
    with pytest.raises(kind):
        policy_with(on_error=policy).settle(AIMessage("old"), kind("x"), None)


def test_in_shadow_mode_a_model_that_cannot_be_used_is_reported_and_the_reply_goes_out(caplog):
    records = []
    shadow = policy_with(apply=False, on_edit=records.append)
    assert shadow.settle(AIMessage("old"), CheckpointError("gone"), None).content == "old"
    assert records[0].error == "CheckpointError: gone"
    assert "gone" in caplog.text


def test_the_record_of_a_failure_names_what_is_known():
    records = []
    mine = policy_with(on_edit=records.append, on_error="pass")
    mine.settle(AIMessage("old"), EngineError("down"), ["honesty"])
    mine.settle(AIMessage("old"), EngineError("down"), ["hnesty"])
    first, second = records
    assert first.objectives == ("honesty",)
    assert (first.model, first.family) == ("scripted", "HH-RLHF")
    assert first.error == "EngineError: down"
    assert second.objectives == ()


def test_an_error_of_another_package_follows_the_policy_too():
    with pytest.raises(RuntimeError):
        policy_with().settle("old", RuntimeError("x"), None)
    assert policy_with(on_error="pass").settle("old", RuntimeError("x"), None) == "old"


def test_a_message_that_can_not_be_copied_goes_out_as_it_is_or_not_at_all():
    class Stiff(AIMessage):
        def model_copy(self, **kwargs):
            raise TypeError("no copies")

    reply = Stiff("old")
    for options in ({"on_error": "pass"}, {"apply": False}):
        records = []
        mine = policy_with(on_edit=records.append, **options)
        assert mine.settle(reply, EDITED, None) is reply
        assert [one.status for one in records] == ["passed"]
    for policy in ("raise", "block"):
        with pytest.raises(TypeError, match="no copies"):
            policy_with(on_error=policy).settle(reply, EDITED, None)


def test_what_has_been_read_can_be_replaced_by_no_policy():
    for policy in ("pass", "block"):
        with pytest.raises(MetaAlignerError):
            policy_with(on_error=policy).settle("old", EngineError("x"), None, begun=True)


def test_in_shadow_mode_the_reply_goes_out_and_the_edit_is_told():
    records = []
    mine = policy_with(apply=False, on_edit=records.append)
    settled = mine.settle(AIMessage("old"), EDITED, None)
    assert settled.content == "old"
    assert settled.response_metadata["metaaligner"]["status"] == "shadow"
    assert (records[0].original, records[0].text) == ("old", "new")
    assert mine.settle("old", UnknownObjectiveError("x"), ["x"]) == "old"
    assert mine.settle("old", EngineError("x"), None, begun=True) == "old"


def test_an_aligner_is_made_once_for_the_same_options():
    mine = FaceOptions(engine=ScriptedEngine())
    made = []
    threads = [
        threading.Thread(target=lambda: made.append(ReplyPolicy(mine).aligner)) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(one) for one in made}) == 1
    assert ReplyPolicy(copy.copy(mine)).aligner is made[0]
    assert ReplyPolicy(mine.model_copy(update={"on_error": "pass"})).aligner is made[0]
    assert ReplyPolicy(mine.model_copy(update={"max_new_tokens": 7})).aligner is not made[0]


def test_engines_that_are_equal_are_not_the_same():
    @dataclass
    class Equal:
        name: str = "equal"

        def edit(self, requests):
            return []

    mine = FaceOptions(engine=Equal())
    other = mine.model_copy(update={"engine": Equal()})
    assert ReplyPolicy(other).aligner.engine is other.engine


def test_pickled_options_make_an_aligner_of_their_own():
    mine = FaceOptions(engine=ScriptedEngine())
    again = pickle.loads(pickle.dumps(mine))
    assert ReplyPolicy(again).aligner is not ReplyPolicy(mine).aligner


def test_a_given_aligner_is_the_one_that_edits():
    aligner = Aligner(engine=ScriptedEngine())
    assert ReplyPolicy(FaceOptions(aligner=aligner)).aligner is aligner
    with pytest.raises(ValidationError, match="max_new_tokens"):
        FaceOptions(aligner=aligner, max_new_tokens=7)
    with pytest.raises(ValidationError, match="an engine as engine="):
        FaceOptions(aligner=ScriptedEngine())


@pytest.mark.parametrize("face", [MetaAlignerRunnable, MetaAlignerMiddleware, ChatMetaAligner])
def test_loading_and_closing_reach_the_aligner(face):
    class Heavy(ScriptedEngine):
        loaded = 0

        def load(self):
            self.loaded += 1

    engine = Heavy()
    policy = {"policy": FakeListChatModel(responses=["a"])} if face is ChatMetaAligner else {}
    mine = face(engine=engine, **policy)
    assert mine.load() is mine
    assert engine.loaded == 1
    mine.close()
    mine.load()
    assert engine.loaded == 2


NOT_TO_BE_HAD = {
    "an object": {"engine": object()},
    "a chat model": {"engine": FakeListChatModel(responses=["a"])},
    "a file": {"model": "x.gguf"},
    "a server": {"model": "http://localhost:8000/v1", "adapter": "chosen-there"},
    "a folder": {"model": "./not-there"},
    "an adapter": {"adapter": "./not-there"},
}
CHAT = partial(ChatMetaAligner, FakeListChatModel(responses=["a"]))
FACES = [MetaAlignerRunnable, MetaAlignerMiddleware, CHAT, Aligner]


@pytest.mark.parametrize("face", FACES)
def test_a_model_that_cannot_be_had_is_refused_by_the_constructor_of_each_face(face):
    for options in NOT_TO_BE_HAD.values():
        with pytest.raises(CheckpointError):
            face(**options)


@pytest.mark.parametrize(
    ("what", "on_error", "apply"),
    by_turns(NOT_TO_BE_HAD, ["raise", "pass", "block"], [True, False]),
)
def test_no_policy_lets_it_pass(what, on_error, apply):
    with pytest.raises(CheckpointError):
        MetaAlignerRunnable(**NOT_TO_BE_HAD[what], on_error=on_error, apply=apply)


def test_a_thousand_failures_are_a_few_lines_in_the_log(caplog):
    def note(_):
        raise ValueError("a broken report")

    engine = ScriptedEngine(ConnectionError("lost"))
    aligner = MetaAlignerRunnable(engine=engine, on_error="pass", on_edit=note)
    context = {"configurable": {"context": Context("c")}}
    for _ in range(50):
        aligner.batch(["x"] * 4, context)
        copy.copy(aligner).invoke("x", context)
    assert caplog.text.count("The reply was not edited (passed)") == 1
    assert caplog.text.count("on_edit raised an error") == 1


QUOTING = {
    "the prompt": lambda request: ValueError(f"invalid prompt: {request.prompt}"),
    "its repr": lambda request: ValueError(f"400: {{'prompt': {request.prompt!r}}}"),
    "as JSON": lambda request: OSError(json.dumps({"input": request.prompt, "code": 3})),
    "the answer": lambda request: RuntimeError(f"can't edit {request.draft!r}"),
    "by itself": lambda request: EngineError(f"rejected: {request.prompt}"),
}


@pytest.mark.parametrize("quoted", QUOTING)
@pytest.mark.parametrize("answer", ["zorp quib", "Größe\u4f60\u597d zorp\nquib, and so on"])
def test_an_engines_error_goes_into_logs_and_records_without_the_texts(quoted, answer, caplog):
    def fail(request):
        raise QUOTING[quoted](request)

    told = []
    for way in ("invoke", "ainvoke", "batch", "abatch", "stream", "astream"):
        aligner = MetaAlignerRunnable(
            engine=ScriptedEngine(fail), on_error="pass", on_edit=told.append
        )
        config = {"configurable": {"context": [HumanMessage("my PIN is 4711 today")]}}
        reply = run(aligner, AIMessage(answer), way, config)
        assert reply.text == answer
        said = reply.response_metadata["metaaligner"]["error"]
        for text in (said, told[-1].error, caplog.text):
            for secret in ("4711", "zorp", "quib", "\u4f60", "\\u4f60"):
                assert secret not in text
            assert "EngineError" in said
    assert len(told) == 6


def test_what_a_tokenizer_quotes_is_cut_as_well(caplog):
    class Quotes(ScriptedEngine):
        window = 500

        def count_tokens(self, text):
            raise ValueError(f"no token for {text!r}")

    aligner = MetaAlignerRunnable(engine=Quotes(), on_error="pass")
    config = {"configurable": {"context": [HumanMessage("my PIN is 4711 today")]}}
    aligner.invoke(AIMessage("zorp quib"), config)
    assert "no token for" in caplog.text
    for secret in ("4711", "zorp"):
        assert secret not in caplog.text


def test_what_a_users_function_quotes_is_cut_as_well():
    def when(reply, _):
        raise KeyError(reply.text)

    aligner = MetaAlignerRunnable(engine=ScriptedEngine(), on_error="pass", when=when)
    reply = aligner.invoke(AIMessage("zorp quib"), {"configurable": {"context": Context("c")}})
    assert "zorp" not in reply.response_metadata["metaaligner"]["error"]
