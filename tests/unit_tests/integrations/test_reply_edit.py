"""A flow is driven to the same end whichever way its calls are made."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from langchain_metaaligner.integrations.reply_edit import Closed, Emit, arun, astream, run, stream


def waits(made: Any) -> Any:
    """A call that is made by waiting."""

    def call() -> Any:
        if isinstance(made, BaseException):
            raise made
        return made

    return call


def awaits(made: Any) -> Any:
    """A call that is made by awaiting."""

    async def call() -> Any:
        await asyncio.sleep(0)
        return waits(made)()

    return call


def read(flow: Any) -> list[Any]:
    return list(stream(flow))


async def aread(flow: Any) -> list[Any]:
    return [one async for one in astream(flow)]


DRIVERS = [(run, waits), (arun, awaits), (read, waits), (aread, awaits)]
drivers = pytest.mark.parametrize(
    ("driver", "call"), DRIVERS, ids=[driver.__name__ for driver, _ in DRIVERS]
)


async def driven(driver: Any, flow: Any) -> Any:
    made = driver(flow)
    return await made if inspect.isawaitable(made) else made


@drivers
async def test_a_flow_is_sent_the_results_of_its_calls_and_thrown_their_errors(driver, call):
    down, log = RuntimeError("down"), []

    def flow():
        log.append((yield call("first")))
        log.append((yield Emit("a piece")))
        try:
            yield call(down)
        except RuntimeError as error:
            log.append(error)
        log.append((yield call(None)))
        yield Emit("another")
        return "its result"

    made = await driven(driver, flow())
    assert log == ["first", None, down, None]
    assert made == ("its result" if driver in (run, arun) else ["a piece", "another"])


@drivers
@pytest.mark.parametrize("error", [RuntimeError("down"), KeyboardInterrupt()], ids=type)
async def test_what_a_flow_does_not_catch_is_raised_after_the_calls_that_clean_up(
    driver, call, error
):
    log = []

    def flow():
        try:
            yield call(error)
        finally:
            log.append((yield call("cleaned up")))

    with pytest.raises(type(error)):
        await driven(driver, flow())
    assert log == ["cleaned up"]


async def aclosed(pieces: Any) -> None:
    assert await anext(pieces) == "a piece"
    await pieces.aclose()


async def closed(pieces: Any) -> None:
    assert next(pieces) == "a piece"
    pieces.close()


@pytest.mark.parametrize(
    ("driver", "leave", "call"), [(stream, closed, waits), (astream, aclosed, awaits)]
)
async def test_a_flow_whose_reader_has_left_makes_the_calls_that_clean_up_and_no_other(
    driver, leave, call
):
    log = []

    def flow():
        try:
            yield Emit("a piece")
            log.append((yield call("too late")))
        except Closed:
            log.append((yield call("closed")))
            raise
        finally:
            log.append((yield call("cleaned up")))

    await leave(driver(flow()))
    assert log == ["closed", "cleaned up"]
