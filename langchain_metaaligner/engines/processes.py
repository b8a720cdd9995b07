"""Keeps locks and threads usable in a forked process, and ends threads with the process."""

from __future__ import annotations

import atexit
import os
import threading
import time
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakSet

from langchain_metaaligner.errors import EngineError

# Seconds for which a fork waits for a forward pass or a load. Work that itself waits for the
# forking thread would otherwise hold it up for ever.
_PATIENCE = 30.0


class Renewable(Protocol):
    """Has state that is of no use in a forked process, where only the forking thread lives on."""

    def renew(self) -> None:
        """Return to the state before any thread was started."""


class Endable(Protocol):
    """Has threads that must not run while the interpreter shuts down."""

    def end(self) -> None:
        """Ask the threads to stop, without waiting."""

    def join(self) -> None:
        """Wait until they have stopped."""


_renewed: WeakSet[Renewable] = WeakSet()
_ended: WeakSet[Endable] = WeakSet()
_gates: WeakSet[Gate] = WeakSet()
_held = threading.local()
_installed = _hooked = _ending = False


def renew_in_children(owner: Renewable) -> None:
    """Call `owner.renew()` in each process that is forked from this one.

    Args:
        owner: An object with locks or threads; it is not kept alive.
    """
    global _installed  # noqa: PLW0603 - a hook at forks can't be removed, so it is set once
    if not _installed:
        _installed = True
        os.register_at_fork(
            before=_before_fork, after_in_parent=_open_gates, after_in_child=_in_child
        )
    _renewed.add(owner)


def end_with_process(owner: Endable) -> None:
    """End the threads of an object before the interpreter shuts down.

    A thread that is inside of torch or of a tokenizer at that time would abort the process.

    Args:
        owner: An object that is about to start a daemon thread; it is not kept alive.

    Raises:
        EngineError: The process is ending already.
    """
    global _hooked  # noqa: PLW0603 - one hook is enough
    if not _hooked:
        _hooked = True
        atexit.register(_at_exit)
    _ended.add(owner)
    if _ending:
        message = "The process is ending, so the answer was not edited."
        raise EngineError(message)


class Lock:
    """A lock that is free in a forked process, even if another thread held it at the fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._used = False

    def renew(self) -> None:
        """Be free again."""
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._used:  # many locks are made when modules are imported
            self._used = True
            self._register()
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        # In a process that was forked inside of the block, it is free already.
        with suppress(RuntimeError):
            self._lock.release()

    def _register(self) -> None:
        renew_in_children(self)


class Gate(Lock):
    """A lock for which a fork waits, so that no library is copied in the middle of its work."""

    def __init__(self) -> None:
        super().__init__()
        self._owner: int | None = None

    def __enter__(self) -> None:
        super().__enter__()
        self._owner = threading.get_ident()

    def __exit__(self, *error: object) -> None:
        self._owner = None
        super().__exit__(*error)

    def shut(self, seconds: float) -> bool:
        """Hold the gate for a fork.

        Args:
            seconds: How long to wait for it.

        Returns:
            Whether it is held. A thread that forks inside of the gate does not wait for itself.
        """
        own = self._owner == threading.get_ident()
        return not own and self._lock.acquire(timeout=max(0.0, seconds))

    def _register(self) -> None:
        super()._register()
        _gates.add(self)

    def open(self) -> None:
        """Release the gate after a fork."""
        with suppress(RuntimeError):
            self._lock.release()


def _before_fork() -> None:
    end = time.monotonic() + _PATIENCE
    _held.gates = [gate for gate in list(_gates) if gate.shut(end - time.monotonic())]


def _open_gates() -> None:
    for gate in _held.gates:
        gate.open()
    _held.gates = []


def _in_child() -> None:
    global _ending  # noqa: PLW0603 - a process may fork while it ends
    _ending = False
    _held.gates = []
    _ended.clear()  # no thread of theirs lives here
    for owner in list(_renewed):
        owner.renew()


def _at_exit() -> None:
    global _ending  # noqa: PLW0603 - there is one process
    _ending = True
    owners: list[Any] = list(_ended)
    for owner in owners:
        owner.end()
    for owner in owners:
        while True:
            try:
                owner.join()
                break
            except KeyboardInterrupt:  # the process is ending already, and the wait is short
                continue
