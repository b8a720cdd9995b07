"""The order of the examples: batches of similar length, shuffled."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

_BATCHES_A_POOL = 24


class SimilarLengthSampler:
    """Groups examples of similar length into batches, then shuffles the batches.

    The `group_by_length` of transformers goes from the longest to the shortest batch of each pool,
    so every training would end on short examples.

    Args:
        lengths: Tokens of each example.
        batch: Examples of a step, over all devices and accumulated batches.
        seed: Determines the order, together with the epoch.
    """

    def __init__(self, lengths: Sequence[int], *, batch: int, seed: int) -> None:
        self._lengths = lengths
        self._batch = batch
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; the trainer calls this, also when a run resumes.

        Args:
            epoch: From 0.
        """
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"{self._seed} {self._epoch}")
        order = list(range(len(self._lengths)))
        rng.shuffle(order)
        # An incomplete batch comes last, or it would shift all batches after it.
        rest = len(order) % self._batch
        order, left = order[: len(order) - rest], order[len(order) - rest :]
        pool = self._batch * _BATCHES_A_POOL
        for start in range(0, len(order), pool):
            alike = sorted(order[start : start + pool], key=self._lengths.__getitem__)
            batches = [alike[i : i + self._batch] for i in range(0, len(alike), self._batch)]
            rng.shuffle(batches)
            for batch in batches:
                yield from batch
        yield from left
