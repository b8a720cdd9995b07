from __future__ import annotations

import copy
import pickle
import time

import pytest

from langchain_metaaligner import Aligner, Edit, EditTimeout, EngineError
from langchain_metaaligner.testing import ScriptedEngine

ASKED = ("A question?", "An answer.", "harmlessness")


def test_left_alone_it_leaves_answers_as_they_are():
    alignment = Aligner(engine=ScriptedEngine()).align(*ASKED)
    assert (alignment.text, alignment.status, alignment.model) == (
        "An answer.",
        "unchanged",
        "scripted",
    )


def test_a_text_a_list_or_a_function_says_what_becomes_of_an_answer():
    assert Aligner(engine=ScriptedEngine("A text.")).align(*ASKED).text == "A text."
    turns = Aligner(engine=ScriptedEngine(["one", Edit("two", usage={"output_tokens": 1})]))
    assert [turns.align(*ASKED).text for _ in range(3)] == ["one", "two", "two"]
    shouting = ScriptedEngine(lambda request: request.draft.upper())
    assert Aligner(engine=shouting).align(*ASKED).text == "AN ANSWER."
    assert [request.draft for request in shouting.requests] == ["An answer."]


def test_an_error_is_raised_for_its_request_alone():
    aligner = Aligner(
        engine=ScriptedEngine(lambda r: OSError("no device") if "bad" in r.draft else r.draft)
    )
    good, bad = aligner.align_batch(
        [ASKED, ("A question?", "a bad one", "harmlessness")], return_exceptions=True
    )
    assert good.text == "An answer."
    assert isinstance(bad, EngineError)


def test_it_streams_in_pieces_and_knows_when_a_stream_was_closed():
    engine = ScriptedEngine("eight or more", piece=5)
    assert list(Aligner(engine=engine).stream(*ASKED)) == ["eight", " or m", "ore"]
    pieces = Aligner(engine=engine).stream(*ASKED)
    next(pieces)
    pieces.close()
    assert engine.closed_streams == 2


def test_a_delay_that_is_longer_than_the_timeout_ends_in_time():
    started = time.monotonic()
    with pytest.raises(EditTimeout):
        Aligner(engine=ScriptedEngine(delay=60), timeout=0.05).align(*ASKED)
    assert time.monotonic() - started < 30


def test_with_a_window_tokens_are_words():
    alignment = Aligner(engine=ScriptedEngine(window=150)).align(
        "old words " * 100 + "the newest words", "An answer.", "harmlessness"
    )
    assert alignment.dropped["words"] > 0


@pytest.mark.parametrize("again", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_edits_by_itself(again):
    engine = ScriptedEngine("new")
    other = again(engine)
    assert Aligner(engine=other).align(*ASKED).text == "new"
    assert (len(engine.requests), len(other.requests)) == (0, 1)
