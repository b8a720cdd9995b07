"""Where 0.1 had hushed models; its pickles and ids are read through this."""

from __future__ import annotations

from langchain_metaaligner.integrations.hushing import _Hushed, _Quiet

__all__ = ["_Hushed", "_Quiet"]
