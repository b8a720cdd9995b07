"""What a tokenizer reads characters as: often as other characters, sometimes as nothing."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping

_REMEMBERED = 1 << 17  # characters; a text can hold ten times as many


class Readings:
    """What a tokenizer reads characters as, learnt when a text contains them.

    Many tokenizers normalise text before they split it. So one text can have the tokens of
    another: LLaMA 2's reads U+2581 as a space, others read full-width letters as plain ones.

    Args:
        read: What a character is read as: a text, empty if the character is dropped. It is not
            called for surrogates. `None` if each character is read as itself.
    """

    def __init__(self, read: Callable[[str], str] | None = None) -> None:
        self._read = read
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

    def _learn(self, read: Callable[[str], str], char: str) -> str:
        reading = char if "\ud800" <= char <= "\udfff" else read(char)
        # Marks are found in any case, so a tokenizer that ignores case changes nothing.
        if reading.lower() == char.lower():
            reading = char
            if len(self._same) >= _REMEMBERED:
                self._same = set()
            self._same.add(char)
        else:
            if len(self._others) >= _REMEMBERED:
                self._others = {}
            self._others[char] = reading
        return reading


def _as_some_do(char: str) -> str:
    if char == "\u2581":  # how SentencePiece writes a space
        return " "
    if unicodedata.category(char) == "Cf":  # invisible, and dropped by many tokenizers
        return ""
    plain = unicodedata.normalize("NFKC", char)
    return plain if plain.isascii() else char


AS_SOME_DO = Readings(_as_some_do)
"""For an unknown tokenizer: a character counts as another if some common tokenizer reads it so."""
