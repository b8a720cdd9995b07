"""The one decode loop: advances rows pass by pass, with drafts, until each has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from langchain_metaaligner.engines.base import Edit, FinishReason, Request, TokenAgreement
from langchain_metaaligner.engines.cancellation import Watch
from langchain_metaaligner.engines.local.drafting import (
    ACCELERATOR,
    CPU,
    Costs,
    Drafter,
)
from langchain_metaaligner.engines.local.forward import Part, Passes, input_device
from langchain_metaaligner.engines.local.packed_forward import passes_for
from langchain_metaaligner.engines.local.tokenizer import OutputText
from langchain_metaaligner.errors import EngineError

_IN_CACHE = 4  # rows of logits


@dataclass(slots=True, eq=False)
class Row:
    """One request on its way through the model.

    Attributes:
        prompt: The prompt's tokens.
        limit: Most tokens of output.
        temperature: 0 takes the likeliest token.
        output: The text so far.
        drafter: Says what to try next.
        ends: Tokens that end it.
        draft_text: The answer, which is the edit's text if the edit has just its tokens.
        keep_above: From which agreement on the answer stays as it is, if at all.
        token_agreement: Whether the answer's tokens are wanted with their log-probabilities.
        cache: What the model keeps of the tokens that it has seen; `None` before the first pass.
        finish: Why it ended, once it has.
        passes: Forward passes that it took part in.
        piece: Text that was made sure of since it was last emptied.
        scores: Log-probabilities of the answer's tokens, as far as passes have told them.
        firsts: Log-probabilities of what the answer may begin with.
        kept: Whether the answer was left as it is, with no decoding.
        watch: Knows when the request's time is up.
        error: What went wrong with it.
        suspect: Whether it took part in a pass that failed, so that it goes by itself.
        shared: Tokens of the prompt that others' prompts may begin with.
        found: How many of those need not be kept: they were, or have been.
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
    cache: Any = None
    finish: FinishReason | None = None
    passes: int = 0
    piece: str = ""
    scores: list[float] = field(default_factory=list)
    firsts: dict[int, float] = field(default_factory=dict)
    kept: bool = False
    watch: Watch = field(default_factory=Watch)
    error: BaseException | None = None
    suspect: bool = False
    shared: int = 0
    found: int = 0

    @classmethod
    def start(
        cls,
        request: Request,
        prompt: list[int],
        output: OutputText,
        drafter: Drafter,
        *,
        window: int,
        ends: frozenset[int],
    ) -> Row:
        """Begin a request.

        Args:
            request: The request.
            prompt: Its prompt's tokens.
            output: Its text, still empty.
            drafter: Knows its draft.
            window: Tokens that prompt and output share.
            ends: Tokens that end it.

        Returns:
            The row.

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
        row = cls(
            prompt,
            min(request.max_new_tokens, room),
            request.temperature,
            output,
            drafter,
            ends=ends,
            draft_text=request.draft,
            keep_above=request.keep_above,
            token_agreement=request.token_agreement,
            watch=Watch([request]),
        )
        if row.limit <= 0:
            row.finish = "length"
        return row

    @classmethod
    def ahead(cls, prompt: list[int], output: OutputText, drafter: Drafter) -> Row:
        """Begin to prefill the beginning of a prompt that is not whole yet.

        Args:
            prompt: Its tokens.
            output: An empty text.
            drafter: One with nothing to draft.

        Returns:
            The row; nothing will be decoded.
        """
        return cls(prompt, 0, 0.0, output, drafter, shared=len(prompt))

    @property
    def waiting(self) -> int:
        """Tokens that the model has not seen yet."""
        seen = self.cache.length if self.cache is not None else 0
        return len(self.prompt) + len(self.output.ids) - seen

    @property
    def agreement(self) -> float | None:
        """Mean log-probability of the answer's tokens; `None` unless all of them are known."""
        if not self.scores or len(self.scores) < len(self.drafter.draft):
            return None
        return sum(self.scores) / len(self.scores)

    @property
    def asks_all(self) -> bool:
        """Whether the next draft is the whole answer, whatever it costs or may be used of it."""
        wanted = self.keep_above is not None or self.token_agreement
        # Behind the first token it may have turned out that the answer is spelt otherwise.
        return wanted and len(self.output.ids) < 2

    def next_tokens(self, most: int) -> list[int]:
        """The next tokens that the model has not seen.

        Args:
            most: How many at most.
        """
        seen, made = self.cache.length, len(self.prompt)
        if seen >= made:
            return self.output.ids[seen - made :][:most]
        return [*self.prompt[seen : seen + most], *self.output.ids][:most]

    def score(self, logits: torch.Tensor) -> None:
        """Take note of how likely the answer's next tokens were, while edit and answer are one.

        Args:
            logits: Those behind the last token of the output, and behind what was drafted.
        """
        made, spelt = len(self.output.ids), self.drafter.draft
        if not made:
            firsts = [one[0] for one in self.drafter.spellings]
            odds = _log_probabilities(logits[:1].expand(len(firsts), -1), firsts)
            self.firsts = dict(zip(firsts, odds, strict=True))
        elif made == 1:  # the edit may have begun in another spelling than was drafted
            self.scores = [self.firsts.get(spelt[0], 0.0)]
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
            self.finish = "stop"
        elif len(self.output.ids) >= self.limit:
            self.finish = "length"
        if self.finish:
            self.piece += self.output.finish()

    def keep(self) -> None:
        """Leave the answer as it is."""
        self.finish, self.kept, self.piece = "stop", True, self.draft_text

    def edit(self) -> Edit:
        """The finished edit; its usage counts no end token and nothing behind a stop text."""
        made = 0 if self.kept else self.output.used_tokens()
        return Edit(
            text=self.draft_text if self.kept else self.output.text,
            finish_reason=self.finish or "length",
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
        spans = self.output.codec.spans(self.draft_text, self.drafter.draft)
        if spans is None:
            return None
        return tuple(
            TokenAgreement(start, end, odds)
            for (start, end), odds in zip(spans, self.scores, strict=True)
        )


class Decoder:
    """Advances rows, all of them in one forward pass where the model allows it.

    Nothing of the model is changed, its configurations least of all, and nothing is inherited
    from them: no sampling, no penalties, and the cache is on whatever `use_cache` says there.

    Args:
        model: A causal model of transformers.
        passes: How the model is run; found out by itself where it is not given.
    """

    def __init__(self, model: Any, passes: Passes | None = None) -> None:
        self.passes = passes or passes_for(model)

    def step(self, rows: Sequence[Row], budget: int = 1 << 30) -> None:
        """Make one pass over rows; each goes on by a token at least, or by a piece of its prompt.

        Args:
            rows: Rows that have not ended.
            budget: Most tokens of each row.
        """
        parts, drafts = [], []
        for row in rows:
            if row.cache is None:
                row.cache = self.passes.cache(len(row.prompt) + min(row.limit, 64))
            tokens = row.next_tokens(budget)
            whole = len(tokens) == row.waiting
            draft: list[int] = []
            if whole and row.limit and self.passes.drafts:
                room = min(budget - len(tokens), row.limit - len(row.output.ids) - 1)
                if row.asks_all:
                    room = len(row.drafter.draft)
                    if 1 < len(tokens) > budget - room:  # the answer's turn is the next pass
                        del tokens[-1]
                        whole = False
                if whole:
                    shared = len(rows) > 1 and not row.asks_all
                    draft = row.drafter.propose(row.output.ids, room, shared=shared)
            keep = len(draft) + 1 if whole and row.limit else 0
            parts.append(Part(row.cache, tokens + draft, keep))
            drafts.append(draft)
        before = [row.cache.length for row in rows]
        try:
            logits = self.passes.forward(parts)
        except BaseException:
            for row, length in zip(rows, before, strict=True):
                row.cache.length = length
            raise
        # In bfloat16 on a CPU `argmax` takes four times as long for the same indices.
        choices = logits.max(dim=-1).indices.tolist()
        start = 0
        for row, part, draft in zip(rows, parts, drafts, strict=True):
            row.passes += 1
            if part.keep:
                end = start + part.keep
                self._take(row, draft, logits[start:end], choices[start:end])
                start = end
            elif not row.waiting:
                row.finish = "length"

    def _take(self, row: Row, draft: list[int], logits: torch.Tensor, choices: list[int]) -> None:
        if row.drafter.together:
            row.score(logits)
            agreement = None if row.keep_above is None else row.agreement
            if agreement is not None and agreement >= (row.keep_above or 0.0):
                row.keep()
                return
        if row.temperature > 0:
            chosen = _sample(logits, draft, row.temperature)
        else:
            same = 0
            while same < len(draft) and draft[same] == choices[same]:
                same += 1
            chosen = [*draft[:same], choices[same]]
        row.cache.length -= len(draft) - (len(chosen) - 1)
        row.drafter.learn(len(chosen) - 1)
        row.push(chosen)


def costs_for(model: Any) -> Costs:
    """What passes of a model cost, by its device."""
    return CPU if input_device(model).type == "cpu" else ACCELERATOR


def _log_probabilities(logits: torch.Tensor, tokens: Sequence[int]) -> list[float]:
    """How likely each token was, in its place."""
    logits = logits[: len(tokens)]
    wanted = torch.tensor(tokens, device=logits.device)[:, None]
    # A few rows at a time stay in a CPU's cache: a quarter of the time for a whole answer.
    sums = [rows.float().logsumexp(-1) for rows in torch.split(logits, _IN_CACHE)]
    found: list[float] = (logits.gather(-1, wanted)[:, 0].float() - torch.cat(sums)).tolist()
    return found


def _sample(logits: torch.Tensor, draft: Sequence[int], temperature: float) -> list[int]:
    """Draw token after token for as long as the draft has foreseen what is drawn.

    Each is drawn as it would be without a draft, so the outcome is distributed as without one; a
    draft's token is accepted as often as the model gives it.
    """
    odds = torch.softmax(logits.float() / temperature, dim=-1)
    chosen: list[int] = []
    for place in range(len(odds)):
        chosen.append(int(torch.multinomial(odds[place], num_samples=1)))
        if place == len(draft) or chosen[-1] != draft[place]:
            break
    return chosen
