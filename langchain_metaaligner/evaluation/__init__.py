"""Measures how much better edits are than their originals, on rows and with a judge of choice."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_metaaligner.evaluation.evaluation import evaluate
    from langchain_metaaligner.evaluation.judge_check import JudgeCheck, check_judge
    from langchain_metaaligner.evaluation.records import Comparison, EvaluatedRow
    from langchain_metaaligner.evaluation.results import EvaluationResult
    from langchain_metaaligner.evaluation.statistics import Rates

_HOMES = {
    "Comparison": "records",
    "EvaluatedRow": "records",
    "EvaluationResult": "results",
    "JudgeCheck": "judge_check",
    "Rates": "statistics",
    "check_judge": "judge_check",
    "evaluate": "evaluation",
}

__all__ = [
    "Comparison",
    "EvaluatedRow",
    "EvaluationResult",
    "JudgeCheck",
    "Rates",
    "check_judge",
    "evaluate",
]


def __getattr__(name: str) -> Any:
    # Rows can be read and written without the packages of the extra `eval`.
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
