"""Finds the reply in what a step of a chain is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages

from langchain_metaaligner.errors import InputTypeError

Reply = AIMessage | str


def read_reply(given: Any) -> tuple[Reply, list[BaseMessage] | None]:
    """Find the reply in what a step was given.

    Args:
        given: A message, text, or a state with messages, the reply last.

    Returns:
        The reply, and for a state the messages before it.

    Raises:
        InputTypeError: There is no reply in it.
    """
    if isinstance(given, AIMessage | str):
        return given, None
    messages = given.get("messages") if isinstance(given, Mapping) else _messages_of(given)
    if messages is None:
        raise InputTypeError(_WRONG_INPUT.format(type(given).__name__))
    try:
        conversation = convert_to_messages(messages)
    except (ValueError, NotImplementedError, TypeError, KeyError) as error:
        raise InputTypeError(_WRONG_INPUT.format(type(given).__name__)) from error
    if not conversation or not isinstance(conversation[-1], AIMessage):
        last = type(conversation[-1]).__name__ if conversation else "nothing"
        msg = f"The last of the messages is the reply to edit, an AIMessage; here it is {last}."
        raise InputTypeError(msg)
    return conversation[-1], list(conversation[:-1])


def _messages_of(given: Any) -> Any:
    if isinstance(given, BaseMessage):
        return None
    messages = getattr(given, "messages", None)
    return messages if isinstance(messages, Sequence) and not isinstance(messages, str) else None


_WRONG_INPUT = (
    "An aligner edits an AIMessage, text, or the last message of a state with 'messages', not"
    " {}. Put it behind the step that makes the reply, or turn this into one of those first."
)
