"""Which tokens and which loss an example is learned with, and in which order examples come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from langchain_metaaligner.editing.objectives import parse_objectives
from langchain_metaaligner.editing.prompts import HH_RLHF
from langchain_metaaligner.engines.local.tokenizer import PromptTokenizer
from langchain_metaaligner.errors import TrainingError
from langchain_metaaligner.training import TrainingExample, TrainingSettings
from langchain_metaaligner.training.run.encoder import IGNORED, Encoded, encode, to_dataset
from langchain_metaaligner.training.run.library_output import quiet
from langchain_metaaligner.training.run.sampler import SimilarLengthSampler
from langchain_metaaligner.training.run.sft import AlignerTrainer
from langchain_metaaligner.training.run.stages import StagePlan, arguments
from tests.unit_tests.tiny import byte_level_tokenizer, spm_tokenizer, tiny_config, tiny_llama

torch.set_num_threads(1)


@pytest.fixture
def quietly() -> Iterator[None]:
    with quiet():
        yield


GOALS = parse_objectives(["harmlessness"])
LLAMA, SMOLLM = (
    PromptTokenizer(spm_tokenizer(), "llama"),
    PromptTokenizer(byte_level_tokenizer(), "smollm"),
)


@pytest.mark.parametrize("codec", [LLAMA, SMOLLM], ids=["llama", "byte-level"])
@given(answer=st.text(max_size=40), edit=st.text(min_size=1, max_size=40))
def test_an_example_has_the_engines_tokens_and_only_the_edit_is_learned(
    codec, answer, edit
) -> None:
    example = TrainingExample("hello", answer, GOALS, edit)
    prompt, wanted = example.render(HH_RLHF)
    encoded = encode(codec, HH_RLHF, example)
    head = codec.encode(prompt)
    assert encoded.input_ids == [*head, *codec.spellings(wanted)[0], 2]
    assert encoded.labels == [IGNORED] * len(head) + encoded.input_ids[len(head) :]


def test_the_beginning_token_comes_once_where_the_family_has_one_and_else_never() -> None:
    example = TrainingExample("hello <s> </s>", "the", GOALS, "please <s> </s> <|im_end|>")
    llama, smollm = (encode(codec, HH_RLHF, example).input_ids for codec in (LLAMA, SMOLLM))
    assert (llama[0], llama.count(1), llama.count(2), llama[-1]) == (1, 1, 1, 2)
    assert (smollm.count(1), smollm.count(2), smollm[-1]) == (0, 1, 2)


def trainer_of(encoded: list[Encoded], folder: Path, **options: object) -> AlignerTrainer:
    tokenizer = spm_tokenizer()
    plan = StagePlan(name="equal", folder=folder, encoded=encoded, validation=(), shown=())
    settings = TrainingSettings(bf16=False, batch_size=4)
    return AlignerTrainer(
        group_by_length=True,
        model=tiny_llama(tiny_config(len(tokenizer))),
        args=arguments(plan, settings, options),
        train_dataset=to_dataset(encoded),
        processing_class=tokenizer,
    )


def made(count: int) -> list[Encoded]:
    ids = torch.Generator().manual_seed(1)
    return [
        Encoded(tokens, [IGNORED] * (len(tokens) - 4) + tokens[-4:])
        for place in range(count)
        for tokens in [torch.randint(3, 300, (8 + place % 5,), generator=ids).tolist()]
    ]


def test_the_head_on_the_edit_alone_gives_the_loss_and_gradients_of_the_whole(
    quietly, tmp_path
) -> None:
    encoded = made(4)
    trainer = trainer_of(encoded, tmp_path)
    batch = trainer.data_collator([{"input_ids": e.input_ids, "labels": e.labels} for e in encoded])
    sizes: list[int] = []
    hook = trainer.model.lm_head.register_forward_hook(
        lambda module, given, logits: sizes.append(logits.shape[:-1].numel())
    )
    ours = trainer.compute_loss(trainer.model, dict(batch))
    hook.remove()
    ours.backward()
    gradients = [p.grad.clone() for p in trainer.model.parameters()]
    trainer.model.zero_grad()
    plain = type(trainer.model).forward(trainer.model, **batch).loss
    plain.backward()
    assert sizes == [16]
    assert torch.allclose(ours, plain, atol=1e-5)
    for got, parameter in zip(gradients, trainer.model.parameters(), strict=True):
        assert torch.allclose(got, parameter.grad, atol=1e-4)


def test_a_loss_that_trl_alone_knows_is_left_to_trl(quietly, tmp_path) -> None:
    encoded = made(4)
    trainer = trainer_of(encoded, tmp_path, loss_type="dft")
    batch = trainer.data_collator([{"input_ids": e.input_ids, "labels": e.labels} for e in encoded])
    plain = type(trainer.model).forward(trainer.model, **batch).loss
    assert trainer.compute_loss(trainer.model, dict(batch)) < plain / 2


@given(
    lengths=st.lists(st.integers(1, 500), max_size=300),
    batch=st.integers(1, 9),
    seed=st.integers(),
)
def test_every_example_comes_once_an_epoch_in_an_order_of_seed_and_epoch(
    lengths, batch, seed
) -> None:
    one, other = (SimilarLengthSampler(lengths, batch=batch, seed=seed) for _ in range(2))
    first = list(one)
    assert sorted(first) == list(range(len(lengths)))
    one.set_epoch(1)
    assert sorted(one) == list(range(len(lengths)))
    one.set_epoch(0)
    assert list(one) == first == list(other)


def test_batches_hold_like_lengths_and_do_not_come_in_their_order() -> None:
    lengths = [place % 97 for place in range(192)]
    order = [lengths[place] for place in SimilarLengthSampler(lengths, batch=8, seed=7)]
    batches = [order[start : start + 8] for start in range(0, 192, 8)]
    assert max(max(batch) - min(batch) for batch in batches) <= 5
    means = [sum(batch) for batch in batches]
    assert means not in (sorted(means), sorted(means, reverse=True))


def test_an_order_is_another_in_the_next_epoch() -> None:
    sampler = SimilarLengthSampler([5] * 64, batch=8, seed=7)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first


def test_an_option_that_trl_does_not_know_is_named(tmp_path) -> None:
    plan = StagePlan(name="equal", folder=tmp_path, encoded=(), validation=(), shown=())
    with pytest.raises(TrainingError, match="no_such_option"):
        arguments(plan, TrainingSettings(), {"no_such_option": 1})


def test_options_go_before_the_settings(quietly, tmp_path) -> None:
    plan = StagePlan(name="equal", folder=tmp_path, encoded=(), validation=(), shown=())
    args = arguments(plan, TrainingSettings(bf16=False), {"optim": "sgd", "learning_rate": 0.5})
    assert (args.optim, args.learning_rate, args.report_to) == ("sgd", 0.5, [])
