"""Decides which tokens of the answer to try next as a draft of its edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_WEAK = 2  # how far ahead a single token counts as a sign that the answer goes on there
_FAR = 2  # tokens in a row that count wherever they stand
_REST = 1 << 30  # all that is left is drafted next, where all of a draft was accepted
_TOGETHER = 2  # tokens of a draft after which edit and answer count as together again
_MOST = 6  # tokens in a row that are asked for after several useless drafts
_FIRST_SHARE = 0.05  # of the prefill may be lost to drafts
_LEAST = 8  # tokens of the first draft, however short the prompt
_EARNED = 0.02  # of each step without a draft, too
_SAVED = 0.5  # of what a draft has saved may be lost by later ones
_LENT = 0.7  # steps: as much as one useless draft, for tokens in a row that are found again


@dataclass(frozen=True, slots=True)
class Costs:
    """What passes cost, in steps: a step is a pass of one token.

    The numbers are a table and not measured when a model is loaded, so that the same request
    takes the same passes every time.

    Attributes:
        base: A pass of more than one token.
        token: Each token of such a pass, in addition.
        first: Most tokens of the answer that are tried with the prompt; `None` tries all of them.
        again: Tokens that are tried once edit and answer have parted.
    """

    base: float
    token: float
    first: int | None
    again: int

    def draft(self, length: int) -> float:
        """Say what a draft costs beside the step that is made anyway.

        Args:
            length: Its tokens.

        Returns:
            Steps.
        """
        return self.base + self.token * (length + 1) - 1 if length else 0.0

    def prefill(self, length: int) -> float:
        """Say what a prompt costs.

        Args:
            length: Its tokens.

        Returns:
            Steps.
        """
        return self.base + self.token * length

    def opening(self, prompt: int) -> int:
        """Say how much of an answer is tried with its prompt.

        Where it is useless, it has cost no more than may be lost, so that the edit can still be
        found to be together with the answer later.

        Args:
            prompt: The prompt's number of tokens.

        Returns:
            Tokens; no fewer than a phrase, which is cheap behind any prompt.
        """
        if self.first is None:
            return _REST
        share = int(_FIRST_SHARE * self.prefill(prompt) / self.token)
        return max(_LEAST, min(self.first, share))


# The embedded aligner with prepacked weights on two AVX-512 cores, where float32 and bfloat16 are
# within 5 % of each other: passes of 1 to 200 tokens behind 400 took 27 to 226 ms in bfloat16.
CPU = Costs(base=1.0, token=0.037, first=32, again=24)
# There a pass reads all weights, whatever it does with them, so the whole answer goes at once.
ACCELERATOR = Costs(base=1.0, token=0.002, first=None, again=64)


class Drafter:
    """Follows an edit along its answer and drafts what comes next.

    A credit, counted in steps, pays for drafts that may be useless. It starts with a share of
    the prefill, and a part of what drafts save is added to it. A draft that could overdraw it is
    made shorter or not at all, so an edit that shares nothing with its answer loses no more. Only
    where tokens in a row say that the answer goes on may it be overdrawn, by a draft or so.

    Args:
        spellings: The answer's tokens, in each way in which an edit may begin with it.
        costs: What passes cost.
        prompt: The prompt's number of tokens.
        whole: Draft the whole answer with the prompt, whatever that costs.
    """

    def __init__(
        self,
        spellings: Sequence[Sequence[int]],
        costs: Costs,
        prompt: int,
        *,
        whole: bool = False,
    ) -> None:
        self._spellings = [list(one) for one in spellings if one]
        self._draft = self._spellings[0] if self._spellings else []
        self._costs = costs
        self._credit = _FIRST_SHARE * costs.prefill(prompt)
        self._opening = costs.opening(prompt)
        self._first = _REST if whole else self._opening
        self._size = self._first
        self._grown = costs.again  # tokens of the next draft in a shared pass
        self._need = _FAR
        self._at = 0  # where the answer goes on, as far as edit and answer are together
        self._apart = 0  # tokens since they parted
        self._parted = False  # whether they ever did
        self._seen = 0  # tokens of the output that were followed
        self._proposed = 0
        self._trial = 0  # where the last draft began, if it was to bring them together again
        self._guessed = False

    @property
    def draft(self) -> list[int]:
        """The answer's tokens, in the spelling that the edit has taken up."""
        return self._draft

    @property
    def spellings(self) -> list[list[int]]:
        """The answer's tokens in each way in which an edit may begin with it."""
        return self._spellings

    @property
    def together(self) -> bool:
        """Whether the edit is the answer so far, token by token."""
        return not self._parted

    def propose(self, output: Sequence[int], room: int, *, shared: bool = False) -> list[int]:
        """Draft what comes next.

        Args:
            output: The edit so far.
            room: Most tokens of the draft.
            shared: Whether other rows take part in the pass. Then a pass is no price for a draft
                that ends too soon, but useless tokens cost what they ever did: drafts grow step
                by step.

        Returns:
            The draft; empty where a step without one is the better choice.
        """
        self._follow(output)
        at = self._place(output) if self._apart else self._at
        if at is None:
            return []
        size = min(self._size, len(self._draft) - at, max(0, room))
        if output:
            size = self._affordable(min(size, self._grown) if shared else size)
        self._proposed, self._trial = size, at
        return self._draft[at : at + size]

    def learn(self, accepted: int) -> None:
        """Take note of what became of a pass.

        Args:
            accepted: The tokens of the last draft that the model would have taken itself.
        """
        proposed, self._proposed = self._proposed, 0
        if not proposed:
            self._credit += _EARNED
            return
        first = self._seen == 0
        # What was asked for whole is not on the drafts' account.
        most = min(proposed, self._opening)
        cost = self._costs.token * most if first else self._costs.draft(proposed)
        gain = accepted - cost
        # All of it counts if the first draft was right, or the rest couldn't follow in one pass.
        saved = 1.0 if first and accepted == proposed else _SAVED
        self._credit += gain * saved if gain > 0 else gain
        if self._apart and accepted >= min(_TOGETHER, proposed):
            # What was accepted is followed from there, with the tokens that `follow` sees next.
            self._at, self._apart = self._trial, 0
        self._grown = max(self._costs.again, 2 * accepted if accepted == proposed else accepted)
        if accepted == proposed:
            self._size = _REST
            self._need = _FAR
        elif accepted >= _TOGETHER:
            self._size = max(self._costs.again, accepted)
            self._need = _FAR
        else:
            self._size = self._costs.again
            if not self._guessed:
                self._need = min(_MOST, self._need + 1)

    def _affordable(self, size: int) -> int:
        found = self._apart and not self._guessed
        credit = self._credit + (_LENT if found else 0.0)
        while size and self._costs.draft(size) > credit:
            size //= 2
        return size

    def _follow(self, output: Sequence[int]) -> None:
        """Go along the answer with the tokens that have come since."""
        for place in range(self._seen, len(output)):
            token = output[place]
            if place == 0:
                self._spell(token)
            if not self._apart and self._at < len(self._draft) and self._draft[self._at] == token:
                self._at += 1
            else:
                self._apart += 1
                self._parted = True
        self._seen = len(output)

    def _spell(self, first: int) -> None:
        """Go on in the other spelling if that is how the edit begins: no sign of a rewrite."""
        if self._draft and self._draft[0] != first:
            for other in self._spellings:
                if other[0] == first:
                    self._draft, self._size = other, self._first
                    most = min(self._size, len(other))
                    self._credit = max(self._credit, self._costs.draft(most))

    def _place(self, output: Sequence[int]) -> int | None:
        """Find where in the answer the edit may have come back to it."""
        draft, start, self._guessed = self._draft, self._at, False
        tail = list(output[-self._need :])
        if len(tail) == self._need:
            for end in range(start + 1, len(draft)):
                if draft[max(0, end - self._need) : end] == tail:
                    return end
        for end in range(start + 1, min(start + 1 + _WEAK, len(draft))):
            if draft[end - 1] == output[-1]:
                self._guessed = True
                return end
        if self._apart == 1 and start + 1 < len(draft):
            self._guessed = True
            return start + 1  # one token put in another's place
        return None
