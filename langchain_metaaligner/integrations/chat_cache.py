"""What a cache of edited replies keeps, and by what it tells them apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from langchain_core.caches import BaseCache
from langchain_core.load import dumps
from langchain_core.messages import AIMessage
from langchain_core.outputs import Generation

from langchain_metaaligner.editing.alignment import METADATA_KEY
from langchain_metaaligner.editing.conversation import Context


class GoodReplies(BaseCache):
    """A cache that does not keep what took the place of an edit that failed.

    Args:
        cache: Where the others are kept.
    """

    def __init__(self, cache: BaseCache) -> None:
        self._cache = cache

    def lookup(self, prompt: str, llm_string: str) -> Any:
        """As the cache itself."""
        return self._cache.lookup(prompt, llm_string)

    async def alookup(self, prompt: str, llm_string: str) -> Any:
        """As the cache itself."""
        return await self._cache.alookup(prompt, llm_string)

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Keep the reply, unless its edit failed."""
        if not any(_failed(one) for one in return_val):
            self._cache.update(prompt, llm_string, return_val)

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Keep the reply, unless its edit failed."""
        if not any(_failed(one) for one in return_val):
            await self._cache.aupdate(prompt, llm_string, return_val)

    def clear(self, **kwargs: Any) -> None:
        """As the cache itself."""
        self._cache.clear(**kwargs)


def _failed(generation: Any) -> bool:
    message = getattr(generation, "message", None)
    metadata = message.response_metadata if isinstance(message, AIMessage) else {}
    return (metadata.get(METADATA_KEY) or {}).get("status") in ("passed", "blocked")


def digest(context: Any) -> str:
    """What a given context is told apart by; its text is not in it.

    Args:
        context: Text, a `Context`, or messages.
    """
    text = context.text if isinstance(context, Context) else context
    known = text if isinstance(text, str) else dumps(text)
    return hashlib.sha256(known.encode()).hexdigest()
