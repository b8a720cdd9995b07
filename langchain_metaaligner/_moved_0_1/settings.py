"""Where 0.1 had an aligner's options; its pickles and ids are read through this."""

from __future__ import annotations

from langchain_metaaligner.options import AlignerOptions as AlignerSettings

__all__ = ["AlignerSettings"]
