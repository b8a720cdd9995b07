"""Escapes texts that a model would read as structure of a prompt, and undoes it in the edit."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from langchain_metaaligner.engines.readings import InContext, Readings

Found = re.Match[str] | InContext


@dataclass(frozen=True, slots=True)
class Mark:
    """Text that the model would read as structure of a prompt.

    Its pattern must take time in proportion to the text, whatever the text is. So where the same
    characters may follow each other without end, it uses quantifiers that never give back.

    Attributes:
        chars: Every match contains one of them. Most texts lack them and need no search.
        pattern: Finds the text; its only group is the character to replace by a look-alike. A
            match without this group is no such text.
    """

    chars: str
    pattern: re.Pattern[str]


def mark(chars: str, pattern: str) -> Mark:
    """Make a mark that ignores case.

    Args:
        chars: As for `Mark`.
        pattern: As for `Mark`, not yet compiled.
    """
    return Mark(chars, re.compile(pattern, re.IGNORECASE))


FIELD = mark("|", r"(\|)(?=\s*+(?:Context|Query|Question|Answer|Edit)\s*+:)")
# A match takes all the white space at once, or a long run of it would be searched from each place.
TURN = mark("\n", r"\n[^\S\n]*+\n\s*+(?:(?:Human|Assistant)\s*+(:))?")
# For a tokenizer that reads a line break as a space, or drops it.
TURN_IN_LINE = mark(":", r"(?:Human|Assistant)\s*+(:)")
CONTROL = mark(
    "<",
    r"(<)(?=/?(?:s|unk|pad|bos|eos|mask|(?:start|end)_of_\w{1,32})>|\|[^|<>\s]{1,64}\|>)",
)
_SURROGATES = frozenset(map(chr, range(0xD800, 0xE000)))

# Each look-alike is a single character, so that undoing works on any piece of a stream.
_LOOKALIKES: Mapping[str, str] = {"|": "¦❘∣", ":": "꞉ː", "<": "‹˂", "[": "⁅"}
_SYMBOLS = range(0x2500, 0x2800)
_PRIVATE_USE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE))
_LETTERS = range(0xA1, 0x110000)
_LOST = "?"  # where no look-alike is left; this can't be undone
_PATIENCE = 2048  # characters that the tokenizer drops or changes, until there is likely no other
_HOSTILE = 4096  # marks; nobody writes so many, and to find them all would take long
_MANY = 16  # characters from which one pass over a text is faster than one for each of them
_MOST_LOCATED = 64  # marks made of several characters, each of which takes long to be located


def finder(marks: Iterable[Mark], readings: Readings) -> Callable[[str], Found | None]:
    """Make the function that finds why a text may need escaping: a character, or all as it is read.

    Args:
        marks: The marks to escape.
        readings: What the tokenizer reads each character as.

    Returns:
        A function that gives `None` for a text that `escape` would return unchanged, as it does
        most texts. It takes one look at each character.
    """
    chars = set().union(*(one.chars for one in marks), readings.of(""))
    search = re.compile(f"[\x80-\U0010ffff{''.join(map(re.escape, sorted(chars)))}]").search
    if not readings.reads_in_context:
        return search
    return lambda text: search(text) or readings.in_context(text)


def escape(
    texts: Sequence[tuple[str, Sequence[Mark]]],
    readings: Readings,
    found: Sequence[Found | None] | None = None,
) -> tuple[list[str], dict[int, str]]:
    """Replace characters that would read as structure by look-alikes that occur in no text.

    Args:
        texts: Each text with the marks to escape in it.
        readings: What the tokenizer reads each character as.
        found: What the finder gave for each text, if it was asked.

    Returns:
        The texts, and a mapping that undoes the escaping: from each look-alike (as a code point)
        to the character that it replaced. A text without marks is returned unchanged.
    """
    escaped = [text for text, _ in texts]
    swaps = None
    for number, (text, marks) in enumerate(texts):
        if found is not None and found[number] is None:
            continue
        if not text.isascii() and _has_surrogates(text):
            swaps = swaps or _Swaps(escaped, readings)
            text = swaps.of_surrogates(text)  # noqa: PLW2901
        known = None if found is None else found[number]
        # The text around an escaped mark may form another mark.
        while places := (
            _places(text, marks, readings)
            or _places_in_context(
                text,
                marks,
                known if isinstance(known, tuple) else readings.in_context(text),
                () if swaps is None else swaps.undo(),
            )
        ):
            swaps = swaps or _Swaps(escaped, readings)
            text, known = swaps.at(places, text), None  # noqa: PLW2901
        escaped[number] = text
    return escaped, {} if swaps is None else swaps.undo()


def restore(text: str, undo: Mapping[int, str]) -> str:
    """Undo the escaping in a text.

    Args:
        text: The text, or any piece of it.
        undo: The mapping that `escape` returned.

    Returns:
        The text with the characters that it had before.
    """
    if not undo or text.isascii():
        return text
    return _replaced(text, {chr(code): char for code, char in undo.items()})


def _places(text: str, marks: Sequence[Mark], readings: Readings) -> list[int]:
    """Find the characters of a text to replace."""
    others = readings.of(text)
    read = _replaced(text, others) if others else text
    places: list[int] = []
    for one in marks:
        if any(char in read for char in one.chars):
            found = (match.start(1) for match in one.pattern.finditer(read))
            places += itertools.islice(filter((-1).__lt__, found), _HOSTILE)
    if places and len(read) != len(text):
        places = _in_original(sorted(places), text, others)
    return places


def _places_in_context(
    text: str, marks: Sequence[Mark], in_context: InContext | None, lookalikes: Container[int]
) -> list[int]:
    """Find the characters to replace that are part of a mark only together with others."""
    if in_context is None:
        return []
    read, origin = in_context
    found: list[int] = []
    for one in marks:
        if any(char in read for char in one.chars):
            at = (match.start(1) for match in one.pattern.finditer(read))
            found += itertools.islice(filter((-1).__lt__, at), _MOST_LOCATED)
    places = {origin(place) for place in found}
    # To replace a look-alike again would not help, and could not be undone.
    places = {place for place in places if ord(text[place]) not in lookalikes}
    if len(places) < _MOST_LOCATED:
        return [*places]
    chars = {text[place] for place in places}
    return [place for place, char in enumerate(text) if char in chars]


def _in_original(places: Sequence[int], text: str, others: Mapping[str, str]) -> list[int]:
    """Turn places in what a text is read as into places in the text."""
    uneven = "".join(re.escape(char) for char, reading in others.items() if len(reading) != 1)
    found = []
    shift, steps = 0, re.finditer(f"[{uneven}]", text)
    step = next(steps, None)
    for place in places:
        while step is not None:
            start, length = step.start() + shift, len(others[step[0]])
            if place < start + length:
                break
            shift, step = shift + length - 1, next(steps, None)
        inside = step is not None and step.start() + shift <= place
        found.append(step.start() if inside and step is not None else place - shift)
    return found


def _replaced(text: str, by: Mapping[str, str]) -> str:
    if len(by) < _MANY and by.keys().isdisjoint("".join(by.values())):
        for char, other in by.items():
            text = text.replace(char, other)
        return text
    return text.translate({ord(char): other for char, other in by.items()})


def _has_surrogates(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


class _Swaps:
    """Replaces characters by look-alikes, one to one, that occur in none of the given texts."""

    def __init__(self, texts: Sequence[str], readings: Readings) -> None:
        self._used = set().union(*texts)
        self._readings = readings
        self._lookalike: dict[str, str] = {}
        self._unlike = self._free(
            itertools.chain(
                map(chr, itertools.chain(_SYMBOLS, *_PRIVATE_USE)),
                filter(str.isalpha, map(chr, _LETTERS)),
            )
        )

    def at(self, places: Sequence[int], text: str) -> str:
        """Replace the characters at some places of a text; all of their kind if there are many."""
        by = {char: self._swap(char) for char in {text[place] for place in places}}
        if len(places) >= _HOSTILE:
            return _replaced(text, by)
        pieces: list[str] = []
        end = 0
        for place in sorted(set(places)):
            pieces += text[end:place], by[text[place]]
            end = place + 1
        return "".join([*pieces, text[end:]])

    def of_surrogates(self, text: str) -> str:
        """Replace each half of a surrogate pair, which no tokenizer takes."""
        return _replaced(text, {char: self._swap(char) for char in set(text) & _SURROGATES})

    def undo(self) -> dict[int, str]:
        """Map each look-alike, as a code point, to the character that it replaced."""
        return {
            ord(lookalike): char
            for char, lookalike in self._lookalike.items()
            if not lookalike.isascii()
        }

    def _swap(self, char: str) -> str:
        swapped = self._lookalike.get(char)
        if swapped is None:
            like = self._free(_LOOKALIKES.get(self._readings[char], ""))
            swapped = next(itertools.chain(like, self._unlike), _LOST if char != _LOST else "!")
            self._lookalike[char] = swapped
            self._used.add(swapped)
        return swapped

    def _free(self, candidates: Iterable[str]) -> Iterator[str]:
        refused = 0
        for one in candidates:
            if one in self._used:
                continue
            if self._readings[one] == one:
                yield one
            elif (refused := refused + 1) > _PATIENCE:
                return


@functools.lru_cache(maxsize=32)
def control_marks(control_tokens: tuple[str, ...], readings: Readings) -> tuple[Mark, ...]:
    """Marks for control tokens: the common ones, and those of a tokenizer.

    Args:
        control_tokens: The tokenizer's control tokens.
        readings: What the tokenizer reads each character as.

    Returns:
        The marks.
    """
    by_start: dict[str, list[str]] = {}
    chars: dict[str, set[str]] = {}
    for token in control_tokens:
        read = "".join(readings[char] for char in token)
        if read.strip():
            start = read[0].lower()
            start = start if len(start) == 1 else read[0]
            by_start.setdefault(start, []).append(read[1:])
            # A sign is rarer than a letter, such as the colon of `USER:`.
            signs = (one for one in read if one.lower() == one.upper() and not one.isspace())
            chars.setdefault(start, set()).update(next(signs, start + start.upper()))
    return CONTROL, *(
        mark("".join(sorted(chars[start])), f"({re.escape(start)})(?={_any_of(rest)})")
        for start, rest in by_start.items()
    )


def _any_of(texts: Iterable[str]) -> str:
    """A pattern for any of the texts that looks at each character once, however many they are."""
    by_start: dict[str, list[str]] = {}
    for text in texts:
        if not text:  # what follows does not matter
            return ""
        by_start.setdefault(text[0], []).append(text[1:])
    found = (re.escape(start) + _any_of(rest) for start, rest in by_start.items())
    return f"(?:{'|'.join(found)})"
