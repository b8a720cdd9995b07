"""Edit what a LangChain model says towards objectives, with a MetaAligner behind one `|`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_metaaligner.agents import MetaAlignerMiddleware
    from langchain_metaaligner.aligner import Aligner
    from langchain_metaaligner.alignment import Alignment
    from langchain_metaaligner.chat_model import ChatMetaAligner
    from langchain_metaaligner.conversation import Context
    from langchain_metaaligner.engines.base import Edit, Engine, Request, load_engine
    from langchain_metaaligner.errors import (
        AnswerTooLongError,
        CheckpointError,
        EditTimeout,
        EngineError,
        InputTypeError,
        LeakError,
        MetaAlignerError,
        MissingContextError,
        OverloadedError,
        PreferenceDataError,
        TrainingError,
        UnknownObjectiveError,
    )
    from langchain_metaaligner.hushing import hushed
    from langchain_metaaligner.objectives import Objective
    from langchain_metaaligner.runnable import MetaAlignerRunnable

_HOMES = {
    "Aligner": "aligner",
    "Alignment": "alignment",
    "AnswerTooLongError": "errors",
    "ChatMetaAligner": "chat_model",
    "CheckpointError": "errors",
    "Context": "conversation",
    "Edit": "engines.base",
    "EditTimeout": "errors",
    "Engine": "engines.base",
    "EngineError": "errors",
    "InputTypeError": "errors",
    "LeakError": "errors",
    "MetaAlignerError": "errors",
    "MetaAlignerMiddleware": "agents",
    "MetaAlignerRunnable": "runnable",
    "MissingContextError": "errors",
    "Objective": "objectives",
    "OverloadedError": "errors",
    "PreferenceDataError": "errors",
    "Request": "engines.base",
    "TrainingError": "errors",
    "UnknownObjectiveError": "errors",
    "hushed": "hushing",
    "load_engine": "engines.base",
}

__all__ = [
    "Aligner",
    "Alignment",
    "AnswerTooLongError",
    "ChatMetaAligner",
    "CheckpointError",
    "Context",
    "Edit",
    "EditTimeout",
    "Engine",
    "EngineError",
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
    # Whoever needs one name does not wait for what stands behind the others.
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
