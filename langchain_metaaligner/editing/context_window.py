"""Shortens a context, oldest first, until the prompt and the edit fit into the window."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence

from langchain_metaaligner.editing.conversation import Turn
from langchain_metaaligner.editing.prompts import Prompt, parse_conversation
from langchain_metaaligner.engines.base import Engine

Fits = Callable[[str | Sequence[Turn]], bool]

_STEP = 1 << 14
# A text with more characters than this for each token of the window hardly ever fits, so only a
# part of it is tried first.
_PER_TOKEN = 8
_LEAST_STEP = 1 << 12
_GROWTH = 8
_SPEAKER = 16  # characters that a turn takes besides its text, about
_WORD = re.compile(r"\S+")
_WORD_START = re.compile(r"(?<!\S)\S")


def length_of(context: str | Sequence[Turn]) -> int:
    """Estimate how many characters of a prompt a context takes.

    Args:
        context: Text, or turns.

    Returns:
        The number of characters.
    """
    if isinstance(context, str):
        return len(context)
    return sum(len(turn.text) + _SPEAKER for turn in context)


class Room:
    """The window that a prompt and its edit share, if the engine has one.

    Args:
        engine: The engine, which counts the tokens.
        max_new_tokens: The most tokens that an edit may have.
        answer: The text that is edited.
    """

    def __init__(self, engine: Engine, max_new_tokens: int, answer: str) -> None:
        self._max_new_tokens = max_new_tokens
        self._name = engine.name
        self._window, self._count = engine.window, engine.count_tokens
        self._answer, self._told, self._too_long = 0, "0", False
        if self._window is not None:
            self._measure(answer, self._window)
        # What an edit usually needs; a longer edit may use all that is left.
        self._needed = min(max_new_tokens, math.ceil(1.25 * self._answer) + 64)

    def _measure(self, answer: str, window: int) -> None:
        answer = answer.encode(errors="replace").decode()  # half a surrogate pair is no token
        length = self._step = max(_LEAST_STEP, _PER_TOKEN * window)
        # The beginning of an answer that is much too long tells as much as the whole.
        while length < len(answer):
            self._answer = self._count(answer[:length])
            if self._answer > window:
                self._told, self._too_long = f"more than {self._answer}", True
                return
            length *= 8
        self._answer = self._count(answer)
        self._told = str(self._answer)

    def may_fit(self, asked: str | Sequence[Turn]) -> bool:
        """Whether a context is short enough to be tried as a whole.

        Args:
            asked: Text, or turns.
        """
        return self._window is None or length_of(asked) <= self._step

    def fits(self, prompt: Prompt) -> bool:
        """Whether a prompt leaves enough of the window for the edit.

        Args:
            prompt: The rendered prompt.
        """
        if self._window is None:
            return True
        return not self._too_long and self._count(prompt.text) <= self._window - self._needed

    def shorten(
        self,
        asked: str | tuple[Turn, ...],
        written: Callable[[str | Sequence[Turn]], Prompt],
        *,
        has_turns: bool,
    ) -> tuple[str | tuple[Turn, ...], dict[str, int]] | None:
        """Shorten a context until its prompt fits.

        Args:
            asked: Text, or turns.
            written: Renders the prompt with a context.
            has_turns: Whether the family's prompts hold whole conversations, so that a context
                given as text is read as turns.

        Returns:
            As `shorten`.
        """
        if self._too_long:
            return None
        if has_turns and isinstance(asked, str):
            asked = tuple(parse_conversation(asked) or ()) or asked
        return shorten(asked, lambda one: self.fits(written(one)), step=self._step)

    def left_after(self, prompt: Prompt) -> int:
        """The number of tokens that an edit may have after a prompt.

        Args:
            prompt: The rendered prompt.
        """
        if self._window is None:
            return self._max_new_tokens
        return min(self._max_new_tokens, self._window - self._count(prompt.text))

    def too_small(self) -> str:
        """The message of the error for an answer that does not fit without any context."""
        return (
            f"The answer of {self._told} tokens, its edit of up to {self._needed} tokens and the"
            f" objectives don't fit into the window of {self._window} tokens of {self._name!r},"
            " even without any context. Use a checkpoint with a larger window, or choose with"
            " on_error= what to do with such answers."
        )


def shorten(
    context: str | Sequence[Turn], fits: Fits, *, step: int = _STEP
) -> tuple[str | tuple[Turn, ...], dict[str, int]] | None:
    """Shorten a context until it fits.

    Whole turns are dropped first, starting with the oldest. The rest begins with a human turn if
    possible. The last human turn and the tool results after it are never dropped as a whole: they
    lose words, the oldest first, and the human turn loses words last.

    Args:
        context: Text, or turns.
        fits: Whether a prompt with the given context fits. If a context fits, so must any shorter
            one.
        step: Number of characters at the end of a longer context that are tried first. It saves
            the work on a context that is much too long.

    Returns:
        The longest context that fits, and how many `turns` and `words` were dropped (only counts
        above zero); `None` if not even an empty context fits.
    """
    fits = _in_steps(fits, step)
    if fits(context):
        return (context if isinstance(context, str) else tuple(context)), {}
    if isinstance(context, str):
        found = _fewest_words(context, fits, step)
        return None if found is None else (found[0], _counts(0, found[1]))
    turns = list(context)
    last = max((i for i, turn in enumerate(turns) if turn.role == "human"), default=0)
    starts = [i for i in range(1, last + 1) if turns[i].role == "human" or i == last]
    at = bisect_left(starts, True, key=lambda start: fits(turns[start:]))
    if at < len(starts):
        return tuple(turns[starts[at] :]), _counts(starts[at], 0)
    rest = turns[last:]
    order = [*range(1, len(rest)), 0]
    whole = bisect_left(order, True, key=lambda i: fits(_emptied(rest, order, i)))
    if whole == len(order):
        return None
    place = order[whole]
    kept = list(rest) if whole == 0 else _emptied(rest, order, order[whole - 1])
    found = _fewest_words(rest[place].text, _with_text(kept, place, fits), step)
    if found is None:
        return None
    kept[place] = Turn(rest[place].role, found[0])
    words = sum(_words_in(rest[i].text) for i in order[:whole])
    return tuple(kept), _counts(last, words + found[1])


def _in_steps(fits: Fits, step: int) -> Fits:
    """Try only the end of a context first: if it does not fit, neither does the whole."""

    def fits_in_steps(context: str | Sequence[Turn]) -> bool:
        length, end = length_of(context), step
        while end < length:
            if not fits(_end_of(context, end)):
                return False
            end *= _GROWTH
        return fits(context)

    return fits_in_steps


def _end_of(context: str | Sequence[Turn], length: int) -> str | Sequence[Turn]:
    if isinstance(context, str):
        return context[-length:]
    kept: list[Turn] = []
    for turn in reversed(context):
        length -= _SPEAKER
        if length <= 0:
            break
        kept.append(Turn(turn.role, turn.text[-length:]))
        length -= len(turn.text)
    return kept[::-1]


def _emptied(turns: Sequence[Turn], order: Sequence[int], last: int) -> list[Turn]:
    """Take the text from turns, in a given order, up to and including one of them."""
    kept = list(turns)
    for place in order:
        kept[place] = Turn(turns[place].role, "")
        if place == last:
            break
    return kept


def _with_text(turns: Sequence[Turn], at: int, fits: Fits) -> Callable[[str], bool]:
    turns = tuple(turns)
    return lambda text: fits((*turns[:at], Turn(turns[at].role, text), *turns[at + 1 :]))


def _fewest_words(text: str, fits: Callable[[str], bool], step: int) -> tuple[str, int] | None:
    """The longest tail of whole words that fits, and how many words were dropped before it."""
    length = step
    while length < len(text) and fits(text[-length:]):
        length *= _GROWTH
    first = max(0, len(text) - length)
    tails = [*(word.start() for word in _WORD_START.finditer(text, first)), len(text)]
    gone = bisect_left(range(len(tails)), True, key=lambda i: fits(text[tails[i] :]))
    if gone == len(tails):
        return None
    return text[tails[gone] :], _words_in(text[: tails[gone]])


def _words_in(text: str) -> int:
    return sum(1 for _ in _WORD.finditer(text))


def _counts(turns: int, words: int) -> dict[str, int]:
    return {key: n for key, n in (("turns", turns), ("words", words)) if n}
