"""What a trained aligner's card says to the hub."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from langchain_metaaligner.training import TrainingSettings
from langchain_metaaligner.training.run.card import CardDetails, write_card


@pytest.mark.parametrize(
    ("whole", "relation", "library"),
    [(False, "adapter", "peft"), (True, "finetune", "transformers")],
)
def test_the_hub_learns_the_base_and_how_it_was_changed(
    tmp_path: Path, whole: bool, relation: str, library: str
) -> None:
    file = write_card(
        tmp_path,
        base="somebody/a-base-1.1B",
        family="HH-RLHF",
        settings=TrainingSettings(),
        stages=[],
        kinds={"preference": 3},
        whole=whole,
        details=CardDetails(datasets=["somebody/pairs"]),
    )
    data = ModelCard.load(file).data
    assert data.base_model == "somebody/a-base-1.1B"
    assert data.base_model_relation == relation
    assert data.library_name == library
    assert data.datasets == ["somebody/pairs"]
    assert data.license is None
