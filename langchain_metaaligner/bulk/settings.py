"""What a run was asked to do, and in what two runs differ."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from langchain_metaaligner.editing.aligner import Aligner
from langchain_metaaligner.editing.objectives import Objective
from langchain_metaaligner.options import cache_key

# Objects have other names in the next process; these are told by what is below.
_OBJECTS = {"engine", "model", "guards"}


def settings_of(
    aligner: Aligner,
    objectives: Iterable[Objective],
    *,
    columns: Mapping[str, str] | None,
    prefix: str,
    kinds: tuple[str, str],
) -> dict[str, Any]:
    """Everything but the source that bears on what a run writes.

    Args:
        aligner: The aligner.
        objectives: The objectives.
        columns: The names of the fields in the data.
        prefix: What is before the names of the added columns.
        kinds: The kinds of the source and of the output.

    Returns:
        Plain JSON values, the same in each process.
    """
    options = aligner.options
    return {
        "objectives": [f"{one.name}: {one.description}" for one in objectives],
        "model": aligner.model_name,
        **{name: text for name, text in cache_key(options).items() if name not in _OBJECTS},
        "engine": None if options.engine is None else type(options.engine).__qualname__,
        "guards": [
            one if isinstance(one, str) else getattr(one, "__qualname__", type(one).__qualname__)
            for one in options.guards
        ],
        "columns": dict(columns or {}),
        "prefix": prefix,
        "kinds": list(kinds),
    }


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say in what two runs differ.

    Args:
        was: The settings of the earlier run.
        now: Those of this one.

    Returns:
        One line for each setting.
    """
    names = dict.fromkeys((*was, *now))
    return [
        f"{name} was {_shown(was.get(name))}, and is now {_shown(now.get(name))}"
        for name in names
        if was.get(name) != now.get(name)
    ]


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}\N{HORIZONTAL ELLIPSIS}"
