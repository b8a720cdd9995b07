"""Where 0.1 had objectives; its pickles and ids are read through this."""

from __future__ import annotations

from langchain_metaaligner.editing.objectives import Objective

__all__ = ["Objective"]
