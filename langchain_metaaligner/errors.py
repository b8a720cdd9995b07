"""The errors of this package, one class for each kind of failure."""

from __future__ import annotations

from typing import ClassVar


class MetaAlignerError(Exception):
    """Base of every error that this package raises on purpose.

    The message says what was wrong, what was expected and what to do. All kinds are plain
    `Exception`s and none is a `ValueError`: pydantic would wrap one raised in a validator, and
    LangChain's batches would let anything outside `Exception` take the place of every item.

    Attributes:
        retryable: Whether the same call may succeed when it is made again.
    """

    retryable: ClassVar[bool] = False


class MissingContextError(MetaAlignerError):
    """The reply came without the conversation that it answers."""


class UnknownObjectiveError(MetaAlignerError):
    """An objective is unknown, unusable, or not on the allow-list."""


class InputTypeError(MetaAlignerError):
    """The input is of a type that holds no reply to edit."""


class AnswerTooLongError(MetaAlignerError):
    """The answer and its edit can't fit into the aligner's window together."""


class CheckpointError(MetaAlignerError):
    """A checkpoint, an adapter or its tokenizer can't be found, read or used."""


class PreferenceDataError(MetaAlignerError):
    """Preference data can't be read, or hold something that must not be trained on."""


class TrainingError(MetaAlignerError):
    """A training can't be set up, or can't go on."""


class EngineError(MetaAlignerError):
    """The engine failed, or returned an edit that must not be used."""


class EditTimeout(MetaAlignerError):
    """The edit was stopped because its time was up."""

    retryable = True


class OverloadedError(MetaAlignerError):
    """The engine's queue is full."""

    retryable = True


class LeakError(MetaAlignerError):
    """Tokens of the unedited reply have reached a consumer, or would."""


def first_line(error: BaseException) -> str:
    """Take the beginning of an error's message as one sentence.

    Args:
        error: Any error.

    Returns:
        Its first line, or its kind where it says nothing, with a full stop.
    """
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    line = line or type(error).__name__
    return line if line.endswith((".", "!", "?")) else f"{line}."
