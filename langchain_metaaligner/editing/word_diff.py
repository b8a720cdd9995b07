"""Word-level comparison of two texts."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence


def split_words(text: str) -> list[str]:
    """Split a text into words, punctuation and white space; joined, they give the text again."""
    return re.findall(r"\s+|\w+|[^\w\s]", text)


def compare_words(
    before: Sequence[str], after: Sequence[str]
) -> list[tuple[str, int, int, int, int]]:
    """Compare two lists of words, as `SequenceMatcher.get_opcodes` does.

    Args:
        before: Words, as `split_words` returns them.
        after: Words to compare them with.

    Returns:
        Tuples `(tag, i1, i2, j1, j2)`: `tag` is `equal`, `replace`, `delete` or `insert`, and
        `before[i1:i2]` becomes `after[j1:j2]`.
    """
    most = min(len(before), len(after))
    head = next((i for i in range(most) if before[i] != after[i]), most)
    most -= head
    tail = next((i for i in range(most) if before[-1 - i] != after[-1 - i]), most)
    i_end, j_end = len(before) - tail, len(after) - tail
    # White space and, in long texts, very common words only match next to rarer words. Otherwise
    # two texts with little else in common would take minutes.
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
