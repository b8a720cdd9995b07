"""Calls an engine so that deadlines hold and every failure is one of this package's errors."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
import time
from collections.abc import Awaitable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from langchain_metaaligner.engines.base import Edit, Engine, Request
from langchain_metaaligner.errors import EditTimeout, EngineError, MetaAlignerError


def edit(engine: Engine, requests: Sequence[Request]) -> list[Edit | Exception]:
    """Make edits; where the call fails, each alone, so that a bad one takes no other with it.

    Args:
        engine: The engine.
        requests: The edits to make.

    Returns:
        An edit or its error for each request, in order.
    """
    try:
        with _ErrorsOfOurs():
            if (each := getattr(engine, "edit_each", None)) is not None:
                return list(each(requests))
            return [*_checked(_edit_in_time(engine, requests), len(requests))]
    except Exception as error:  # noqa: BLE001 - becomes the items' own error
        if not _worth_single_calls(error, requests):
            return [error] * len(requests)
    return [one for request in requests for one in edit(engine, [request])]


async def aedit(engine: Engine, requests: Sequence[Request]) -> list[Edit | Exception]:
    """Make edits without blocking the event loop; as `edit`."""
    try:
        with _ErrorsOfOurs():
            if (each := getattr(engine, "aedit_each", None)) is not None:
                return list(await each(requests))
            return [*_checked(await _aedit_in_time(engine, requests), len(requests))]
    except Exception as error:  # noqa: BLE001 - becomes the items' own error
        if not _worth_single_calls(error, requests):
            return [error] * len(requests)
    return [one for request in requests for one in await aedit(engine, [request])]


def stream(engine: Engine, request: Request) -> Generator[str, None, Edit]:
    """Yield the pieces of one edit; closing stops the engine.

    Args:
        engine: The engine; one without a `stream` gives its edit in one piece.
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
    if not hasattr(engine, "stream"):
        (made,) = edit(engine, [request])
        if isinstance(made, Exception):
            raise made
        if made.text:
            yield made.text
        return made
    texts: list[str] = []
    with _ErrorsOfOurs():
        pieces = iter(engine.stream(request))
        if request.deadline is not None and not getattr(engine, "keeps_deadlines", False):
            pieces = _PiecesInTime(pieces, request.deadline)
    try:
        while True:
            with _ErrorsOfOurs():
                try:
                    piece = next(pieces)
                except StopIteration as end:
                    return end.value if isinstance(end.value, Edit) else Edit("".join(texts))
                if not isinstance(piece, str):
                    msg = f"The engine streamed a {type(piece).__name__}, but pieces are texts."
                    raise EngineError(msg)
            if request.deadline is not None and time.monotonic() > request.deadline:
                raise EditTimeout(_TOO_SLOW)
            if piece:
                texts.append(piece)
                yield piece
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()


class _PiecesInTime(Iterator[str]):
    """The pieces of a stream that knows no deadlines, made in a thread that can be left alone.

    Args:
        pieces: The engine's stream.
        deadline: Time of `time.monotonic()` at which nobody waits for it any more.
    """

    def __init__(self, pieces: Iterator[str], deadline: float) -> None:
        self._pieces, self._deadline = pieces, deadline
        self._context = contextvars.copy_context()
        self._wanted: queue.SimpleQueue[Future[str] | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="metaaligner-stream", daemon=True)
        self._worker.start()

    def __next__(self) -> str:
        made: Future[str] = Future()
        self._wanted.put(made)
        try:
            return made.result(max(0.0, self._deadline - time.monotonic()))
        except TimeoutError:
            if made.done():
                raise
            raise EditTimeout(_TOO_SLOW) from None

    def close(self) -> None:
        """Close the engine's stream, now or, where it is busy past its deadline, after that."""
        self._wanted.put(None)
        self._worker.join(max(0.0, self._deadline - time.monotonic()))

    def _work(self) -> None:
        while (made := self._wanted.get()) is not None:
            try:
                made.set_result(self._context.run(next, self._pieces))
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                made.set_exception(error)
        close = getattr(self._pieces, "close", None)
        if close is not None:
            # Nobody is left whom an error would tell anything.
            with suppress(Exception):
                self._context.run(close)


def _edit_in_time(engine: Engine, requests: Sequence[Request]) -> list[Edit]:
    deadline = _soonest(requests)
    if deadline is None or getattr(engine, "keeps_deadlines", False):
        return engine.edit(requests)
    # An engine that knows no deadlines can't be stopped, but nobody has to wait for it.
    future: Future[list[Edit]] = Future()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            future.set_result(context.run(engine.edit, requests))
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            future.set_exception(error)

    threading.Thread(target=work, name="metaaligner-edit", daemon=True).start()
    try:
        return future.result(max(0.0, deadline - time.monotonic()))
    except TimeoutError as error:
        if future.done() and future.exception() is error:
            raise
        raise EditTimeout(_TOO_SLOW) from None


async def _aedit_in_time(engine: Engine, requests: Sequence[Request]) -> list[Edit]:
    work = (
        engine.aedit(requests)
        if hasattr(engine, "aedit")
        else asyncio.to_thread(engine.edit, requests)
    )
    deadline = _soonest(requests)
    if deadline is None or getattr(engine, "keeps_deadlines", False):
        return await work
    # Cancelled, an engine may take its time or not listen at all: nobody waits for that either.
    task = asyncio.ensure_future(_ours(work))
    try:
        done, _ = await asyncio.wait({task}, timeout=max(0.0, deadline - time.monotonic()))
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise
    if not done:
        task.cancel()
        task.add_done_callback(_forget)
        raise EditTimeout(_TOO_SLOW)
    return task.result()


async def _ours(work: Awaitable[list[Edit]]) -> list[Edit]:
    # Inside the task: SystemExit would go around whoever waits for it, to the loop.
    with _ErrorsOfOurs():
        return await work


def _forget(task: asyncio.Future[Any]) -> None:
    # An error that is never looked at makes asyncio complain when the task is collected.
    if not task.cancelled():
        task.exception()


def _soonest(requests: Sequence[Request]) -> float | None:
    return min((one.deadline for one in requests if one.deadline is not None), default=None)


def _worth_single_calls(error: Exception, requests: Sequence[Request]) -> bool:
    return isinstance(error, EngineError) and len(requests) > 1


def _checked(edits: Any, count: int) -> list[Edit]:
    if (
        not isinstance(edits, Sequence)
        or len(edits) != count
        or not all(isinstance(one, Edit) and isinstance(one.text, str) for one in edits)
    ):
        what = f"{len(edits)} items" if isinstance(edits, Sequence) else type(edits).__name__
        msg = f"The engine returned {what} for {count} requests; expected as many Edits, in order."
        raise EngineError(msg)
    return list(edits)


class _ErrorsOfOurs:
    """Lets only errors of this package out; no generator, since every edit passes here."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, MetaAlignerError | KeyboardInterrupt):
            return
        if isinstance(error, asyncio.CancelledError) and _is_being_cancelled():
            return
        # Anything outside Exception would take the place of every item of LangChain's batch.
        msg = (
            f"The engine failed: {type(error).__name__}: {error}. The answer was not edited; the"
            " cause stands above, and on_error says what becomes of such answers."
        )
        raise EngineError(msg) from error


def _is_being_cancelled() -> bool:
    """Whether somebody cancels the task we are in; an engine may raise the same on its own."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    return task is not None and task.cancelling() > 0


_TOO_SLOW = (
    "The edit was stopped because its timeout had passed. Give more time with timeout=, choose a"
    " smaller checkpoint or a lower max_new_tokens, or say with on_error= what becomes of the"
    " answer."
)
