"""Where 0.1 had the aligner; its pickles and ids are read through this."""

from __future__ import annotations

from langchain_metaaligner.editing.aligner import Aligner
from langchain_metaaligner.options import AlignerOptions

__all__ = ["Aligner", "_from_settings"]


def _from_settings(kind: type[Aligner], settings: AlignerOptions) -> Aligner:
    return kind(**settings.__getstate__()["given"])
