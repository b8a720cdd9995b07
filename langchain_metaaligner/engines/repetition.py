"""Finds out early that an edit repeats itself without end."""

from __future__ import annotations

from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.errors import GuardError

SHORTEST = 256
"""Characters of an edit that no repetition is looked for in."""

_EVERY = 64  # characters after which a text is looked at again
_TIMES = 4  # how often the same text must follow itself
_LONGEST = 1024  # characters of the text that is repeated
_SAMPLE = 32  # characters by which its last beginning is found
_KEPT = (_TIMES + 1) * _LONGEST  # characters in which a repetition is found
_TRIED = 8  # how many of such places are looked at


class RepetitionWatch:
    """Watches a text while it is written, in pieces of any length.

    A text repeats itself if its end is the same 1 to 1,024 characters at least four times in a row,
    256 characters or more in all, unless the answer does the same at least half as long.

    Args:
        answer: The answer, which may repeat itself too.
        retryable: Whether another try may give another text.
    """

    def __init__(self, answer: str, *, retryable: bool = False) -> None:
        self._answer, self._retryable = answer, retryable
        self._text, self._next = "", SHORTEST
        self._cut = 0  # characters at the beginning that are not kept

    def push(self, piece: str) -> None:
        """Append a piece.

        Args:
            piece: The piece.

        Raises:
            GuardError: The text repeats itself.
        """
        self._text += piece
        while (end := self._next - self._cut) <= len(self._text):
            run = self._run(end)
            if run and self._text[end - run // 2 : end] not in self._answer:
                raise _repeats(retryable=self._retryable)
            # A long repetition that the answer has, too, is not compared with it again and again.
            self._next += max(_EVERY, run // 4)
            done = self._next - self._cut - _KEPT
            if not run and done > len(self._text) // 2:
                self._text, self._cut = self._text[done:], self._cut + done

    def _run(self, end: int) -> int:
        """How many characters before a place are one text in a row; 0 if it is no repetition."""
        text = self._text
        sample, place = text[end - _SAMPLE : end], end - 1
        least = max(0, end - _LONGEST - _SAMPLE)
        for _ in range(_TRIED):
            found = text.rfind(sample, least, place)
            if found < 0:
                return 0
            place = found + _SAMPLE - 1
            unit = end - _SAMPLE - found
            needed = max(_TIMES * unit, SHORTEST)
            if needed <= end and text[end - needed : end - unit] == text[end - needed + unit : end]:
                return _grown(text, end, unit, needed)
        return 0


def watch(request: Request) -> RepetitionWatch:
    """Make the watch for the text of a request's edit.

    Args:
        request: The request.

    Returns:
        The watch.
    """
    return RepetitionWatch(request.draft, retryable=request.temperature > 0)


def _grown(text: str, end: int, unit: int, run: int) -> int:
    while run < end:
        more = min(run, end - run)
        if text[end - run - more : end - run] != text[end - run - more + unit : end - run + unit]:
            break
        run += more
    return run


def _repeats(*, retryable: bool) -> GuardError:
    message = (
        "The edit repeats itself, so it was stopped. on_error decides what happens to the answer."
        " If such a text is wanted, leave 'repetition' out of guards=."
    )
    return GuardError(message, guard="repetition", retryable=retryable)
