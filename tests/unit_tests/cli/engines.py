"""Engines for `--engine MODULE:OBJECT`."""

from __future__ import annotations

from langchain_metaaligner import Edit, EngineError, Request
from langchain_metaaligner.testing import ScriptedEngine


def _edited(request: Request) -> str | Edit | BaseException:
    if "interrupt" in request.draft:
        raise KeyboardInterrupt
    if "bug" in request.draft:
        return ValueError("a fault in the engine")
    if "fail" in request.draft:
        return EngineError("The engine failed, so give dtype='float32'.")
    return request.draft.replace("stupid", "kind")


kind = ScriptedEngine(_edited)
ENGINE = f"{__name__}:kind"
