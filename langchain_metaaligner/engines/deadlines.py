"""Calls engines, keeping deadlines, checking results and raising only this package's errors."""

from __future__ import annotations

import asyncio
import math
import queue
import time
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar, get_args

from langchain_metaaligner.engines import repetition, threads
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
from langchain_metaaligner.engines.waits import Ended, Wait
from langchain_metaaligner.errors import EngineError, MetaAlignerError, without_quotes

T = TypeVar("T")

_ROUNDING = 1e-3  # log-probabilities may be this far above 0; they are taken as 0


def edit(engine: Engine, requests: Sequence[Request]) -> list[Edit | MetaAlignerError]:
    """Make edits so that the failure of one does not affect the others.

    Args:
        engine: The engine.
        requests: The edits to make.

    Returns:
        An edit or its error for each request, in order. If the engine keeps no deadlines, the
        earliest deadline applies to all requests.
    """
    try:
        # A single request needs no protection from the errors of others.
        plain = len(requests) == 1 and type(engine).edit_each is Engine.edit_each
        edit_all = engine.edit if plain else engine.edit_each
        return checked_each(_in_time(engine, requests, lambda: edit_all(requests)), requests)
    except BaseException as error:  # noqa: BLE001 - `as_ours` raises again what must not be caught
        return [_quoting_nothing(as_ours(error), requests)] * len(requests)


async def aedit(engine: Engine, requests: Sequence[Request]) -> list[Edit | MetaAlignerError]:
    """Make edits without blocking the event loop; like `edit`."""
    try:
        return checked_each(await _aedit_in_time(engine, requests), requests)
    except BaseException as error:  # noqa: BLE001 - `as_ours` raises again what must not be caught
        return [_quoting_nothing(as_ours(error), requests)] * len(requests)


def stream(engine: Engine, request: Request) -> Generator[str, None, Edit]:
    """Yield the pieces of one edit; closing the generator stops the engine.

    Args:
        engine: The engine.
        request: The edit to make.

    Yields:
        The pieces of the edited text, none of them empty; white space is held back until text
        follows.

    Returns:
        The whole edit.

    Raises:
        EditTimeout: The request's deadline has passed. An engine that keeps no deadlines may
            still be running in its thread.
        EngineError: The engine failed.
    """
    pieces = Pieces(engine, request)
    try:
        while not isinstance(piece := pieces.next(), Ended):
            yield piece
        return piece.value
    finally:
        pieces.close()


def aside(work: Callable[[], T], deadline: float | None) -> Wait[T]:
    """Wait for work of this package that would hold up an event loop, or the deadline.

    Args:
        work: The function to call.
        deadline: Time at which the wait ends, in seconds of `time.monotonic()`.

    Returns:
        The wait; it ends with `EditTimeout` at the deadline.
    """

    def now() -> T:
        if deadline is None:
            return work()
        try:
            return threads.result(threads.PREPARATION.submit(work), deadline)
        except threads.Late:
            raise too_late() from None

    async def soon() -> T:
        try:
            return await threads.aresult(threads.PREPARATION.submit(work), deadline)
        except threads.Late:
            raise too_late() from None

    return Wait(now, soon)


@dataclass(eq=False)
class Pieces:
    """The pieces of one edit, in time and checked, for a thread or for a task.

    Args:
        engine: The engine.
        request: The edit to make.
        look: Turns what is read of the edit into what is given out; `None` gives out all.
    """

    _engine: Engine
    _request: Request
    _look: Callable[[str], str] | None = None
    _length: int = field(default=0, init=False)
    _watch: repetition.RepetitionWatch | None = field(default=None, init=False)
    _texts: list[str] = field(default_factory=list, init=False)
    _source: Any = field(default=None, init=False)
    _begun: bool = field(default=False, init=False)
    _awaited: bool = field(default=False, init=False)

    def next(self) -> str | Ended[Edit]:
        """Make the next piece.

        Returns:
            The piece, or the whole edit at the end. No piece is empty, and white space is held
            back until text follows, because an edit of white space alone is an error.

        Raises:
            EditTimeout: The request's deadline has passed.
            EngineError: The engine failed.
        """
        try:
            if self._source is None:
                self._source = self._begin()
            while True:
                try:
                    piece = next(self._source)
                except StopIteration as end:
                    return self._whole(end.value)
                if text := self._text_of(piece):
                    return text
        except BaseException as error:
            ours = _quoting_nothing(as_ours(error), [self._request])
            if ours is error:
                raise
            raise ours from error

    async def anext(self) -> str | Ended[Edit]:
        """Make the next piece without blocking the event loop; as `next`."""
        self._awaited = True
        try:
            with errors_of_ours():
                if self._source is None:
                    self._source = self._abegin()
                while True:
                    try:
                        piece = await self._in_time(self._source)
                    except StopAsyncIteration as end:
                        return self._whole(end.args[0] if end.args else None)
                    if text := self._text_of(piece):
                        return text
        except MetaAlignerError as error:
            _quoting_nothing(error, [self._request])
            with suppress(MetaAlignerError):  # the first error is the one to report
                await self.aclose()
            raise

    def close(self) -> None:
        """Stop the engine; returns once it has stopped.

        A stream that a task reads can't be waited for here. It stops by itself when it is dropped.
        """
        source, self._source = self._source, _Nothing()
        if not self._awaited:
            _close(source)

    async def aclose(self) -> None:
        """Stop the engine without blocking the event loop; as `close`."""
        source, self._source = self._source, _Nothing()
        close = getattr(source, "aclose", None)  # only generators are sure to have it
        if close is not None:
            with errors_of_ours():
                await close()

    def _begin(self) -> Iterator[str]:
        deadline = self._request.deadline
        if deadline is None or self._engine.keeps_deadlines:
            return iter(self._engine.stream(self._request))
        return _PiecesInTime(self._engine, self._request, deadline)

    def _abegin(self) -> AsyncIterator[str]:
        deadline, own = self._request.deadline, type(self._engine).astream is not Engine.astream
        if deadline is None or self._engine.keeps_deadlines or own:
            return aiter(self._engine.astream(self._request))
        return _PiecesInTime(self._engine, self._request, deadline)

    async def _in_time(self, source: AsyncIterator[str]) -> Any:
        deadline = self._request.deadline
        if deadline is None or self._engine.keeps_deadlines:
            return await anext(source)
        left = asyncio.timeout(deadline - time.monotonic())
        try:
            async with left:
                return await anext(source)
        except TimeoutError:
            if left.expired():
                raise too_late() from None
            raise

    def _text_of(self, piece: Any) -> str:
        """What a consumer gets for a piece, if anything."""
        if not isinstance(piece, str):
            message = f"The engine streamed a {type(piece).__name__}; expected a str."
            raise EngineError(message)
        if self._request.deadline is not None and is_late(self._request):
            raise too_late()
        self._texts.append(piece)
        self._length += len(piece)
        if self._request.refuse_repetition and self._length >= repetition.SHORTEST:
            if self._watch is None:
                self._watch = repetition.watch(self._request)
                self._watch.push("".join(self._texts))
            else:
                self._watch.push(piece)
        if not self._begun:
            if not piece.strip():
                return ""
            self._begun = True
            piece = "".join(self._texts)
        return piece if self._look is None else self._look(piece)

    def _whole(self, made: Any) -> Ended[Edit]:
        self.close()
        return Ended(_checked(Edit("".join(self._texts)) if made is None else made, self._request))


class _Nothing(Iterator[str], AsyncIterator[str]):
    """A stream without pieces."""

    def __next__(self) -> str:
        raise StopIteration

    async def __anext__(self) -> str:
        raise StopAsyncIteration


def _quoting_nothing(error: MetaAlignerError, requests: Sequence[Request]) -> MetaAlignerError:
    """Cut what an engine's error quotes of the prompts: its text goes into logs and records."""
    if isinstance(error, EngineError) and len(error.args) == 1:
        texts = [text for one in requests for text in (one.prompt, one.draft)]
        error.args = (without_quotes(str(error), *texts),)
    return error


def _close(pieces: Any) -> None:
    close = getattr(pieces, "close", None)  # only generators are sure to have it
    if close is None:
        return
    try:
        close()
    except BaseException as error:  # noqa: BLE001 - `as_ours` raises again what must not be caught
        ours = as_ours(error)
        raise ours from (None if ours is error else error)


class _PiecesInTime(Iterator[str], AsyncIterator[str]):
    """The pieces of a stream that keeps no deadline, made in a thread that can be abandoned.

    Args:
        engine: The engine.
        request: The edit to make.
        deadline: Time at which the stream ends, in seconds of `time.monotonic()`.
    """

    def __init__(self, engine: Engine, request: Request, deadline: float) -> None:
        if is_late(request):
            raise too_late()
        self._deadline = deadline
        self._wanted: queue.SimpleQueue[_Wanted] = queue.SimpleQueue()
        make = partial(_make, partial(engine.stream, request), self._wanted, deadline)
        self._ended = threads.calls_of(engine).submit(make)
        weakref.finalize(self, self._wanted.put, None)

    def __next__(self) -> str:
        try:
            made = _wait(self._want(), self._deadline)
        except BaseException:
            self._forsake()
            raise
        if isinstance(made, Ended):
            raise StopIteration(made.value)
        return made

    async def __anext__(self) -> str:
        try:
            made = await threads.aresult(self._want(), None)
        except BaseException:
            self._forsake()
            raise
        if isinstance(made, Ended):
            raise StopAsyncIteration(made.value)
        return made

    def close(self) -> None:
        """Close the engine's stream; if it is still busy at the deadline, don't wait for it."""
        self._wanted.put(None)
        # The edit is over, so an error while closing no longer matters.
        with suppress(Exception):
            _wait(self._ended, self._deadline)

    async def aclose(self) -> None:
        """Close the engine's stream without blocking the event loop; as `close`."""
        self._wanted.put(None)
        with suppress(Exception):
            await threads.aresult(self._ended, self._deadline)

    def _forsake(self) -> None:
        """Let the thread close the stream, and leave it alone if it is busy."""
        self._wanted.put(None)
        self._ended.cancel()

    def _want(self) -> Future[str | Ended[Any]]:
        made: Future[str | Ended[Any]] = Future()
        made.set_running_or_notify_cancel()
        self._wanted.put(made)
        return made


_Wanted = Future[str | Ended[Any]] | None
"""A piece to make; `None` closes the stream."""


def _make(
    begin: Callable[[], Iterator[str]], wanted: queue.SimpleQueue[_Wanted], deadline: float
) -> None:
    """Make the pieces of a stream, one for each that is wanted, and close it.

    At the deadline it is closed even if its reader has stopped reading, since it keeps a thread.
    """
    pieces: Iterator[str] | None = None
    while (made := _next_wanted(wanted, deadline)) is not None:
        try:
            if pieces is None:
                pieces = iter(begin())
            made.set_result(next(pieces))
        except StopIteration as end:
            made.set_result(Ended(end.value))
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            made.set_exception(error)
    _close(pieces)


def _next_wanted(wanted: queue.SimpleQueue[_Wanted], deadline: float) -> _Wanted:
    try:
        return wanted.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        return None


def _in_time(engine: Engine, requests: Sequence[Request], work: Callable[[], T]) -> T:
    deadline = _soonest(requests)
    if deadline is None or engine.keeps_deadlines:
        return work()
    if any(is_late(one) for one in requests):
        raise too_late()
    # An engine that keeps no deadlines can't be stopped, but the caller can stop waiting.
    return _wait(threads.calls_of(engine).submit(work), deadline)


def _wait(made: Future[T], deadline: float) -> T:
    try:
        result = threads.result(made, deadline)
    except threads.Late:
        raise too_late() from None
    if time.monotonic() > deadline:  # the result was there at once, but the deadline had passed
        raise too_late()
    return result


async def _aedit_in_time(engine: Engine, requests: Sequence[Request]) -> Any:
    deadline = _soonest(requests)
    if deadline is None or engine.keeps_deadlines:
        return await engine.aedit_each(requests)

    async def work() -> Any:
        # Converted inside the task: asyncio raises SystemExit in the loop, not in the waiter.
        with errors_of_ours():
            return await engine.aedit_each(requests)

    # A cancelled engine may stop late or never, so after a timeout nobody waits for it.
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
    # A call that blocked the event loop also delayed the timeout of `wait`.
    if time.monotonic() > deadline:
        _forget(task)
        raise too_late()
    return task.result()


def _forget(task: asyncio.Future[Any]) -> None:
    # asyncio logs an error that was never retrieved when the task is garbage-collected.
    if not task.cancelled():
        task.exception()


def _soonest(requests: Sequence[Request]) -> float | None:
    return min((one.deadline for one in requests if one.deadline is not None), default=None)


def checked_each(made: Any, requests: Sequence[Request]) -> list[Edit | MetaAlignerError]:
    """Check what an engine returned.

    Args:
        made: What it returned.
        requests: The requests that it was given.

    Returns:
        A valid edit or an error for each request, in order.

    Raises:
        EngineError: The number of edits is not the number of requests.
    """
    found: list[Edit | MetaAlignerError] = []
    if type(made) is not list or len(made) != len(requests):
        made = as_many(made, len(requests))
    for one, request in zip(made, requests, strict=True):
        try:
            if isinstance(one, MetaAlignerError):
                found.append(_quoting_nothing(one, [request]))
            elif isinstance(one, BaseException):
                raise failed(one) from one
            else:
                found.append(_checked(one, request))
        except EngineError as error:
            found.append(_quoting_nothing(error, [request]))
    return found


def _checked(edit: Any, request: Request) -> Edit:
    """Return an engine's edit if it is a valid one."""
    if fault := _fault(edit, len(request.draft)):
        message = (
            f"The engine returned {fault}. The answer was not edited. This is a bug in the engine;"
            f" {DOCS} describes what an Edit contains."
        )
        raise EngineError(message)
    made: Edit = edit
    if request.refuse_repetition and len(made.text) >= repetition.SHORTEST:
        repetition.watch(request).push(made.text)
    if made.agreement is None or made.agreement <= 0:
        return made
    return replace(made, agreement=0.0)


def _fault(edit: Any, length: int) -> str | None:
    """Say what is wrong with an edit of a draft with `length` characters, and what was expected."""
    if not isinstance(edit, Edit):
        return f"a {type(edit).__name__}; expected an Edit"
    if not isinstance(edit.text, str):
        return f"an Edit with text of type {type(edit.text).__name__}; expected a str"
    if edit.finish_reason not in get_args(FinishReason):
        return f"finish_reason={edit.finish_reason!r}; expected 'stop' or 'length'"
    if edit.usage is not None and not _is_usage(edit.usage):
        return f"usage={edit.usage!r:.80}; expected None, or a mapping of names to token counts"
    if edit.passes is not None and not _is_count(edit.passes):
        return f"passes={edit.passes!r:.80}; expected None, or a number of forward passes"
    if edit.agreement is not None and not _is_log_probability(edit.agreement):
        return f"agreement={edit.agreement!r:.80}; expected None, or a finite number, at most 0"
    if edit.token_agreement is not None and not _is_of_draft(edit.token_agreement, length):
        return (
            "an invalid token_agreement; expected None, or a tuple with a TokenAgreement for each"
            " token of the draft, in order, with offsets inside the draft and a finite"
            " log_probability of at most 0"
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
