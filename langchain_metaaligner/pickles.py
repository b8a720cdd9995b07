"""Pickles public objects by their names at the package root, so that modules can move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any, SupportsIndex

_ROOT = "langchain_metaaligner"


def reduce_at_root(one: Any, protocol: SupportsIndex) -> str | tuple[Any, ...]:
    """Reduce an object of a public class for pickle; classes use it as their `__reduce_ex__`.

    Args:
        one: The object.
        protocol: The pickle protocol.

    Returns:
        For a dataclass, the arguments that recreate it, so that later versions can add fields;
        for any other class, its state. A user's subclass is pickled under its own name.
    """
    kind = type(one)
    if not _is_public(kind):
        return object.__reduce_ex__(one, protocol)
    if is_dataclass(one):
        given = {field.name: getattr(one, field.name) for field in fields(one) if field.init}
        return made_again, (kind.__name__, given)
    # From protocol 2 on, the third item is the state; the items after it are not used here.
    state = object.__reduce_ex__(one, 2)[2]
    return made_again, (kind.__name__,), state


def made_again(name: str, given: Mapping[str, Any] | None = None) -> Any:
    """Recreate an object of a public class; pickles refer to this function by name.

    Args:
        name: The name of the class at the package root.
        given: The arguments; `None` for an object whose state is set afterwards.

    Returns:
        The object.
    """
    kind = getattr(import_module(_ROOT), name)
    return kind.__new__(kind) if given is None else kind(**given)


def namespace_of(kind: type) -> list[str]:
    """The namespace in the id under which LangChain serialises a class.

    Args:
        kind: The class.

    Returns:
        The package root for a public class, else the parts of its module's name.
    """
    return [_ROOT] if _is_public(kind) else kind.__module__.split(".")


def _is_public(kind: type) -> bool:
    return getattr(import_module(_ROOT), kind.__name__, None) is kind
