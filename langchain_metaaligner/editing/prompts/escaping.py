"""Escapes texts that a model would read as structure of a prompt, and undoes it in the edit."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mark:
    """Text that the model would read as structure of a prompt.

    Attributes:
        char: A character that every match contains. Most texts lack it and need no search.
        pattern: Finds the text; its only group is the character to replace by a look-alike.
    """

    char: str
    pattern: re.Pattern[str]


def mark(char: str, pattern: str) -> Mark:
    """Make a mark that ignores case.

    Args:
        char: As for `Mark`.
        pattern: As for `Mark`, not yet compiled.
    """
    return Mark(char, re.compile(pattern, re.IGNORECASE))


FIELD = mark("|", r"(\|)(?=\s*(?:Context|Query|Question|Answer|Edit)\s*:)")
TURN = mark("\n", r"\n\s*\n\s*(?:Human|Assistant)\s*(:)")
CONTROL = mark("<", r"(<)(?=/?(?:s|unk|pad|bos|eos|mask)>|\|[^|<>\s]{1,64}\|>)")

# Each look-alike is a single character, so that undoing works on any piece of a stream.
_LOOKALIKES: Mapping[str, str] = {"|": "¦❘∣｜", ":": "꞉：ː", "<": "‹＜˂", "[": "［⁅"}
_PRIVATE_USE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE))


def escape(
    texts: Sequence[tuple[str, Sequence[Mark]]],
) -> tuple[list[str], dict[int, str]]:
    """Replace characters that would read as structure by look-alikes that occur in no text.

    Args:
        texts: Each text with the marks to escape in it.

    Returns:
        The texts, and a mapping that undoes the escaping: from each look-alike (as a code point)
        to the character that it replaced. A text without marks is returned unchanged.
    """
    swaps = _Swaps([text for text, _ in texts])
    return [swaps.disarm(text, marks) for text, marks in texts], swaps.undo()


class _Swaps:
    """Replaces characters by look-alikes, one to one, that occur in none of the given texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        self._lookalike: dict[str, str] = {}

    def disarm(self, text: str, marks: Iterable[Mark]) -> str:
        """Replace the one character of each mark in a text."""
        while True:
            at: set[int] = set()
            for one in marks:
                if one.char in text:
                    at.update(found.start(1) for found in one.pattern.finditer(text))
            if not at:
                return text
            # The text around an escaped mark may now form another mark.
            text = "".join(self._swap(char) if i in at else char for i, char in enumerate(text))

    def undo(self) -> dict[int, str]:
        """Map each look-alike, as a code point, to the character that it replaced."""
        return {ord(lookalike): char for char, lookalike in self._lookalike.items()}

    def _swap(self, char: str) -> str:
        if char not in self._lookalike:
            private = map(chr, itertools.chain(*_PRIVATE_USE))
            candidates = itertools.chain(_LOOKALIKES.get(char, ""), private)
            taken = self._lookalike.values()
            self._lookalike[char] = next(
                one
                for one in candidates
                if one not in taken and not any(one in text for text in self._texts)
            )
        return self._lookalike[char]


@functools.lru_cache(maxsize=32)
def control_marks(control_tokens: tuple[str, ...]) -> tuple[Mark, ...]:
    """Marks for control tokens: the common ones, and those of a tokenizer.

    Args:
        control_tokens: The tokenizer's control tokens.

    Returns:
        The marks.
    """
    by_start: dict[str, list[str]] = {}
    for token in control_tokens:
        if token.strip():
            by_start.setdefault(token[0], []).append(re.escape(token[1:]))
    return CONTROL, *(
        mark(start, f"({re.escape(start)})(?=(?:{'|'.join(rest)}))")
        for start, rest in by_start.items()
    )
