"""Any number of answers is edited with few in flight, and each result comes when it is there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from langchain_metaaligner import Aligner, Alignment, EngineError, InputTypeError
from langchain_metaaligner.editing.conversation import log_bare_question
from tests.unit_tests.scripted import ScriptedEngine

ASKED = [("human", "hi")]


def items(count: int) -> Iterator[Any]:
    return ((ASKED, f"answer {i}", "harmlessness") for i in range(count))


async def listed(aligner: Aligner, given: Any, how: str, **options: Any) -> list[Any]:
    if how == "sync":
        return list(aligner.align_as_completed(given, **options))
    return [one async for one in aligner.aalign_as_completed(given, **options)]


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize(("size", "most"), [(1, 1), (1, 4), (3, 2), (100, 5)])
async def test_each_item_gets_one_result_under_its_number(how, size, most):
    aligner = Aligner(engine=ScriptedEngine())
    options = {"batch_size": size, "max_concurrency": most}
    made = await listed(aligner, items(10), how, **options)
    assert sorted(number for number, _ in made) == [*range(10)]
    assert all(one.text == f"answer {number} (edited)" for number, one in made)


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_what_fails_is_one_items_own(how):
    def reply(request: Any) -> Any:
        return EngineError("no") if request.draft == "answer 1" else "good"

    given = [*items(3), "no triple", (ASKED, 7, "harmlessness"), *items(1)]
    options = {"batch_size": 6, "max_concurrency": 1}
    made = await listed(Aligner(engine=ScriptedEngine(reply)), given, how, **options)
    kinds = [type(one) for _, one in sorted(made, key=lambda pair: pair[0])]
    assert kinds == [*(Alignment, EngineError, Alignment, ValueError, InputTypeError, Alignment)]


def test_items_are_read_as_they_are_needed_and_a_slow_one_holds_up_no_other():
    read = 0
    slow = threading.Event()

    def counted() -> Iterator[Any]:
        nonlocal read
        for item in items(1000):
            read += 1
            yield item

    def reply(request: Any) -> str:
        if request.draft == "answer 0":
            slow.wait(30)
        return "good"

    stream = Aligner(engine=ScriptedEngine(reply)).align_as_completed(counted(), max_concurrency=4)
    first = [next(stream)[0] for _ in range(20)]
    assert 0 not in first
    assert read <= 20 + 4
    slow.set()
    stream.close()
    assert read <= 20 + 4


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_what_was_read_is_given_out_before_the_error_of_the_reading(how):
    def broken() -> Iterator[Any]:
        yield from items(5)
        raise OSError("the disk")

    made = []
    aligner = Aligner(engine=ScriptedEngine())
    with pytest.raises(OSError, match="the disk"):
        if how == "sync":
            made.extend(aligner.align_as_completed(broken(), batch_size=2))
        else:
            async for one in aligner.aalign_as_completed(broken(), batch_size=2):
                made.append(one)  # noqa: PERF401 - what came before the error counts
    assert sorted(number for number, _ in made) in ([*range(5)], [])
    assert len(made) == 5


async def test_an_asynchronous_source_is_read_too():
    async def source() -> Any:
        for item in items(3):
            yield item

    made = await listed(Aligner(engine=ScriptedEngine()), source(), "async")
    assert len(made) == 3


def test_numbers_below_one_are_refused():
    with pytest.raises(ValueError, match="max_concurrency must be at least 1, not 0"):
        Aligner(engine=ScriptedEngine()).align_as_completed([], max_concurrency=0)


def test_the_error_of_a_batch_says_which_item_it_is_of_and_how_to_keep_the_others():
    aligner = Aligner(engine=ScriptedEngine(window=2000))
    batch = [*items(3)]
    batch[1] = (ASKED, "word " * 9000, "harmlessness")
    with pytest.raises(Exception, match="window") as failed:
        aligner.align_batch(batch)
    (note,) = failed.value.__notes__
    assert "item 1" in note
    assert "2 of 3 items were edited" in note
    assert "return_exceptions=True" in note


@pytest.mark.parametrize(
    ("context", "options", "is_said"),
    [
        ("How do I cook rice?", {}, True),
        ("\n\nHuman: How do I? \n\nAssistant:", {}, False),
        ("Human: How do I? Assistant:", {}, False),
        ([("human", "How do I cook rice?")], {}, False),
        ("How do I cook rice?", {"family": "UltraFeedback"}, False),
        ("How do I cook rice?", {"family": "IMHI"}, False),
        ("How do I cook rice?", {"family": "instruct"}, False),
    ],
)
def test_a_question_given_as_a_whole_context_is_said_once(caplog, context, options, is_said):
    log_bare_question.cache_clear()
    aligner = Aligner(engine=ScriptedEngine(), **options)
    for _ in range(2):
        aligner.align(context, "Boil it.", "helpfulness")
    assert caplog.text.count("[('human', question)]") == is_said


def test_many_runs_one_after_the_other_leave_no_threads():
    before = threading.active_count()
    used = Aligner(engine=ScriptedEngine("b"), guards=())
    for _ in range(20):
        assert len(list(used.align_as_completed(items(4), max_concurrency=2))) == 4
    assert threading.active_count() <= before + 4
