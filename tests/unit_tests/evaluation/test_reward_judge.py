"""Reward models and classifiers of transformers as judges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from langchain_metaaligner import CheckpointError, EvaluationError
from langchain_metaaligner.evaluation import evaluate
from langchain_metaaligner.training import RewardModel, RewardModels
from tests.unit_tests.evaluation.evaluated import rows

pytest.importorskip("scipy")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PLAIN: dict[str, Any] = {"objectives": ["harmlessness", "humour"], "check_judge": False}


def classifier(labels: int = 1) -> Any:
    from tests.unit_tests.tiny import spm_tokenizer, tiny_config

    size = len(spm_tokenizer())
    torch.manual_seed(1)
    config = tiny_config(num_labels=labels, vocab_size=size, pad_token_id=0)
    model = transformers.LlamaForSequenceClassification(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, 0.3)
    return model.eval()


def tokenizer() -> Any:
    from tests.unit_tests.tiny import spm_tokenizer

    return spm_tokenizer()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.unit_tests.tiny import save

    return save(tmp_path_factory.mktemp("reward"), tokenizer=tokenizer(), model=classifier())


def by_hand(row: Any) -> str:
    model, encode = classifier(), tokenizer()
    scores = []
    for text in (row["edited"], row["answer"]):
        ids = torch.tensor([encode(f"{row['context']} {text}")["input_ids"]])
        with torch.inference_mode():
            scores.append(model(input_ids=ids).logits[0, 0].item())
    return "win" if scores[0] > scores[1] else "loss"


def test_a_reward_model_judges_in_any_form_and_is_loaded_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = rows(4)
    expected = [by_hand(row) for row in given]
    loads: list[Any] = []
    load = transformers.AutoModelForSequenceClassification.from_pretrained
    monkeypatch.setattr(
        transformers.AutoModelForSequenceClassification,
        "from_pretrained",
        lambda *a, **k: (loads.append(a), load(*a, **k))[1],
    )
    model = classifier()
    forms: list[Any] = [
        str(folder),
        folder,
        RewardModel(folder),
        RewardModel(model, tokenizer=tokenizer()),
        (model, tokenizer()),
        RewardModels({"harmless": folder, "humor": folder}),
        {"harmlessness": folder, "humour": RewardModel(model, tokenizer=tokenizer())},
    ]
    for judge in forms:
        result = evaluate(given, judge=judge, **PLAIN)
        for name in ("harmlessness", "humour"):
            assert [row.comparisons[name].outcome for row in result.rows] == expected
        assert result.judge_consistency == 1.0
    assert len(loads) == 5


def test_a_judge_that_can_not_judge_is_an_error_before_anything_is_spent(folder: Path) -> None:
    wrong: list[tuple[Any, type[Exception], str]] = [
        ("no/such-folder-here/x", CheckpointError, "can't be loaded"),
        (RewardModel(classifier(3), tokenizer=tokenizer()), CheckpointError, "labels"),
        (classifier(), EvaluationError, "needs its tokenizer"),
        (RewardModels({"humour": folder}), CheckpointError, "no reward model for 'harmlessness'"),
    ]
    for judge, kind, told in wrong:
        with pytest.raises(kind, match=told):
            evaluate(rows(1), judge=judge, **PLAIN)
