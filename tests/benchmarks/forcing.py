"""Models that write what they are told, at the price of what they would have written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import LogitsProcessor

SURE = 1e9


class Forced(LogitsProcessor):
    """Makes `generate` write given outputs, row by row."""

    def __init__(self, width: int, outputs: Sequence[Sequence[int]], end: int) -> None:
        self.width, self.outputs, self.end = width, outputs, end

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        at = ids.shape[1] - self.width
        for row, output in enumerate(self.outputs):
            scores[row, output[at] if at < len(output) else self.end] = SURE
        return scores


@contextmanager
def forced(engine: Any, outputs: Mapping[tuple[int, ...], Sequence[int]]) -> Iterator[list[int]]:
    """Make an engine write the output that belongs to each prompt.

    Args:
        engine: A local engine.
        outputs: Prompt's tokens to output's tokens, the end token included.

    Yields:
        The number of tokens of each forward pass so far.
    """
    decoder = engine._held.queue()._decoder
    passes, step = decoder.passes, decoder.step
    sizes: list[int] = []
    wanted: dict[int, tuple[int, Sequence[int]]] = {}

    class Passes:
        drafts, packs, cache = passes.drafts, passes.packs, passes.cache

        def forward(self, parts: Sequence[Any]) -> torch.Tensor:
            starts = [part.cache.length for part in parts]
            sizes.append(sum(len(part.tokens) for part in parts))
            logits = passes.forward(parts).clone()
            row = 0
            for part, start in zip(parts, starts, strict=True):
                width, output = wanted[id(part.cache)]
                place = start + len(part.tokens) - part.keep + 1 - width
                for at in range(place, place + part.keep):
                    if at < len(output):
                        logits[row, output[at]] = SURE
                    row += 1
            return logits

    def noted(rows: Sequence[Any], *given: Any) -> None:
        for row in rows:
            prompt = tuple(row.prompt)
            wanted[id(row.cache)] = len(prompt), outputs.get(prompt, ())
        step(rows, *given)

    decoder.passes, decoder.step = Passes(), noted
    try:
        yield sizes
    finally:
        decoder.passes = passes
        del decoder.step
