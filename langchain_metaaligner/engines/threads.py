"""Runs work in daemon threads, which do not keep the process alive, and waits for it."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from langchain_metaaligner.engines.processes import end_with_process, renew_in_children

T = TypeVar("T")

_STOPPING = 20.0  # seconds that work which was stopped has to end
_LAST_WORDS = 5.0  # seconds that a pool's running work has when the process ends


class Late(Exception):  # noqa: N818 - not an error: the caller makes one
    """The time for a wait is over; what was waited for may go on."""


def start(work: Callable[[], T], name: str, *, stops: bool = False) -> Future[T]:
    """Start work in a new thread, with the caller's context variables.

    For work that may hang: in a pool it would take a thread from others for ever.

    Args:
        work: The function to call.
        name: The thread's name.
        stops: Whether the end of the process stops the work, by a `SystemExit` in its thread.

    Returns:
        The future result; cancelling it has no effect.
    """
    made: Future[T] = Future()
    made.set_running_or_notify_cancel()
    inside = contextvars.copy_context()
    run = partial(_fulfil, made, partial(inside.run, work))
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    if stops:
        stopper = _Stopper(thread)
        end_with_process(stopper)
        made.add_done_callback(stopper.forget)
    return made


class _Stopper:
    """Stops a thread when the process ends."""

    def __init__(self, thread: threading.Thread) -> None:
        self._thread: threading.Thread | None = thread

    def forget(self, _made: Future[Any]) -> None:
        """Do nothing at the end of the process, since the work is done."""
        self._thread = None

    def end(self) -> None:
        """Raise `SystemExit` between two steps of the thread's Python code."""
        thread = self._thread
        if thread is not None and thread.ident is not None:
            raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
            raise_in(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))

    def join(self) -> None:
        """Wait a while for the thread."""
        thread = self._thread
        if thread is not None:
            thread.join(_STOPPING)


class Pool:
    """A bounded number of threads, each of which ends after a while without work.

    Unlike asyncio's default pool, which everybody in the process shares, it is this package's own.
    Its threads don't keep the process alive, and it can be used in a forked process.

    Args:
        name: The threads' name.
        most: The largest number of threads.
        ends: Whether the end of the process waits for work that is running.
    """

    def __init__(self, name: str, most: int, *, ends: bool = True) -> None:
        self._name, self._most, self._ends = name, most, ends
        self._idle_for = 1.0
        self._known = False
        self.renew()

    def renew(self) -> None:
        """Start without threads and without work."""
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._ending = False

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Do work in a thread as soon as one is free, with the caller's context variables.

        Args:
            work: The function to call.

        Returns:
            The future result; cancelling it takes back work that has not begun.
        """
        if not self._known:
            self._known = True
            renew_in_children(self)
        made: Future[T] = Future()
        inside = contextvars.copy_context()
        with self._changed:
            if self._idle <= len(self._waiting) and len(self._threads) < self._most:
                thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                thread.start()
                self._threads.add(thread)
                if self._ends:
                    end_with_process(self)
            self._waiting.append((made, partial(inside.run, work)))
            self._changed.notify()
        return made

    def end(self) -> None:
        """Start no more work."""
        with self._changed:
            self._ending = True
            self._waiting.clear()
            self._changed.notify_all()

    def join(self) -> None:
        """Wait a while for work that is running."""
        end = time.monotonic() + _LAST_WORDS
        for thread in list(self._threads):
            thread.join(max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._idle += 1
                    told = not self._ending and self._changed.wait(self._idle_for)
                    self._idle -= 1
                    if not self._waiting:
                        if told:
                            continue
                        self._threads.discard(threading.current_thread())
                        return
                made, work = self._waiting.popleft()
            if made.set_running_or_notify_cancel():
                _fulfil(made, work)
            del made, work  # what was made must not live until more work comes


def _fulfil(made: Future[T], work: Callable[[], T]) -> None:
    try:
        made.set_result(work())
    except BaseException as error:  # noqa: BLE001 - raised again by `Future.result`
        made.set_exception(error)


PREPARATION = Pool("metaaligner-prepare", 16)
"""Writes prompts and counts their tokens."""

STREAMS = Pool("metaaligner-stream", 64, ends=False)
"""Reads the streams of engines that have no asynchronous ones."""


class Signal:
    """Wakes the task that made it, from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the task; nothing happens if its event loop is closed."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._event.set)

    @property
    def forsaken(self) -> bool:
        """Whether the event loop is closed, so that nobody waits any more."""
        return self._loop.is_closed()

    async def wait(self, seconds: float | None) -> bool:
        """Wait for `set`.

        Args:
            seconds: The longest wait; `None` for no limit.

        Returns:
            Whether it was set in time.
        """
        if seconds is None:
            await self._event.wait()
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        return self._event.is_set()


def result(made: Future[T], deadline: float | None) -> T:
    """Wait for a thread's result.

    Args:
        made: The future result.
        deadline: Time at which the wait ends, in seconds of `time.monotonic()`.

    Returns:
        The result.

    Raises:
        Late: The deadline has passed.
    """
    try:
        return made.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except TimeoutError:
        if made.done():  # raised by the work, or the result has come just now
            return made.result()
        made.cancel()
        raise Late from None
    except BaseException:
        made.cancel()
        raise


async def aresult(made: Future[T], deadline: float | None) -> T:
    """Wait for a thread's result without blocking the event loop; as `result`."""
    signal = Signal()
    made.add_done_callback(lambda _: signal.set())
    try:
        in_time = await signal.wait(None if deadline is None else deadline - time.monotonic())
    except BaseException:
        made.cancel()
        raise
    if not in_time and not made.done():
        made.cancel()
        raise Late
    return made.result()
