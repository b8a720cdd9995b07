"""Edits a LangChain model's replies to meet objectives, with a MetaAligner behind one `|`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_metaaligner.editing.aligner import Aligner
    from langchain_metaaligner.editing.alignment import Alignment
    from langchain_metaaligner.editing.conversation import Context
    from langchain_metaaligner.editing.objectives import Objective
    from langchain_metaaligner.engines.base import Edit, Engine, Request
    from langchain_metaaligner.engines.registry import load_engine
    from langchain_metaaligner.errors import (
        AnswerTooLongError,
        BulkError,
        CheckpointError,
        EditTimeout,
        EngineError,
        EvaluationError,
        GateError,
        GuardError,
        InputTypeError,
        LeakError,
        MetaAlignerError,
        MissingContextError,
        OverloadedError,
        PreferenceDataError,
        TrainingError,
        UnknownObjectiveError,
    )
    from langchain_metaaligner.integrations.chat_model import ChatMetaAligner
    from langchain_metaaligner.integrations.hushing import hushed
    from langchain_metaaligner.integrations.middleware import MetaAlignerMiddleware
    from langchain_metaaligner.integrations.runnable import MetaAlignerRunnable

# Pickles and serialised ids of 0.1 refer to modules by their old names; this folder has them.
__path__.append(f"{__path__[0]}/_moved_0_1")

_HOMES = {
    "Aligner": "editing.aligner",
    "Alignment": "editing.alignment",
    "AnswerTooLongError": "errors",
    "BulkError": "errors",
    "ChatMetaAligner": "integrations.chat_model",
    "CheckpointError": "errors",
    "Context": "editing.conversation",
    "Edit": "engines.base",
    "EditTimeout": "errors",
    "Engine": "engines.base",
    "EngineError": "errors",
    "EvaluationError": "errors",
    "GateError": "errors",
    "GuardError": "errors",
    "InputTypeError": "errors",
    "LeakError": "errors",
    "MetaAlignerError": "errors",
    "MetaAlignerMiddleware": "integrations.middleware",
    "MetaAlignerRunnable": "integrations.runnable",
    "MissingContextError": "errors",
    "Objective": "editing.objectives",
    "OverloadedError": "errors",
    "PreferenceDataError": "errors",
    "Request": "engines.base",
    "TrainingError": "errors",
    "UnknownObjectiveError": "errors",
    "hushed": "integrations.hushing",
    "load_engine": "engines.registry",
}

_WITH_ENGINES = {
    "Aligner",
    "ChatMetaAligner",
    "MetaAlignerMiddleware",
    "MetaAlignerRunnable",
    "load_engine",
}

__all__ = [
    "Aligner",
    "Alignment",
    "AnswerTooLongError",
    "BulkError",
    "ChatMetaAligner",
    "CheckpointError",
    "Context",
    "Edit",
    "EditTimeout",
    "Engine",
    "EngineError",
    "EvaluationError",
    "GateError",
    "GuardError",
    "InputTypeError",
    "LeakError",
    "MetaAlignerError",
    "MetaAlignerMiddleware",
    "MetaAlignerRunnable",
    "MissingContextError",
    "Objective",
    "OverloadedError",
    "PreferenceDataError",
    "Request",
    "TrainingError",
    "UnknownObjectiveError",
    "hushed",
    "load_engine",
]


def __getattr__(name: str) -> Any:
    # Importing one name must not load what the other names need.
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    if name in _WITH_ENGINES:
        import_module(f"{__name__}.integrations.chat_engine")  # where this kind of engine is known
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
