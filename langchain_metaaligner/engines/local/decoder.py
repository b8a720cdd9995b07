"""The decode loop: advances sequences by forward passes, with drafts, until they have ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, isnan
from typing import Any

import torch

from langchain_metaaligner.engines.caution import next_token
from langchain_metaaligner.engines.local.cpu_kernels import kernels_of
from langchain_metaaligner.engines.local.drafting import ACCELERATOR, CPU, NATIVE, Costs
from langchain_metaaligner.engines.local.forward import (
    Forward,
    ForwardInput,
    base_model,
    horizon_of,
    input_device,
)
from langchain_metaaligner.engines.local.packed_forward import choose_forward
from langchain_metaaligner.engines.local.sequence import EditSequence
from langchain_metaaligner.errors import EngineError

_NO_LIMIT = 1 << 30


class Decoder:
    """Advances sequences, all in one forward pass if the model allows it.

    The model and its configurations are not changed. Their settings for generation (sampling,
    penalties, `use_cache`) are ignored.

    Args:
        model: A causal model of transformers.
        forward: Runs the model; by default `choose_forward` chooses it.

    Attributes:
        forward: Runs the model.
    """

    def __init__(self, model: Any, forward: Forward | None = None) -> None:
        self.forward = forward or choose_forward(model)

    def new_cache(self, sequence: EditSequence) -> Any:
        """Make an empty cache for a sequence.

        Args:
            sequence: The sequence.

        Returns:
            The cache, with room for the prompt and a short edit.
        """
        return self.forward.new_cache(len(sequence.prompt) + min(sequence.limit, 64))

    def step(self, sequences: Sequence[EditSequence], budget: int = _NO_LIMIT) -> None:
        """Make one pass; each sequence advances by at least one token or a part of its prompt.

        Args:
            sequences: Sequences that have not ended.
            budget: Maximum number of tokens of each sequence in the pass.
        """
        inputs, drafts = [], []
        for sequence in sequences:
            if sequence.cache is None:
                sequence.begin(self.new_cache(sequence))
            tokens, draft, whole = self._plan(sequence, budget, shared=len(sequences) > 1)
            keep = len(draft) + 1 if whole and sequence.limit else 0
            inputs.append(ForwardInput(sequence.cache, tokens + draft, keep))
            drafts.append(draft)
        before = [sequence.cache.length for sequence in sequences]
        try:
            logits = self.forward.run(inputs)
        except BaseException:
            for sequence, length in zip(sequences, before, strict=True):
                sequence.cache.length = length
            raise
        # `max` and not `argmax`, which takes four times as long in bfloat16 on a CPU.
        best = logits.max(dim=-1)
        choices, highest = best.indices.tolist(), best.values.tolist()
        start = 0
        for sequence, part, draft, seen in zip(sequences, inputs, drafts, before, strict=True):
            sequence.passes += 1
            if part.keep:
                end = start + part.keep
                rows = _Rows(logits[start:end], choices[start:end], highest[start:end], seen)
                _take(sequence, draft, rows)
                start = end
            elif not sequence.unseen:
                sequence.finish("length")
            sequence.advance()

    def _plan(
        self, sequence: EditSequence, budget: int, *, shared: bool
    ) -> tuple[list[int], list[int], bool]:
        """Choose the tokens of a sequence's next pass, its draft, and whether none remain after it.

        Args:
            sequence: The sequence.
            budget: Maximum number of tokens.
            shared: Whether other sequences take part in the pass.

        Returns:
            The tokens, the draft, and whether the pass processes all remaining tokens.
        """
        tokens = sequence.next_tokens(budget)
        whole = len(tokens) == sequence.unseen
        if not (whole and sequence.limit and self.forward.drafts):
            sequence.drafter.follow(sequence.output.ids)  # agreement needs it without drafts too
            return tokens, [], whole
        room = min(budget - len(tokens), sequence.limit - len(sequence.output.ids) - 1)
        if sequence.asks_all:
            room = len(sequence.drafter.draft)
            if 1 < len(tokens) > budget - room:  # the next pass drafts the answer
                return tokens[:-1], [], False
        horizon = horizon_of(self.forward)
        if horizon is not None:
            room = min(room, horizon - sequence.cache.length - len(tokens))
        shared = shared and not sequence.asks_all
        return tokens, sequence.drafter.propose(sequence.output.ids, room, shared=shared), True


@dataclass(slots=True)
class _Rows:
    """What a pass says about the tokens after the last token of an output and its draft.

    Attributes:
        logits: `[1 + drafted_tokens, vocabulary]`.
        choices: The likeliest token of each row.
        highest: The logit of that token; NaN if the row has any.
        seen: Number of tokens in the sequence's cache before the pass.
    """

    logits: torch.Tensor
    choices: list[int]
    highest: list[float]
    seen: int


def _take(sequence: EditSequence, draft: list[int], rows: _Rows) -> None:
    """Append the tokens that a pass has produced to their sequence, or fail it.

    Args:
        sequence: The sequence.
        draft: The tokens that were drafted.
        rows: What the pass has produced.
    """
    if not all(map(isfinite, rows.highest)):
        if not draft:
            sequence.fail(bad_number(rows.highest[0], rows.logits.dtype))
        # A drafted token that gives NaN spoils those before it too, since NaN can't be masked.
        sequence.cache.length = rows.seen
        sequence.forget_draft()
        return
    logits = rows.logits
    if sequence.drafter.together:
        sequence.score(logits)
        agreement = None if sequence.keep_above is None else sequence.agreement
        if agreement is not None and agreement >= (sequence.keep_above or 0.0):
            sequence.keep()
            return
    if sequence.temperature > 0:
        chosen = _sample(logits, draft, sequence.temperature)
    else:
        chosen = _follow(sequence, draft, rows)
    sequence.cache.length -= len(draft) - (len(chosen) - 1)
    sequence.drafter.learn(len(chosen) - 1)
    sequence.push(chosen)


def _follow(sequence: EditSequence, draft: list[int], rows: _Rows) -> list[int]:
    """Choose one token after another while the draft predicts them.

    Args:
        sequence: The sequence.
        draft: The tokens that were drafted.
        rows: What the pass has produced.

    Returns:
        The accepted tokens of the draft, and one more.
    """
    same, drafted = 0, len(draft)
    cautious = sequence.caution > 0 and sequence.drafter.together
    while True:
        while same < drafted and draft[same] == rows.choices[same]:
            same += 1
        token = rows.choices[same]
        if cautious:
            token = next_token(
                sequence.drafter.draft,
                len(sequence.output.ids) + same,
                token,
                rows.logits[same],
                ends=sequence.ends,
                caution=sequence.caution,
            )
            if same < drafted and token == draft[same]:
                same += 1
                continue
        return [*draft[:same], token]


def bad_number(number: float, dtype: torch.dtype) -> EngineError:
    """Make the error for logits that say nothing.

    Args:
        number: The largest logit: NaN or infinite.
        dtype: The format of the logits.

    Returns:
        The error.
    """
    name, kind = "NaN" if isnan(number) else "inf", str(dtype).removeprefix("torch.")
    message = (
        f"The model computed {name} where finite numbers were expected (logits in {kind}), so there"
        " is no edit. Check that the checkpoint is complete; if it is, load it in a format with a"
        " wider range: dtype='bfloat16' instead of 'float16', or dtype='float32'."
    )
    return EngineError(message)


def costs_for(model: Any) -> Costs:
    """Return the costs of a model's passes on its device, with the kernels that it uses."""
    if input_device(model).type != "cpu":
        return ACCELERATOR
    head = base_model(model).get_output_embeddings()
    return CPU if head is None or kernels_of(head) is None else NATIVE


def _sample(logits: torch.Tensor, draft: Sequence[int], temperature: float) -> list[int]:
    """Sample one token after another while the draft predicts them.

    Each token is sampled as it would be without a draft, so the draft does not change the
    distribution of the output.

    Args:
        logits: `[1 + drafted_tokens, vocabulary]`.
        draft: The tokens that were drafted.
        temperature: The sampling temperature, above 0.

    Returns:
        The accepted tokens of the draft, and one more.
    """
    odds = torch.softmax(logits.float() / temperature, dim=-1)
    chosen: list[int] = []
    for place in range(len(odds)):
        chosen.append(int(torch.multinomial(odds[place], num_samples=1)))
        if place == len(draft) or chosen[-1] != draft[place]:
            break
    return chosen
