"""Measures how much better edits are than their originals, on rows and with a judge of choice."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_metaaligner.evaluation.calibrating import calibrate, marked_by_judge
    from langchain_metaaligner.evaluation.calibration import Calibration, TradeOff
    from langchain_metaaligner.evaluation.edit_records import EditRecords
    from langchain_metaaligner.evaluation.evaluation import evaluate
    from langchain_metaaligner.evaluation.judge_check import JudgeCheck, check_judge
    from langchain_metaaligner.evaluation.packaged import packaged_pairs, packaged_rows
    from langchain_metaaligner.evaluation.readers import EvaluationRows, read_evaluation_rows
    from langchain_metaaligner.evaluation.records import Comparison, EvaluatedRow
    from langchain_metaaligner.evaluation.results import EvaluationResult
    from langchain_metaaligner.evaluation.statistics import Rates

_HOMES = {
    "Calibration": "calibration",
    "Comparison": "records",
    "EditRecords": "edit_records",
    "EvaluatedRow": "records",
    "EvaluationResult": "results",
    "EvaluationRows": "readers",
    "JudgeCheck": "judge_check",
    "Rates": "statistics",
    "TradeOff": "calibration",
    "calibrate": "calibrating",
    "check_judge": "judge_check",
    "evaluate": "evaluation",
    "marked_by_judge": "calibrating",
    "packaged_pairs": "packaged",
    "packaged_rows": "packaged",
    "read_evaluation_rows": "readers",
}

__all__ = [
    "Calibration",
    "Comparison",
    "EditRecords",
    "EvaluatedRow",
    "EvaluationResult",
    "EvaluationRows",
    "JudgeCheck",
    "Rates",
    "TradeOff",
    "calibrate",
    "check_judge",
    "evaluate",
    "marked_by_judge",
    "packaged_pairs",
    "packaged_rows",
    "read_evaluation_rows",
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
