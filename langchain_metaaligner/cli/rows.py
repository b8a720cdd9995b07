"""Replies to edit, as they come on stdin: JSON, one object or many."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import typer

from langchain_metaaligner.errors import InputTypeError

Row = Mapping[str, Any]
"""A reply to edit, and what it answers."""

_FORM = (
    'Expected objects such as {"question": "…", "answer": "…"}, one a line or in a list; "context"'
    " in place of the question holds messages, or text word for word."
)


def read_rows(lines: Iterable[str]) -> Iterator[Row | InputTypeError]:
    """Read rows one by one, as they come.

    Args:
        lines: JSON Lines, or one JSON value over several lines.

    Yields:
        The rows, and an error in the place of each one that can't be used.

    Raises:
        typer.BadParameter: It is no JSON at all.
    """
    left = iter(lines)
    first = next((line for line in left if line.strip()), "")
    try:
        value = json.loads(first)
    except ValueError:
        text = "".join(chain([first], left))
        try:
            value = json.loads(text)
        except ValueError as error:
            message = f"stdin is no JSON ({error}). {_FORM} Or give --question"
            raise typer.BadParameter(message) from error
    values = value if isinstance(value, list) else [value]
    yield from (_row(one, f"row {number}") for number, one in enumerate(values, start=1))
    for number, line in enumerate(left, start=2):
        if line.strip():
            yield _parsed(line, f"line {number}")


def context_of(row: Row) -> Any:
    """What a row's reply answers.

    Args:
        row: The row.

    Returns:
        A question as messages, or the row's context as it is.
    """
    question = row.get("question")
    return [("human", question)] if isinstance(question, str) else row["context"]


def _parsed(text: str, place: str) -> Row | InputTypeError:
    try:
        return _row(json.loads(text), place)
    except ValueError as error:
        return InputTypeError(f"{place} is no JSON ({error}).")


def _row(value: Any, place: str) -> Row | InputTypeError:
    if not isinstance(value, Mapping) or not isinstance(value.get("answer"), str):
        return InputTypeError(f"{place} is no object with an answer. {_FORM}")
    if not isinstance(value.get("question"), str) and value.get("context") is None:
        return InputTypeError(f"{place} has no question and no context. {_FORM}")
    return value
