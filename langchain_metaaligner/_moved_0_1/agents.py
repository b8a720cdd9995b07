"""Where 0.1 had the agents' middleware; its pickles and ids are read through this."""

from __future__ import annotations

from langchain_metaaligner.integrations.middleware import MetaAlignerMiddleware

__all__ = ["MetaAlignerMiddleware"]
