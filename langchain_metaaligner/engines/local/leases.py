"""Counts the owners of what is shared in a process, and closes it behind the last one."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar


class _Closable(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=_Closable)


class Lease(Generic[T]):
    """One owner's share in a thing that others may own too.

    It can be given back once only, so an owner who closes twice takes nothing from another. A
    lease that is forgotten without closing gives its share back when it is collected.

    Attributes:
        value: The shared thing.
    """

    def __init__(self, value: T, give_back: Callable[[], None]) -> None:
        self.value = value
        self._finalizer = weakref.finalize(self, give_back)
        # At the end of the process all memory goes anyway, and torch may be half gone before us.
        self._finalizer.atexit = False

    @property
    def closed(self) -> bool:
        """Whether the share was given back."""
        return not self._finalizer.alive

    def close(self) -> None:
        """Give the share back; the last owner's closes the thing itself."""
        self._finalizer()


class Leases(Generic[T]):
    """Counts the owners of each shared thing."""

    def __init__(self) -> None:
        # Reentrant: the collector may end a forgotten lease in the very thread that holds it.
        self._lock = threading.RLock()
        self._entries: dict[Hashable, _Entry[T]] = {}

    def lease(self, key: Hashable, make: Callable[[], T]) -> Lease[T]:
        """Make the caller one more owner.

        Args:
            key: What the thing is made from; equal keys share one.
            make: Makes it where nobody owns one yet. It must be quick: loading comes later.

        Returns:
            The caller's share.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                entry = self._entries[key] = _Entry(make())
            entry.owners += 1
        return Lease(entry.value, _GiveBack(self, key, entry))

    def give_back(self, key: Hashable, entry: _Entry[T]) -> None:
        """Take a share back; only a lease does this.

        Args:
            key: The key that the thing was leased by.
            entry: The thing with its count of owners.
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
    """A shared thing and the number of its owners."""

    def __init__(self, value: T) -> None:
        self.value = value
        self.owners = 0


class _GiveBack:
    """What ends a lease: no closure, so that nothing but these three is kept alive."""

    def __init__(self, registry: Leases[Any], key: Hashable, entry: _Entry[Any]) -> None:
        self._registry, self._key, self._entry = registry, key, entry

    def __call__(self) -> None:
        self._registry.give_back(self._key, self._entry)
