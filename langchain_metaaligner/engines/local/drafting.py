"""Decides which tokens of the answer to try next as a draft of the edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_WEAK = 2  # tokens ahead in which a single matching token shows where the answer continues
_FAR = 2  # matching tokens in a row that are enough anywhere in the answer
_REST = 1 << 30  # draft the rest of the answer: the next size after a fully accepted draft
_TOGETHER = 2  # accepted tokens after which the edit counts as following the answer again
_MOST = 6  # matching tokens in a row that are required after several useless drafts
_FIRST_SHARE = 0.05  # share of the prefill's cost that may be lost to drafts
_LEAST = 8  # tokens of the first draft, however short the prompt
_EARNED = 0.02  # steps of credit earned by each step without a draft
_SAVED = 0.5  # share of what a draft has saved that later ones may lose
_LENT = 0.7  # steps of extra credit, about one useless draft, after matching tokens in a row


@dataclass(frozen=True, slots=True)
class Costs:
    """What forward passes cost, in steps: a step is the cost of a pass with one token.

    The numbers are fixed, not measured when a model is loaded, so that the same request always
    takes the same passes.

    Attributes:
        base: Cost of a pass with more than one token, without its tokens.
        token: Additional cost of each token of such a pass.
        first: How many tokens of the answer may be drafted with the prompt; `None` for all.
        again: How many tokens are drafted after the edit has diverged from the answer.
    """

    base: float
    token: float
    first: int | None
    again: int

    def draft(self, length: int) -> float:
        """Compute what a draft costs in addition to the step that is made anyway.

        Args:
            length: Its number of tokens.

        Returns:
            The cost in steps.
        """
        return self.base + self.token * (length + 1) - 1 if length else 0.0

    def prefill(self, length: int) -> float:
        """Compute what prefilling a prompt costs.

        Args:
            length: Its number of tokens.

        Returns:
            The cost in steps.
        """
        return self.base + self.token * length

    def opening(self, prompt: int) -> int:
        """Choose how much of an answer is drafted with its prompt.

        If that draft is useless, it has cost no more than the initial credit, so later drafts are
        still possible.

        Args:
            prompt: The prompt's number of tokens.

        Returns:
            Number of tokens; at least a short phrase, which is cheap after any prompt.
        """
        if self.first is None:
            return _REST
        share = int(_FIRST_SHARE * self.prefill(prompt) / self.token)
        return max(_LEAST, min(self.first, share))


# Measured with the embedded aligner and prepacked weights on two AVX-512 cores: passes of 1 to 200
# tokens after 400 took 27 to 226 ms in bfloat16; float32 was within 5 %.
CPU = Costs(base=1.0, token=0.037, first=32, again=24)
# A pass reads all weights, however few its tokens, so the whole answer is drafted at once.
ACCELERATOR = Costs(base=1.0, token=0.002, first=None, again=64)


class Drafter:
    """Follows an edit along its answer and drafts the next tokens.

    A credit, counted in steps, pays for drafts that may be useless. It starts with a share of
    the prefill's cost, and grows by a part of what drafts save. A draft that could overdraw it is
    shortened or left out, which limits the loss for an edit that shares nothing with its answer.
    Only when several tokens in a row match the answer may the credit be overdrawn, by about one
    draft.

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
        self._at = 0  # position in the answer up to which the edit has followed it
        self._apart = 0  # tokens since the edit diverged from the answer
        self._parted = False  # whether it ever diverged
        self._stopped = False
        self._seen = 0  # tokens of the output that were compared with the answer
        self._proposed = 0
        self._trial = 0  # position in the answer at which the last draft began
        self._guessed = False

    @property
    def draft(self) -> list[int]:
        """The answer's tokens, in the spelling that the edit uses."""
        return self._draft

    @property
    def spellings(self) -> list[list[int]]:
        """The answer's tokens in each way in which an edit may begin with it."""
        return self._spellings

    @property
    def together(self) -> bool:
        """Whether the edit so far is the same as the answer, if there is one, token for token."""
        return bool(self._draft) and not self._parted

    @property
    def stopped(self) -> bool:
        """Whether it makes no more drafts; it still follows the edit."""
        return self._stopped

    def propose(self, output: Sequence[int], room: int, *, shared: bool = False) -> list[int]:
        """Draft the next tokens.

        Args:
            output: The tokens of the edit so far.
            room: Maximum length of the draft, in tokens.
            shared: Whether other sequences take part in the pass. Then another pass costs little,
                but useless tokens cost as much as before, so drafts grow gradually.

        Returns:
            The draft; empty if a step without a draft is better.
        """
        self.follow(output)
        if self._stopped:
            return []
        at = self._place(output) if self._apart else self._at
        if at is None:
            return []
        size = min(self._size, len(self._draft) - at, max(0, room))
        if output:
            size = self._affordable(min(size, self._grown) if shared else size)
        self._proposed, self._trial = size, at
        return self._draft[at : at + size]

    def learn(self, accepted: int) -> None:
        """Record the outcome of a pass.

        Args:
            accepted: How many tokens of the last draft were accepted.
        """
        proposed, self._proposed = self._proposed, 0
        if not proposed:
            self._credit += _EARNED
            return
        first = self._seen == 0
        # If the whole answer was requested, only its usual part is charged to the credit.
        most = min(proposed, self._opening)
        cost = self._costs.token * most if first else self._costs.draft(proposed)
        gain = accepted - cost
        # After a fully right first draft all of it counts, to afford the rest of the answer.
        saved = 1.0 if first and accepted == proposed else _SAVED
        self._credit += gain * saved if gain > 0 else gain
        if self._apart and accepted >= min(_TOGETHER, proposed):
            # `follow` goes on from here, with the accepted tokens.
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

    def stop(self) -> None:
        """Make no more drafts, but go on following the edit."""
        self._stopped = True

    def _affordable(self, size: int) -> int:
        found = self._apart and not self._guessed
        credit = self._credit + (_LENT if found else 0.0)
        while size and self._costs.draft(size) > credit:
            size //= 2
        return size

    def follow(self, output: Sequence[int]) -> None:
        """Compare the new tokens of the output with the answer; `propose` does so itself.

        Args:
            output: The tokens of the edit so far.
        """
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
        """Switch to the other spelling if the edit begins with it; that is not a divergence."""
        if self._draft and self._draft[0] != first:
            for other in self._spellings:
                if other[0] == first:
                    self._draft, self._size = other, self._first
                    most = min(self._size, len(other))
                    self._credit = max(self._credit, self._costs.draft(most))

    def _place(self, output: Sequence[int]) -> int | None:
        """Find the position in the answer at which the edit may have returned to it."""
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
            return start + 1  # one token replaced by another
        return None
