"""The columns that an edit adds to its row."""

from __future__ import annotations

import json
from typing import Any

from langchain_metaaligner.editing.alignment import Alignment
from langchain_metaaligner.errors import first_line

# Not the same in each run of the same rows.
_PASSING = {"seconds", "passes"}


def names_of(prefix: str) -> tuple[str, str]:
    """The names of the added columns.

    Args:
        prefix: What is before each.

    Returns:
        The names of the column with the text and of that with what is known of the edit.
    """
    return f"{prefix}edited", f"{prefix}metaaligner"


def provenance_of(made: Alignment) -> dict[str, Any]:
    """What is known of an edit, as far as it is the same each time.

    Args:
        made: The record.

    Returns:
        Plain JSON values.
    """
    return {name: value for name, value in made.provenance().items() if name not in _PASSING}


def reason_of(error: Exception) -> str:
    """Why a row was not edited, in one line.

    Args:
        error: The error.

    Returns:
        Its type and what it says first.
    """
    return f"{type(error).__name__}: {first_line(error)}"


def added_columns(made: Alignment | Exception) -> tuple[str | None, str]:
    """The cells of the added columns where each row stays, its edit failed or not.

    Args:
        made: The record, or why there is none.

    Returns:
        The edited text, and what is known of the edit as JSON.
    """
    if isinstance(made, Alignment):
        return made.text, json.dumps(provenance_of(made))
    return None, json.dumps({"status": "failed", "changed": False, "reason": reason_of(made)})
