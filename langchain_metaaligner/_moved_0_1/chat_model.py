"""Where 0.1 had the chat model; its pickles and ids are read through this."""

from __future__ import annotations

from langchain_metaaligner.integrations.chat_model import ChatMetaAligner

__all__ = ["ChatMetaAligner"]
