"""Keeps keys and values of the beginnings of prompts, so that none is computed twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from langchain_metaaligner.engines import processes

Layers = dict[int, tuple[Any, Any]]
"""Keys and values of each layer, each `[key_heads, tokens, head_dim]`."""

_WORTH = 8  # tokens; shorter stretches cost more to manage than to compute


class PrefixCache:
    """A least-recently-used cache of keys and values, by the tokens that they were computed from.

    It is a tree that stores each stretch of tokens that prompts share only once: the head with
    the objectives, earlier turns of a conversation, prefilled beginnings. Whatever is missing is
    computed, so the cache affects only how long an edit takes. Any number of threads may use it.

    Args:
        limit: Maximum size in bytes; 0 stores nothing.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = processes.Lock()
        self._root = _Stretch((), {}, None)
        self._bytes = 0
        self._clock = 0

    @property
    def bytes(self) -> int:
        """Size of the stored keys and values, in bytes."""
        return self._bytes

    def find(self, tokens: Sequence[int]) -> list[tuple[Layers, int]]:
        """Find the longest stored beginning of some tokens.

        Args:
            tokens: The tokens.

        Returns:
            Consecutive stretches: keys and values, each `[key_heads, tokens, head_dim]`, and how
            many of their tokens match. They are never written to again.
        """
        with self._lock:
            return [(stretch.layers, count) for stretch, count in self._walk(tokens)]

    def add(self, tokens: Sequence[int], copy: Callable[[int, int], Layers]) -> None:
        """Store a beginning; the part that is stored already is not copied again.

        Args:
            tokens: Its tokens.
            copy: Called as `copy(start, end)`, returns copies of the keys and values of the tokens
                from `start` to before `end`, each `[key_heads, end - start, head_dim]`.
        """
        with self._lock:
            path = self._walk(tokens)
            known = sum(count for _, count in path)
            if not self.limit or len(tokens) - known < _WORTH:
                return
            parent = self._root
            if path:
                parent, count = path[-1]
                if count < len(parent.tokens):
                    self._split(parent, count)
            new = _Stretch(tuple(tokens[known:]), copy(known, len(tokens)), parent)
            new.used = self._clock
            if new.bytes > self.limit:
                return
            parent.children[new.tokens[0]] = new
            self._bytes += new.bytes
            while self._bytes > self.limit:
                self._drop(min(self._leaves(), key=lambda one: one.used))

    def clear(self) -> None:
        """Remove everything."""
        with self._lock:
            self._root.children.clear()
            self._bytes = 0

    def _walk(self, tokens: Sequence[int]) -> list[tuple[_Stretch, int]]:
        self._clock += 1
        path, at, stretch = [], 0, self._root
        while at < len(tokens):
            found = stretch.children.get(tokens[at])
            if found is None:
                break
            count = _common(found.tokens, tokens, at)
            found.used = self._clock
            path.append((found, count))
            at += count
            if count < len(found.tokens):
                break
            stretch = found
        return path

    def _split(self, stretch: _Stretch, count: int) -> None:
        """Cut a stretch in two, each with its own copy of keys and values."""
        rest = _Stretch(stretch.tokens[count:], _cut(stretch.layers, count, None), stretch)
        rest.children, rest.used = stretch.children, stretch.used
        for child in rest.children.values():
            child.parent = rest
        stretch.tokens, stretch.layers = (
            stretch.tokens[:count],
            _cut(stretch.layers, 0, count),
        )
        stretch.bytes = _size(stretch.layers)
        stretch.children = {rest.tokens[0]: rest}

    def _leaves(self) -> list[_Stretch]:
        found, left = [], [*self._root.children.values()]
        while left:
            stretch = left.pop()
            left += stretch.children.values()
            if not stretch.children:
                found.append(stretch)
        return found

    def _drop(self, leaf: _Stretch) -> None:
        if leaf.parent is not None:
            del leaf.parent.children[leaf.tokens[0]]
        self._bytes -= leaf.bytes


class _Stretch:
    """Consecutive tokens that have always occurred together so far."""

    __slots__ = ("bytes", "children", "layers", "parent", "tokens", "used")

    def __init__(self, tokens: tuple[int, ...], layers: Layers, parent: _Stretch | None) -> None:
        self.tokens, self.layers, self.parent = tokens, layers, parent
        self.children: dict[int, _Stretch] = {}
        self.bytes = _size(layers)
        self.used = 0


def _common(stretch: Sequence[int], tokens: Sequence[int], at: int) -> int:
    most = min(len(stretch), len(tokens) - at)
    return next((n for n in range(most) if stretch[n] != tokens[at + n]), most)


def _cut(layers: Layers, start: int, end: int | None) -> Layers:
    return {
        layer: (keys[:, start:end].clone(), values[:, start:end].clone())
        for layer, (keys, values) in layers.items()
    }


def _size(layers: Layers) -> int:
    return sum(int(one.nbytes) for pair in layers.values() for one in pair)
