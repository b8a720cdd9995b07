"""Decides which tokens to try next as a draft of the edit: the answer's, or an earlier phrase's."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from langchain_metaaligner.engines.local.phrases import LONGEST, Phrases

_WEAK = 2  # tokens ahead in which a single matching token shows where the answer continues
_FAR = 2  # matching tokens in a row that are enough anywhere in the answer
_REST = 1 << 30  # draft the rest of the answer: the next size after a fully accepted draft
_TOGETHER = 2  # accepted tokens after which the edit counts as following the answer again
_MOST = 6  # matching tokens in a row that are required after several useless drafts
_FIRST_SHARE = 0.025  # share of the prefill's cost that may be lost to drafts
_LEAST = 8  # tokens of the first draft, however short the prompt
_EARNED = 0.01  # steps of credit earned by each step without a draft
_SAVED = 0.5  # share of what a draft has saved that later ones may lose
_TRIED = 0.03  # steps for any draft, however short: choosing among all tokens, undoing a wrong one
_LENT = 0.1  # steps of extra credit after matching tokens in a row


@dataclass(frozen=True, slots=True)
class Costs:
    """What forward passes cost, in steps: a step is the cost of a pass with one token.

    The numbers are fixed, not measured when a model is loaded, so that the same request always
    takes the same passes.

    Attributes:
        token: Additional cost of each token of a pass, beyond `rows`.
        rows: How many tokens a pass has at the cost of one.
        first: How many tokens of the answer may be drafted with the prompt; `None` for all.
        again: How many tokens are drafted after the edit has diverged from the answer.
        guess: How many tokens are drafted where they only followed the same phrase before.
    """

    token: float
    rows: int
    first: int | None
    again: int
    guess: int

    def draft(self, length: int) -> float:
        """Compute what a draft costs in addition to the step that is made anyway.

        Args:
            length: Its number of tokens.

        Returns:
            The cost in steps.
        """
        return self.token * max(0, length + 1 - self.rows) + _TRIED if length else 0.0

    def prefill(self, length: int) -> float:
        """Compute what prefilling a prompt costs.

        Args:
            length: Its number of tokens.

        Returns:
            The cost in steps.
        """
        return 1.0 + self.token * length

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
        return max(_LEAST, min(self.first, int(self.risked(prompt) / self.token)))

    def risked(self, prompt: int) -> float:
        """Compute how much drafts may cost before any has saved something.

        Args:
            prompt: The prompt's number of tokens.

        Returns:
            The cost in steps.
        """
        return _FIRST_SHARE * self.prefill(prompt)


# Measured with the embedded aligner and prepacked weights on one busy AVX-512 core, after 400
# tokens: passes of 1, 4, 16 and 64 took 38, 39, 65 and 180 ms in bfloat16, and 60, 60, 98 and 265
# in float32, so 0.06 steps a token. On two cores a step gains less than its tokens do.
CPU = Costs(token=0.05, rows=4, first=32, again=24, guess=3)
# The same with this package's kernels: 1, 6, 8, 16 and 64 tokens took 19, 20, 26, 36 and 111 ms in
# bfloat16, and 35, 37, 51, 72 and 219 in float32.
NATIVE = Costs(token=0.06, rows=6, first=32, again=24, guess=5)
# A pass reads all weights, however few its tokens, so the whole answer is drafted at once.
ACCELERATOR = Costs(token=0.002, rows=1, first=None, again=64, guess=7)


class Drafter:
    """Follows an edit along its answer and drafts the next tokens.

    Where the edit does not follow the answer, it drafts a few tokens that came after the edit's
    last ones where these occurred before. Real aligners rewrite most answers, and on their edits
    this gives 1.3 to 1.4 tokens a pass, the answer alone 1.05 to 1.1.

    A credit, counted in steps, pays for drafts that may be useless. It starts with a share of
    the prefill's cost, and grows by a part of what drafts save. A draft that could overdraw it is
    shortened or left out, which limits the loss for an edit that shares nothing with its answer.
    Only when several tokens in a row match the answer may the credit be overdrawn, a little.

    Args:
        spellings: The answer's tokens, in each way in which an edit may begin with it.
        costs: What passes cost.
        prompt: The prompt's number of tokens.
        whole: Draft the whole answer with the prompt, whatever that costs.
        context: The prompt's tokens, if phrases from there, from the answer and from the edit may
            be drafted; `None` drafts the answer alone. Without an answer nothing is drafted.
    """

    def __init__(
        self,
        spellings: Sequence[Sequence[int]],
        costs: Costs,
        prompt: int,
        *,
        whole: bool = False,
        context: Sequence[int] | None = None,
    ) -> None:
        self._spellings = [list(one) for one in spellings if one]
        self._draft = self._spellings[0] if self._spellings else []
        self._costs = costs
        self._credit = costs.risked(prompt)
        self._first = _REST if whole else costs.opening(prompt)
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
        self._context = context if self._draft else None
        self._phrases: Phrases | None = None
        self._known = 0  # tokens of the output that the phrases are made of
        self._recalled = False  # whether the last draft was a phrase
        self._ends: dict[int, list[int]] | None = None  # where in the answer each token ends

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
        self._proposed, self._recalled = 0, False
        if self._stopped:
            return []
        room = max(0, room)
        at = self._place(output) if self._apart else self._at
        size = 0 if at is None else min(self._size, len(self._draft) - at, room)
        if output:
            size = self._affordable(min(size, self._grown) if shared else size)
        if self._apart and size <= self._costs.guess:
            phrase = self._recall(output, room, shared=shared)
            if len(phrase) > size:
                self._proposed, self._recalled = len(phrase), True
                return phrase
        if at is None:
            return []
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
        # The first draft may be longer than the credit allows: a phrase after a short prompt, or
        # the whole answer, because it was requested or is nearly free. The rest is not charged.
        cost = self._costs.draft(proposed)
        if first:
            cost = min(self._costs.token * proposed, self._credit)
        gain = accepted - cost
        # After a fully right first draft all of it counts, to afford the rest of the answer.
        saved = 1.0 if first and accepted == proposed else _SAVED
        self._credit += gain * saved if gain > 0 else gain
        if self._recalled:
            return
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
        if self._ends is None:
            self._ends = {}
            for end, token in enumerate(draft, 1):
                self._ends.setdefault(token, []).append(end)
        tail = list(output[-self._need :])
        if len(tail) == self._need:
            ends = self._ends.get(tail[-1], [])
            for end in ends[bisect_right(ends, start) :]:
                if end < len(draft) and draft[max(0, end - self._need) : end] == tail:
                    return end
        for end in range(start + 1, min(start + 1 + _WEAK, len(draft))):
            if draft[end - 1] == output[-1]:
                self._guessed = True
                return end
        if self._apart == 1 and start + 1 < len(draft):
            self._guessed = True
            return start + 1  # one token replaced by another
        return None

    def _recall(self, output: Sequence[int], room: int, *, shared: bool) -> list[int]:
        """Draft what came after the last tokens where they last occurred.

        In a shared pass only long phrases are worth it: they go on as before in 7 of 10 cases,
        single tokens in 2.
        """
        size = min(room, self._costs.guess)
        if self._context is None or self._costs.draft(size) > self._credit:
            return []
        if self._phrases is None:
            self._phrases = Phrases([*self._context, *self._draft])
        self._phrases.extend(output[self._known :])
        self._known = len(output)
        phrase, length = self._phrases.go_on(size)
        return phrase if length == LONGEST or not shared else []
