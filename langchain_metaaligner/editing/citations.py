"""Moves the offsets of citations and annotations to where their span is after an edit."""

from __future__ import annotations

import bisect
import operator
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

from langchain_metaaligner.editing.word_diff import compare_words, split_words

LISTS = re.compile(r"(?i)(?:annotations|citations|grounding_?supports|citation_?sources)")
"""Matches the names of lists whose entries belong to spans of a reply's text."""

_OFFSETS = (("start_index", "end_index"), ("startIndex", "endIndex"), ("start", "end"))
# Offsets under these keys are offsets in a source.
_SOURCES = ("source", "location", "extras")
_DEPTH = 3


class Moves:
    """Where the spans of a text are after its edit.

    Args:
        before: The text before the edit.
        after: The text after the edit.

    Attributes:
        before: The text before the edit.
        after: The text after the edit.
        changed: Whether they differ.
    """

    def __init__(self, before: str, after: str) -> None:
        self.before, self.after = before, after
        self.changed = before != after

    @cached_property
    def _kept(self) -> Sequence[tuple[int, int, int]]:
        """Start, end and new start of each part of the text that was kept, in characters."""
        before, after = split_words(self.before), split_words(self.after)
        old = list(accumulate(map(len, before), initial=0))
        new = list(accumulate(map(len, after), initial=0))
        return [
            (old[i1], old[i2], new[j1])
            for tag, i1, i2, j1, _ in compare_words(before, after)
            if tag == "equal"
        ]

    def holds(self, start: int, end: int, quote: str) -> bool:
        """Whether the offsets, in characters or bytes, are those of a quote.

        Args:
            start: Offset of the span's first character, or byte.
            end: Offset after its last one.
            quote: The quote.
        """
        return self.before[start:end] == quote or self._in_bytes[start:end] == _bytes_of(quote)

    @cached_property
    def _in_bytes(self) -> bytes:
        return _bytes_of(self.before)

    def of(self, start: int, end: int, quote: str | None) -> tuple[int, int] | None:
        """Where a span is after the edit.

        Args:
            start: Offset of the span's first character, or byte.
            end: Offset after its last one.
            quote: The text of the span, if it is known; it tells bytes from characters.

        Returns:
            The new offsets, of the same kind; `None` if the span was edited or is not in the text.
        """
        if not 0 <= start <= end:
            return None
        if quote is not None and self.before[start:end] != quote:
            return self._of_bytes(start, end, quote)
        return self._of_characters(start, end)

    def _of_characters(self, start: int, end: int) -> tuple[int, int] | None:
        at = bisect.bisect_right(self._kept, start, key=operator.itemgetter(0)) - 1
        if at < 0:
            return None
        first, last, new = self._kept[at]
        return (start - first + new, end - first + new) if end <= last else None

    def _of_bytes(self, start: int, end: int, quote: str) -> tuple[int, int] | None:
        if self._in_bytes[start:end] != _bytes_of(quote):
            return None
        at = len(self._in_bytes[:start].decode(errors="surrogatepass"))
        moved = self._of_characters(at, at + len(quote))
        if moved is None:
            return None
        new = len(_bytes_of(self.after[: moved[0]]))
        return new, new + end - start


def _bytes_of(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def moved_citations(entries: Sequence[Any], texts: Sequence[Moves], *, of_text: bool) -> list[Any]:
    """Move the offsets of citations, and leave out those whose span was edited.

    Args:
        entries: The citations of any provider.
        texts: The texts that the offsets may belong to.
        of_text: Whether citations without offsets belong to the whole text, so that they go if it
            was edited; those that quote their source do so in any case.

    Returns:
        The citations that stay.
    """
    kept = []
    for entry in entries:
        spans = list(_spans(entry, _DEPTH))
        if not spans:
            whole = isinstance(entry, Mapping) and (of_text or "cited_text" in entry)
            if not (whole and any(text.changed for text in texts)):
                kept.append(entry)
            continue
        for text in texts:
            if (moved := _moved(entry, text, _DEPTH)) is not None:
                kept.append(moved)
                break
    return kept


def _offsets_of(entry: Mapping[str, Any]) -> tuple[str, str] | None:
    for first, last in _OFFSETS:
        # Providers leave out a start of 0.
        if type(entry.get(last)) is int and type(entry.get(first, 0) or 0) is int:
            return first, last
    return None


def _spans(entry: Any, depth: int) -> Any:
    if not isinstance(entry, Mapping) or not depth:
        return
    if _offsets_of(entry) is not None:
        yield entry
    for key, inner in entry.items():
        if key not in _SOURCES:
            yield from _spans(inner, depth - 1)


def _moved(entry: Any, text: Moves, depth: int) -> Any:
    """The entry with new offsets; `None` if one of its spans can't be moved."""
    if not isinstance(entry, Mapping) or not depth:
        return entry
    changed: dict[str, Any] = {}
    names = _offsets_of(entry)
    if names is not None:
        start, end = entry.get(names[0]) or 0, entry[names[1]]
        new = text.of(start, end, _quoted(entry, start, end, text))
        if new is None:
            return None
        changed.update(zip(names, new, strict=True))
    for key, inner in entry.items():
        if isinstance(inner, Mapping) and key not in _SOURCES:
            if (moved := _moved(inner, text, depth - 1)) is None:
                return None
            if moved is not inner:
                changed[key] = moved
    return {**entry, **changed} if changed else entry


def _quoted(entry: Mapping[str, Any], start: int, end: int, text: Moves) -> str | None:
    """The text of a citation's span, as far as the citation says it."""
    said = entry.get("text")
    if isinstance(said, str):
        return said
    # Gemini quotes the span here, everybody else the source.
    said = entry.get("cited_text")
    return said if isinstance(said, str) and text.holds(start, end, said) else None
