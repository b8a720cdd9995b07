"""What a model thinks before it answers: how it is marked, and how it is left out of the text."""

from __future__ import annotations

import re

from langchain_metaaligner.errors import EngineError

NAMES = r"(?:\w{1,16}:)?(?:think(?:ing)?|thoughts?|reasoning)"
"""The names of tags around thoughts, such as `<think>` and `<seed:think>`, as a pattern."""

_OPENING = rf"<{NAMES}>|\[THINK\]|◁think▷|<\|(?:START_THINKING|begin_of_thought)\|>"
_CLOSING = rf"</{NAMES}>|\[/THINK\]|◁/think▷|<\|(?:END_THINKING|end_of_thought)\|>"
_MARK = re.compile(f"(?P<opening>{_OPENING})|{_CLOSING}", re.IGNORECASE)
_OPEN_END = re.compile(rf"({_OPENING})\s*\Z", re.IGNORECASE)
_PARTIAL = re.compile(r"[<\[◁][/|]?[\w:|]*\Z")
_BEGINNINGS = "<[◁"
_LONGEST = 32  # characters of a mark
_PAIRS = (("START_", "END_"), ("begin_of", "end_of"))


def is_mark(token: str) -> bool:
    """Whether a token begins or ends a model's thoughts."""
    return _MARK.fullmatch(token) is not None


def opened(prompt: str) -> str | None:
    """Find out whether a prompt ends where the model is to think.

    Args:
        prompt: The prompt.

    Returns:
        What will end the thoughts; `None` if the prompt doesn't begin any.
    """
    found = _OPEN_END.search(prompt[-2 * _LONGEST :])
    return None if found is None else _end_of(found[1])


def closed(prompt: str) -> str:
    """End the thoughts that a prompt begins, so that the model answers at once.

    Args:
        prompt: The prompt.

    Returns:
        The prompt; with thoughts ended that it begins, if any.
    """
    end = opened(prompt)
    return prompt if end is None else f"{prompt.rstrip()}\n\n{end}\n\n"


class SpokenText:
    """A model's text without its thoughts, as its pieces arrive.

    Args:
        inside: What ends the thoughts in which the text begins, from `opened`.
    """

    def __init__(self, inside: str | None = None) -> None:
        self._end = None if inside is None else _pattern(inside)
        self._held = ""
        self._spoken = False  # whether the answer has begun
        self._blank = ""  # white space before it
        self._trims = inside is not None

    def push(self, piece: str) -> str:
        """Append a piece.

        Args:
            piece: The next text of the model, of any length.

        Returns:
            What of it is part of the answer, as far as that is sure.

        Raises:
            EngineError: The text that was given out before was a thought.
        """
        self._held += piece
        told = self._spoken
        given = ""
        while (found := (self._end or _MARK).search(self._held)) is not None:
            if self._end is not None:
                self._end = None
            elif found["opening"]:
                given += self._answer(self._held[: found.start()])
                self._end = _pattern(_end_of(found[0]))
            elif told:
                message = (
                    "The model ended thoughts that it had not begun, so a part of what was"
                    " streamed was no answer. Edit without streaming, or use a model that doesn't"
                    " think."
                )
                raise EngineError(message)
            else:  # all of it was thought
                given, self._spoken = "", False
            if not self._spoken:
                self._blank, self._trims = "", True
            self._held = self._held[found.end() :]
        sure = len(self._held) - self._unsure()
        if self._end is None:
            given += self._answer(self._held[:sure])
        self._held = self._held[sure:]
        return given

    def finish(self) -> str:
        """Return the text that was held back.

        Returns:
            The rest of the answer.

        Raises:
            EngineError: The model thought to the end and gave no answer.
        """
        if self._end is not None:
            message = (
                "The model thought to the end and gave no answer, so there is no edit. Allow more"
                " tokens with max_new_tokens=, or use a model whose chat template lets thinking be"
                " switched off."
            )
            raise EngineError(message)
        return self._answer(self._held) or self._blank

    def _unsure(self) -> int:
        """Count the characters at the end that may become a mark."""
        found = _PARTIAL.search(self._held[-_LONGEST:])
        return 0 if found is None else len(found[0])

    def _answer(self, text: str) -> str:
        """Add a part of the answer; white space before and after thoughts belongs to them."""
        if not self._spoken:
            text = self._blank + text
            if self._trims:
                text = text.lstrip()
            self._spoken = bool(text.strip())
            self._blank = "" if self._spoken else text
        return text if self._spoken else ""


def spoken(text: str, inside: str | None = None) -> str:
    """Leave a model's thoughts out of its whole text.

    Args:
        text: The text.
        inside: As for `SpokenText`.

    Returns:
        The answer.

    Raises:
        EngineError: There is none.
    """
    if inside is None and not any(char in text for char in _BEGINNINGS):
        return text
    answer = SpokenText(inside)
    return answer.push(text) + answer.finish()


def _pattern(end: str) -> re.Pattern[str]:
    return re.compile(re.escape(end), re.IGNORECASE)


def _end_of(opening: str) -> str:
    for begin, end in _PAIRS:
        if begin.lower() in opening.lower():
            return re.sub(begin, end, opening, flags=re.IGNORECASE)
    return f"{opening[0]}/{opening[1:]}"
