"""Counts the owners of shared objects, and closes an object when its last owner releases it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

from langchain_metaaligner.engines import processes


class _Closable(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=_Closable)


class Lease(Generic[T]):
    """One owner's share of an object that may have other owners.

    A share is returned only once, so closing a lease twice takes nothing from other owners. A
    lease that is dropped without closing returns its share when it is garbage-collected.

    Attributes:
        value: The shared object.
    """

    def __init__(self, value: T, give_back: Callable[[], None]) -> None:
        self.value = value
        self._finalizer = weakref.finalize(self, give_back)
        # When the process ends, all memory is freed anyway, and parts of torch may be gone.
        self._finalizer.atexit = False

    @property
    def closed(self) -> bool:
        """Whether the share was returned."""
        return not self._finalizer.alive

    def close(self) -> None:
        """Return the share; returning the last one closes the object."""
        self._finalizer()


class Leases(Generic[T]):
    """Counts the owners of each shared object."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry[T]] = {}
        self.renew()

    def renew(self) -> None:
        """Make the lock anew, which another thread may have held when the process forked."""
        # Reentrant: garbage collection may return a lease in the thread that holds the lock.
        self._lock = threading.RLock()

    def lease(self, key: Hashable, make: Callable[[], T]) -> Lease[T]:
        """Make the caller one more owner.

        Args:
            key: What the object is made from; equal keys share one object.
            make: Makes the object if it has no owner yet. It must be quick, without loading.

        Returns:
            The caller's share.
        """
        processes.renew_in_children(self)
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                entry = self._entries[key] = _Entry(make())
            entry.owners += 1
        return Lease(entry.value, _GiveBack(self, key, entry))

    def give_back(self, key: Hashable, entry: _Entry[T]) -> None:
        """Take a share back; called by leases only.

        Args:
            key: The key of the object.
            entry: The object with its number of owners.
        """
        with self._lock:
            entry.owners -= 1
            if entry.owners:
                return
            if self._entries.get(key) is entry:
                del self._entries[key]
        entry.value.close()

    def __len__(self) -> int:
        with self._lock:
            return len(self._entries)


class _Entry(Generic[T]):
    """A shared object and the number of its owners."""

    def __init__(self, value: T) -> None:
        self.value = value
        self.owners = 0


class _GiveBack:
    """Returns a share; not a closure, so that it keeps nothing else alive."""

    def __init__(self, registry: Leases[Any], key: Hashable, entry: _Entry[Any]) -> None:
        self._registry, self._key, self._entry = registry, key, entry

    def __call__(self) -> None:
        self._registry.give_back(self._key, self._entry)
