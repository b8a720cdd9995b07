"""The words of a text, and the way from one text's words to another's."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence


def split_words(text: str) -> list[str]:
    """Words and the white space between them; joined, they are the text again."""
    return re.findall(r"\s+|\w+|[^\w\s]", text)


def compare_words(
    before: Sequence[str], after: Sequence[str]
) -> list[tuple[str, int, int, int, int]]:
    """The way from some words to others, in the form of `SequenceMatcher.get_opcodes`.

    Args:
        before: Words, as `split_words` gives them.
        after: Other words.

    Returns:
        Tuples of `equal`, `replace`, `delete` or `insert`, and where in either that begins and
        ends.
    """
    most = min(len(before), len(after))
    head = next((i for i in range(most) if before[i] != after[i]), most)
    most -= head
    tail = next((i for i in range(most) if before[-1 - i] != after[-1 - i]), most)
    i_end, j_end = len(before) - tail, len(after) - tail
    # White space and, in long texts, words that are everywhere match only beside rarer ones: two
    # texts with little else in common would otherwise take minutes.
    matcher = difflib.SequenceMatcher(str.isspace, before[head:i_end], after[head:j_end])
    moves: list[tuple[str, int, int, int, int]] = [
        (tag, i1 + head, i2 + head, j1 + head, j2 + head)
        for tag, i1, i2, j1, j2 in matcher.get_opcodes()
    ]
    if head:
        moves.insert(0, ("equal", 0, head, 0, head))
    if tail:
        moves.append(("equal", i_end, len(before), j_end, len(after)))
    return moves
