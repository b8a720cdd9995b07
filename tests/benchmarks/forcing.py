"""Models that write what they are told, at the price of what they would have written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import LogitsProcessor

SURE = 50.0
"""Above all logits of the embedded aligner's (47 at most), but not far: a processor takes eight
times as long to sum up odds that are too small for its numbers."""


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
def counted(model: Any) -> Iterator[list[int]]:
    """Count a model's forward passes from outside.

    Args:
        model: A model of transformers.

    Yields:
        The number of tokens of each pass so far.
    """
    sizes: list[int] = []

    def before(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        sizes.append(int(ids.numel()))

    hook = model.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield sizes
    finally:
        hook.remove()


@contextmanager
def forced(decoder: Any, outputs: Mapping[tuple[int, ...], Sequence[int]]) -> Iterator[None]:
    """Make the decode loop write the output that belongs to each prompt.

    Args:
        decoder: An engine's `Decoder`.
        outputs: Prompt's tokens to output's tokens, the end token included. Other prompts get
            what the model has for them.
    """
    forward, step = decoder.forward, decoder.step
    wanted: dict[int, tuple[int, Sequence[int]]] = {}

    class ForcedForward:
        drafts, packs, new_cache = forward.drafts, forward.packs, forward.new_cache

        def run(self, parts: Sequence[Any]) -> torch.Tensor:
            starts = [part.cache.length for part in parts]
            logits = forward.run(parts).clone()
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
            if row.cache is None:
                row.begin(decoder.new_cache(row))
            prompt = tuple(row.prompt)
            wanted[id(row.cache)] = len(prompt), outputs.get(prompt, ())
        step(rows, *given)

    decoder.forward, decoder.step = ForcedForward(), noted
    try:
        yield
    finally:
        decoder.forward = forward
        del decoder.step
