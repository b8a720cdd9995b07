"""The parts of the training loop that need no model."""

from __future__ import annotations

import pytest

from langchain_metaaligner.training.lora import IGNORED, Recipe, batches, encode, rate


class Characters:
    """A tokenizer with one token for each character."""

    eos_token_id = 2

    def __call__(self, text: str, **options: bool) -> dict[str, list[int]]:
        assert options == {"add_special_tokens": False, "split_special_tokens": True}
        return {"input_ids": [ord(c) for c in text]}


def test_only_the_edit_and_the_end_token_are_learned() -> None:
    encoded = encode(Characters(), "ab", "cd")
    assert encoded.tokens == [*map(ord, "abcd"), 2]
    assert encoded.labels == [IGNORED, IGNORED, ord("c"), ord("d"), 2]


def test_every_example_is_in_one_batch_of_each_epoch() -> None:
    steps = batches(list(range(100)), Recipe(batch=8, epochs=2))
    assert sorted(i for step in steps for i in step) == sorted([*range(100)] * 2)
    assert max(map(len, steps)) == 8


def test_batches_are_the_same_for_the_same_seed() -> None:
    assert batches([5] * 50, Recipe(seed=1)) == batches([5] * 50, Recipe(seed=1))
    assert batches([5] * 50, Recipe(seed=1)) != batches([5] * 50, Recipe(seed=2))


def test_the_learning_rate_rises_then_falls_to_a_twentieth() -> None:
    recipe = Recipe(learning_rate=1.0, warmup=10)
    rates = [rate(step, 100, recipe) for step in range(101)]
    assert rates[9] == 1.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.05)
