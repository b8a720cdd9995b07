"""Where 0.1 had the record of an edit; its pickles and ids are read through this."""

from __future__ import annotations

from langchain_metaaligner.editing.alignment import Alignment

__all__ = ["Alignment"]
