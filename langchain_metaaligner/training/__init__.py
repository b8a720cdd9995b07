"""Trains an aligner on preference data: from pairs of answers over examples to a run."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_metaaligner.training.data.columns import ULTRAFEEDBACK_COLUMNS
    from langchain_metaaligner.training.data.edits import Edits, read_edits
    from langchain_metaaligner.training.data.example import STAGES, TrainingExample
    from langchain_metaaligner.training.data.examples import build_examples, split_held_out
    from langchain_metaaligner.training.data.pairs import (
        PreferencePair,
        Preferences,
        Problem,
        join_preferences,
    )
    from langchain_metaaligner.training.data.preferences import read_preferences
    from langchain_metaaligner.training.run.settings import TrainingSettings
    from langchain_metaaligner.training.run.trainer import train_aligner
    from langchain_metaaligner.training.scoring.chat_judge import ChatJudge
    from langchain_metaaligner.training.scoring.reward_models import RewardModel, RewardModels

_HOMES = {
    "ChatJudge": "scoring.chat_judge",
    "Edits": "data.edits",
    "PreferencePair": "data.pairs",
    "Preferences": "data.pairs",
    "Problem": "data.pairs",
    "RewardModel": "scoring.reward_models",
    "RewardModels": "scoring.reward_models",
    "STAGES": "data.example",
    "TrainingExample": "data.example",
    "TrainingSettings": "run.settings",
    "ULTRAFEEDBACK_COLUMNS": "data.columns",
    "build_examples": "data.examples",
    "join_preferences": "data.pairs",
    "read_edits": "data.edits",
    "read_preferences": "data.preferences",
    "split_held_out": "data.examples",
    "train_aligner": "run.trainer",
}

__all__ = [
    "STAGES",
    "ULTRAFEEDBACK_COLUMNS",
    "ChatJudge",
    "Edits",
    "PreferencePair",
    "Preferences",
    "Problem",
    "RewardModel",
    "RewardModels",
    "TrainingExample",
    "TrainingSettings",
    "build_examples",
    "join_preferences",
    "read_edits",
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
