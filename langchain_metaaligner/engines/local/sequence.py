"""The state of one request while the model works on it."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from langchain_metaaligner.engines.base import Edit, FinishReason, Request, TokenAgreement
from langchain_metaaligner.engines.cancellation import Cancellation
from langchain_metaaligner.engines.local.drafting import Drafter
from langchain_metaaligner.engines.local.tokenizer import OutputText
from langchain_metaaligner.engines.repetition import RepetitionWatch, watch
from langchain_metaaligner.errors import EngineError, GuardError

_IN_CACHE = 4  # rows of logits


class SequenceState(enum.Enum):
    """The stages of a sequence."""

    WAITING = enum.auto()
    """The model has processed none of its tokens, and it has no cache."""
    PREFILLING = enum.auto()
    """More than one of its tokens is still to be processed."""
    DECODING = enum.auto()
    """One token is still to be processed; the next tokens are chosen after it."""
    FINISHED = enum.auto()
    """It has ended normally."""
    FAILED = enum.auto()
    """It has ended with an error."""


@dataclass(slots=True, eq=False)
class EditSequence:
    """The state of one request while the model works on it.

    Attributes:
        prompt: The prompt's tokens.
        limit: Maximum length of the output, in tokens; 0 if the prompt is only prefilled.
        temperature: Sampling temperature; 0 takes the likeliest token.
        output: The output so far.
        drafter: Proposes the next draft.
        ends: Tokens that end the output.
        draft_text: The answer; it is the edit's text if the edit has the answer's tokens.
        keep_above: Agreement from which the answer is kept without decoding; `None` for never.
        token_agreement: Whether the log-probability of each token of the answer is wanted.
        caution: As in `Request`.
        state: The stage that it has reached.
        cache: Keys and values of the tokens that the model has processed; `None` before the first
            pass and after the end.
        finish_reason: Why it ended; `None` before that.
        error: Why it failed; `None` unless it did.
        passes: Number of forward passes that it took part in.
        piece: Text that became final and was not yet handed out.
        scores: Log-probabilities of the answer's tokens, as far as they are known.
        first_scores: Log-probabilities of the tokens that the answer may begin with, by token.
        kept: Whether the answer was kept as it is, without decoding.
        cancellation: Tells whether the request's deadline has passed.
        isolated: Whether its last pass failed, so that its next one must be for it alone.
        repetition: Finds out that the output repeats itself; `None` if it may.
        shareable: Number of tokens at the beginning of the prompt that other prompts may share.
        shared: How many of these are in the prefix cache or came from it.
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
    caution: float = 0.0
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
    repetition: RepetitionWatch | None = None
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
            prompt: The tokens of its prompt.
            output: Its output, still empty.
            drafter: A drafter for its draft.
            window: How many tokens the prompt and the output may have together.
            ends: Tokens that end the output.

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
                f"The prompt has {len(prompt)} tokens, but the window holds {window} for the"
                " prompt and the edit together. Shorten the context or the answer."
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
            caution=request.caution,
            cancellation=Cancellation([request]),
            repetition=watch(request) if request.refuse_repetition else None,
        )
        if sequence.limit <= 0:
            sequence.finish("length")
        return sequence

    @classmethod
    def of_prefix(cls, prompt: list[int], output: OutputText, drafter: Drafter) -> EditSequence:
        """Make a sequence that prefills the beginning of a prompt and decodes nothing.

        Args:
            prompt: The tokens of the beginning.
            output: An empty output.
            drafter: A drafter without a draft.

        Returns:
            The sequence.
        """
        return cls(prompt, 0, 0.0, output, drafter, shareable=len(prompt))

    # -- how far it has come ------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether it has finished or failed."""
        return self.state in (SequenceState.FINISHED, SequenceState.FAILED)

    @property
    def unseen(self) -> int:
        """Number of tokens that the model has not processed yet."""
        seen = self.cache.length if self.cache is not None else 0
        return len(self.prompt) + len(self.output.ids) - seen

    def begin(self, cache: Any) -> None:
        """Start with a cache.

        Args:
            cache: The cache, empty or with keys and values of the prompt's beginning.
        """
        self.cache = cache
        self.shared = cache.length
        self.advance()

    def advance(self) -> None:
        """Update the state after the cache or the output has grown."""
        if not self.ended:
            last = self.unseen == 1
            self.state = SequenceState.DECODING if last else SequenceState.PREFILLING

    def finish(self, reason: FinishReason) -> None:
        """End normally.

        Args:
            reason: Why it ends.
        """
        if not self.ended:  # its deadline may have passed during a pass
            self.state, self.finish_reason = SequenceState.FINISHED, reason

    def fail(self, error: BaseException) -> None:
        """End with an error.

        Args:
            error: The error.
        """
        self.state, self.error = SequenceState.FAILED, error

    # -- a pass -------------------------------------------------------------------------------

    def next_tokens(self, most: int) -> list[int]:
        """Return the next tokens that the model has not processed.

        Args:
            most: Maximum number of tokens.

        Returns:
            The tokens.
        """
        seen, made = self.cache.length, len(self.prompt)
        if seen >= made:
            return self.output.ids[seen - made :][:most]
        return [*self.prompt[seen : seen + most], *self.output.ids][:most]

    @property
    def asks_all(self) -> bool:
        """Whether the next draft must be the whole answer, whatever it costs."""
        wanted = self.keep_above is not None or self.token_agreement
        # The first token may show that the edit uses another spelling, so the second pass asks too.
        return wanted and len(self.output.ids) < 2 and not self.drafter.stopped

    def score(self, logits: torch.Tensor) -> None:
        """Record how likely the answer's next tokens were, while the edit follows the answer.

        Args:
            logits: `[1 + drafted_tokens, vocabulary]`: the logits after the last token of the
                output and after each drafted token.
        """
        if self.drafter.stopped:
            return
        made, spelt = len(self.output.ids), self.drafter.draft
        if not made:
            firsts = [one[0] for one in self.drafter.spellings]
            odds = _log_probabilities(logits[:1].expand(len(firsts), -1), firsts)
            self.first_scores = dict(zip(firsts, odds, strict=True))
        elif made == 1:  # the edit may have begun in another spelling than the drafted one
            self.scores = [self.first_scores.get(spelt[0], 0.0)]
        if len(self.scores) == made:
            self.scores += _log_probabilities(logits, spelt[made : made + len(logits)])

    def forget_draft(self) -> None:
        """Go on without drafts, and report no agreement."""
        self.drafter.stop()
        self.scores = []

    def push(self, tokens: Sequence[int]) -> None:
        """Append tokens that were chosen, up to the end of the edit.

        Args:
            tokens: The tokens.
        """
        chosen = list(tokens)[: self.limit - len(self.output.ids)]
        end = next((place for place, token in enumerate(chosen) if token in self.ends), None)
        made = self.output.push(*chosen[:end])
        self.piece += made
        if self.repetition is not None:
            try:
                self.repetition.push(made)
            except GuardError as error:
                self.fail(error)
                return
        if self.output.stopped or end is not None:
            self.finish("stop")
        elif len(self.output.ids) >= self.limit:
            self.finish("length")
        if self.ended:
            self.piece += self.output.finish()

    def keep(self) -> None:
        """End with the answer as it is."""
        self.finish("stop")
        self.kept, self.piece = True, self.draft_text

    # -- the edit -----------------------------------------------------------------------------

    @property
    def agreement(self) -> float | None:
        """Mean log-probability of the answer's tokens; `None` unless all are known and finite."""
        if not self.scores or len(self.scores) < len(self.drafter.draft):
            return None
        mean = sum(self.scores) / len(self.scores)
        # A model may give a token no probability at all, for instance one that it must not write.
        return mean if math.isfinite(mean) else None

    def edit(self) -> Edit:
        """Make the finished edit.

        Returns:
            The edit. Its usage counts neither the end token nor anything after a stop text.
        """
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
    """Compute the log-probability of each token.

    Args:
        logits: `[rows, vocabulary]`, at least one row for each token.
        tokens: The tokens, one for each row.

    Returns:
        Their natural log-probabilities.
    """
    logits = logits[: len(tokens)]
    wanted = torch.tensor(tokens, device=logits.device)[:, None]
    # A few rows at a time fit into a CPU's cache, which takes a quarter of the time.
    sums = [rows.float().logsumexp(-1) for rows in torch.split(logits, _IN_CACHE)]
    found: list[float] = (logits.gather(-1, wanted)[:, 0].float() - torch.cat(sums)).tolist()
    return found
