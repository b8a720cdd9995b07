"""Trains an aligner on preference data: pairs of answers, examples of the three stages, a run."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_metaaligner.training.columns import ULTRAFEEDBACK_COLUMNS
    from langchain_metaaligner.training.dataset import build_examples, split_held_out
    from langchain_metaaligner.training.example import STAGES, TrainingExample
    from langchain_metaaligner.training.judging import ChatJudge
    from langchain_metaaligner.training.pairs import (
        PreferencePair,
        Preferences,
        Problem,
        join_preferences,
    )
    from langchain_metaaligner.training.preferences import read_preferences
    from langchain_metaaligner.training.rewards import RewardModel, RewardModels
    from langchain_metaaligner.training.settings import TrainingSettings
    from langchain_metaaligner.training.trainer import train_aligner

_HOMES = {
    "ChatJudge": "judging",
    "PreferencePair": "pairs",
    "Preferences": "pairs",
    "Problem": "pairs",
    "RewardModel": "rewards",
    "RewardModels": "rewards",
    "STAGES": "example",
    "TrainingExample": "example",
    "TrainingSettings": "settings",
    "ULTRAFEEDBACK_COLUMNS": "columns",
    "build_examples": "dataset",
    "join_preferences": "pairs",
    "read_preferences": "preferences",
    "split_held_out": "dataset",
    "train_aligner": "trainer",
}

__all__ = [
    "STAGES",
    "ULTRAFEEDBACK_COLUMNS",
    "ChatJudge",
    "PreferencePair",
    "Preferences",
    "Problem",
    "RewardModel",
    "RewardModels",
    "TrainingExample",
    "TrainingSettings",
    "build_examples",
    "join_preferences",
    "read_preferences",
    "split_held_out",
    "train_aligner",
]


def __getattr__(name: str) -> Any:
    # Preference data can be read without torch, and examples built without the trainer.
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
