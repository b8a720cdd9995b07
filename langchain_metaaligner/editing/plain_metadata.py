"""Tells plain metadata, of how a reply was made, from metadata that says what the reply says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from langchain_metaaligner.editing.citations import LISTS
from langchain_metaaligner.editing.copies import (
    WORDS_OF_A_NAME,
    Copies,
    count_words,
    is_plain_name,
    names_thoughts,
    names_tools,
)

# A longer value is no plain metadata.
_LONGEST = 256
# Other keys may be texts themselves.
_KEY = re.compile(r"[\w.:/-]{1,64}", re.ASCII)
_SEARCHED = 4


def plain_metadata(given: Mapping[str, Any], copies: Copies) -> dict[str, Any]:
    """Numbers, names and other short values: how a reply was made, but not what it says.

    Args:
        given: The metadata, which is not modified.
        copies: Finds copies of the reply's text.

    Returns:
        A copy.
    """
    return _plain(copies.left_of(given, inner=True), 0) or {}


def _plain(value: Any, depth: int, name: str = "") -> Any:
    """The plain part of a value; `None` if there is none."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        most = WORDS_OF_A_NAME if is_plain_name(name) else 1
        return value if len(value) <= _LONGEST and count_words(value) <= most else None
    if depth > _SEARCHED:
        return None
    if isinstance(value, Mapping):
        kept = {}
        for key, inner in value.items():
            if not isinstance(key, str) or LISTS.fullmatch(key) or _KEY.fullmatch(key) is None:
                continue
            if names_thoughts(key) or names_tools(key):
                continue
            if inner is None or (one := _plain(inner, depth + 1, key)) is not None:
                kept[key] = None if inner is None else one
        return kept
    if isinstance(value, list):
        if sum(count_words(one) for one in value if isinstance(one, str)) > WORDS_OF_A_NAME:
            value = [one for one in value if not isinstance(one, str)]
        return [one for inner in value if (one := _plain(inner, depth + 1, name)) is not None]
    return None
