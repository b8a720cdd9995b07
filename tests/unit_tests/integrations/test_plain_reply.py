"""A plain reply takes a short way through few modules."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.runnables import Runnable

import langchain_metaaligner
from langchain_metaaligner import Edit, MetaAlignerRunnable, Request

ROOT = str(Path(langchain_metaaligner.__file__).parent)


class Upper:
    """Gives the draft back in capitals, or a stream of a number of pieces."""

    def __init__(self, pieces: int = 1) -> None:
        self._pieces = pieces

    def edit(self, requests: Sequence[Request]) -> list[Edit]:
        return [Edit(request.draft.upper()) for request in requests]

    def stream(self, request: Request) -> Iterator[str]:
        yield from (f"word{place} " for place in range(self._pieces))


def chain(pieces: int = 1) -> Runnable[Any, Any]:
    llm = FakeListChatModel(responses=["zorp quib is a word"])
    return llm | MetaAlignerRunnable(engine=Upper(pieces))


@pytest.fixture(autouse=True)
def without_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests may have imported OpenTelemetry; then each edit is reported to it, too."""
    monkeypatch.delitem(sys.modules, "opentelemetry", raising=False)


def way_of(call: Callable[[], object]) -> list[str]:
    """The modules of this package that a call goes through, in order."""
    call()  # what is done once in a process is no part of the way
    way: list[str] = []

    def note(frame: FrameType | None, event: str, _: object) -> None:
        if event == "return" and frame is not None and frame.f_code.co_filename.startswith(ROOT):
            frame = frame.f_back
            while frame is not None and not frame.f_code.co_filename.startswith(ROOT):
                frame = frame.f_back
        elif event != "call":
            return
        if frame is not None and frame.f_code.co_filename.startswith(ROOT):
            module = Path(frame.f_code.co_filename).relative_to(ROOT).as_posix()
            if way[-1:] != [module]:
                way.append(module)

    before = sys.getprofile()
    gc.disable()  # what it finalizes belongs to other tests
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
        gc.enable()
    return way


CALLS: dict[str, Callable[[Runnable[Any, Any]], object]] = {
    "invoke": lambda made: made.invoke("hi"),
    "stream": lambda made: list(made.stream("hi")),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_plain_reply_is_not_searched_for_what_it_can_t_hold(call: Any) -> None:
    made = chain()
    passed = set(way_of(lambda: call(made)))
    assert "integrations/reply_edit.py" in passed
    assert passed.isdisjoint(
        {
            "editing/citations.py",
            "editing/content_blocks.py",
            "editing/context_text.py",
            "editing/copies.py",
            "editing/json_answer.py",
            "editing/prompts/escaping.py",
            "engines/readings.py",
            "integrations/call_config.py",
            "integrations/leaks.py",
        }
    )


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_whether_data_was_asked_for_is_decided_once_for_each_model_run(call: Any) -> None:
    made = chain()
    assert way_of(lambda: call(made)).count("integrations/asked_format.py") == 1


def test_the_way_of_a_plain_reply_is_short() -> None:
    made = chain()
    assert len(way_of(lambda: made.invoke("hi"))) < 52
    assert len(way_of(lambda: list(made.stream("hi")))) < 78


def test_a_piece_goes_from_the_engine_by_the_guards_to_the_consumer() -> None:
    few, many = chain(1), chain(9)
    more = len(way_of(lambda: list(many.stream("hi")))) - len(
        way_of(lambda: list(few.stream("hi")))
    )
    assert more <= 8 * 8 + 2  # by way of the guards; a longer text may contradict itself
