"""A stream never ends as if all were well when an edit has failed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import Runnable, RunnableLambda

from langchain_metaaligner import (
    Edit,
    EngineError,
    MetaAlignerRunnable,
    MissingContextError,
    UnknownObjectiveError,
)
from tests.unit_tests.integrations.streams.compositions import (
    called_with_ainvoke,
    called_with_astream,
    called_with_invoke,
    called_with_stream,
    graph_of,
)
from tests.unit_tests.integrations.streams.scripted import (
    EDITED,
    QUESTION,
    RAW,
    Engine,
    Policy,
    collect,
    seen_raw,
)
from tests.unit_tests.integrations.streams.surfaces import ASKED, GRAPH_SURFACES, streamed_texts
from tests.unit_tests.integrations.ways import by_turns

pytestmark = [pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")]

BLOCKED = "This answer can't be shown."
INVOKED = [called_with_invoke, called_with_ainvoke]
STREAMED = [called_with_stream, called_with_astream]
MESSAGES = [surface for surface in GRAPH_SURFACES if surface.messages]
MESSAGES_BY_STYLE = by_turns(MESSAGES, [*INVOKED, *STREAMED])
BY_NAME = {"ids": lambda one: getattr(one, "name", None) or one.__name__}


class TooLong(Engine):
    """Runs out of tokens after its fifth word."""

    def stream(self, request: Any) -> Iterator[str]:
        for i, piece in enumerate(super().stream(request)):
            if i == 5:
                break
            yield piece
        return Edit(EDITED[:50], finish_reason="length")

    def edit(self, requests: Any) -> list[Edit]:
        return [Edit(EDITED[:50], finish_reason="length") for _ in requests]

    async def aedit(self, requests: Any) -> list[Edit]:
        return self.edit(requests)


class Empty(Engine):
    """Makes nothing of anything."""

    def __init__(self) -> None:
        super().__init__("")


EARLY = {"fails at once": lambda: Engine(fail_at=0), "makes nothing": Empty}
LATE = {"fails on the way": lambda: Engine(fail_at=5), "runs out of tokens": TooLong}
at_once = pytest.mark.parametrize("engine", EARLY.values(), ids=EARLY.keys())
on_the_way = pytest.mark.parametrize("engine", LATE.values(), ids=LATE.keys())


def pipe(engine: Any, **options: Any) -> Runnable:
    return Policy() | MetaAlignerRunnable(engine=engine, block_message=BLOCKED, **options)


def read_until_error(pieces: Iterator[Any]) -> tuple[list[Any], Exception | None]:
    got = []
    try:
        for piece in pieces:
            got.append(piece)  # noqa: PERF402 - what came before the error counts
    except Exception as error:
        return got, error
    return got, None


async def aread_until_error(pieces: Any) -> tuple[list[Any], Exception | None]:
    got = []
    try:
        async for piece in pieces:
            got.append(piece)  # noqa: PERF401
    except Exception as error:
        return got, error
    return got, None


async def both_ways(chain: Runnable) -> list[tuple[list[Any], Exception | None]]:
    return [
        read_until_error(chain.stream(QUESTION)),
        await aread_until_error(chain.astream(QUESTION)),
    ]


@at_once
async def test_an_error_before_the_first_word_is_raised_before_any_piece(engine: Any) -> None:
    for got, error in await both_ways(pipe(engine())):
        assert got == []
        assert isinstance(error, EngineError)


@at_once
async def test_a_fallback_takes_over_before_the_first_word(engine: Any) -> None:
    other = Policy() | MetaAlignerRunnable(engine=Engine())
    inner = MetaAlignerRunnable(engine=engine()).with_fallbacks(
        [MetaAlignerRunnable(engine=Engine())]
    )
    for chain in (pipe(engine()).with_fallbacks([other]), Policy() | inner):
        for got, error in await both_ways(chain):
            assert error is None
            assert "".join(piece.text for piece in got) == EDITED
        for style in (*INVOKED, *STREAMED):
            parts = await collect(graph_of(style(chain)).astream(ASKED, stream_mode="messages"))
            assert list(streamed_texts(parts).values()) == [EDITED]
            assert not seen_raw(parts)


@on_the_way
@pytest.mark.parametrize("on_error", ["raise", "pass", "block"])
async def test_an_error_after_the_first_word_ends_the_stream(engine: Any, on_error: Any) -> None:
    noted: list[Any] = []
    for got, error in await both_ways(pipe(engine(), on_error=on_error, on_edit=noted.append)):
        assert "".join(piece.text for piece in got) == EDITED[:54]
        assert isinstance(error, EngineError)
        assert not any(piece.chunk_position for piece in got)
        assert not any("metaaligner" in piece.response_metadata for piece in got)
    assert [record.status for record in noted] == ["failed", "failed"]


@on_the_way
async def test_an_error_after_the_first_word_ends_a_stream_of_text(engine: Any) -> None:
    chain = Policy() | StrOutputParser() | MetaAlignerRunnable(engine=engine(), on_error="pass")
    for got, error in await both_ways(chain):
        assert "".join(got) == EDITED[:54]
        assert isinstance(error, EngineError)


@at_once
@pytest.mark.parametrize(("on_error", "text"), [("pass", RAW), ("block", BLOCKED)])
async def test_before_the_first_word_the_policy_s_result_comes_whole(
    engine: Any, on_error: Any, text: str
) -> None:
    chain = pipe(engine(), on_error=on_error)
    invoked = chain.invoke(QUESTION)
    for got, error in await both_ways(chain):
        assert error is None
        (piece,) = got
        assert (piece.text, piece.chunk_position) == (text, "last")
        status = piece.response_metadata["metaaligner"]["status"]
        assert status == invoked.response_metadata["metaaligner"]["status"]
        assert status == f"{on_error}ed"
        assert piece.usage_metadata == invoked.usage_metadata


@pytest.mark.parametrize(("surface", "style"), MESSAGES_BY_STYLE, **BY_NAME)
@pytest.mark.parametrize(("on_error", "text"), [("pass", RAW), ("block", BLOCKED)])
async def test_streams_of_messages_show_that_result_once(
    surface: Any, style: Any, on_error: Any, text: str
) -> None:
    graph = graph_of(style(pipe(Engine(fail_at=0), on_error=on_error)))
    parts = await collect(surface.aread(graph))
    assert list(streamed_texts(parts).values()) == [text]
    assert seen_raw(parts) == (on_error == "pass")


@pytest.mark.parametrize(
    ("surface", "style", "on_error"),
    by_turns(MESSAGES, [*INVOKED, *STREAMED], ["raise", "pass", "block"]),
    ids=lambda one: getattr(one, "name", None) or getattr(one, "__name__", one),
)
async def test_streams_of_messages_end_with_an_error_after_the_first_word(
    surface: Any, style: Any, on_error: Any
) -> None:
    graph = graph_of(style(pipe(Engine(fail_at=5), on_error=on_error)))
    got, error = await aread_until_error(surface.aread(graph))
    assert isinstance(error, EngineError)
    assert not seen_raw(got)
    assert BLOCKED not in repr(got)


@pytest.mark.parametrize(("surface", "style"), MESSAGES_BY_STYLE, **BY_NAME)
async def test_streams_of_messages_end_with_an_error_before_it(surface: Any, style: Any) -> None:
    graph = graph_of(style(pipe(Engine(fail_at=0))))
    got, error = await aread_until_error(surface.aread(graph))
    assert isinstance(error, EngineError)
    assert not seen_raw(got)


async def test_events_end_with_the_error() -> None:
    got, error = await aread_until_error(
        pipe(Engine(fail_at=5)).astream_events(QUESTION, version="v2", include_tags=["metaaligner"])
    )
    assert isinstance(error, EngineError)
    assert "on_chat_model_end" not in {event["event"] for event in got}


async def test_whoever_asks_without_a_context_is_told_so_in_streams_too() -> None:
    aligner = MetaAlignerRunnable(engine=Engine())
    got, error = read_until_error(aligner.stream(AIMessage(RAW)))
    assert (got, type(error)) == ([], MissingContextError)
    got, error = await aread_until_error(aligner.astream(AIMessage(RAW)))
    assert (got, type(error)) == ([], MissingContextError)


async def test_mistakes_of_the_caller_are_raised_whatever_the_policy() -> None:
    config: Any = {"configurable": {"objectives": ["no-such-thing"]}}
    chain = pipe(Engine(), on_error="pass")
    got, error = read_until_error(chain.stream(QUESTION, config))
    assert (got, type(error)) == ([], UnknownObjectiveError)
    got, error = await aread_until_error(chain.astream(QUESTION, config))
    assert (got, type(error)) == ([], UnknownObjectiveError)


@on_the_way
async def test_in_shadow_mode_a_failure_changes_nothing_of_the_stream(engine: Any) -> None:
    noted: list[Any] = []
    for got, error in await both_ways(pipe(engine(), apply=False, on_edit=noted.append)):
        assert error is None
        assert "".join(piece.text for piece in got) == RAW
        assert got[-1].response_metadata["metaaligner"]["status"] == "passed"
    assert len(noted) == 2


async def test_an_error_of_the_policy_is_the_policy_s() -> None:
    def broken(_: Any) -> Any:
        raise ZeroDivisionError

    chain = RunnableLambda(broken) | MetaAlignerRunnable(engine=(engine := Engine()))
    for got, error in await both_ways(chain):
        assert (got, type(error)) == ([], ZeroDivisionError)
    assert not engine.requests
