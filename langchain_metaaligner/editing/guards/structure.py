"""Tells what structure a text has and whether an edit keeps it, by the guards' own reading."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from langchain_metaaligner.editing.guards import forms, items
from langchain_metaaligner.editing.guards.change import Change

_RULE = re.compile(r"(?m)^[ \t]*\|?[ \t]*:?-{2,}:?[ \t]*(?:\|[ \t]*:?-{2,}:?[ \t]*)+\|?[ \t]*$")


def kept_structure(original: str, edited: str, context: str = "") -> dict[str, bool]:
    """Tell whether an edit keeps the structure of a text.

    - `numbers`, `urls`, `emails`, `citations`: each that the original has is in the edit, in any
      spelling that says the same;
    - `code`: as many blocks of code, each of them closed;
    - `table`: a table with rows of as many columns;
    - `json`: as many texts in JSON, with the same keys;
    - `language`: the writing system that the original has most of, and none that is neither in
      the original nor in the context.

    Args:
        original: The text before the edit.
        edited: The text after it.
        context: The conversation before it.

    Returns:
        Each kind that the original has, and whether the edit keeps it.
    """
    change = Change(before=original, after=edited, answer=original, start=0, prompt=context)
    found: dict[str, bool] = {}
    for name, guard in _ITEMS.items():
        had = guard.keys(original, change)
        if had:
            found[name] = had <= guard.keys(edited, change)
    for name, keeps in _FORMS.items():
        result = keeps(original, edited)
        if result is not None:
            found[name] = result
    systems = forms.writing_systems(original)
    if systems:
        has = forms.writing_systems(edited)
        known = systems.keys() | forms.writing_systems(context).keys()
        found["language"] = max(systems, key=systems.__getitem__) in has and has.keys() <= known
    return found


_ITEMS: Mapping[str, items.ItemGuard] = {
    "numbers": items.numbers,
    "urls": items.urls,
    "emails": items.emails,
    "citations": items.citations,
}


def _code(original: str, edited: str) -> bool | None:
    blocks, _ = forms.blocks_of_code(original)
    if not blocks:
        return None
    made, closed = forms.blocks_of_code(edited)
    return closed and len(made) >= len(blocks)


def _table(original: str, edited: str) -> bool | None:
    had = _widths(original)
    return None if had is None else had <= (_widths(edited) or set())


def _json(original: str, edited: str) -> bool | None:
    had = _shapes(original)
    if not had:
        return None
    has = _shapes(edited)
    return len(has) >= len(had) and all(map(set.__le__, had, has))


_FORMS: Mapping[str, Callable[[str, str], bool | None]] = {
    "code": _code,
    "table": _table,
    "json": _json,
}


def _widths(text: str) -> set[int] | None:
    """The numbers of columns of a text's tables; `None` without a table."""
    for block in forms.blocks_of_code(text)[0]:
        text = text.replace(block, "")
    rules = [found.span() for found in _RULE.finditer(text)]
    if not rules:
        return None
    widths: set[int] = set()
    for begin, end in rules:
        above = text.rfind("\n", 0, max(0, begin - 1)) + 1
        below = text.find("\n\n", end)
        widths |= forms.columns(text[above : below if below >= 0 else len(text)])
    return widths - {0}


def _shapes(text: str) -> list[set[str]]:
    """The keys of each text in JSON: of blocks of code, or of the whole."""
    shapes = []
    for one in forms.blocks_of_code(text)[0] or [text]:
        try:
            value = json.loads(one)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict | list):
            shapes.append(_keys(value))
    return shapes


def _keys(value: Any) -> set[str]:
    found, left = {type(value).__name__}, [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            found |= {f"key {name}" for name in one}
            left += one.values()
        elif isinstance(one, list):
            left += one
    return found
