"""Reads one field of a preference row: a score, a preference, a context or an answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from langchain_metaaligner.editing.conversation import (
    Conversation,
    SystemHandling,
    Turn,
    read_conversation,
)
from langchain_metaaligner.editing.prompts import parse_conversation
from langchain_metaaligner.editing.reply_message import answer_text
from langchain_metaaligner.errors import InputTypeError
from langchain_metaaligner.training.data.pairs import ProblemKind, Winner

_WINNERS: Mapping[str, Winner] = {"a": "a", "b": "b", "equal": "equal", "tie": "equal"}
_ASSISTANT = "\n\nAssistant:"


class BadRowError(Exception):
    """A row holds something unusable."""

    def __init__(self, *, kind: ProblemKind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


def read_score(value: Any, name: str) -> float | None:
    """A finite score, from a number or text; `None` if the field is empty."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = float(value) if isinstance(value, Real | str) else float(str(value))
    except (ValueError, OverflowError) as error:
        detail = f"{name} is not a number ({type(value).__name__})"
        raise BadRowError(kind="score", detail=detail) from error
    if not math.isfinite(number):
        raise BadRowError(kind="score", detail=f"{name} is {number}, not a finite number")
    return number


def read_winner(value: Any, name: str) -> Winner | None:
    """The better answer; `None` if the field is empty."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    found = _WINNERS.get(value.strip().lower()) if isinstance(value, str) else None
    if found is None:
        raise BadRowError(kind="score", detail=f"{name} is none of {', '.join(_WINNERS)}")
    return found


def implied_context(context: Any, first: Any, second: Any) -> tuple[Any, Any, Any]:
    """The context and the two answers of a row whose answers hold the whole conversation."""
    if _is_messages(first) and _is_messages(second):
        if len(first) > 1 or len(second) > 1:
            shared = min(len(first), len(second)) - 1
            if len(first) != len(second) or list(first[:shared]) != list(second[:shared]):
                detail = "the two conversations differ before their last messages"
                raise BadRowError(kind="context", detail=detail)
            return list(first[:shared]), first[-1], second[-1]
        return context, first[0] if first else "", second[0] if second else ""
    texts = isinstance(first, str) and isinstance(second, str)
    if context is None and texts and first.startswith("\n\nHuman:"):
        before_a, mark, answer_a = first.rpartition(_ASSISTANT)
        before_b, _, answer_b = second.rpartition(_ASSISTANT)
        if not mark or before_a != before_b:
            detail = "the two conversations differ before their last replies"
            raise BadRowError(kind="context", detail=detail)
        return f"{before_a} {_ASSISTANT}", answer_a.strip(), answer_b.strip()
    return context, first, second


def _is_messages(given: Any) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, str | bytes)


def read_context(
    given: Any, *, system: SystemHandling, is_question: bool
) -> tuple[str | tuple[Turn, ...], int]:
    """The conversation before the answers, and the number of system messages left out of it.

    Args:
        given: Text or messages.
        system: What becomes of system messages.
        is_question: Text is the user's question, not a whole conversation.

    Returns:
        Turns if the form of the text is known, otherwise the text.
    """
    if given is None:
        detail = "the row has no context, prompt, question or messages"
        raise BadRowError(kind="missing", detail=detail)
    if isinstance(given, str):
        _check_text(given, "the context")
        turns = parse_conversation(given)
        if turns is not None:
            return tuple(turns), 0
        if is_question and not given.startswith("\n\nHuman:"):
            return (Turn("human", given),), 0
        return given, 0
    if not _is_messages(given):
        detail = f"a context is text or messages, not {type(given).__name__}"
        raise BadRowError(kind="context", detail=detail)
    if given and _speaks_as_assistant(given[-1]):
        detail = "the conversation before the answers ends with one of the assistant's turns"
        raise BadRowError(kind="context", detail=detail)
    read = _conversation(given, system)
    if not any(turn.text.strip() for turn in read.turns):
        raise BadRowError(kind="empty", detail="the context is empty")
    for turn in read.turns:
        _check_encoding(turn.text, "the context")
    return read.turns, read.system_dropped


def _conversation(messages: Sequence[Any], system: SystemHandling) -> Conversation:
    try:
        return read_conversation(messages, system=system)
    except InputTypeError as error:
        detail = "the context holds something that is not a message"
        raise BadRowError(kind="context", detail=detail) from error


def _speaks_as_assistant(message: Any) -> bool:
    role = message.get("role") if isinstance(message, Mapping) else getattr(message, "type", "")
    return role in ("assistant", "ai")


def read_answer(given: Any, name: str) -> str:
    """The text of an answer, from text or from a message in any common form."""
    if isinstance(given, Mapping):
        if not _speaks_as_assistant(given):
            detail = f"{name} is a message, but not the assistant's"
            raise BadRowError(kind="answer", detail=detail)
        given = given.get("content")
    try:
        text = answer_text(_Content(given) if isinstance(given, list) else given)
    except InputTypeError as error:
        detail = f"{name} is text or a message, not {type(given).__name__}"
        raise BadRowError(kind="answer", detail=detail) from error
    _check_text(text, name)
    return text


@dataclass(frozen=True, slots=True)
class _Content:
    content: list[Any]


def _check_text(text: str, name: str) -> None:
    if not text.strip():
        raise BadRowError(kind="empty", detail=f"{name} is empty")
    _check_encoding(text, name)


def _check_encoding(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRowError(kind="unreadable", detail=f"{name} is not valid UTF-8") from error
