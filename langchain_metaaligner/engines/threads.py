"""Runs work in daemon threads, which do not keep the process alive, and waits for it."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from langchain_metaaligner.engines.processes import end_with_process, renew_in_children
from langchain_metaaligner.errors import OverloadedError

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

    Raises:
        EngineError: With `stops`, the process is ending already.
    """
    made: Future[T] = Future()
    made.set_running_or_notify_cancel()
    inside = contextvars.copy_context()
    run = partial(_fulfil, made, partial(inside.run, work))
    thread = threading.Thread(target=run, name=name, daemon=True)
    if stops:
        stopper = _Stopper(thread)
        end_with_process(stopper)
        made.add_done_callback(stopper.forget)
    thread.start()
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

    Work that is cancelled while it runs goes on in its thread, but gives its place to other work.
    The number of such threads is bounded, too: beyond it, new work is refused until some end.

    Args:
        name: The threads' name.
        most: The largest number of threads whose work is wanted.
        forsaken: The number of threads whose work is no longer wanted at which new work is refused.
        ends: Whether the end of the process waits for work that is running.
    """

    def __init__(self, name: str, most: int, *, forsaken: int = 64, ends: bool = True) -> None:
        self._name, self._most, self._ends = name, most, ends
        self._most_forsaken = forsaken
        self._idle_for = 1.0
        self._known = False
        self.renew()

    def renew(self) -> None:
        """Start without threads and without work."""
        self._changed = threading.Condition()
        self._waiting: deque[tuple[_Work[Any], Callable[[], Any]]] = deque()
        self._threads: set[threading.Thread] = set()
        self._running: set[_Work[Any]] = set()
        self._forsaken: set[_Work[Any]] = set()
        self._idle = 0
        self._ending = False

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Do work in a thread as soon as one is free, with the caller's context variables.

        Args:
            work: The function to call.

        Returns:
            The future result. Cancelling it takes back work that has not begun; if it has, its
            place is free for other work.

        Raises:
            OverloadedError: Too many threads are busy with work that nobody wants any more.
            EngineError: The process is ending.
        """
        if not self._known:
            self._known = True
            renew_in_children(self)
        made: _Work[T] = _Work(self)
        inside = contextvars.copy_context()
        with self._changed:
            if len(self._forsaken) >= self._most_forsaken:
                message = (
                    f"{len(self._forsaken)} calls that nobody waits for any more, because they were"
                    " cancelled or their timeout has passed, still run in their threads, and no"
                    " more are accepted until some of them end. Allow more time with timeout=...,"
                    " or let the engine stop in time."
                )
                raise OverloadedError(message)
            self._waiting.append((made, partial(inside.run, work)))
            self._serve()
        return made

    def forsake(self, made: _Work[Any]) -> None:
        """Free the place of work that runs, but is no longer wanted.

        Args:
            made: The work's future.
        """
        with self._changed:
            if made in self._running:
                self._forsaken.add(made)
                self._serve()

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

    def _serve(self) -> None:
        """Wake or start a thread for work that waits."""
        self._changed.notify()
        most = self._most + min(len(self._forsaken), self._most_forsaken)
        if self._idle < len(self._waiting) and len(self._threads) < most:
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            if self._ends:
                end_with_process(self)
            thread.start()
            self._threads.add(thread)

    def _work(self) -> None:
        while True:
            with self._changed:
                if len(self._threads) > self._most + len(self._forsaken):
                    return self._leave()  # its place was taken while its work was forsaken
                if not self._waiting:
                    self._idle += 1
                    told = not self._ending and self._changed.wait(self._idle_for)
                    self._idle -= 1
                    if not self._waiting:
                        if told:
                            continue
                        return self._leave()
                made, work = self._waiting.popleft()
                if not made.set_running_or_notify_cancel():
                    continue
                self._running.add(made)
            _fulfil(made, work)
            with self._changed:
                self._running.discard(made)
                self._forsaken.discard(made)
            del made, work  # what was made must not live until more work comes

    def _leave(self) -> None:
        self._threads.discard(threading.current_thread())
        self._changed.notify()


class _Work(Future[T]):
    """The result of work in a pool.

    Args:
        pool: The pool.
    """

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self._pool = pool

    def cancel(self) -> bool:
        """Take the work back, or leave it alone if it has begun.

        Returns:
            Whether it had not begun.
        """
        if super().cancel():
            return True
        self._pool.forsake(self)
        return False


def _fulfil(made: Future[T], work: Callable[[], T]) -> None:
    try:
        made.set_result(work())
    except BaseException as error:  # noqa: BLE001 - raised again by `Future.result`
        made.set_exception(error)


PREPARATION = Pool("metaaligner-prepare", 16)
"""Writes prompts and counts their tokens."""

_pools: dict[int, Pool] = {}


def calls_of(engine: object) -> Pool:
    """Find the threads in which an engine is called that does not stop by itself.

    Each engine has its own, so that one that hangs holds up no other. Aligners that share an
    object as their engine share its threads, although each wraps it anew.

    Args:
        engine: The engine; it is not kept alive.

    Returns:
        Its pool. The end of the process does not wait for it.
    """
    wrapped = getattr(engine, "__wrapped__", engine)
    try:
        return _pool_of(wrapped)
    except TypeError:  # an object with slots alone has no weak references
        return _pool_of(engine)


def _pool_of(owner: object) -> Pool:
    key = id(owner)  # an engine may be equal to another one, or have no hash
    found = _pools.get(key)
    if found is None:
        made = Pool("metaaligner-engine", 64, ends=False)
        finalizer = weakref.finalize(owner, _pools.pop, key, None)
        finalizer.atexit = False
        found = _pools.setdefault(key, made)
        if found is not made:
            finalizer.detach()
    return found


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
