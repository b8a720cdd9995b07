"""Where 0.1 had contexts; its pickles and ids are read through this."""

from __future__ import annotations

from langchain_metaaligner.editing.conversation import Context

__all__ = ["Context"]
