"""One request on its way through the model."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from langchain_metaaligner.engines.base import Edit, FinishReason, Request, TokenAgreement
from langchain_metaaligner.engines.cancellation import Cancellation
from langchain_metaaligner.engines.local.drafting import Drafter
from langchain_metaaligner.engines.local.tokenizer import OutputText
from langchain_metaaligner.errors import EngineError

_IN_CACHE = 4  # rows of logits


class SequenceState(enum.Enum):
    """How far a sequence has come."""

    WAITING = enum.auto()
    """The model has seen nothing of it, and it has no cache."""
    PREFILLING = enum.auto()
    """The model has more than one of its tokens still to see."""
    DECODING = enum.auto()
    """One token is left to see, behind which the next ones are chosen."""
    FINISHED = enum.auto()
    """It has ended by itself."""
    FAILED = enum.auto()
    """It has ended with an error."""


@dataclass(slots=True, eq=False)
class EditSequence:
    """One request on its way through the model.

    Attributes:
        prompt: The prompt's tokens.
        limit: Most tokens of output; 0 where the prompt is only prefilled.
        temperature: 0 takes the likeliest token.
        output: The text so far.
        drafter: Says what to try next.
        ends: Tokens that end it.
        draft_text: The answer, which is the edit's text if the edit has just its tokens.
        keep_above: From which agreement on the answer stays as it is, if at all.
        token_agreement: Whether the answer's tokens are wanted with their log-probabilities.
        state: How far it has come.
        cache: What the model keeps of the tokens that it has seen, while there is any use for it.
        finish_reason: Why it ended, once it has.
        error: What went wrong with it, once it has failed.
        passes: Forward passes that it took part in.
        piece: Text that was made sure of since it was last emptied.
        scores: Log-probabilities of the answer's tokens, as far as passes have told them.
        first_scores: Log-probabilities of what the answer may begin with, by token.
        kept: Whether the answer was left as it is, with no decoding.
        cancellation: Knows when the request's time is up.
        isolated: Whether it took part in a pass that failed, so that its next one is its own.
        shareable: Tokens of the prompt that others' prompts may begin with.
        shared: How many of those are kept for others already, or were taken over from them.
    """

    prompt: list[int]
    limit: int
    temperature: float
    output: OutputText
    drafter: Drafter
    ends: frozenset[int] = frozenset()
    draft_text: str = ""
    keep_above: float | None = None
    token_agreement: bool = False
    state: SequenceState = SequenceState.WAITING
    cache: Any = None
    finish_reason: FinishReason | None = None
    error: BaseException | None = None
    passes: int = 0
    piece: str = ""
    scores: list[float] = field(default_factory=list)
    first_scores: dict[int, float] = field(default_factory=dict)
    kept: bool = False
    cancellation: Cancellation = field(default_factory=Cancellation)
    isolated: bool = False
    shareable: int = 0
    shared: int = 0

    @classmethod
    def of_request(
        cls,
        request: Request,
        prompt: list[int],
        output: OutputText,
        drafter: Drafter,
        *,
        window: int,
        ends: frozenset[int],
    ) -> EditSequence:
        """Make the sequence of a request.

        Args:
            request: The request.
            prompt: Its prompt's tokens.
            output: Its text, still empty.
            drafter: Knows its draft.
            window: Tokens that prompt and output share.
            ends: Tokens that end it.

        Returns:
            The sequence.

        Raises:
            EngineError: The prompt is empty or leaves no room for an output.
        """
        if not prompt:
            message = "The prompt is empty; expected a text to continue."
            raise EngineError(message)
        room = window - len(prompt)
        if room <= 0:
            message = (
                f"The prompt has {len(prompt)} tokens, but the window holds {window} for prompt"
                " and edit together. Shorten the context or the answer."
            )
            raise EngineError(message)
        sequence = cls(
            prompt,
            min(request.max_new_tokens, room),
            request.temperature,
            output,
            drafter,
            ends=ends,
            draft_text=request.draft,
            keep_above=request.keep_above,
            token_agreement=request.token_agreement,
            cancellation=Cancellation([request]),
        )
        if sequence.limit <= 0:
            sequence.finish("length")
        return sequence

    @classmethod
    def of_prefix(cls, prompt: list[int], output: OutputText, drafter: Drafter) -> EditSequence:
        """Make a sequence that prefills the beginning of a prompt, and decodes nothing.

        Args:
            prompt: The tokens of the beginning.
            output: An empty text.
            drafter: One with nothing to draft.

        Returns:
            The sequence.
        """
        return cls(prompt, 0, 0.0, output, drafter, shareable=len(prompt))

    # -- how far it has come ------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether nothing more will be done for it."""
        return self.state in (SequenceState.FINISHED, SequenceState.FAILED)

    @property
    def unseen(self) -> int:
        """Tokens that the model has not seen yet."""
        seen = self.cache.length if self.cache is not None else 0
        return len(self.prompt) + len(self.output.ids) - seen

    def begin(self, cache: Any) -> None:
        """Take a cache, empty or with what the prompt begins with.

        Args:
            cache: The cache.
        """
        self.cache = cache
        self.shared = cache.length
        self.advance()

    def advance(self) -> None:
        """Take note that the cache holds more of the sequence, or that there is more of it."""
        if not self.ended:
            last = self.unseen == 1
            self.state = SequenceState.DECODING if last else SequenceState.PREFILLING

    def finish(self, reason: FinishReason) -> None:
        """End well.

        Args:
            reason: Why it ends.
        """
        if not self.ended:  # its time may have been up in the middle of a pass
            self.state, self.finish_reason = SequenceState.FINISHED, reason

    def fail(self, error: BaseException) -> None:
        """End with an error.

        Args:
            error: What went wrong.
        """
        self.state, self.error = SequenceState.FAILED, error

    # -- a pass -------------------------------------------------------------------------------

    def next_tokens(self, most: int) -> list[int]:
        """The next tokens that the model has not seen.

        Args:
            most: How many at most.
        """
        seen, made = self.cache.length, len(self.prompt)
        if seen >= made:
            return self.output.ids[seen - made :][:most]
        return [*self.prompt[seen : seen + most], *self.output.ids][:most]

    @property
    def asks_all(self) -> bool:
        """Whether the next draft is the whole answer, whatever it costs or may be used of it."""
        wanted = self.keep_above is not None or self.token_agreement
        # Behind the first token it may have turned out that the answer is spelt otherwise.
        return wanted and len(self.output.ids) < 2

    def score(self, logits: torch.Tensor) -> None:
        """Take note of how likely the answer's next tokens were, while edit and answer are one.

        Args:
            logits: `[1 + drafted_tokens, vocabulary]`: those behind the last token of the output,
                and behind each token that was drafted.
        """
        made, spelt = len(self.output.ids), self.drafter.draft
        if not made:
            firsts = [one[0] for one in self.drafter.spellings]
            odds = _log_probabilities(logits[:1].expand(len(firsts), -1), firsts)
            self.first_scores = dict(zip(firsts, odds, strict=True))
        elif made == 1:  # the edit may have begun in another spelling than was drafted
            self.scores = [self.first_scores.get(spelt[0], 0.0)]
        if len(self.scores) == made:
            self.scores += _log_probabilities(logits, spelt[made : made + len(logits)])

    def push(self, tokens: Sequence[int]) -> None:
        """Take tokens that the model has chosen, up to where the edit ends.

        Args:
            tokens: The tokens.
        """
        chosen = list(tokens)[: self.limit - len(self.output.ids)]
        end = next((place for place, token in enumerate(chosen) if token in self.ends), None)
        self.piece += self.output.push(*chosen[:end])
        if self.output.stopped or end is not None:
            self.finish("stop")
        elif len(self.output.ids) >= self.limit:
            self.finish("length")
        if self.ended:
            self.piece += self.output.finish()

    def keep(self) -> None:
        """Leave the answer as it is."""
        self.finish("stop")
        self.kept, self.piece = True, self.draft_text

    # -- the edit -----------------------------------------------------------------------------

    @property
    def agreement(self) -> float | None:
        """Mean log-probability of the answer's tokens; `None` unless all of them are known."""
        if not self.scores or len(self.scores) < len(self.drafter.draft):
            return None
        return sum(self.scores) / len(self.scores)

    def edit(self) -> Edit:
        """The finished edit; its usage counts no end token and nothing behind a stop text."""
        made = 0 if self.kept else self.output.used_tokens()
        return Edit(
            text=self.draft_text if self.kept else self.output.text,
            finish_reason=self.finish_reason or "length",
            usage={
                "input_tokens": len(self.prompt),
                "output_tokens": made,
                "total_tokens": len(self.prompt) + made,
            },
            passes=self.passes,
            agreement=self.agreement,
            token_agreement=self._each_agreement(),
        )

    def _each_agreement(self) -> tuple[TokenAgreement, ...] | None:
        if not self.token_agreement or self.agreement is None:
            return None
        spans = self.output.tokenizer.spans(self.draft_text, self.drafter.draft)
        if spans is None:
            return None
        return tuple(
            TokenAgreement(start, end, odds)
            for (start, end), odds in zip(spans, self.scores, strict=True)
        )


def _log_probabilities(logits: torch.Tensor, tokens: Sequence[int]) -> list[float]:
    """How likely each token was, in its place."""
    logits = logits[: len(tokens)]
    wanted = torch.tensor(tokens, device=logits.device)[:, None]
    # A few rows at a time stay in a CPU's cache: a quarter of the time for a whole answer.
    sums = [rows.float().logsumexp(-1) for rows in torch.split(logits, _IN_CACHE)]
    found: list[float] = (logits.gather(-1, wanted)[:, 0].float() - torch.cat(sums)).tolist()
    return found
