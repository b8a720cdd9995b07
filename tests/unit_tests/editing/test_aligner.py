from __future__ import annotations

import asyncio
import gc
import pickle
import re
import threading
import time

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage
from pydantic import ValidationError

from langchain_metaaligner import (
    Aligner,
    CheckpointError,
    Context,
    Edit,
    EditTimeout,
    EngineError,
    InputTypeError,
    MissingContextError,
    Objective,
    UnknownObjectiveError,
)
from langchain_metaaligner.editing import prompts
from langchain_metaaligner.editing.prompts import PromptFamily
from langchain_metaaligner.engines.base import TokenAgreement
from langchain_metaaligner.options import CAUTION, AlignerOptions
from tests.unit_tests.scripted import ScriptedEngine, StuckEngine, aligner_of, hh


def test_an_answer_is_edited_with_no_langchain_run_around_it():
    engine = ScriptedEngine("a better answer")
    alignment = aligner_of(engine).align("Human: hi Assistant:", "an answer", ["humour"])
    assert alignment.original == "an answer"
    assert alignment.text == "a better answer"
    assert alignment.changed
    assert alignment.status == "edited"
    assert alignment.objectives == ("humour",)
    assert alignment.model == "scripted"
    assert alignment.family == "HH-RLHF"
    assert alignment.finish_reason == "stop"
    assert alignment.seconds >= 0
    (request,) = engine.requests
    assert request.draft == "an answer"
    assert request.prompt.endswith(" | Context: Human: hi Assistant: | Answer: an answer | Edit: ")
    assert request.stop == ("\n\nHuman:",)
    assert request.temperature == 0
    assert request.deadline is None
    assert request.templated is False


def test_what_the_engine_tells_is_in_the_record():
    usage = {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}
    edit = Edit("a b", usage=usage, passes=3, agreement=-0.25)
    alignment = aligner_of(ScriptedEngine(edit)).align("c", "a", "humour")
    assert (alignment.usage, alignment.passes, alignment.agreement) == (usage, 3, -0.25)


class CautiousEngine(ScriptedEngine):
    keeps_caution = True


@pytest.mark.parametrize(
    ("options", "margin"),
    [({}, CAUTION), ({"caution": 1.5}, 1.5), ({"caution": 0}, 0.0), ({"temperature": 1.0}, 0.0)],
)
def test_an_engine_is_told_the_margin_and_the_record_says_it(options, margin):
    engine = CautiousEngine("edit")
    alignment = aligner_of(engine, **options).align("c", "a", "humour")
    assert engine.requests[0].caution == margin
    assert alignment.caution == alignment.provenance()["caution"] == margin


@pytest.mark.parametrize("options", [{}, {"caution": 0.0}])
def test_an_engine_that_keeps_no_margin_decodes_plainly_and_the_record_says_so(options):
    engine = ScriptedEngine("edit")
    alignment = aligner_of(engine, **options).load().align("c", "a", "humour")
    assert engine.requests[0].caution == alignment.provenance()["caution"] == 0


@pytest.mark.parametrize("edit", [Aligner.load, lambda one: one.align("c", "a", "humour")])
def test_a_margin_that_an_engine_can_not_keep_is_an_error(edit):
    with pytest.raises(CheckpointError, match=r"caution=1.5 .* 'scripted'"):
        edit(aligner_of(ScriptedEngine("edit"), caution=1.5))


def test_the_options_say_the_default_margin():
    said = AlignerOptions.model_fields["caution"].description
    assert f"`None` is {CAUTION:g} where" in said


@pytest.mark.parametrize("caution", [-1.0, float("nan"), float("inf"), "much"])
def test_a_margin_is_a_number_of_nats(caution):
    with pytest.raises(ValidationError, match="caution"):
        Aligner(caution=caution)


def test_a_margin_is_for_greedy_edits_only():
    with pytest.raises(ValidationError, match=r"caution=2.0 .* temperature=0.5 samples"):
        Aligner(caution=2.0, temperature=0.5)


def test_each_tokens_agreement_is_asked_for_and_has_its_place_in_the_original():
    def reply(request):
        # A token for each character of the answer as it stands in the prompt.
        odds = [TokenAgreement(i, i + 1, -float(i)) for i in range(len(request.draft))]
        return Edit(request.draft, token_agreement=tuple(odds) * request.token_agreement or None)

    engine, answer = ScriptedEngine(reply), "see | Edit: x and </s> there"
    engine.control_tokens = ("</s>",)
    alignment = aligner_of(engine, token_agreement=True).align("c", answer, "humour")
    assert engine.requests[0].draft != answer
    assert "".join(answer[a:b] for a, b, _ in alignment.token_agreement) == answer
    assert alignment.status == "unchanged"
    assert aligner_of(engine).align("c", answer, "humour").token_agreement is None


def test_an_edit_that_changes_nothing_says_so():
    alignment = aligner_of(ScriptedEngine("same")).align("c", "same", "humour")
    assert alignment.status == "unchanged"
    assert not alignment.changed


@pytest.mark.parametrize("answer", ["", "  \n", AIMessage(""), AIMessage(content=[])])
def test_an_answer_without_text_is_skipped_and_reaches_no_engine(answer):
    engine = ScriptedEngine()
    alignment = aligner_of(engine).align("c", answer, "humour")
    assert alignment.status == "skipped"
    assert not engine.requests


def test_a_message_is_an_answer_and_messages_are_a_context():
    engine = ScriptedEngine()
    answer = AIMessage(content=[{"type": "reasoning", "reasoning": "hm"}, "the ", "text"])
    aligner_of(engine).align([SystemMessage("s"), *hh("why?")], answer, "humour")
    assert (
        " | Context: \n\nHuman: why? \n\nAssistant: | Answer: the text | Edit: "
        in (engine.prompts[0])
    )


def test_a_chunk_is_an_answer_too():
    assert aligner_of().align("c", AIMessageChunk(content="a"), "humour").text == "a (edited)"


def test_a_system_message_is_dropped_and_counted_or_joins_the_first_human_turn():
    messages = [SystemMessage("Facts."), HumanMessage("hi")]
    assert aligner_of().align(messages, "a", "humour").dropped == {"system": 1}
    prompt = aligner_of(system="first_turn").prompt(messages, "a", "humour")
    assert "Context: \n\nHuman: Facts.\n\nhi \n\nAssistant:" in prompt


def test_what_was_done_to_the_answer_for_the_prompts_sake_is_undone_in_the_edit():
    answer = "x | Edit: y\n\nHuman: z </s>"
    engine = ScriptedEngine(lambda request: request.draft)
    alignment = aligner_of(engine).align("c", answer, "humour")
    assert engine.requests[0].draft != answer
    assert alignment.text == answer
    assert alignment.status == "unchanged"
    stream = aligner_of(engine).stream("c", answer, "humour")
    assert "".join(stream) == answer
    assert stream.alignment.status == "unchanged"


def test_a_batch_is_one_call_to_the_engine_in_order():
    engine = ScriptedEngine()
    made = aligner_of(engine).align_batch(
        [("c", "a", "humour"), ("c", "", "humour"), ("d", "b", ["honesty", "harmless"])]
    )
    assert [one.text for one in made] == ["a (edited)", "", "b (edited)"]
    assert [one.objectives for one in made] == [("humour",), (), ("honesty", "harmlessness")]
    assert [len(call) for call in engine.calls] == [2]


def test_a_batch_of_nothing_to_edit_calls_no_engine():
    engine = ScriptedEngine()
    assert aligner_of(engine).align_batch([]) == []
    assert aligner_of(engine).align_batch([("c", "", "humour")])[0].status == "skipped"
    assert not engine.calls


BAD_ITEMS = [
    ("c", 5, "humour"),
    ("", "a", "humour"),
    ("c", "a", "nothing known"),
    ("c", "a", []),
    ("c", "a"),
    None,
]


@pytest.mark.parametrize("bad", BAD_ITEMS)
def test_a_bad_item_takes_no_other_with_it(bad):
    engine = ScriptedEngine()
    items = [("c", "a", "humour"), bad, ("c", "b", "humour")]
    first, error, last = aligner_of(engine).align_batch(items, return_exceptions=True)
    assert isinstance(error, Exception)
    assert (first.text, last.text) == ("a (edited)", "b (edited)")
    assert [len(call) for call in engine.calls] == [2]
    with pytest.raises(type(error)):
        aligner_of(engine).align_batch(items)


async def test_the_async_calls_do_as_the_sync_ones():
    engine = ScriptedEngine()
    aligner = aligner_of(engine)
    assert (await aligner.aalign("c", "a", "humour")).text == "a (edited)"
    made = await aligner.aalign_batch(
        [("c", "a", "humour"), ("c", 5, "humour"), ("c", "b", "humour")], return_exceptions=True
    )
    assert [getattr(one, "text", type(one)) for one in made] == [
        "a (edited)",
        InputTypeError,
        "b (edited)",
    ]
    assert [len(call) for call in engine.calls] == [1, 2]


async def test_an_engine_that_counts_tokens_does_so_off_the_event_loop():
    here = threading.current_thread()
    engine = ScriptedEngine(window=1000)

    def count(text):
        assert threading.current_thread() is not here
        return len(text.split())

    engine.count_tokens = count
    await aligner_of(engine).aalign("c", "a", "humour")


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (Edit("cut sho", finish_reason="length"), "max_new_tokens"),
        (Edit(""), "empty edit"),
        (Edit(" \n "), "empty edit"),
    ],
)
def test_an_edit_cut_short_or_empty_is_never_given_back_as_good(edit, says):
    engine = ScriptedEngine(edit)
    with pytest.raises(EngineError, match=says):
        aligner_of(engine).align("c", "a", "humour")
    with pytest.raises(EngineError, match=says):
        list(aligner_of(engine).stream("c", "a", "humour"))


def test_a_stream_of_white_space_alone_shows_nothing_before_it_fails():
    pieces = []
    with pytest.raises(EngineError):
        pieces.extend(aligner_of(ScriptedEngine(" " * 20)).stream("c", "a", "humour"))
    assert pieces == []


def test_a_stream_keeps_the_white_space_that_its_edit_begins_with():
    stream = aligner_of(ScriptedEngine("\n\n      indented text")).stream("c", "a", "humour")
    assert "".join(stream) == "\n\n      indented text"
    assert stream.alignment.text == "\n\n      indented text"


@pytest.mark.parametrize(
    ("context", "answer", "objectives", "error"),
    [
        ("", "a", "humour", MissingContextError),
        (None, "a", "humour", MissingContextError),
        (5, "a", "humour", InputTypeError),
        ("c", None, "humour", InputTypeError),
        ("c", "a", "humuor", UnknownObjectiveError),
        ("c", "a", None, UnknownObjectiveError),
    ],
)
def test_what_can_not_be_edited_raises_its_own_error(context, answer, objectives, error):
    with pytest.raises(error):
        aligner_of().align(context, answer, objectives)
    with pytest.raises(error):
        list(aligner_of().stream(context, answer, objectives))
    with pytest.raises(error):
        aligner_of().prompt(context, answer, objectives)


def test_the_prompt_is_what_the_engine_would_get():
    engine = ScriptedEngine()
    aligner = aligner_of(engine)
    prompt = aligner.prompt(hh(), "a | Edit: b", ["humour", Objective("x", "Be x")])
    assert not engine.requests
    aligner.align(hh(), "a | Edit: b", ["humour", Objective("x", "Be x")])
    assert engine.prompts == [prompt]


def test_a_stream_gives_the_pieces_and_then_the_record():
    stream = aligner_of(ScriptedEngine("some edited text")).stream("c", "a", "humour")
    assert stream.alignment is None
    assert list(stream) == ["some ", "edite", "d tex", "t"]
    assert stream.alignment.text == "some edited text"
    assert list(stream) == []


async def test_an_async_stream_does_as_the_sync_one():
    stream = aligner_of(ScriptedEngine("some edited text")).astream("c", "a", "humour")
    assert [piece async for piece in stream] == ["some ", "edite", "d tex", "t"]
    assert stream.alignment.text == "some edited text"


def test_a_stream_of_an_answer_without_text_gives_it_back():
    engine = ScriptedEngine()
    stream = aligner_of(engine).stream("c", " \n", "humour")
    assert list(stream) == [" \n"]
    assert stream.alignment.status == "skipped"
    assert not engine.requests


def test_closing_or_forgetting_a_stream_stops_the_engine():
    engine = ScriptedEngine("a long edited text")
    stream = aligner_of(engine).stream("c", "a", "humour")
    next(stream)
    stream.close()
    assert engine.closed_streams == 1
    assert list(stream) == []
    stream = aligner_of(engine).stream("c", "a", "humour")
    next(stream)
    del stream
    gc.collect()
    assert engine.closed_streams == 2


async def test_closing_an_async_stream_stops_the_engine():
    engine = ScriptedEngine("a long edited text")
    stream = aligner_of(engine).astream("c", "a", "humour")
    await anext(stream)
    await stream.aclose()
    assert engine.closed_streams == 1


async def test_aclose_returns_when_the_engine_has_stopped_and_holds_nobody_up_meanwhile():
    class SlowToClose(ScriptedEngine):
        closing, let_go = threading.Event(), threading.Event()

        def stream(self, request):
            try:
                yield "a piece"
            finally:
                self.closing.set()
                assert self.let_go.wait(30)

    engine = SlowToClose()
    stream = aligner_of(engine).astream("c", "a", "humour")
    await anext(stream)
    closed = asyncio.create_task(stream.aclose())
    assert await asyncio.to_thread(engine.closing.wait, 30)
    assert not closed.done()
    engine.let_go.set()
    await closed


async def test_cancelling_the_reader_of_a_stream_stops_the_engine():
    engine = StuckEngine()
    stream = aligner_of(engine).astream("c", "a", "humour")
    await anext(stream)
    task = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    engine.let_go.set()
    assert await asyncio.to_thread(engine.stream_closed.wait, 30)


def test_a_timeout_ends_the_waiting_for_an_engine_that_knows_no_deadlines():
    engine = StuckEngine()
    aligner = aligner_of(engine, timeout=0.05)
    with pytest.raises(EditTimeout, match="timeout="):
        aligner.align("c", "a", "humour")
    stream = aligner.stream("c", "a", "humour")
    with pytest.raises(EditTimeout):
        list(stream)
    engine.let_go.set()
    assert engine.stream_closed.wait(30)


def by(way, aligner):
    """One edit by a face of the aligner, to its end."""

    async def tasks():
        if way == "astream":
            return [piece async for piece in aligner.astream("c", "a", "humour")]
        return await getattr(aligner, way)(*given)

    given = ([("c", "a", "humour")],) if way.endswith("batch") else ("c", "a", "humour")
    if way.startswith("a") and way not in ("align", "align_batch"):
        return asyncio.run(tasks())
    made = getattr(aligner, way)(*given)
    return list(made) if way == "stream" else made


WAYS = ["align", "align_batch", "stream", "aalign", "aalign_batch", "astream"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("hangs", ["count_tokens", "apply_chat_template", "family_hint"])
def test_a_timeout_ends_a_preparation_that_takes_too_long(way, hangs):
    over = threading.Event()

    class Slow(ScriptedEngine):
        keeps_deadlines = True
        window = 500 if hangs == "count_tokens" else None

        @property
        def family_hint(self):
            return over.wait(30) and "IMHI" if hangs == "family_hint" else None

        def count_tokens(self, text):
            return over.wait(30) and len(text)

        def apply_chat_template(self, messages):
            return over.wait(30) and "prompt"

    family = {"family": "instruct"} if hangs == "apply_chat_template" else {}
    engine = Slow()
    began = time.monotonic()
    with pytest.raises(EditTimeout, match="timeout="):
        by(way, aligner_of(engine, timeout=0.05, **family))
    assert time.monotonic() - began < 5
    assert not engine.requests
    over.set()


async def test_a_timeout_holds_behind_many_streams_which_leave_the_loops_threads_alone():
    over = threading.Event()

    class Slow(ScriptedEngine):
        keeps_deadlines = True

        def __init__(self):
            super().__init__()
            self.threads = set()

        def stream(self, request):
            self.threads.add(threading.get_ident())
            assert over.wait(30)
            yield "edit"

    async def read(stream):
        return [piece async for piece in stream]

    engine = Slow()
    slow = aligner_of(engine)
    streams = [asyncio.create_task(read(slow.astream("c", "a", "humour"))) for _ in range(100)]
    await asyncio.sleep(0.05)
    for one in (engine, Slow()):  # one waits for a thread, the other for its first piece
        async with asyncio.timeout(20):  # the engine goes on for 30 seconds
            with pytest.raises(EditTimeout):
                await read(aligner_of(one, timeout=0.1).astream("c", "a", "humour"))
    assert asyncio.get_running_loop()._default_executor is None
    assert len(engine.threads) <= 64
    for stream in streams[:90]:
        stream.cancel()
    over.set()
    await asyncio.gather(*streams[:90], return_exceptions=True)
    assert await asyncio.gather(*streams[90:]) == [["edit"]] * 10


@pytest.mark.parametrize("limit", [None, 30])
async def test_an_engines_own_async_stream_is_read_in_the_loop(limit):
    class Async(ScriptedEngine):
        async def astream(self, request):
            try:
                yield threading.current_thread().name
                yield " an edit"
            finally:
                self.closed = True

    engine = Async()
    stream = aligner_of(engine, timeout=limit).astream("c", "a", "humour")
    assert await anext(stream) == threading.current_thread().name
    await stream.aclose()
    assert engine.closed
    assert [piece async for piece in stream] == []
    assert stream.alignment is None


async def test_a_timeout_ends_an_async_stream_that_knows_no_deadlines():
    class Stuck(ScriptedEngine):
        async def astream(self, request):
            await asyncio.sleep(30)
            yield "late"

    with pytest.raises(EditTimeout):
        await anext(aligner_of(Stuck(), timeout=0.05).astream("c", "a", "humour"))


def test_a_timeout_becomes_the_requests_deadline():
    engine = ScriptedEngine()
    engine.keeps_deadlines = True
    aligner_of(engine, timeout=60).align("c", "a", "humour")
    assert engine.requests[0].deadline is not None


@pytest.mark.parametrize("way", ["align", "stream"])
def test_a_timeout_counts_what_it_takes_to_find_the_family(way):
    class Asked(ScriptedEngine):
        keeps_deadlines = True

        @property
        def family_hint(self):
            self.asked_at = time.monotonic()
            return "IMHI"

    engine = Asked()
    made = getattr(aligner_of(engine, timeout=60), way)("c", "a", "humour")
    assert list(made) if way == "stream" else made
    assert engine.requests[0].deadline <= engine.asked_at + 60


def test_the_options_of_decoding_reach_the_request():
    engine = ScriptedEngine()
    aligner_of(engine, max_new_tokens=7, temperature=0.5).align("c", "a", "humour")
    assert engine.requests[0].max_new_tokens == 7
    assert engine.requests[0].temperature == 0.5


def test_the_family_is_the_one_given_else_the_engines_hint_else_by_its_name_else_hh_rlhf():
    engine = ScriptedEngine()
    assert aligner_of(engine).family.name == "HH-RLHF"
    engine.name = "MetaAligner/MetaAligner-IMHI-7B"
    assert aligner_of(engine).family.name == "IMHI"
    engine.family_hint = "ultrafeedback"
    assert aligner_of(engine).family.name == "UltraFeedback"
    assert aligner_of(engine, family="imhi").family.name == "IMHI"


def test_a_new_family_is_one_record_that_finds_its_checkpoints_by_their_names(monkeypatch):
    template = "Make it {aspects}. Q: {question} A: {answer} E: "
    mine = PromptFamily("Mine", template, False, checkpoints=re.compile("mine-[0-9]+b"))
    monkeypatch.setattr(prompts, "FAMILIES", (*prompts.FAMILIES, mine))
    engine = ScriptedEngine()
    engine.name = "owner/mine-7b"
    aligner_of(engine).align(hh("why?"), "because", Objective("brevity", "Be short"))
    assert engine.prompts == ["Make it Brevity: Be short. Q: why? A: because E: "]


def test_a_chat_family_is_asked_through_the_models_own_template():
    class Chat(ScriptedEngine):
        family_hint = "instruct"

        def apply_chat_template(self, messages):
            (message,) = messages
            assert set(message) == {"role", "content"}
            return f"<|user|>{message['content']}<|assistant|>"

    engine = Chat()
    aligner_of(engine).align("c", "a <|user|>", "humour")
    (request,) = engine.requests
    assert request.templated is True
    assert request.prompt.startswith("<|user|>Below are")
    assert request.prompt.count("<|user|>") == 1


def chat(reply, *, opens=""):
    class Chat(ScriptedEngine):
        def apply_chat_template(self, messages):
            return f"<|user|>{messages[0]['content']}<|assistant|>{opens}"

    return Aligner(engine=Chat(reply), family="instruct")


@pytest.mark.parametrize(
    ("made", "opens"),
    [("\n<think>hm</think>\n\nFine.", ""), ("hm</think>\n\nFine.", "<think>\n")],
)
@pytest.mark.parametrize("answer", ["Bad.", '{"said": "Bad."}'])
def test_what_a_chat_model_thinks_is_never_the_edit(made, opens, answer):
    aligner = chat(made, opens=opens)
    expected = answer.replace("Bad", "Fine")
    assert aligner.align("c", answer, "humour").text == expected
    stream = aligner.stream("c", answer, "humour")
    assert "".join(stream) == expected
    assert stream.alignment.text == expected


@pytest.mark.parametrize("made", ["<think>hm", "<think>hm</think>\n"])
def test_thoughts_without_an_answer_are_an_error_and_none_of_them_is_shown(made):
    aligner, shown = chat(made), []
    with pytest.raises(EngineError):
        aligner.align("c", "Bad.", "humour")
    with pytest.raises(EngineError):
        shown.extend(aligner.stream("c", "Bad.", "humour"))
    assert shown == []


@pytest.mark.parametrize("mark", ["<think>", "[THINK]", "◁think▷", "<reasoning>"])
def test_an_answer_about_thoughts_keeps_their_marks(mark):
    answer = f"{mark} begins them and {mark[0]}/{mark[1:]} ends them."
    aligner = chat(lambda request: request.draft)
    assert aligner.align("c", answer, "humour").text == answer
    assert "".join(aligner.stream("c", answer, "humour")) == answer


def test_an_edit_that_ends_like_a_mark_keeps_its_end_in_a_stream():
    assert "".join(chat("a <").stream("c", "Bad.", "humour")) == "a <"


def test_in_other_families_marks_of_thoughts_are_text():
    aligner = aligner_of(ScriptedEngine("<think>hm</think> x"))
    assert aligner.align("c", "Bad.", "humour").text == "<think>hm</think> x"


def test_an_unknown_family_or_option_is_refused_when_the_aligner_is_made():
    with pytest.raises(CheckpointError, match="UltraFeedback"):
        Aligner(engine=ScriptedEngine(), family="rlhf")
    with pytest.raises(ValidationError, match="max_tokens"):
        Aligner(engine=ScriptedEngine(), max_tokens=5)


def test_load_and_close_reach_an_engine_that_has_them_and_leave_a_given_one_open():
    class Heavy(ScriptedEngine):
        loaded = closed = 0

        def load(self):
            self.loaded += 1

        def close(self):
            self.closed += 1

    engine = Heavy()
    aligner = aligner_of(engine)
    assert aligner.load() is aligner
    aligner.close()
    assert (engine.loaded, engine.closed) == (1, 0)
    assert aligner.align("c", "a", "humour").text == "a (edited)"
    plain = aligner_of()
    plain.load().close()


def test_an_aligner_survives_pickling():
    aligner = pickle.loads(pickle.dumps(aligner_of(ScriptedEngine("edit"), max_new_tokens=7)))
    assert aligner.options.max_new_tokens == 7
    assert aligner.align("c", "a", "humour").text == "edit"


def test_a_hundred_threads_share_an_aligner_and_swap_nothing():
    engine = ScriptedEngine(lambda request: f"edit of {request.draft}")
    aligner = aligner_of(engine)
    made = {}

    def one(i):
        made[i] = aligner.align(f"c{i}", f"a{i}", "humour").text

    threads = [threading.Thread(target=one, args=(i,)) for i in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == {i: f"edit of a{i}" for i in range(100)}


def test_a_context_that_is_an_object_hides_its_text():
    assert "secret" not in repr(aligner_of().align(Context("my secret"), "a secret", "humour"))


def test_a_stream_of_an_engine_that_has_ended_is_closed():
    closed = []

    class Source:
        def __init__(self):
            self._left = ["one", " two"]

        def __iter__(self):
            return self

        def __next__(self):
            if not self._left:
                raise StopIteration
            return self._left.pop(0)

        def close(self):
            closed.append(True)

    class Engine(ScriptedEngine):
        def stream(self, request):
            return Source()

    assert "".join(Aligner(engine=Engine()).stream("q", "draft", "humour")) == "one two"
    assert closed == [True]
