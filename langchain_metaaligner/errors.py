"""The errors of this package, one class for each kind of failure."""

from __future__ import annotations

from typing import ClassVar


class MetaAlignerError(Exception):
    """Base of every error that this package raises on purpose.

    The message says what was wrong, what was expected and what to do. Every kind is an `Exception`,
    because anything else would fail all the items of a LangChain batch at once. No kind is a
    `ValueError`, because pydantic would wrap it when a validator raises it.

    Attributes:
        retryable: Whether the same call may succeed when it is repeated.
    """

    retryable: ClassVar[bool] = False


class MissingContextError(MetaAlignerError):
    """The reply came without the conversation that it answers."""


class UnknownObjectiveError(MetaAlignerError):
    """An objective is unknown, unusable, or not on the allow-list."""


class InputTypeError(MetaAlignerError):
    """The input is of a type that can't contain a reply to edit."""


class AnswerTooLongError(MetaAlignerError):
    """The answer and its edit don't fit into the aligner's window together."""


class CheckpointError(MetaAlignerError):
    """A checkpoint, an adapter or its tokenizer can't be found, read or used."""


class PreferenceDataError(MetaAlignerError):
    """Preference data can't be read, or contain something that must not be trained on."""


class TrainingError(MetaAlignerError):
    """A training run can't be set up, or can't continue."""


class EngineError(MetaAlignerError):
    """The engine failed, or returned an edit that must not be used."""


class EditTimeout(MetaAlignerError):
    """The edit was stopped because it reached its time limit."""

    retryable = True


class OverloadedError(MetaAlignerError):
    """The engine's queue is full."""

    retryable = True


class LeakError(MetaAlignerError):
    """Tokens of the unedited reply have reached a consumer, or would have."""


def first_line(error: BaseException) -> str:
    """Shorten an error's message to its first line.

    Args:
        error: Any error.

    Returns:
        The first line that is not empty, or the error's type if there is no message, ending with
        a full stop.
    """
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    line = line or type(error).__name__
    return line if line.endswith((".", "!", "?")) else f"{line}."
