"""Word-level comparison of two texts."""

from __future__ import annotations

import difflib
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

Move = tuple[str, int, int, int, int]

_WORK = 6_000_000  # steps of a comparison that finds all that two texts have in common
_DEPTH = 4  # times that what is left between single words is searched for such words again
_BLOCK = 4096  # words that are compared at once


def split_words(text: str) -> list[str]:
    """Split a text into words, punctuation and white space; joined, they give the text again."""
    return re.findall(r"\s+|\w+|[^\w\s]", text)


def compare_words(before: Sequence[str], after: Sequence[str]) -> list[Move]:
    """Compare two lists of words, as `SequenceMatcher.get_opcodes` does.

    The work on long texts grows with their length, and no faster: they are compared between words
    that occur once in each of them. What is left between two of these counts as replaced if it is
    still too much.

    Args:
        before: Words, as `split_words` returns them.
        after: Words to compare them with.

    Returns:
        Tuples `(tag, i1, i2, j1, j2)`: `tag` is `equal`, `replace`, `delete` or `insert`, and
        `before[i1:i2]` becomes `after[j1:j2]`.
    """
    most = min(len(before), len(after))
    head = _common(before, after, most)
    tail = _common(before[::-1], after[::-1], most - head)
    ends = (head, len(before) - tail, head, len(after) - tail)
    equal = [(0, head, 0), *_matches(before, after, ends, [_WORK]), (ends[1], len(before), ends[3])]
    moves: list[Move] = []
    i = j = 0
    for i1, i2, j1 in equal:
        if i < i1 or j < j1:
            tag = "insert" if i == i1 else "delete" if j == j1 else "replace"
            moves.append((tag, i, i1, j, j1))
        if i1 < i2 and moves and moves[-1][0] == "equal":  # it goes on from the last one
            moves[-1] = ("equal", moves[-1][1], i2, moves[-1][3], j1 + i2 - i1)
        elif i1 < i2:
            moves.append(("equal", i1, i2, j1, j1 + i2 - i1))
        i, j = i2, j1 + i2 - i1
    return moves


def _common(one: Sequence[str], other: Sequence[str], most: int) -> int:
    """Count the words that two lists have in common at their beginning."""
    start = 0
    while start < most and one[start : start + _BLOCK] == other[start : start + _BLOCK]:
        start += _BLOCK
    end = min(most, start + _BLOCK)
    return next((i for i in range(min(start, most), end) if one[i] != other[i]), end)


def _matches(
    before: Sequence[str],
    after: Sequence[str],
    ends: tuple[int, int, int, int],
    left: list[int],
    depth: int = 0,
) -> list[tuple[int, int, int]]:
    """Find what is equal in parts of two lists, in order: `before[i1:i2]`, from `after[j1]` on."""
    i1, i2, j1, j2 = ends
    if i1 == i2 or j1 == j2:
        return []
    one, other = before[i1:i2], after[j1:j2]
    if one == other:
        return [(i1, i2, j1)]
    if set(one).isdisjoint(other):
        return []
    work = _work_of(one, other)
    if work <= left[0]:
        left[0] -= work
        # White space and, in long texts, very common words only match next to rarer words.
        # Otherwise two texts with little else in common would take minutes.
        matcher = difflib.SequenceMatcher(str.isspace, one, other)
        found = matcher.get_matching_blocks()[:-1]
        return [(i1 + i, i1 + i + size, j1 + j) for i, j, size in found]
    if depth == _DEPTH:
        return []
    equal: list[tuple[int, int, int]] = []
    i, j = i1, j1
    for i_next, j_next in _anchors(one, other):
        ends = (i, i1 + i_next, j, j1 + j_next)
        equal += _matches(before, after, ends, left, depth + 1)
        equal.append((ends[1], ends[1] + 1, ends[3]))
        i, j = ends[1] + 1, ends[3] + 1
    if i > i1:  # without such words, the rest is all
        equal += _matches(before, after, (i, i2, j, j2), left, depth + 1)
    return equal


def _work_of(one: Sequence[str], other: Sequence[str]) -> int:
    """Estimate the most steps that `SequenceMatcher` takes: all pairs, for each of its blocks."""
    counts = Counter(other)
    popular = len(other) // 100 + 1 if len(other) >= 200 else len(other)
    pairs = sum(count for word in one if not word.isspace() and (count := counts[word]) <= popular)
    return (pairs + len(one)) * min(pairs, len(one), len(other)) + len(one) + len(other)


def _anchors(one: Sequence[str], other: Sequence[str]) -> list[tuple[int, int]]:
    """Places of words that occur once in each list, as many as are in the same order in both."""
    once = {word for word, count in Counter(one).items() if count == 1}
    once &= {word for word, count in Counter(other).items() if count == 1}
    place = {word: j for j, word in enumerate(other) if word in once}
    # The longest rising sequence: for each length, the one that ends lowest.
    ends: list[int] = []
    at: list[int] = []
    pairs = [(i, place[word]) for i, word in enumerate(one) if word in once]
    before: list[int] = []
    for number, (_, j) in enumerate(pairs):
        length = bisect_left(ends, j)
        before.append(at[length - 1] if length else -1)
        ends[length : length + 1] = [j]
        at[length : length + 1] = [number]
    found, number = [], at[-1] if at else -1
    while number >= 0:
        found.append(pairs[number])
        number = before[number]
    return found[::-1]


def share_out(old: Sequence[str], text: str) -> list[str]:
    """Split a text at the positions that match the borders between the texts that it replaces.

    Args:
        old: These texts.
        text: The new text.

    Returns:
        A part of it for each of them; joined, they give the text again.
    """
    if len(old) <= 1:
        return [text] * len(old)
    before, after = split_words("".join(old)), split_words(text)
    starts = _offsets(after)
    moves = compare_words(before, after)
    cuts, border = [0], 0
    word_ends, move_ends = _offsets(before), [i2 for _, _, i2, _, _ in moves]
    for piece in old[:-1]:
        border += len(piece)
        # A border inside a word moves to the end of the word.
        index = bisect_left(word_ends, border)
        cut = 0
        if moves:
            tag, i1, _, j1, j2 = moves[bisect_left(move_ends, index)]
            cut = j1 + min(index - i1, j2 - j1) if tag == "equal" else j2
        cuts.append(max(starts[cut], cuts[-1]))
    return [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def _offsets(words: Sequence[str]) -> list[int]:
    return list(accumulate(map(len, words), initial=0))
