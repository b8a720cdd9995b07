"""Where 0.1 had the faces' options; its pickles and ids are read through this."""

from __future__ import annotations

from langchain_metaaligner.integrations.reply_policy import FaceOptions as ReplySettings
from langchain_metaaligner.integrations.reply_policy import SharedAligners as _Aligners

__all__ = ["ReplySettings", "_Aligners"]
