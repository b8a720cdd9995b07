"""The guards of what a reply is written in: code, tables, JSON and writing systems."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import lru_cache

from langchain_metaaligner.editing.guards.change import Change

_SMALL = 12  # words of the answer that are put back for the sake of a form
_FENCE = re.compile(r"```+|~~~+")
_BLOCK = re.compile(r"(?m)^[ \t]*(`{3,}|~{3,})[^\n]*\n")
_PIPE = re.compile(r"(?<!\\)\|")
_LARGEST = 1 << 16  # characters of a JSON text that is read
_JSON_SIGN = re.compile(r"[{}\[\],:\"\\]")
_SCRIPTS = {
    "Latin": "A-Za-z\u00c0-\u024f",
    "Greek": "\u0370-\u03ff\u1f00-\u1fff",
    "Cyrillic": "\u0400-\u052f",
    "Armenian": "\u0530-\u058f",
    "Hebrew": "\u0590-\u05ff",
    "Arabic": "\u0600-\u06ff\u0750-\u077f",
    "Indic": "\u0900-\u0dff",
    "Thai": "\u0e00-\u0eff",
    "Georgian": "\u10a0-\u10ff",
    "Ethiopic": "\u1200-\u137f",
    "Khmer": "\u1780-\u17ff",
    "Kana": "\u3040-\u30ff",
    "Han": "\u3400-\u9fff\uf900-\ufaff",
    "Hangul": "\uac00-\ud7af\u1100-\u11ff",
}
_LETTERS = {name: re.compile(f"[{chars}]{{2}}") for name, chars in _SCRIPTS.items()}
_LETTERS["Han"] = re.compile(f"[{_SCRIPTS['Han']}]")


def fences(change: Change) -> str | None:
    """Keep each block of code open to its end, and what is outside of it outside."""
    if _count(_FENCE, change.before) % 2 == _count(_FENCE, change.after) % 2:
        return change.after
    return _put_back(change)


def tables(change: Change) -> str | None:
    """Keep the number of columns of each row of a table."""
    if "|" not in change.before and "|" not in change.after:
        return change.after
    answer = change.answer
    begin = answer.rfind("\n", 0, change.start) + 1
    head, stop = answer[begin : change.start], answer.find("\n", change.end)
    tail = answer[change.end : len(answer) if stop < 0 else stop]
    old, new = columns(head + change.before + tail), columns(head + change.after + tail)
    above = answer[answer.rfind("\n", 0, max(0, begin - 1)) + 1 : max(0, begin - 1)]
    if not any(old) or new <= old | columns(above):
        return change.after
    return _put_back(change)


def json_blocks(change: Change) -> str | None:
    """Keep JSON in a block of code valid."""
    if _JSON_SIGN.search(change.before + change.after) is None:
        return change.after
    found = _block_around(change)
    if found is None:
        return change.after
    start, end = found
    answer = change.answer
    made = answer[start : change.start] + change.after + answer[change.end : end]
    if not _is_json(answer[start:end]) or _is_json(made):
        return change.after
    return _put_back(change)


def language(change: Change) -> str | None:
    """Keep to the writing systems of the prompt."""
    if change.after.isascii() and _LETTERS["Latin"].search(change.answer[:2000]) is not None:
        return change.after
    for letters in _LETTERS.values():
        if letters.search(change.after) and not letters.search(change.prompt):
            return _put_back(change)
    return change.after


def _put_back(change: Change) -> str | None:
    """The answer's own words, if they are few; a passage that was replaced never comes back."""
    lost = Counter(change.before.split()) - Counter(change.after.split())
    return change.before if sum(lost.values()) <= _SMALL else None


def _count(pattern: re.Pattern[str], text: str) -> int:
    return len(pattern.findall(text))


def columns(text: str) -> set[int]:
    """How many pipes the rows of a table have, and 0 for a line of text beside them.

    Args:
        text: Lines of text.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    counts = [(_count(_PIPE, line), line.lstrip().startswith("|")) for line in lines]
    return {count if count > 1 or row else 0 for count, row in counts}


def blocks_of_code(text: str) -> tuple[list[str], bool]:
    """The blocks of code of a text, and whether each of them is closed.

    Args:
        text: The text.
    """
    marks = [(found[1], found.start(), found.end()) for found in _BLOCK.finditer(f"{text}\n")]
    found: list[str] = []
    mark, start = "", 0
    for sign, begin, end in marks:
        if not mark:
            mark, start = sign, end
        elif sign.startswith(mark):
            found.append(text[start:begin])
            mark = ""
    return found, not mark


def writing_systems(text: str) -> dict[str, int]:
    """The writing systems of a text, and how much there is of each.

    Args:
        text: The text.

    Returns:
        Name of a system to a count of pairs of letters, or of Chinese characters.
    """
    counts = {name: _count(letters, text) for name, letters in _LETTERS.items()}
    return {name: count for name, count in counts.items() if count}


def _block_around(change: Change) -> tuple[int, int] | None:
    """Where the block of code around a passage begins and ends."""
    opened = _opened(change.answer, change.start)
    if opened is None:
        return None
    mark, start = opened
    end = change.answer.find(f"\n{mark}", change.end - 1)
    inside = 0 <= end - start <= _LARGEST
    return (start, end) if inside and mark not in change.before else None


@lru_cache(maxsize=8)
def _blocks(answer: str) -> list[tuple[str, int]]:
    """The fences of an answer, and where the text after each of them begins."""
    return [(found[1], found.end()) for found in _BLOCK.finditer(answer)]


def _opened(answer: str, place: int) -> tuple[str, int] | None:
    before = [one for one in _blocks(answer) if one[1] <= place]
    return before[-1] if len(before) % 2 else None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
