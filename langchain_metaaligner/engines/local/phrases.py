"""Finds where the last tokens of a text occurred before, and what came after them."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 3
"""Tokens that are looked for in a row; fewer where these never occurred together."""


class Phrases:
    """An index of the phrases of a text that grows: where each last occurred.

    Args:
        tokens: The text so far.
    """

    __slots__ = ("_ends", "_tokens")

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = list(tokens)
        # The place after the last occurrence of each phrase that has another token after it.
        self._ends: dict[tuple[int, ...], int] = {}
        for end in range(1, len(self._tokens)):
            self._note(end)

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens to the text.

        Args:
            tokens: The tokens.
        """
        for token in tokens:
            if self._tokens:
                self._note(len(self._tokens))
            self._tokens.append(token)

    def go_on(self, most: int) -> tuple[list[int], int]:
        """Guess how the text goes on: as it did after its last tokens, when they last occurred.

        Args:
            most: Maximum number of tokens.

        Returns:
            The tokens, and how many tokens in a row occurred before.
        """
        tokens = self._tokens
        for length in range(min(LONGEST, len(tokens)), 0, -1):
            end = self._ends.get(tuple(tokens[-length:]))
            if end is not None:
                return tokens[end : end + most], length
        return [], 0

    def _note(self, end: int) -> None:
        tokens, ends = self._tokens, self._ends
        for length in range(1, min(LONGEST, end) + 1):
            ends[tuple(tokens[end - length : end])] = end
