"""What a training's settings accept."""

from __future__ import annotations

import pytest

from langchain_metaaligner.errors import TrainingError
from langchain_metaaligner.training import TrainingSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("batch_size", 0), ("averaging", 1.0), ("learning_rate", -1), ("rank", -1)],
)
def test_a_setting_out_of_range_is_named(name, value) -> None:
    with pytest.raises(TrainingError, match=name):
        TrainingSettings(**{name: value})


def test_an_unknown_setting_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(TrainingError, match=r"no training setting 'learnin_rate'.*'learning_rate'"):
        TrainingSettings(learnin_rate=1e-3)


def test_the_adapters_scale_is_twice_its_rank_unless_it_is_given() -> None:
    assert TrainingSettings(rank=4).lora_alpha == 8
    assert TrainingSettings(rank=4, alpha=5).lora_alpha == 5
