"""The errors of this package, one class for each kind of failure."""

from __future__ import annotations

import functools
import inspect
import itertools
import re
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any


class MetaAlignerError(Exception):
    """Base of every error that this package raises on purpose.

    The message says what was wrong, what was expected and what to do. Every kind is an `Exception`,
    because anything else would fail all the items of a LangChain batch at once. No kind is a
    `ValueError`, because pydantic would wrap it when a validator raises it.

    To `isinstance`, an error is a `RuntimeError` and a langchain-core `ModelError` exactly when it
    is not `retryable`: LangGraph's `RetryPolicy` and LangChain's retry middleware repeat a call
    after any error that they do not know as lasting, the former by the one class and the latter by
    the other.

    Attributes:
        retryable: Whether the same call may succeed when it is repeated.
        begun: Whether a consumer has already read a part of what failed. A repetition or a fallback
            would then send a second text after it.
    """

    retryable: bool = False
    begun: bool = False

    @property  # type: ignore[misc]
    def __class__(self) -> type[Any]:
        # The type itself stays the same for both, for `except`, pickles, tracebacks and subclasses.
        kind: Any = type(self)
        return kind if self.retryable else _lasting(kind, _model_error())

    @property
    def is_retryable(self) -> bool:
        """As `retryable`: the name under which langchain-core's errors have it."""
        return self.retryable


class MissingContextError(MetaAlignerError, RuntimeError):
    """The reply came without the conversation that it answers."""


class UnknownObjectiveError(MetaAlignerError, RuntimeError):
    """An objective is unknown, unusable, or not on the allow-list."""


class InputTypeError(MetaAlignerError, RuntimeError):
    """The input is of a type that can't contain a reply to edit."""


class AnswerTooLongError(MetaAlignerError, RuntimeError):
    """The answer and its edit don't fit into the aligner's window together."""


class CheckpointError(MetaAlignerError, RuntimeError):
    """A checkpoint, an adapter or its tokenizer can't be found, read or used."""


class PreferenceDataError(MetaAlignerError, RuntimeError):
    """Preference data can't be read, or contain something that must not be trained on."""


class TrainingError(MetaAlignerError, RuntimeError):
    """A training run can't be set up, or can't continue."""


class EvaluationError(MetaAlignerError, RuntimeError):
    """Rows, a judge or results can't be evaluated."""


class GateError(MetaAlignerError, RuntimeError):
    """An evaluation missed what `fail_under` or its baseline demands.

    Args:
        *args: The message: each demand that was missed, with its figure.
        result: The evaluation's result.

    Attributes:
        result: The evaluation's result; `None` after a pickle.
    """

    def __init__(self, *args: object, result: Any = None) -> None:
        super().__init__(*args)
        self.result = result


class BulkError(MetaAlignerError, RuntimeError):
    """A file can't be edited, or its edits can't be written."""


class EngineError(MetaAlignerError):
    """The engine failed, or returned an edit that must not be used.

    Args:
        *args: The message.
        retryable: Whether the same request may succeed later: a server that is overloaded, a lost
            connection, memory that ran out.
    """

    def __init__(self, *args: object, retryable: bool = False) -> None:
        super().__init__(*args)
        if retryable:
            self.retryable = True


class GuardError(EngineError):
    """The edit was refused by a guard, because it spoils a reply that it otherwise keeps.

    Args:
        *args: The message.
        guard: The name of the guard.
        retryable: As for `EngineError`.

    Attributes:
        guard: The name of the guard.
    """

    def __init__(self, *args: object, guard: str = "", retryable: bool = False) -> None:
        super().__init__(*args, retryable=retryable)
        self.guard = guard

    @classmethod
    def of(cls, guard: str, *, retryable: bool = False) -> GuardError:
        """Make the error of a guard that can't mend an edit.

        Args:
            guard: The name of the guard.
            retryable: As for `EngineError`.

        Returns:
            The error.
        """
        message = (
            f"The guard {guard!r} refused the edit: it keeps most of the answer, but spoils what"
            " the guard keeps, and the answer's own could not be put back. on_error decides what"
            " happens to the answer. To use such edits as they are, leave the guard out of"
            " guards=; docs/failures.md says what each guard keeps."
        )
        return cls(message, guard=guard, retryable=retryable)


class EditTimeout(MetaAlignerError):
    """The edit was stopped because it reached its time limit."""

    retryable = True


class OverloadedError(MetaAlignerError):
    """The engine's queue is full."""

    retryable = True


class LeakError(MetaAlignerError, RuntimeError):
    """Tokens of the unedited reply have reached a consumer, or would have."""

    begun = True


def mark_begun(error: BaseException) -> None:
    """Note on an error that a consumer has read a part of what failed.

    Args:
        error: The error, of any class.
    """
    error.begun = True  # type: ignore[attr-defined]
    if isinstance(error, MetaAlignerError):
        error.retryable = False


def may_repeat(error: BaseException) -> bool:
    """Whether what raised an error may be repeated.

    Args:
        error: The error, of any class.

    Returns:
        Whether nobody has read a part of it and, for an error of this package, it is `retryable`.
    """
    if steers_graph(error):
        return False
    if isinstance(error, MetaAlignerError):
        return error.retryable and not error.begun
    return not getattr(error, "begun", False)


def steers_graph(error: BaseException) -> bool:
    """Whether an exception is no failure, but steers a LangGraph graph.

    Args:
        error: The exception, of any class.

    Returns:
        Whether it is an interrupt, or a command to the graph around the one that raises it.
    """
    return any(kind.__name__ == "GraphBubbleUp" for kind in type(error).__mro__)


def is_of_signal(error: BaseException) -> bool:
    """Whether a signal handler raised an error, to end the process or a job.

    Such an error is no failure of whatever the signal interrupts, and must not be taken for one.

    Args:
        error: The error, with its traceback.

    Returns:
        Whether a handler is in the traceback. Nothing else is called with the frame of its caller.
    """
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        caller = frame.f_back
        if caller is not None and any(one is caller for one in _arguments(frame)):
            return True
        trace = trace.tb_next
    return False


def _arguments(frame: FrameType) -> Iterator[Any]:
    code = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount
    for name in code.co_varnames[:count]:
        yield frame.f_locals.get(name)
    if code.co_flags & inspect.CO_VARARGS:
        rest = frame.f_locals.get(code.co_varnames[count])
        yield from rest if isinstance(rest, tuple) else ()


def may_pass(error: BaseException) -> bool:
    """Whether another package's error may go away by itself.

    Args:
        error: The error.

    Returns:
        For an error with an HTTP status, whether that is one of an overloaded or failing server.
        A lost connection, a time limit and missing memory may pass. A mistake in code or in the
        request does not. The errors that caused this one are asked where its class says nothing.
    """
    seen: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in seen:
        if isinstance(one, MetaAlignerError):
            return one.retryable
        if isinstance(known := getattr(one, "is_retryable", None), bool):  # langchain-core
            return known
        if (status := _status(one)) is not None:
            return status >= 500 or status in _PASSING_STATUS
        names = {kind.__name__ for kind in type(one).__mro__}
        if names & _WRONG_REQUESTS:
            return False
        if names & _PASSING:
            return True
        seen.append(one)
        one = one.__cause__
    return isinstance(error, Exception) and not isinstance(error, _MISTAKES)


# By name, because the packages that define them may not be installed, or not be loaded yet.
_PASSING = frozenset({
    "APIConnectionError",  # openai, anthropic
    "ClientConnectionError",  # aiohttp
    "ConnectionError",  # Python, requests
    "IncompleteRead",  # http.client
    "MemoryError",
    "OutOfMemoryError",  # torch
    "ProtocolError",  # urllib3
    "Timeout",  # requests
    "TimeoutError",
    "TransportError",  # httpx
})  # fmt: skip
_WRONG_REQUESTS = frozenset({"LocalProtocolError", "UnsupportedProtocol"})  # httpx
# Too slow a request, a request too early, too many requests.
_PASSING_STATUS = frozenset({408, 425, 429})
# As LangGraph's `default_retry_on`, and faults in code that it does not list; of the errors of the
# system, only those about a wrong path.
_MISTAKES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    ReferenceError,
    RuntimeError,
    StopAsyncIteration,
    StopIteration,
    SyntaxError,
    TypeError,
    ValueError,
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


def _status(error: BaseException) -> int | None:
    """The HTTP status of an error of any client, if it has one."""
    response = getattr(error, "response", None)
    for holder, name in (
        (error, "status_code"),  # openai, anthropic, ollama
        (error, "status"),  # aiohttp
        (error, "code"),  # google, urllib
        (response, "status_code"),  # httpx, requests
    ):
        found = getattr(holder, name, None)
        if isinstance(found, int) and 400 <= found <= 599:
            return int(found)
    return None


def _model_error() -> Any:
    # Nobody can ask for the class before it is loaded, and errors need no langchain-core.
    return getattr(sys.modules.get("langchain_core.exceptions"), "ModelError", None)


@functools.cache
def _lasting(kind: type[Any], model_error: Any) -> type[Any]:
    """The class as which an error that does not go away shows itself."""
    known = [one for one in (RuntimeError, model_error) if one and not issubclass(kind, one)]
    if not known:
        return kind
    own = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    shown: type[Any] = type(kind.__name__, (kind, *known), own)
    return shown


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


# So many characters of a message and of all texts are compared; the rest of a message is left out.
_MESSAGE, _TEXT = 1000, 50_000
# Fewer characters in common are chance; a whole line or turn of a text may be shorter.
_COMMON, _STRIDE, _WHOLE = 12, 4, 4
_CUT = "[\N{HORIZONTAL ELLIPSIS}]"


def without_quotes(message: str, *texts: str) -> str:
    """Cut what a message quotes from a prompt or an answer, so that it can go into logs.

    Args:
        message: An error's message.
        *texts: What must not be in it.

    Returns:
        The message, at most about 1,000 characters of it, with a mark for each quotation.
    """
    if "\\" in message:  # quoted by `repr` or as JSON
        message = re.sub(
            r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), message
        ).replace("\\n", "\n")
    line = message[:_MESSAGE]
    quoted = bytearray(len(line))
    limit = max(_TEXT // max(len(texts), 1), 2 * _MESSAGE)
    for text in texts:
        if len(text) > limit:
            text = text[: limit // 2] + text[-limit // 2 :]  # noqa: PLW2901 - the ends of it
        for hit in range(0, len(line) - _COMMON + 1, _STRIDE):
            if line[hit : hit + _COMMON] not in text:
                continue
            for start in range(max(0, hit - _STRIDE), hit + _STRIDE + 1):
                if len(one := line[start : start + _COMMON]) == _COMMON and one in text:
                    quoted[start : start + _COMMON] = b"1" * _COMMON
        for part in {text.strip(), *(one.strip() for one in re.split(r"[\n|]|: ", text))}:
            if len(part) >= _WHOLE and part in line:
                for found in re.finditer(rf"(?<!\w){re.escape(part)}(?!\w)", line):
                    quoted[found.start() : found.end()] = b"1" * len(found[0])
    shown = "".join(
        _CUT if is_quoted else "".join(char for char, _ in run)
        for is_quoted, run in itertools.groupby(zip(line, quoted, strict=True), lambda one: one[1])
    )
    return shown if len(message) <= _MESSAGE else f"{shown}\N{HORIZONTAL ELLIPSIS}"
