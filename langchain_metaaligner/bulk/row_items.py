"""Finds context and answer in a row, whatever its columns are called."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain_metaaligner.errors import BulkError, PreferenceDataError
from langchain_metaaligner.training.data.columns import CONTEXTS, QUESTIONS, Columns
from langchain_metaaligner.training.data.fields import BadRowError, read_answer

ANSWERS = (
    *("answer", "response", "reply", "completion", "original", "original_response"),
    # Of the authors' files of replies, and of their files of edits.
    *("generated_text", "origin_responses", "origins"),
)
"""The names of a column with the answer; the first that a row has is read."""

FIELDS = (*CONTEXTS, *QUESTIONS, *ANSWERS)


class RowItems:
    """Makes a context and an answer of a row.

    Args:
        columns: Our name of a field to its name in the data: `context` or `messages`, `question`,
            or `answer`. A dot leads into a nested field.

    Raises:
        BulkError: There is no such field.
    """

    def __init__(self, columns: Mapping[str, str] | None = None) -> None:
        try:
            self._columns = Columns(columns, FIELDS)
        except PreferenceDataError as error:
            raise BulkError(str(error)) from None
        self._answers = [one for one in ANSWERS if one in (columns or {})] or ANSWERS

    def read(self, values: Mapping[str, Any]) -> tuple[Any, Any]:
        """Read the context and the answer of a row.

        A question becomes a human turn, and a context stays as it is. Messages that end with an
        assistant's are the context and the answer, if the row has no answer of its own.

        Args:
            values: The fields of the row.

        Returns:
            The context as messages or text, and the text of the answer.

        Raises:
            BadRowError: One of them is missing, empty or of the wrong type.
        """
        context, is_question = self._columns.context(values)
        if context == "":  # CSV has no other way to say that there is none
            there = {name: one for name, one in values.items() if one != ""}
            found, is_question = self._columns.context(there)
            context = context if found is None else found
        if isinstance(context, str):
            context = _as_messages(context)
        given = (self._columns.text(values, name) for name in self._answers)
        answer = next((one for one in given if one is not None), None)
        if answer is None and isinstance(context, Sequence) and not isinstance(context, str):
            *context, answer = context or [None]
            if not _is_reply(answer):
                answer = None
        if context is None or answer is None:
            what = "context, question or messages" if context is None else "answer"
            raise BadRowError(kind="missing", detail=f"the row has no {what}")
        if not isinstance(answer, str):
            answer = read_answer(answer, "the answer")
        if isinstance(context, str):
            if not context.strip():
                raise BadRowError(kind="empty", detail="the context is empty")
            if is_question and "Human:" not in context:
                context = [("human", context)]
        elif not context or not isinstance(context, Sequence):
            detail = f"a context is text or messages, not {type(context).__name__}"
            raise BadRowError(kind="context", detail=detail if context else "the context is empty")
        return context, answer


def missing_columns(name: str, columns: Iterable[str], detail: str) -> BulkError:
    """The error of a source of which no row can be edited.

    Args:
        name: The source.
        columns: The columns that it has.
        detail: What its rows lack.

    Returns:
        The error.
    """
    has = ", ".join(columns) or "none"
    return BulkError(
        f"{name}: {detail}. Its columns are {has}. Say which of them hold the answer and the"
        " context: columns={'answer': '…', 'question': '…'}, with 'context' in place of 'question'"
        " for a whole conversation. Without it, an answer is looked for in"
        f" {', '.join(ANSWERS)}, and a context in {', '.join((*CONTEXTS, *QUESTIONS))}."
    )


def _as_messages(text: str) -> Any:
    """The messages that a text is, as in a column of CSV; else the text."""
    if text.startswith("[") and '"content"' in text:
        try:
            read = json.loads(text)
        except (ValueError, RecursionError):
            return text
        if isinstance(read, list) and all(isinstance(one, dict) for one in read):
            return read
    return text


def _is_reply(message: Any) -> bool:
    return isinstance(message, Mapping) and message.get("role") in ("assistant", "ai")
