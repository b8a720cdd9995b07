"""Tools for tests: a scripted engine, and the tests that every engine should pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_metaaligner.testing.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from langchain_metaaligner.testing.engine_conformance import EngineConformance

__all__ = ["EngineConformance", "ScriptedEngine"]


def __getattr__(name: str) -> Any:
    if name != "EngineConformance":
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    # Imported only on demand, because it needs pytest.
    from langchain_metaaligner.testing import engine_conformance

    globals()[name] = value = engine_conformance.EngineConformance
    return value
