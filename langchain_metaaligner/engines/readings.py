"""What a tokenizer reads characters as: often as other characters, sometimes as nothing."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from functools import cached_property
from itertools import chain

_GUARD = "\n"  # combines with no character, and no character becomes one
# The blocks with forms of ASCII characters, or with invisible ones.
_BLOCKS = (
    range(0x80, 0x3400),
    range(0xF900, 0x10000),
    range(0x1D400, 0x1D800),
    range(0x1F100, 0x1FC00),
    range(0xE0000, 0xE0080),
)
_REMEMBERED = 1 << 17  # characters; a text can hold ten times as many

InContext = tuple[str, Callable[[int], int]]


class Readings:
    """What a tokenizer reads characters as, learnt when a text contains them.

    Many tokenizers normalise text before they split it. So one text can have the tokens of
    another: LLaMA 2's reads U+2581 as a space, others read full-width letters as plain ones.

    Args:
        read: What a character is read as: a text, empty if the character is dropped. It is not
            called for surrogates. `None` if each character is read as itself.
        in_context: As the method of this name, for a tokenizer that reads several characters
            together as others: ALBERT's reads two apostrophes as a quotation mark.
    """

    def __init__(
        self,
        read: Callable[[str], str] | None = None,
        in_context: Callable[[str], InContext | None] | None = None,
    ) -> None:
        self._read = read
        self._in_context = in_context
        self._same: set[str] = set()
        self._others: dict[str, str] = {}
        plain = "" if read is None else "".join(map(chr, range(0x80)))
        self._of_ascii = {char: self[char] for char in plain if self[char] != char}

    def __getitem__(self, char: str) -> str:
        if self._read is None or char in self._same:
            return char
        reading = self._others.get(char)
        return self._learn(self._read, char) if reading is None else reading

    def of(self, text: str) -> Mapping[str, str]:
        """Find the characters of a text that are read otherwise.

        Args:
            text: The text.

        Returns:
            What each of these characters is read as; for a text in ASCII, also some that it does
            not contain.
        """
        if self._read is None:
            return {}
        if text.isascii():
            return self._of_ascii
        read = {char: self[char] for char in set(text) - self._same}
        return {char: reading for char, reading in read.items() if reading != char}

    @property
    def reads_in_context(self) -> bool:
        """Whether several characters together may be read as others."""
        return self._in_context is not None

    def in_context(self, text: str) -> InContext | None:
        """Read a whole text, where that may be more than reading one character after the other.

        Args:
            text: The text.

        Returns:
            What the text is read as, and a function from a place in it to the place in the text
            that it comes from; `None` if reading each character tells the same.
        """
        return None if self._in_context is None else self._in_context(text)

    def _learn(self, read: Callable[[str], str], char: str) -> str:
        reading = char if "\ud800" <= char <= "\udfff" else read(char)
        # Marks are found in any case, so a tokenizer that ignores case changes nothing.
        if len(reading) == 1 and reading.lower() == char.lower():
            reading = char
            if len(self._same) >= _REMEMBERED:
                self._same = set()
            self._same.add(char)
        else:
            if len(self._others) >= _REMEMBERED:
                self._others = {}
            self._others[char] = reading
        return reading


class _AnyReadings(Readings):
    """The readings of an unknown tokenizer."""

    def __getitem__(self, char: str) -> str:
        return self._table.get(char, char)

    def of(self, text: str) -> Mapping[str, str]:
        if text.isascii():
            return {}
        return {char: self._table[char] for char in set(text) & self._read_otherwise}

    @cached_property
    def _read_otherwise(self) -> frozenset[str]:
        return frozenset(self._table)

    @cached_property
    def _table(self) -> Mapping[str, str]:
        chars = [*map(chr, chain(*_BLOCKS))]
        plain = unicodedata.normalize("NFKC", _GUARD.join(chars)).split(_GUARD)
        table = dict(zip(chars, plain, strict=True))
        table = {char: read for char, read in table.items() if read.isascii() and read != char}
        # Invisible characters are dropped by many tokenizers.
        table |= {char: "" for char in chars if unicodedata.category(char) == "Cf"}
        return table | {"\u2581": " "}  # how SentencePiece writes a space


AS_ANY = _AnyReadings()
"""For an unknown tokenizer: a character counts as another if some common tokenizer reads it so."""
