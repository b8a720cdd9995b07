"""Tells whether a function is still the same one in another process."""

from __future__ import annotations

import functools
from types import CodeType
from typing import Any

from langchain_metaaligner.training.data.pairs import digest


def fingerprint(function: Any) -> str:
    """Hash what a function does, as far as its own code tells.

    What it calls, and what it finds in variables of its surroundings, is not part of it: a counter
    there would make another function of it at each call.

    Args:
        function: A function, a method, a partial one, or an object that can be called.

    Returns:
        Sixteen hexadecimal digits, the same in every process of one version of Python.
    """
    return digest(_told(function))[:16]


def _told(function: Any) -> list[Any]:
    if isinstance(function, functools.partial):
        given = [*function.args, *sorted(function.keywords.items())]
        return ["partial", _told(function.func), [_plain(one) for one in given]]
    wrapped = getattr(function, "__func__", function)
    code = getattr(wrapped, "__code__", None)
    if isinstance(code, CodeType):
        name = getattr(wrapped, "__qualname__", "")
        defaults = [_plain(one) for one in getattr(wrapped, "__defaults__", None) or ()]
        return [name, defaults, _of_code(code)]
    kind = type(function)
    code = getattr(kind.__call__, "__code__", None)
    return [kind.__qualname__, _of_code(code) if isinstance(code, CodeType) else []]


def _of_code(code: CodeType) -> list[Any]:
    return [code.co_code.hex(), list(code.co_names), [_plain(one) for one in code.co_consts]]


def _plain(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _of_code(value)
    if isinstance(value, frozenset):  # in another order in each process
        return sorted(map(repr, value))
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, str | bytes | int | float | complex):
        return repr(value)
    return type(value).__qualname__
