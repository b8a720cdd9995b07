"""The same decoding inside `generate` of transformers: compared with `generate` itself."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from langchain_metaaligner.engines.generation import edit_draft_decoding
from tests.unit_tests.tiny import tiny_config, tiny_llama

SIZE, LENGTH = 80, 40


@pytest.fixture(scope="module")
def model():
    model = tiny_llama(tiny_config(SIZE, pad_token_id=0), seed=3)
    model.generation_config = GenerationConfig(
        eos_token_id=2, pad_token_id=0, max_new_tokens=LENGTH
    )
    return model


def prompt(seed: int, length: int = 12) -> list[int]:
    rng = random.Random(seed)
    return [1, *(rng.randrange(3, SIZE) for _ in range(length))]


def plain(model, inputs, **options):
    return model.generate(**inputs, **{"do_sample": False, **options})


def edited(model, inputs, draft, **options):
    return model.generate(
        **inputs,
        custom_generate=edit_draft_decoding,
        draft_ids=draft,
        **{"do_sample": False, **options},
    )


def one(seed: int):
    ids = torch.tensor([prompt(seed)])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def several(*lengths: int):
    rows = [prompt(10 + n, length) for n, length in enumerate(lengths)]
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[0] * (width - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
    }


def spoilt(ids: list[int], seed: int) -> list[int]:
    """A draft that is right in places."""
    rng = random.Random(seed)
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(ids) + 1)
        ids = [*ids[:at], rng.randrange(3, SIZE), *ids[at + rng.randrange(4) :]]
    return ids


def without_end(ids) -> list[int]:
    ids = list(map(int, ids))
    return ids[: ids.index(2)] if 2 in ids else ids


@pytest.mark.parametrize("seed", range(4))
def test_it_equals_generate_whatever_the_draft(model, seed):
    inputs = one(seed)
    whole = plain(model, inputs)
    output = without_end(whole[0, inputs["input_ids"].shape[1] :])
    for draft in (output, spoilt(output, seed), spoilt(output, seed + 100), prompt(seed), [], None):
        assert torch.equal(edited(model, inputs, draft), whole)


@pytest.mark.parametrize("seed", range(3))
def test_it_equals_generate_for_several_sequences_with_a_draft_each(model, seed):
    inputs = several(3, 12, 7)
    whole = plain(model, inputs)
    width = inputs["input_ids"].shape[1]
    drafts = [spoilt(without_end(row[width:]), seed + n) for n, row in enumerate(whole)]
    assert torch.equal(edited(model, inputs, drafts), whole)


def test_a_right_draft_takes_few_passes(model):
    inputs = one(1)
    output = without_end(plain(model, inputs)[0, inputs["input_ids"].shape[1] :])
    count = []
    hook = model.register_forward_pre_hook(lambda *_: count.append(1))
    edited(model, inputs, output)
    hook.remove()
    assert len(count) <= 2


def test_what_repeats_the_context_takes_few_passes_though_the_draft_is_something_else(model):
    ids, end = random.Random(5).sample(range(3, 75), 41), 2
    output = [*ids[5:25], 77, *ids[20:38], end]

    class Forced(LogitsProcessor):
        def __call__(self, row, scores):
            scores[:, output[row.shape[1] - len(ids)]] = 1e4
            return scores

    count: list[int] = []
    options = {"logits_processor": LogitsProcessorList([Forced()])}
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids))}
    whole = plain(model, inputs, **options)
    hook = model.register_forward_pre_hook(lambda *_: count.append(1))
    made = edited(model, inputs, [78, 79, 78, 79], **options)
    hook.remove()
    assert torch.equal(made, whole)
    assert made[0, len(ids) :].tolist() == output
    assert len(count) <= len(output) / 2


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 20},
        {"max_new_tokens": 5},
        {"max_length": 20},
        {"bad_words_ids": [[7], [9, 11]]},
        {"eos_token_id": [2, 5, 6]},
    ],
)
def test_processors_and_criteria_are_asked_token_by_token(model, options):
    for seed in range(4):
        inputs = one(seed)
        whole = plain(model, inputs, **options)
        output = without_end(whole[0, inputs["input_ids"].shape[1] :])
        for draft in (output, spoilt(output, seed)):
            assert torch.equal(edited(model, inputs, draft, **options), whole)


@pytest.mark.parametrize("seed", range(3))
def test_a_sample_with_the_same_seed_is_the_same_sample(model, seed):
    inputs = one(seed)
    options = {"do_sample": True, "temperature": 0.7, "top_k": 5}
    torch.manual_seed(seed)
    whole = plain(model, inputs, **options)
    draft = without_end(whole[0, inputs["input_ids"].shape[1] :])
    for given in (draft, spoilt(draft, seed)):
        torch.manual_seed(seed)
        assert torch.equal(edited(model, inputs, given, **options), whole)


def test_several_outputs_of_one_prompt_share_its_draft(model):
    inputs = one(2)
    whole = edited(model, inputs, [5, 6], do_sample=True, num_return_sequences=3, max_new_tokens=4)
    assert whole.shape[0] == 3


@pytest.mark.parametrize(
    "options", [{"num_beams": 2}, {"return_dict_in_generate": True, "output_scores": True}]
)
def test_what_cannot_be_drafted_is_refused(model, options):
    with pytest.raises(ValueError, match="custom_generate"):
        edited(model, one(0), [5], **options)


def test_the_number_of_drafts_must_fit(model):
    with pytest.raises(ValueError, match="2 drafts for 3"):
        edited(model, several(3, 4, 5), [[5], [6]])


def test_it_works_without_langchain():
    code = (
        "import sys\n"
        "from langchain_metaaligner.engines.generation import edit_draft_decoding\n"
        "assert not [name for name in sys.modules if name.startswith('langchain_core')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
