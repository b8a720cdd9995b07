from __future__ import annotations

import time

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompt_values import ChatPromptValue, StringPromptValue

from langchain_metaaligner import (
    Aligner,
    AnswerTooLongError,
    Context,
    Edit,
    EditTimeout,
    EngineError,
    InputTypeError,
    MissingContextError,
    Request,
)
from langchain_metaaligner.editing.aligner import AlignmentStream
from langchain_metaaligner.editing.objectives import parse_objectives
from langchain_metaaligner.editing.pending_edit import (
    Part,
    PendingEdit,
    finish_all,
    read_context,
    stream_pending,
)
from langchain_metaaligner.editing.prompts import HH_RLHF
from langchain_metaaligner.engines.base import Engine, TokenAgreement, as_engine
from langchain_metaaligner.testing import ScriptedEngine as CopyingEngine
from tests.unit_tests.scripted import ScriptedEngine, aligner_of

TALK = [
    HumanMessage("one two three"),
    AIMessage("four five"),
    HumanMessage("six seven eight nine"),
]


@pytest.mark.parametrize("context", [None, "", " \n", [], (), Context(""), [AIMessage("")]])
def test_nothing_is_no_context_and_the_error_says_how_to_give_one(context):
    with pytest.raises(MissingContextError, match="configurable") as raised:
        read_context(context)
    assert "llm | aligner" in str(raised.value)
    assert "Context(text)" in str(raised.value)


def test_a_system_message_alone_is_no_context():
    with pytest.raises(MissingContextError):
        read_context([SystemMessage("Be brief.")])


@pytest.mark.parametrize("context", [5, b"text", {"messages": []}, object(), 1.5])
def test_what_is_no_context_is_refused_by_the_name_of_its_type(context):
    with pytest.raises(InputTypeError, match=type(context).__name__):
        read_context(context)


def test_a_context_comes_as_text_messages_a_prompt_or_an_iterator_of_messages():
    assert read_context("text") == ("text", {})
    assert read_context(Context("text")) == ("text", {})
    for given in (TALK, tuple(TALK), iter(TALK), ChatPromptValue(messages=TALK)):
        turns, dropped = read_context(given)
        assert [turn.text for turn in turns] == [one.content for one in TALK]
        assert dropped == {}
    turns, _ = read_context(StringPromptValue(text="hi"))
    assert [turn.text for turn in turns] == ["hi"]


def test_what_a_query_family_leaves_out_is_counted():
    turns, dropped = read_context([SystemMessage("s"), *TALK], whole_conversation=False)
    assert [turn.text for turn in turns] == ["six seven eight nine"]
    assert dropped == {"system": 1, "turns": 2}


def test_a_query_family_needs_a_human_turn():
    with pytest.raises(MissingContextError):
        read_context([AIMessage("hi")], whole_conversation=False)


def test_an_engine_is_called_by_its_name_or_its_kind():
    class Nameless(Engine):
        def edit(self, requests):
            raise NotImplementedError

    assert as_engine(ScriptedEngine()).name == "scripted"
    assert Nameless().name == "Nameless"


# The window. Words are tokens here: 40 go to HH-RLHF's frame with one objective.


def made(window, context=TALK, answer="ten words " * 5, **options):
    engine = ScriptedEngine(window=window)
    alignment = aligner_of(engine, **options).align(context, answer, "humour")
    return engine.requests[0], alignment


def needed(context=TALK, answer="ten words " * 5):
    """Tokens of the whole prompt, and the room that its edit needs."""
    engine = ScriptedEngine()
    prompt = aligner_of(engine).prompt(context, answer, "humour")
    return len(prompt.split()), 77  # ceil(1.25 * 10) + 64


def test_what_fits_is_left_whole_and_the_edit_may_use_all_that_is_left():
    prompt, edit = needed()
    request, alignment = made(prompt + edit)
    assert "one two three" in request.prompt
    assert alignment.dropped == {}
    assert request.max_new_tokens == edit
    request, _ = made(prompt + edit + 100)
    assert request.max_new_tokens == edit + 100
    request, _ = made(prompt + 5000)
    assert request.max_new_tokens == 1024


def test_the_prompt_and_the_edit_never_exceed_the_window():
    prompt, edit = needed()
    for window in range(prompt + edit - 12, prompt + edit + 2):
        try:
            request, _ = made(window)
        except AnswerTooLongError:
            continue
        assert len(request.prompt.split()) + request.max_new_tokens <= window
        assert request.max_new_tokens >= edit


def test_the_oldest_turns_go_first_then_the_oldest_words_of_the_last_human_turn():
    prompt, edit = needed()
    request, alignment = made(prompt + edit - 1)
    assert "one two" not in request.prompt
    assert "four five" not in request.prompt
    assert "Human: six seven eight nine" in request.prompt
    assert alignment.dropped == {"turns": 2}
    request, alignment = made(prompt + edit - 9)
    assert "Human: nine" in request.prompt or "Human: eight nine" in request.prompt
    assert alignment.dropped["turns"] == 2
    assert alignment.dropped["words"] in (2, 3)


def test_the_answer_and_the_objectives_are_never_shortened():
    prompt, edit = needed()
    request, _ = made(prompt + edit - 9)
    assert f"| Answer: {'ten words ' * 5} | Edit: " in request.prompt
    assert "Humour: The response should be cheerful and amusing" in request.prompt
    assert request.draft == "ten words " * 5


def test_a_context_given_as_text_in_the_trained_form_loses_whole_turns():
    text = "\n\nHuman: one two\n\nAssistant: three\n\nHuman: four five \n\nAssistant:"
    prompt, edit = needed(text)
    request, alignment = made(prompt + edit - 1, text)
    assert "Context: \n\nHuman: four five \n\nAssistant: | Answer" in request.prompt
    assert alignment.dropped == {"turns": 2}


def test_a_context_given_as_text_in_another_form_loses_its_oldest_words():
    prompt, edit = needed("one two three four")
    request, alignment = made(prompt + edit - 2, "one two three four")
    assert "Context: three four | Answer" in request.prompt
    assert alignment.dropped == {"words": 2}


def test_the_last_human_turn_of_a_query_family_loses_its_oldest_words():
    engine = ScriptedEngine()
    aligner = aligner_of(engine, family="UltraFeedback")
    prompt = len(aligner.prompt(TALK, "an answer", "honesty").split())
    engine = ScriptedEngine(window=prompt + 67 - 1)
    alignment = aligner_of(engine, family="UltraFeedback").align(TALK, "an answer", "honesty")
    assert "Query: seven eight nine | Answer: an answer | Edit: " in engine.prompts[0]
    assert alignment.dropped == {"turns": 2, "words": 1}


def test_an_answer_that_fits_with_no_context_at_all_is_too_long():
    with pytest.raises(AnswerTooLongError, match=r"window of 60 tokens of 'scripted'"):
        made(60)
    engine = ScriptedEngine(window=60)
    with pytest.raises(AnswerTooLongError):
        aligner_of(engine).align(TALK, "word " * 100, "humour")
    assert not engine.requests


def test_a_small_most_of_new_tokens_makes_room_for_the_context():
    prompt, _ = needed()
    request, alignment = made(prompt + 5, max_new_tokens=5)
    assert request.max_new_tokens == 5
    assert alignment.dropped == {}


def test_an_engine_that_can_not_count_is_taken_at_its_word():
    engine = ScriptedEngine()
    engine.window = 3
    aligner_of(engine).align(TALK, "x", "humour")
    assert engine.requests[0].max_new_tokens == 1024


def test_an_engine_without_a_window_gets_everything():
    engine = ScriptedEngine(window=1)
    engine.window = None
    alignment = aligner_of(engine).align(TALK, "x " * 5000, "humour")
    assert alignment.dropped == {}


def test_a_query_given_as_text_that_does_not_fit_loses_its_oldest_words_alone():
    text = "\n\nHuman: " + "old " * 90 + "\n\nHuman: the newest words \n\nAssistant:"
    request, alignment = made(150, context=text, family="UltraFeedback")
    assert request.prompt.split(" | Query: ")[1].startswith("old ")
    assert "the newest words" in request.prompt
    assert alignment.dropped.keys() == {"words"}


# An answer in several requests.


def part(text, before=""):
    prompt = HH_RLHF.render("c", text, parse_objectives("humour"))
    return Part(Request(prompt.text, prompt.draft, max_new_tokens=9), prompt, text, before)


def in_parts(*parts, after=""):
    return PendingEdit(
        parts=parts,
        original="".join(one.before + one.original for one in parts) + after,
        objectives=("humour",),
        model="m",
        family="HH-RLHF",
        dropped={},
        started=time.monotonic(),
        after=after,
    )


TWO = in_parts(part("one", "# A\n"), part("of nine..", "\n```x```\n"), after="\nend")


def edit(text, agreement=-1.0, **told):
    usage = {"input_tokens": 5, "output_tokens": 2}
    return Edit(text, **{"usage": usage, "passes": 2, "agreement": agreement, **told})


def test_an_edit_made_of_two_requests_keeps_what_stands_around_them_and_adds_up():
    last = edit("of ten....", -4.0, usage={"input_tokens": 7, "total_tokens": 9})
    made = TWO.finish([edit("ONE", 0.0), last])
    assert made.original == "# A\none\n```x```\nof nine..\nend"
    assert made.text == "# A\nONE\n```x```\nof ten....\nend"
    assert made.status == "edited"
    assert made.usage == {"input_tokens": 12, "output_tokens": 2, "total_tokens": 9}
    assert made.passes == 4
    assert made.agreement == -3.0  # 3 characters of 12 agree fully
    assert TWO.finish([edit("one"), edit("of nine..")]).status == "unchanged"


@pytest.mark.parametrize("name", ["usage", "passes", "agreement"])
def test_what_one_of_two_edits_does_not_tell_is_not_known_of_both(name):
    made = TWO.finish([edit("ONE"), edit("TWO", **{name: None})])
    assert getattr(made, name) is None


def test_the_agreement_of_each_token_has_its_place_in_the_whole_answer():
    parts = in_parts(part("one", "# A\n"), part("| Edit: two", " "), after="\nend")
    tokens = [
        tuple(TokenAgreement(i, i + 1, -1.0) for i in range(len(one.request.draft)))
        for one in parts.parts
    ]
    made = parts.finish([edit("x", token_agreement=odds) for odds in tokens])
    stretches = "".join(made.original[a:b] for a, b, _ in made.token_agreement)
    assert stretches == "one| Edit: two"


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (EditTimeout("late"), EditTimeout),
        (edit("cut", finish_reason="length"), EngineError),
        (edit(" "), EngineError),
    ],
)
def test_an_error_in_one_part_fails_the_edit_and_no_other(bad, error):
    first, second, refused, last = finish_all(
        [in_parts(part("1"), part("2")), TWO, ValueError("x"), in_parts(part("3"))],
        [edit("a"), edit("b"), edit("good"), bad, edit("last")],
    )
    assert (first.text, last.text) == ("ab", "last")
    assert type(second) is error
    assert type(refused) is ValueError


def test_an_edit_made_of_two_requests_streams_what_stands_around_them_too():
    engine = ScriptedEngine(lambda request: request.draft.upper())
    stream = AlignmentStream(stream_pending(TWO, as_engine(engine)))
    assert "".join(stream) == "# A\nONE\n```x```\nOF NINE..\nend" == stream.alignment.text
    assert [one.draft for one in engine.streamed] == ["one", "of nine.."]


def test_a_text_that_no_window_holds_is_hardly_looked_at():
    counted = []

    class Counting(CopyingEngine):
        def count_tokens(self, text):
            counted.append(len(text))
            return len(text) // 4

    aligner = Aligner(engine=Counting(window=512))
    done = aligner.align([HumanMessage("some words " * 50_000)], "Fine.", "humour")
    assert done.dropped["words"] > 99_000
    assert sum(counted) < 100_000
    counted.clear()
    with pytest.raises(AnswerTooLongError, match=r"more than \d+ tokens"):
        aligner.align([HumanMessage("Hi.")], "some words " * 50_000, "humour")
    assert sum(counted) < 10_000


@pytest.mark.parametrize("window", [None, 500])
def test_half_a_surrogate_pair_anywhere_is_edited_like_any_text(window):
    class Strict(CopyingEngine):
        def count_tokens(self, text):
            return len(text.encode())

        def edit(self, requests):
            for request in requests:
                request.prompt.encode()
            return super().edit(requests)

    engine = Strict(window=window)
    half = "hi \ud83d"
    done = Aligner(engine=engine).align(Context(half), half, [f"It should rhyme {half}"])
    assert (done.status, done.text) == ("unchanged", half)
    assert len(engine.requests) == 1
