"""Finds a Python object by its name, `module:object`, for options that take one."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import typer

_NAMED = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<object>[A-Za-z_][\w.]*)")


def find_object(name: str) -> Any:
    """Import an object; modules in the working folder are found too.

    Args:
        name: `module:object`.

    Returns:
        The object; `None` if the name has another form, or there is no such module or object.
    """
    named = _NAMED.fullmatch(name)
    if named is None:
        return None
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    found: Any
    try:
        found = import_module(named["module"])
    except ModuleNotFoundError as error:
        if error.name and named["module"].startswith(error.name):
            return None
        raise
    for part in named["object"].split("."):
        found = getattr(found, part, None)
    return found


def needed_object(name: str, *, option: str) -> Any:
    """Import an object that has to be there.

    Args:
        name: `module:object`.
        option: The option that takes it.

    Returns:
        The object.

    Raises:
        typer.BadParameter: There is no such object.
    """
    found = find_object(name)
    if found is None:
        message = f"there is no object {name!r}; give it as module:object"
        raise typer.BadParameter(message, param_hint=option)
    return found
