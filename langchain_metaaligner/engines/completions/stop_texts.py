"""Ends a text at a stop text, as its pieces arrive."""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """Holds back what may become a stop text, so that no part of one is given out.

    Servers end completions at stop texts too, but not all do it in each case: a stop text may lie
    across the text that was kept and the text that was generated, and some servers ignore them.

    Args:
        stop: The stop texts.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = [one for one in stop if one]
        self._longest = max(map(len, self._stop), default=0)
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """Append a piece.

        Args:
            piece: The next text.

        Returns:
            The text that is sure to come before any stop text; `found` says whether there was one.
        """
        if self.found:
            return ""
        text, self._held = self._held + piece, ""
        # The first one that is complete ends the text, as it does while a model writes.
        ends = [(at + len(one), at) for one in self._stop if (at := text.find(one)) >= 0]
        if ends:
            self.found = True
            return text[: min(ends)[1]]
        for size in range(min(self._longest - 1, len(text)), 0, -1):
            if any(one.startswith(text[-size:]) for one in self._stop):
                self._held = text[-size:]
                return text[:-size]
        return text

    def finish(self) -> str:
        """Return the text that was held back, at the end of the completion."""
        held, self._held = self._held, ""
        return held
