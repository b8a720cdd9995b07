"""Comparisons by reward models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForSequenceClassification

from langchain_metaaligner import CheckpointError
from langchain_metaaligner.editing.objectives import parse_objective
from langchain_metaaligner.training import RewardModel, RewardModels, read_preferences
from tests.unit_tests.tiny import (
    byte_level_tokenizer,
    save,
    spm_tokenizer,
    tiny_config,
    tiny_llama,
)
from tests.unit_tests.training.rows import pairs, unscored_rows

HUMOUR = parse_objective("humour")


def classifier(labels: int = 1, **changes: Any) -> LlamaForSequenceClassification:
    settings = {"vocab_size": len(spm_tokenizer()), "pad_token_id": 0, **changes}
    config = tiny_config(num_labels=labels, **settings)
    torch.manual_seed(1)
    model = LlamaForSequenceClassification(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, 0.3)
    return model.eval()


def by_hand(model: Any, text: str) -> torch.Tensor:
    ids = torch.tensor([spm_tokenizer()(text)["input_ids"]])
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=ids).logits[0]
    return logits


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("reward"), tokenizer=spm_tokenizer(), model=classifier())


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_scores_are_those_of_the_model_alone_whatever_the_batch(
    reward_folder: Path, batch_size: int
) -> None:
    scorer = RewardModels({"humor": reward_folder}, batch_size=batch_size)
    read = read_preferences(unscored_rows(4), objectives="humour", scorer=scorer)
    assert len(read.pairs) == 4
    model = classifier()
    for one in read.pairs:
        known = one.compared["humour"]
        expected = [
            by_hand(model, f"{one.context_text()} {text}")[0].item()
            for text in (one.answer_a, one.answer_b)
        ]
        assert known == pytest.approx(expected, abs=1e-5)
        assert known[0] != known[1]


def test_a_model_without_padding_is_used_and_left_as_it_was() -> None:
    model, tokenizer = classifier(pad_token_id=None).train(), spm_tokenizer()
    scorer = RewardModels({"humour": RewardModel(model, tokenizer=tokenizer)})
    compared = scorer.compare(pairs(3), HUMOUR)
    assert model.training
    assert model.config.pad_token_id is None
    assert tokenizer.pad_token is None
    expected = [
        by_hand(model.eval(), f"{pairs()[0].context_text()} {text}")[0].item()
        for text in ("Yes!", "No, not 0.")
    ]
    assert compared[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("label", [1, "LABEL_1"])
def test_of_several_labels_the_chosen_ones_likelihood_is_the_score(label: Any) -> None:
    model = classifier(labels=2)
    one = RewardModel(model, label=label, tokenizer=spm_tokenizer())
    compared = RewardModels({"humour": one}).compare(pairs(1), HUMOUR)
    logits = by_hand(model, f"{pairs(1)[0].context_text()} Yes!")
    assert compared[0][0] == pytest.approx(logits.log_softmax(0)[1].item(), abs=1e-5)


@pytest.mark.parametrize("label", [None, 2, "funny"])
def test_of_several_labels_one_must_be_named(label: Any) -> None:
    one = RewardModel(classifier(labels=2), label=label, tokenizer=spm_tokenizer())
    with pytest.raises(CheckpointError, match="has the labels LABEL_0, LABEL_1"):
        RewardModels({"humour": one}).compare(pairs(1), HUMOUR)


def test_a_template_writes_what_is_scored() -> None:
    model = classifier()
    scorer = RewardModels(
        {"humour": RewardModel(model, tokenizer=spm_tokenizer())},
        template=lambda context, answer: f"the answer is {answer}",
    )
    compared = scorer.compare(pairs(1), HUMOUR)
    assert compared[0][0] == pytest.approx(by_hand(model, "the answer is Yes!")[0].item(), abs=1e-5)


def test_a_chat_template_is_used_where_the_tokenizer_has_one() -> None:
    tokenizer = byte_level_tokenizer()
    model = classifier(vocab_size=len(tokenizer))
    scorer = RewardModels({"humour": RewardModel(model, tokenizer=tokenizer)})
    compared = scorer.compare(pairs(1), HUMOUR)
    text = "<|im_start|>user\nQuestion 0?<|im_end|>\n<|im_start|>assistant\nYes!<|im_end|>\n"
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        assert compared[0][0] == pytest.approx(model(input_ids=ids).logits[0, 0].item(), abs=1e-5)


def test_what_is_longer_than_the_window_is_reported_and_not_cut(reward_folder: Path) -> None:
    given = unscored_rows(2)
    given[1]["chosen"] = "word " * 200
    scorer = RewardModels({"humour": reward_folder})
    read = read_preferences(given, objectives="humour", scorer=scorer)
    assert [one.place for one in read.pairs] == ["row 1"]
    assert [(one.place, one.kind) for one in read.problems] == [("row 2", "unscored")]
    assert "longer than the reward model's window" in read.problems[0].detail
    shorter = RewardModels({"humour": reward_folder}, max_tokens=5)
    assert read_preferences(given, objectives="humour", scorer=shorter).pairs == ()


def test_a_number_format_may_be_asked_for(reward_folder: Path) -> None:
    exact = RewardModels({"humour": reward_folder}).compare(pairs(1), HUMOUR)[0]
    half = RewardModels({"humour": reward_folder}, dtype=torch.bfloat16, device="cpu").compare(
        pairs(1), HUMOUR
    )[0]
    assert half[0] != exact[0]
    assert half[0] == pytest.approx(exact[0], abs=0.5)


@pytest.mark.filterwarnings("ignore")
def test_a_language_model_without_a_scoring_head_is_refused(tmp_path: Path) -> None:
    tokenizer = spm_tokenizer()
    folder = save(tmp_path, tokenizer=tokenizer, model=tiny_llama(tiny_config(len(tokenizer))))
    with pytest.raises(
        CheckpointError, match=r"lacks weights of a sequence classifier: score\.weight"
    ):
        RewardModels({"humour": folder}).compare(pairs(1), HUMOUR)


def test_a_reward_model_that_can_not_be_had_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no reward model for 'humour', only for honesty"):
        RewardModels({"honesty": tmp_path}).compare(pairs(1), HUMOUR)
    with pytest.raises(CheckpointError, match="can't be loaded"):
        RewardModels({"humour": tmp_path}).compare(pairs(1), HUMOUR)
    with pytest.raises(CheckpointError, match="needs its tokenizer"):
        RewardModels({"humour": classifier()}).compare(pairs(1), HUMOUR)
