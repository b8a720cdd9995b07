"""Finds what is wrong with an edit in form: endless, repeated, invented words, changed figures."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from tests.benchmarks.quality.patterns import similarity

# Brings two large word lists: pip install --no-deps english-words
WORDS = "english_words"
_LEAK = re.compile(
    r"\| ?(?:Edit|Answer|Context) ?:|\bHuman: |\bAssistant: |considering these aspects|"
    r"You are an assistant to human|<\|"
)
_STUTTER = re.compile(r"([^\W_].{0,19}?)\1{7,}", re.DOTALL)
_ITEM = re.compile(r"\s*(?:[-*\N{BULLET}]|\d+[.)]) ")
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_LINK = re.compile(r"https?://[^\s)>\]]+|www\.[^\s)>\]]+|[\w.+-]+@[\w-]+\.\w[\w.]*")
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_ENDINGS = ("s", "es", "ed", "d", "ing", "er", "ers", "est", "ly", "ness", "able", "less")
_RUN = 6
# An edit that has this much of the reply is a repair, and a repair keeps the reply's figures.
_KEPT = 0.6


def _most(words: list[str]) -> int:
    runs = [tuple(words[place : place + _RUN]) for place in range(len(words) - _RUN + 1)]
    return max((runs.count(run) for run in set(runs)), default=0)


def broken(edit: str | None, answer: str) -> str:
    """Say what is broken about an edit and was not so in the answer already.

    Args:
        edit: The edit; `None` where the engine gave none because it ran on or was empty.
        answer: What was edited.

    Returns:
        `failed`, `empty`, `loop`, `leak`, `cut`, or nothing for a sound edit.
    """
    if edit is None:
        return "failed"
    words, before = edit.split(), answer.split()
    if not words:
        return "empty"
    most = _most(words)
    if (most > 2 and most > _most(before)) or (
        _STUTTER.search(edit) and not _STUTTER.search(answer)
    ):
        return "loop"
    if set(_LEAK.findall(edit)) - set(_LEAK.findall(answer)):
        return "leak"
    # An answer that was itself cut off may stay so; a new text may not end like that. Items of a
    # list often have no full stop.
    last = edit.rstrip().splitlines()[-1]
    open_end = last[-1].isalnum() and not _ITEM.match(last)
    return "cut" if open_end and words[-3:] != before[-3:] else ""


def slips(edit: str, answer: str) -> list[str]:
    """Say what an edit that keeps most of an answer has changed and had no reason to.

    Args:
        edit: The edit.
        answer: What was edited.

    Returns:
        Of `number`, `link`, `pipe` and `fence`, those that differ: a figure or an address that is
        not the answer's, a table's or a code block's mark lost in what was kept.
    """
    if edit == answer or similarity(edit, answer) < _KEPT:
        return []
    found = []
    if set(_NUMBER.findall(edit)) - set(_NUMBER.findall(answer)):
        found.append("number")
    if set(_LINK.findall(edit)) - set(_LINK.findall(answer)):
        found.append("link")
    if _lines(edit) - _lines(answer):
        found.append("pipe")
    if edit.count("```") % 2 and not answer.count("```") % 2:
        found.append("fence")
    return found


def _lines(text: str) -> set[int]:
    """How many pipes there are in the lines of tables."""
    return {line.count("|") for line in text.splitlines() if line.count("|") > 1}


def invented(edit: str, answer: str, context: str, known: AbstractSet[str]) -> list[str]:
    """Find words that are in no list, nor in what was edited.

    Args:
        edit: The edit.
        answer: What was edited.
        context: The conversation.
        known: Words in small letters.

    Returns:
        Those words. Names, what is shorter than four letters and what another script writes are
        left out.
    """
    told = set(_small(f"{answer} {context}"))
    return [
        word
        for word in _WORD.findall(_straight(edit))
        if len(word) > 3
        and word.isascii()
        and word.islower()
        and word not in told
        and not _known(word.removesuffix("'s"), known)
    ]


def _known(word: str, known: AbstractSet[str]) -> bool:
    if word in known:
        return True
    for ending in _ENDINGS:
        stem = word.removesuffix(ending)
        if stem != word and len(stem) > 2:
            double = stem[:-1] if stem[-1] == stem[-2] else stem
            soft = f"{stem[:-1]}y" if stem[-1] == "i" else stem
            if not known.isdisjoint((stem, f"{stem}e", double, soft)):
                return True
    # Lists of words lack many compounds: landfill.
    return any(word[:end] in known and word[end:] in known for end in range(4, len(word) - 3))


def words(folder: Path) -> set[str] | None:
    """Read all words that an edit may use.

    Args:
        folder: What people and models wrote in its files counts as words.

    Returns:
        The words in small letters; `None` without the package of word lists, since the files alone
        know too few.
    """
    if importlib.util.find_spec(WORDS) is None:
        return None
    lists = importlib.import_module(WORDS)
    found: set[str] = lists.get_english_words_set(["web2", "gcide"], lower=True)
    seen: Counter[str] = Counter()
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            seen.update({word for text in _texts(json.loads(line)) for word in _small(text)})
    # What one row alone says may be a slip, or cut off.
    return found | {word for word, count in seen.items() if count > 1}


def _small(text: str) -> list[str]:
    return _WORD.findall(_straight(text).lower())


def _straight(text: str) -> str:
    return text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)
