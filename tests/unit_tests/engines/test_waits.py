"""One body of code serves synchronous and asynchronous callers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from langchain_metaaligner.engines.waits import Body, Ended, TextStream, Wait, arun, run


def repeated(source: Iterator[Any], stopped: list[str] | None = None) -> Wait[Any]:
    def now() -> Any:
        made = next(source)
        if isinstance(made, Exception):
            raise made
        return made

    async def soon() -> Any:
        await asyncio.sleep(0)
        return now()

    async def stop() -> None:
        if stopped is not None:
            stopped.append("stopped")

    return Wait(now, soon, repeated=True, stop=stop)


def read(stream: TextStream[Any]) -> list[str]:
    return list(stream)


def aread(stream: TextStream[Any]) -> list[str]:
    async def pieces() -> list[str]:
        return [piece async for piece in stream]

    return asyncio.run(pieces())


READERS = pytest.mark.parametrize("reader", [read, aread])


@READERS
def test_the_pieces_of_a_repeated_wait_go_to_the_consumer_and_its_end_to_the_body(
    reader: Callable[[TextStream[Any]], list[str]],
) -> None:
    def body() -> Body[int]:
        yield "before"
        first = yield repeated(iter(["a", "b", Ended(1)]))
        second = yield repeated(iter([Ended(2)]))
        yield "after"
        return first + second

    stream = TextStream(body())
    assert reader(stream) == ["before", "a", "b", "after"]
    assert stream.result == 3


@READERS
def test_an_error_of_a_repeated_wait_is_raised_in_the_body(
    reader: Callable[[TextStream[Any]], list[str]],
) -> None:
    def body() -> Body[str]:
        try:
            yield repeated(iter(["a", ValueError("x")]))
        except ValueError as error:
            yield f"and {error}"
        return "done"

    stream = TextStream(body())
    assert reader(stream) == ["a", "and x"]
    assert stream.result == "done"


@pytest.mark.parametrize("runner", [run, lambda body: asyncio.run(arun(body))])
def test_a_body_that_nobody_reads_is_run_to_its_end(runner: Callable[[Body[Any]], Any]) -> None:
    def body() -> Body[int]:
        made: int = yield repeated(iter(["a", "b", Ended(7)]))
        return made

    assert runner(body()) == 7


def test_a_closed_stream_has_no_more_pieces_and_no_result() -> None:
    ended = []

    def body() -> Body[int]:
        try:
            made: int = yield repeated(iter(["a", "b", Ended(7)]))
        finally:
            ended.append(True)
        return made

    stream = TextStream(body())
    assert next(stream) == "a"
    stream.close()
    assert (ended, list(stream), stream.result) == ([True], [], None)


async def test_what_a_task_waits_for_is_stopped_when_it_reads_no_more() -> None:
    stopped: list[str] = []

    def body() -> Body[int]:
        made: int = yield repeated(iter(["a", "b", Ended(7)]), stopped)
        return made

    stream = TextStream(body())
    assert await anext(stream) == "a"
    await stream.aclose()
    assert stopped == ["stopped"]
    assert [piece async for piece in stream] == []
