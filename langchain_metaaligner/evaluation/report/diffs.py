"""Diffs of edits, and how far an edit is from its original, at a bounded cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from langchain_metaaligner.editing.alignment import Alignment, DiffOp
from langchain_metaaligner.editing.word_diff import compare_words, split_words

_LONG = 20_000  # characters of a text from which on it is no longer compared as a whole
_SAME = 600  # characters of unchanged text from which on its middle is left out
_AROUND = 160  # characters of unchanged text that stay on either side of a change
_CHANGED = 1500  # most characters of one deletion or insertion


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a diff.

    Attributes:
        op: `equal`, `delete` or `insert`; `left_out` where text is not shown.
        text: The text; for `left_out`, what is not shown, in words.
    """

    op: DiffOp | str
    text: str


def distance(original: str, edited: str) -> float:
    """Deleted and inserted words as a share of the words of both texts.

    Args:
        original: The text before the edit.
        edited: The text after it.

    Returns:
        0 for the same words in the same order, 1 for nothing in common. Of very long texts only
        which words they have counts, not their order: a lower bound.
    """
    if original == edited:
        return 0.0
    if max(len(original), len(edited)) > _LONG:
        return rough_distance(original, edited)
    before, after = _words(original), _words(edited)
    total = len(before) + len(after)
    same = sum(i2 - i1 for tag, i1, i2, *_ in compare_words(before, after) if tag == "equal")
    return 1 - 2 * same / total if total else 0.0


def rough_distance(original: str, edited: str) -> float:
    """The same whatever the words' order: a lower bound, in time that grows with the length."""
    if original == edited:
        return 0.0
    before, after = Counter(_words(original)), Counter(_words(edited))
    total = before.total() + after.total()
    return 1 - 2 * (before & after).total() / total if total else 0.0


def pieces(original: str, edited: str, most: int) -> list[Piece]:
    """Compare two texts word by word and leave out what is too long to read.

    Args:
        original: The text before the edit.
        edited: The text after it.
        most: Most characters to show.

    Returns:
        What is equal, deleted and inserted, in order.
    """
    before, old, new, after = _middle(original, edited)
    found: list[tuple[str, str]] = [*Alignment(original=old[:_LONG], text=new[:_LONG]).diff()]
    if rest := max(len(old) - _LONG, 0) + max(len(new) - _LONG, 0):
        # Both were cut off at the same length, but not at the same place of what they share.
        shared = max((at for at, one in enumerate(found) if one[0] == "equal"), default=len(found))
        rest += sum(len(text) for _, text in found[shared + 1 :])
        found[shared + 1 :] = [("left_out", f"{rest:,} more characters of both, not compared")]
    if before:
        found.insert(0, ("equal", before))
    if after:
        found.append(("equal", after))
    return _cut(_shortened(found), most)


def _middle(original: str, edited: str) -> tuple[str, str, str, str]:
    """Long texts' common beginning, their differing parts, and their common end."""
    if max(len(original), len(edited)) <= _LONG:
        return "", original, edited, ""
    most = min(len(original), len(edited))
    start = next((i for i in range(most) if original[i] != edited[i]), most)
    start = max(original.rfind(" ", 0, start), original.rfind("\n", 0, start)) + 1
    most -= start
    end = next((i for i in range(most) if original[-1 - i] != edited[-1 - i]), most)
    stop, stop_edited = len(original) - end, len(edited) - end
    return original[:start], original[start:stop], edited[start:stop_edited], original[stop:]


def _shortened(found: list[tuple[str, str]]) -> list[Piece]:
    made: list[Piece] = []
    last = len(found) - 1
    for number, (op, text) in enumerate(found):
        if op == "equal" and len(text) > _SAME:
            head = 0 if number == 0 and last else _AROUND
            tail = 0 if number == last and number else _AROUND
            left = len(text) - head - tail
            made += [Piece(op, text[:head])] if head else []
            made.append(Piece("left_out", f"{left:,} characters, the same in both"))
            made += [Piece(op, text[-tail:])] if tail else []
        elif op in ("delete", "insert") and len(text) > _CHANGED:
            what = "deleted" if op == "delete" else "inserted"
            left = len(text) - _CHANGED
            made += [
                Piece(op, text[:_CHANGED]),
                Piece("left_out", f"{left:,} more characters {what}"),
            ]
        else:
            made.append(Piece(op, text))
    return made


def _cut(made: list[Piece], most: int) -> list[Piece]:
    shown: list[Piece] = []
    for number, piece in enumerate(made):
        if piece.op != "left_out" and len(piece.text) > most:
            rest = [one for one in made[number:] if one.op != "left_out"]
            left = sum(len(one.text) for one in rest) - most
            cut = Piece(piece.op, piece.text[:most])
            return [*shown, cut, Piece("left_out", f"{left:,} more characters of the diff")]
        shown.append(piece)
        most -= len(piece.text) if piece.op != "left_out" else 0
    return shown


def _words(text: str) -> list[str]:
    return [word for word in split_words(text) if not word.isspace()]
