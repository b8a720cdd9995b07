"""Where 0.1 had the runnable; its pickles and ids are read through this."""

from __future__ import annotations

from langchain_metaaligner.integrations.runnable import MetaAlignerRunnable

__all__ = ["MetaAlignerRunnable"]
