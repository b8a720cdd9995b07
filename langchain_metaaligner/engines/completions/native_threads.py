"""Keeps a forked process from waiting for threads of llama.cpp that it does not have."""

from __future__ import annotations

import ctypes
import weakref
from contextlib import suppress
from typing import Any

from langchain_metaaligner.engines import processes

CHANGING = processes.Gate()
"""Held while llama.cpp loads or frees a model, which share what is static in it; a fork waits."""


class NativeThreads:
    """Holds a native object that has threads of its own.

    Its destructor waits for them, and so do those of llama.cpp's static objects when a process
    ends. In a forked process they would wait for ever, or crash, as only the forking thread lives
    on. So a forked process keeps such objects for good, its own ones too, and ends without static
    destructors.

    Args:
        native: The object.
    """

    def __init__(self, native: Any) -> None:
        self._native = native
        if _forks.happened:
            self.keep()
        _held.add(self)
        processes.renew_in_children(_forks)

    @property
    def native(self) -> Any:
        """The object; `None` once it was dropped."""
        return self._native

    def drop(self) -> None:
        """Destroy the object, with nobody else holding it; a forked process only forgets it."""
        _held.discard(self)
        with CHANGING:
            self._native = None

    def keep(self) -> None:
        """Never destroy the object, not even when the interpreter ends."""
        if self._native is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._native))


class _Forks:
    """Told of forks."""

    def __init__(self) -> None:
        self.happened = False

    def renew(self) -> None:
        for one in list(_held):
            one.keep()
        if not self.happened:
            self.happened = True
            _end_without_destructors()


def _end_without_destructors() -> None:
    """Let `exit` end this process after Python has ended, and before static destructors run."""
    libc = ctypes.CDLL(None)
    with suppress(AttributeError):  # only glibc has on_exit
        # The last one that is registered runs first.
        libc["on_exit"](ctypes.cast(libc["_exit"], ctypes.c_void_p), None)
        libc["__cxa_atexit"](ctypes.cast(libc["fflush"], ctypes.c_void_p), None, None)


_held: weakref.WeakSet[NativeThreads] = weakref.WeakSet()
_forks = _Forks()
