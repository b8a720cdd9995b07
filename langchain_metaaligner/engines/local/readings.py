"""Learns from a checkpoint's tokenizer what it reads characters as."""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from langchain_metaaligner.engines.readings import InContext, Readings

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.normalizers import Normalizer

# A letter that combines with no other character, so that each is read as if it stood alone.
_GUARD = "q"
_UNKNOWN = "\U0010fffd"  # a character that no vocabulary has
# These split text, or write its bytes in other characters; none makes two characters the same.
_FAITHFUL = ("ByteLevel", "Digits", "Punctuation", "Split", "UnicodeScripts")
# These look at one character at a time.
_BY_CHARACTER = (
    *("BertNormalizer", "Lowercase", "NFD", "NFKD", "Nmt", "Prepend", "Strip", "StripAccents"),
)
_ASCII = [" ", *map(chr, range(0x80))]  # the space first: what is read as one counts as one
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def readings_of(tokenizer: Tokenizer, spec: Mapping[str, Any]) -> Readings:
    """Make the readings of a tokenizer.

    Args:
        tokenizer: The tokenizer.
        spec: Its description in JSON.

    Returns:
        Its readings, which ask the tokenizer about each character once.
    """
    splits = not _is_faithful(spec["pre_tokenizer"])
    tokens = _tokens_by(tokenizer)
    # If the vocabulary lacks the guard, its tokens tell nothing.
    drops = _GUARD in tokens("") in (tokens(_UNKNOWN), tokens(" "))
    steps = [step for step in _steps(spec["normalizer"]) if step["type"] not in _FAITHFUL]
    if not steps and not splits and not drops:
        return Readings()
    normalizer = _normalizer_of(steps)
    normal = _normalised_by(normalizer)
    known = {normal(char): char for char in reversed(_ASCII)}
    known |= {char: char for char in _ASCII if normal(char) == char}
    known.pop("", None)  # what is dropped is read as nothing, and not as some dropped character
    pieces = _split_by(tokenizer)
    # Two texts that are split into the same pieces have the same tokens.
    by_pieces = {pieces(char): char for char in reversed(_ASCII)} | {pieces(""): ""}
    if pieces(" ") != (_GUARD, _GUARD):
        by_pieces[_GUARD, _GUARD] = ""

    def read_normal(one: str) -> str:
        read = known.get(one, one)
        if splits:
            read = by_pieces.get(pieces(read), read)
        return "" if drops and tokens(read) == tokens("") else read

    def read(char: str) -> str:
        written = normal(char)
        # A character may be written as several, such as a space as `<sp>`.
        return "".join(map(read_normal, [written] if written in known else written))

    written = {key: char for key, char in known.items() if len(key) > 1}
    if normalizer is None or (not written and all(map(_is_by_character, steps))):
        return Readings(read)
    return Readings(read, _in_context_by(normalizer, read_normal, written))


def _is_faithful(pre_tokenizer: Mapping[str, Any] | None) -> bool:
    if pre_tokenizer is None:
        return True
    if pre_tokenizer["type"] in _FAITHFUL:
        return bool(pre_tokenizer.get("behavior") != "Removed")
    return pre_tokenizer["type"] == "Sequence" and all(
        _is_faithful(one) for one in pre_tokenizer["pretokenizers"]
    )


def _steps(normalizer: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The normalizers of which a normalizer consists."""
    if normalizer is not None and normalizer["type"] == "Sequence":
        for one in normalizer["normalizers"]:
            yield from _steps(one)
    elif normalizer is not None:
        yield normalizer


def _is_by_character(step: Mapping[str, Any]) -> bool:
    if step["type"] == "Replace":
        return len(step["pattern"].get("String", "")) == 1
    return step["type"] in _BY_CHARACTER


def _normalizer_of(steps: list[Mapping[str, Any]]) -> Normalizer | None:
    from tokenizers import Tokenizer

    model = {"type": "WordLevel", "vocab": {}, "unk_token": ""}
    normalizer = {"type": "Sequence", "normalizers": steps} if steps else None
    made = Tokenizer.from_str(json.dumps({"model": model, "normalizer": normalizer}))
    return cast("Normalizer | None", made.normalizer)


def _normalised_by(normalizer: Normalizer | None) -> Callable[[str], str]:
    def normalised(char: str) -> str:
        if normalizer is None:
            return char
        text = normalizer.normalize_str(f"{_GUARD}{char}{_GUARD}")
        first, last = text.find(_GUARD), text.rfind(_GUARD)
        return text[first + 1 : last] if first < last else char

    return normalised


def _in_context_by(
    normalizer: Normalizer, read: Callable[[str], str], written: Mapping[str, str]
) -> Callable[[str], InContext | None]:
    """Make the function that reads whole texts.

    Args:
        normalizer: The tokenizer's normalizer.
        read: What a character of normalised text is read as.
        written: The characters that are written as several, by these.
    """
    from tokenizers import NormalizedString

    several = sorted(written, key=len, reverse=True)

    def in_context(text: str) -> InContext | None:
        text = _LONE_SURROGATE.sub("\ufffd", text)
        whole = NormalizedString(f"{_GUARD}{text}{_GUARD}")
        normalizer.normalize(whole)
        normal: str = whole.normalized
        first, last = normal.find(_GUARD) + 1, normal.rfind(_GUARD)
        if normal[first:last] == text and not any(one in text for one in several):
            return None
        said, place_of = _read_pieces(normal[first:last], read, several)

        def origin(place: int) -> int:
            at = first + place_of(place)
            until, piece = whole.slice((0, at + 1)), whole.slice((at, at + 1))
            start = len(until.original) - len(piece.original) if until and piece else 0
            return min(max(start - len(_GUARD), 0), len(text) - 1)

        return said, origin

    return in_context


def _read_pieces(text: str, read: Callable[[str], str], several: Iterable[str]) -> InContext:
    """Read each character of a text.

    Only where a reading is of another length, a place is kept; so a long text takes no number for
    each of its characters.

    Args:
        text: The text.
        read: What a character is read as.
        several: Texts that are read as one character, the longest first.

    Returns:
        What it is read as, and a function from a place in it to the place in the text.
    """
    readings = {char: read(char) for char in set(text)}
    uneven = [char for char, reading in readings.items() if len(reading) != 1]
    even = {ord(char): one for char, one in readings.items() if len(one) == 1 and one != char}
    pieces = [*several, *uneven]
    found: list[str] = []
    starts, places = [0], [0]  # in what is read, and in the text
    length = end = 0
    for piece in re.finditer("|".join(map(re.escape, pieces)), text) if pieces else ():
        plain, said = text[end : piece.start()].translate(even), read(piece[0])
        found += plain, said
        length += len(plain)
        end = piece.end()
        for _ in said:
            starts.append(length)
            places.append(piece.start())
            length += 1
        starts.append(length)
        places.append(end)
    found.append(text[end:].translate(even))

    def place_of(place: int) -> int:
        at = bisect.bisect_right(starts, place) - 1
        return places[at] + place - starts[at]

    return "".join(found), place_of


def _split_by(tokenizer: Tokenizer) -> Callable[[str], tuple[str, ...]]:
    splitter = tokenizer.pre_tokenizer

    def pieces(char: str) -> tuple[str, ...]:
        if splitter is None:
            return (char,)
        found = splitter.pre_tokenize_str(f"{_GUARD}{char}{_GUARD}")
        return tuple(piece for piece, _ in found)

    return pieces


def _tokens_by(tokenizer: Tokenizer) -> Callable[[str], str]:
    def tokens(char: str) -> str:
        return "".join(tokenizer.encode(f"{_GUARD}{char}{_GUARD}", add_special_tokens=False).tokens)

    return tokens
