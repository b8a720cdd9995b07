"""Calls engines: in time, with errors of this package, and with every result checked."""

from __future__ import annotations

import asyncio
import math
import queue
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar, get_args

from langchain_metaaligner.engines import threads
from langchain_metaaligner.engines.base import (
    DOCS,
    Edit,
    Engine,
    FinishReason,
    Request,
    TokenAgreement,
    as_many,
    as_ours,
    errors_of_ours,
    failed,
    is_late,
    too_late,
)
from langchain_metaaligner.errors import EngineError, MetaAlignerError

T = TypeVar("T")

_ROUNDING = 1e-3  # log-probabilities may be this far above 0, and count as 0


def edit(engine: Engine, requests: Sequence[Request]) -> list[Edit | MetaAlignerError]:
    """Make edits so that a bad one takes no other with it.

    Args:
        engine: The engine.
        requests: The edits to make.

    Returns:
        An edit or its error for each request, in order. Where the engine keeps no deadlines, the
        soonest of the requests' deadlines counts for all of them.
    """
    try:
        # One request has no others to keep its error from.
        plain = len(requests) == 1 and type(engine).edit_each is Engine.edit_each
        edit_all = engine.edit if plain else engine.edit_each
        return checked_each(_in_time(engine, requests, lambda: edit_all(requests)), requests)
    except BaseException as error:  # noqa: BLE001 - what is not ours is made so
        return [as_ours(error)] * len(requests)


async def aedit(engine: Engine, requests: Sequence[Request]) -> list[Edit | MetaAlignerError]:
    """Make edits without blocking the event loop; as `edit`."""
    try:
        return checked_each(await _aedit_in_time(engine, requests), requests)
    except BaseException as error:  # noqa: BLE001 - what is not ours is made so
        return [as_ours(error)] * len(requests)


def stream(engine: Engine, request: Request) -> Generator[str, None, Edit]:
    """Yield the pieces of one edit; closing stops the engine.

    Args:
        engine: The engine.
        request: The edit to make.

    Yields:
        The pieces of the edited text, none of them empty.

    Returns:
        The whole edit.

    Raises:
        EditTimeout: The request's deadline has passed; an engine that keeps no deadlines is left
            alone in its thread.
        EngineError: The engine failed.
    """
    texts: list[str] = []
    pieces: Iterator[str] = iter(())
    left = False
    try:
        if request.deadline is None or engine.keeps_deadlines:
            pieces = iter(engine.stream(request))
        else:
            pieces = _PiecesInTime(lambda: engine.stream(request), request.deadline)
        while True:
            try:
                piece = next(pieces)
            except StopIteration as end:
                made = Edit("".join(texts)) if end.value is None else end.value
                return _checked(made, request)
            if not isinstance(piece, str):
                message = f"The engine streamed a {type(piece).__name__}, but pieces are texts."
                raise EngineError(message)
            if request.deadline is not None and is_late(request):
                raise too_late()
            if piece:
                texts.append(piece)
                left = True  # unless the consumer comes back for more
                yield piece
                left = False
    except BaseException as error:
        if left:
            raise
        ours = as_ours(error)
        if ours is error:
            raise
        raise ours from error
    finally:
        _close(pieces)


def _close(pieces: Any) -> None:
    close = getattr(pieces, "close", None)  # an iterator that is no generator may have none
    if close is None:
        return
    try:
        close()
    except BaseException as error:  # noqa: BLE001 - what is not ours is made so
        ours = as_ours(error)
        raise ours from (None if ours is error else error)


class _PiecesInTime(Iterator[str]):
    """The pieces of a stream that keeps no deadline, made in a thread that can be left alone.

    Args:
        begin: Begins the engine's stream.
        deadline: Time of `time.monotonic()` at which nobody waits for it any more, in seconds.
    """

    def __init__(self, begin: Callable[[], Iterator[str]], deadline: float) -> None:
        self._begin, self._deadline = begin, deadline
        self._wanted: queue.SimpleQueue[Future[str] | None] = queue.SimpleQueue()
        self._ended = threads.start(self._work, "metaaligner-stream")

    def __next__(self) -> str:
        made: Future[str] = Future()
        self._wanted.put(made)
        return _wait(made, self._deadline)

    def close(self) -> None:
        """Close the engine's stream, now or, where it is busy past its deadline, after that."""
        self._wanted.put(None)
        # An error of the engine's that comes too late to matter is nobody's.
        with suppress(Exception):
            _wait(self._ended, self._deadline)

    def _work(self) -> None:
        pieces: Iterator[str] | None = None
        while (made := self._wanted.get()) is not None:
            try:
                if pieces is None:
                    pieces = iter(self._begin())
                made.set_result(next(pieces))
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                made.set_exception(error)
        _close(pieces)


def _in_time(engine: Engine, requests: Sequence[Request], work: Callable[[], T]) -> T:
    deadline = _soonest(requests)
    if deadline is None or engine.keeps_deadlines:
        return work()
    # An engine that keeps no deadlines can't be stopped, but nobody has to wait for it.
    return _wait(threads.start(work, "metaaligner-edit"), deadline)


def _wait(made: Future[T], deadline: float) -> T:
    try:
        result = made.result(max(0.0, deadline - time.monotonic()))
    except TimeoutError as error:
        if made.done() and made.exception() is error:  # the engine's own
            raise
        raise too_late() from None
    if time.monotonic() > deadline:  # done at once, but asked for too late
        raise too_late()
    return result


async def _aedit_in_time(engine: Engine, requests: Sequence[Request]) -> Any:
    deadline = _soonest(requests)
    if deadline is None or engine.keeps_deadlines:
        return await engine.aedit_each(requests)

    async def work() -> Any:
        # Inside the task: SystemExit would go around whoever waits for it, to the loop.
        with errors_of_ours():
            return await engine.aedit_each(requests)

    # Cancelled, an engine may take its time or not listen at all: nobody waits for that either.
    task = asyncio.ensure_future(work())
    try:
        done, _ = await asyncio.wait({task}, timeout=max(0.0, deadline - time.monotonic()))
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise
    if not done:
        task.cancel()
        task.add_done_callback(_forget)
        raise too_late()
    # A call that held up the event loop has held up this clock, too.
    if time.monotonic() > deadline:
        _forget(task)
        raise too_late()
    return task.result()


def _forget(task: asyncio.Future[Any]) -> None:
    # An error that is never looked at makes asyncio complain when the task is collected.
    if not task.cancelled():
        task.exception()


def _soonest(requests: Sequence[Request]) -> float | None:
    return min((one.deadline for one in requests if one.deadline is not None), default=None)


def checked_each(made: Any, requests: Sequence[Request]) -> list[Edit | MetaAlignerError]:
    """Check what an engine returned for requests.

    Args:
        made: What it returned.
        requests: What it was asked.

    Returns:
        A good edit or an error for each request, in order.

    Raises:
        EngineError: There are not as many as requests.
    """
    found: list[Edit | MetaAlignerError] = []
    if type(made) is not list or len(made) != len(requests):
        made = as_many(made, len(requests))
    for one, request in zip(made, requests, strict=True):
        try:
            if isinstance(one, MetaAlignerError):
                found.append(one)
            elif isinstance(one, BaseException):
                raise failed(one) from one
            else:
                found.append(_checked(one, request))
        except EngineError as error:
            found.append(error)
    return found


def _checked(edit: Any, request: Request) -> Edit:
    """An engine's edit, if it is one and nothing about it is impossible."""
    if fault := _fault(edit, len(request.draft)):
        message = (
            f"The engine returned {fault}. The answer was not edited. The engine has to be mended:"
            f" {DOCS} says what an edit holds."
        )
        raise EngineError(message)
    made: Edit = edit
    if made.agreement is None or made.agreement <= 0:
        return made
    return replace(made, agreement=0.0)


def _fault(edit: Any, length: int) -> str | None:
    """What is wrong with an edit of a draft of so many characters, and what was expected."""
    if not isinstance(edit, Edit):
        return f"a {type(edit).__name__}; expected an Edit"
    if not isinstance(edit.text, str):
        return f"an Edit with text of type {type(edit.text).__name__}; expected a str"
    if edit.finish_reason not in get_args(FinishReason):
        return f"finish_reason={edit.finish_reason!r}; expected 'stop' or 'length'"
    if edit.usage is not None and not _is_usage(edit.usage):
        return f"usage={edit.usage!r:.80}; expected None, or names with numbers of tokens"
    if edit.passes is not None and not _is_count(edit.passes):
        return f"passes={edit.passes!r:.80}; expected None, or a number of forward passes"
    if edit.agreement is not None and not _is_log_probability(edit.agreement):
        return f"agreement={edit.agreement!r:.80}; expected None, or a finite number, 0 at most"
    if edit.token_agreement is not None and not _is_of_draft(edit.token_agreement, length):
        return (
            "another token_agreement than expected: a TokenAgreement for each of the draft's"
            " tokens, in order, within the draft, with a finite log_probability of 0 at most"
        )
    return None


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0


def _is_usage(usage: Any) -> bool:
    return isinstance(usage, Mapping) and all(
        isinstance(name, str) and _is_count(number) for name, number in usage.items()
    )


def _is_log_probability(number: Any) -> bool:
    return (
        isinstance(number, int | float)
        and not isinstance(number, bool)
        and math.isfinite(number)
        and number <= _ROUNDING
    )


def _is_of_draft(tokens: Any, length: int) -> bool:
    if not isinstance(tokens, tuple) or not all(isinstance(one, TokenAgreement) for one in tokens):
        return False
    return all(
        _is_count(one.start)
        and _is_count(one.end)
        and one.start <= one.end <= length
        and _is_log_probability(one.log_probability)
        for one in tokens
    ) and all(one.start <= following.start for one, following in pairwise(tokens))
