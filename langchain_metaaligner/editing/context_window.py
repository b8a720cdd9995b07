"""Shortens a context, oldest first, until the prompt and the edit fit into the window."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence

from langchain_metaaligner.editing.conversation import Turn

Fits = Callable[[str | Sequence[Turn]], bool]


def shorten(
    context: str | Sequence[Turn], fits: Fits
) -> tuple[str | tuple[Turn, ...], dict[str, int]] | None:
    """Shorten a context until it fits.

    Whole turns are dropped first, starting with the oldest. The rest begins with a human turn if
    possible. The last human turn and the tool results after it are never dropped as a whole: they
    lose words, the oldest first, and the human turn loses words last.

    Args:
        context: Text, or turns.
        fits: Whether a prompt with the given context fits. If a context fits, so must any shorter
            one.

    Returns:
        The longest context that fits, and how many `turns` and `words` were dropped (only counts
        above zero); `None` if not even an empty context fits.
    """
    if fits(context):
        return (context if isinstance(context, str) else tuple(context)), {}
    if isinstance(context, str):
        found = _fewest_words(context, fits)
        return None if found is None else (found[0], _counts(0, found[1]))
    turns = list(context)
    last = max((i for i, turn in enumerate(turns) if turn.role == "human"), default=0)
    starts = [i for i in range(1, last + 1) if turns[i].role == "human" or i == last]
    at = bisect_left(starts, True, key=lambda start: fits(turns[start:]))
    if at < len(starts):
        return tuple(turns[starts[at] :]), _counts(starts[at], 0)
    rest, words = turns[last:], 0
    for i in [*range(1, len(rest)), 0]:
        found = _fewest_words(rest[i].text, _with_text(rest, i, fits))
        if found is not None:
            rest[i] = Turn(rest[i].role, found[0])
            return tuple(rest), _counts(last, words + found[1])
        words += len(rest[i].text.split())
        rest[i] = Turn(rest[i].role, "")
    return None


def _with_text(turns: Sequence[Turn], at: int, fits: Fits) -> Callable[[str], bool]:
    turns = tuple(turns)
    return lambda text: fits((*turns[:at], Turn(turns[at].role, text), *turns[at + 1 :]))


def _fewest_words(text: str, fits: Callable[[str], bool]) -> tuple[str, int] | None:
    """The longest tail of whole words that fits, and how many words were dropped before it."""
    starts = [word.start() for word in re.finditer(r"\S+", text)]
    tails = [*starts, len(text)]
    gone = bisect_left(range(len(tails)), True, key=lambda i: fits(text[tails[i] :]))
    return (text[tails[gone] :], gone) if gone < len(tails) else None


def _counts(turns: int, words: int) -> dict[str, int]:
    return {key: n for key, n in (("turns", turns), ("words", words)) if n}
