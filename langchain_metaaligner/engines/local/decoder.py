"""The one decode loop: advances sequences pass by pass, with drafts, until each has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from langchain_metaaligner.engines.local.drafting import ACCELERATOR, CPU, Costs
from langchain_metaaligner.engines.local.forward import Forward, ForwardInput, input_device
from langchain_metaaligner.engines.local.packed_forward import choose_forward
from langchain_metaaligner.engines.local.sequence import EditSequence

_NO_LIMIT = 1 << 30


class Decoder:
    """Advances sequences, all of them in one forward pass where the model allows it.

    Nothing of the model is changed, its configurations least of all, and nothing is inherited
    from them: no sampling, no penalties, and the cache is on whatever `use_cache` says there.

    Args:
        model: A causal model of transformers.
        forward: How the model is run; found out by itself where it is not given.

    Attributes:
        forward: How the model is run.
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
        """Make one pass; each sequence advances by a token at least, or by a part of its prompt.

        Args:
            sequences: Sequences that have not ended.
            budget: Most tokens of each sequence.
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
        # In bfloat16 on a CPU `argmax` takes four times as long for the same indices.
        choices = logits.max(dim=-1).indices.tolist()
        start = 0
        for sequence, part, draft in zip(sequences, inputs, drafts, strict=True):
            sequence.passes += 1
            if part.keep:
                end = start + part.keep
                _take(sequence, draft, logits[start:end], choices[start:end])
                start = end
            elif not sequence.unseen:
                sequence.finish("length")
            sequence.advance()

    def _plan(
        self, sequence: EditSequence, budget: int, *, shared: bool
    ) -> tuple[list[int], list[int], bool]:
        """The tokens of a sequence's next pass, its draft, and whether they are all it has."""
        tokens = sequence.next_tokens(budget)
        whole = len(tokens) == sequence.unseen
        if not (whole and sequence.limit and self.forward.drafts):
            return tokens, [], whole
        room = min(budget - len(tokens), sequence.limit - len(sequence.output.ids) - 1)
        if sequence.asks_all:
            room = len(sequence.drafter.draft)
            if 1 < len(tokens) > budget - room:  # the answer's turn is the next pass
                return tokens[:-1], [], False
        shared = shared and not sequence.asks_all
        return tokens, sequence.drafter.propose(sequence.output.ids, room, shared=shared), True


def _take(
    sequence: EditSequence, draft: list[int], logits: torch.Tensor, choices: list[int]
) -> None:
    """Let a sequence take what a pass has brought.

    Args:
        sequence: The sequence.
        draft: What was drafted.
        logits: `[1 + drafted_tokens, vocabulary]`.
        choices: The likeliest token of each row of the logits.
    """
    if sequence.drafter.together:
        sequence.score(logits)
        agreement = None if sequence.keep_above is None else sequence.agreement
        if agreement is not None and agreement >= (sequence.keep_above or 0.0):
            sequence.keep()
            return
    if sequence.temperature > 0:
        chosen = _sample(logits, draft, sequence.temperature)
    else:
        same = 0
        while same < len(draft) and draft[same] == choices[same]:
            same += 1
        chosen = [*draft[:same], choices[same]]
    sequence.cache.length -= len(draft) - (len(chosen) - 1)
    sequence.drafter.learn(len(chosen) - 1)
    sequence.push(chosen)


def costs_for(model: Any) -> Costs:
    """What passes of a model cost, by its device."""
    return CPU if input_device(model).type == "cpu" else ACCELERATOR


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
