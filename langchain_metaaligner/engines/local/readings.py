"""Learns from a checkpoint's tokenizer what it reads characters as."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from langchain_metaaligner.engines.readings import Readings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# A letter that combines with no other character, so that each is read as if it stood alone.
_GUARD = "q"
_UNKNOWN = "\U0010fffd"  # a character that no vocabulary has
# These split text, or write its bytes in other characters; none makes two characters the same.
_FAITHFUL = ("ByteLevel", "Digits", "Punctuation", "Split", "UnicodeScripts")
_ASCII = [" ", *map(chr, range(0x80))]  # the space first: what is read as one counts as one


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
    if spec["normalizer"] is None and not splits and not drops:
        return Readings()
    normal = _normalised_by(tokenizer)
    known = {normal(char): char for char in reversed(_ASCII)}
    known |= {char: char for char in _ASCII if normal(char) == char}
    pieces = _split_by(tokenizer)
    # Two texts that are split into the same pieces have the same tokens.
    by_pieces = {pieces(char): char for char in reversed(_ASCII)} | {pieces(""): ""}

    def read(char: str) -> str:
        read = [known.get(one, one) for one in normal(char)]
        if splits:
            read = [by_pieces.get(pieces(one), one) for one in read]
        if drops:
            read = [one for one in read if tokens(one) != tokens("")]
        return "".join(read)

    return Readings(read)


def _is_faithful(pre_tokenizer: Mapping[str, Any] | None) -> bool:
    if pre_tokenizer is None:
        return True
    if pre_tokenizer["type"] in _FAITHFUL:
        return bool(pre_tokenizer.get("behavior") != "Removed")
    return pre_tokenizer["type"] == "Sequence" and all(
        _is_faithful(one) for one in pre_tokenizer["pretokenizers"]
    )


def _normalised_by(tokenizer: Tokenizer) -> Callable[[str], str]:
    normalizer = tokenizer.normalizer

    def normalised(char: str) -> str:
        if normalizer is None:
            return char
        text = normalizer.normalize_str(f"{_GUARD}{char}{_GUARD}")
        first, last = text.find(_GUARD), text.rfind(_GUARD)
        return text[first + 1 : last] if first < last else char

    return normalised


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
