"""An event loop in a thread of its own, which survives forks and ends with the process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from langchain_metaaligner.engines.processes import Lock, end_with_process, renew_in_children

T = TypeVar("T")

_LAST_WORDS = 2.0  # seconds for which the end of the process waits for what is going on


class LoopThread:
    """Runs coroutines for any thread and any event loop, all in one event loop of its own.

    Connections belong to an event loop. Callers come from many, some of which end after each call,
    so none of theirs can keep a connection.

    Args:
        name: The thread's name.
        forked: Called in a forked process, where the loop is gone and a new one will be started.
    """

    def __init__(self, name: str, forked: Callable[[], None]) -> None:
        self._name, self._forked = name, forked
        self._lock = Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def renew(self) -> None:
        """Start anew in a forked process."""
        self._loop = self._thread = None
        self._forked()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine.

        Args:
            work: The coroutine.

        Returns:
            Its future result; cancelling it cancels the coroutine's task.

        Raises:
            EngineError: The process is ending.
        """
        try:
            with self._lock:
                loop = self._loop or self._start()
        except BaseException:
            work.close()
            raise
        return asyncio.run_coroutine_threadsafe(work, loop)

    def stop(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Cancel everything and end the thread, without waiting for it.

        Args:
            last: What is done before that.
        """
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            with suppress(RuntimeError):  # it is closed already
                asyncio.run_coroutine_threadsafe(_end(loop, last), loop)

    @property
    def stopped(self) -> bool:
        """Whether everything was cancelled, and nothing has begun since then."""
        return self._loop is None

    def end(self) -> None:
        """Cancel everything, since the process ends."""
        self.stop()

    def join(self) -> None:
        """Wait a while for the thread."""
        if self._thread is not None:
            self._thread.join(_LAST_WORDS)

    def _start(self) -> asyncio.AbstractEventLoop:
        renew_in_children(self)
        end_with_process(self)
        loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=_run, args=(loop,), name=self._name, daemon=True)
        self._thread.start()
        self._loop = loop
        return loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


async def _end(
    loop: asyncio.AbstractEventLoop, last: Callable[[], Coroutine[Any, Any, None]] | None
) -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    if last is not None:
        with suppress(Exception):
            await last()
    await loop.shutdown_asyncgens()
    loop.call_soon(loop.stop)
