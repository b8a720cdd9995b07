"""Where providers say, outside of a reply's content, that the model refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Where providers mark a refusal, under which key they explain it, and by which marks.
_REFUSALS: tuple[tuple[str, tuple[str, ...], frozenset[str]], ...] = (
    ("stop_reason", ("stop_details", "explanation"), frozenset({"refusal"})),
    (
        "finish_reason",
        ("finish_message",),
        frozenset({"SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST"}),
    ),
)

EXPLANATIONS = tuple(key[0] for _, key, _ in _REFUSALS)
"""Metadata in which providers explain a refusal."""


def refusal_beside(message: Any, *, explained: bool = True) -> str:
    """A refusal that the provider reports outside of the content, or explains there.

    Args:
        message: A message.
        explained: Whether an explanation counts. In a context it does so only without a text.

    Returns:
        The refusal; empty if there is none.
    """
    said = getattr(message, "additional_kwargs", {}).get("refusal")
    if isinstance(said, str) and said:
        return said
    if not explained:
        return ""
    for where, key, marks in _REFUSALS:
        metadata = getattr(message, "response_metadata", {})
        if str(metadata.get(where)) in marks:
            for name in key:
                metadata = metadata.get(name) if isinstance(metadata, Mapping) else None
            if isinstance(metadata, str):
                return metadata
    return ""


def without_refusal(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata that does not say that the model refused.

    Args:
        metadata: The metadata, which is not modified.

    Returns:
        A copy without the mark of a refusal and its explanation.
    """
    left = dict(metadata)
    for where, key, marks in _REFUSALS:
        if str(left.get(where)) in marks:
            del left[where]
            left.pop(key[0], None)
    return left
