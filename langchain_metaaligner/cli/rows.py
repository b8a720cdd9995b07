"""Replies to edit, as they come on stdin: JSON, one object or many."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import typer

from langchain_metaaligner.bulk.row_items import RowItems
from langchain_metaaligner.errors import InputTypeError
from langchain_metaaligner.training.data.fields import BadRowError

_FORM = 'Expected objects such as {"question": "…", "answer": "…"}, one a line or in a list.'


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply to edit.

    Attributes:
        values: The row that it came in.
        context: What it answers: messages, or text word for word.
        answer: The reply.
    """

    values: Mapping[str, Any] = field(repr=False)
    context: Any = field(repr=False)
    answer: str = field(repr=False)

    @classmethod
    def to(cls, question: str, answer: str) -> Reply:
        """Make one of a question and its answer."""
        return cls({"question": question, "answer": answer}, [("human", question)], answer)


def read_rows(lines: Iterable[str]) -> Iterator[Reply | InputTypeError]:
    """Read rows one by one, as they come; columns are named as for files.

    Args:
        lines: JSON Lines, or one JSON value over several lines.

    Yields:
        The replies, and an error in the place of each row that can't be used.

    Raises:
        typer.BadParameter: It is no JSON at all.
    """
    left = iter(lines)
    first = next((line for line in left if line.strip()), "")
    try:
        value = json.loads(first)
    except ValueError:
        try:
            value = json.loads("".join(chain([first], left)))
        except ValueError as error:
            message = f"stdin is no JSON ({error}). {_FORM} Or give --question"
            raise typer.BadParameter(message) from error
    items = RowItems()
    values = value if isinstance(value, list) else [value]
    yield from (_reply(one, f"row {number}", items) for number, one in enumerate(values, start=1))
    for number, line in enumerate(left, start=2):
        if line.strip():
            yield _parsed(line, f"line {number}", items)


def _parsed(text: str, place: str, items: RowItems) -> Reply | InputTypeError:
    try:
        return _reply(json.loads(text), place, items)
    except ValueError as error:
        return InputTypeError(f"{place} is no JSON ({error}).")


def _reply(value: Any, place: str, items: RowItems) -> Reply | InputTypeError:
    if not isinstance(value, Mapping):
        return InputTypeError(f"{place} is no object. {_FORM}")
    try:
        return Reply(value, *items.read(value))
    except BadRowError as error:
        return InputTypeError(f"{place}: {error.detail}. {_FORM}")
