"""The contract between the aligner and the engine that runs its model."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import wait
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, cast

from langchain_metaaligner.engines import processes, threads
from langchain_metaaligner.engines.readings import AS_ANY, Readings
from langchain_metaaligner.engines.waits import Ended
from langchain_metaaligner.errors import (
    CheckpointError,
    EditTimeout,
    EngineError,
    MetaAlignerError,
    is_of_signal,
    may_pass,
)

FinishReason = Literal["stop", "length"]
T = TypeVar("T")

_QUICK = 0.02  # seconds for which blocking an event loop does no harm

DOCS = '"Your own engine" (docs/your_own_engine.md)'
"""The page about writing an engine, as error messages refer to it."""


class TokenAgreement(NamedTuple):
    """How likely the model was to write one token of the answer, given everything before it.

    Attributes:
        start: Offset of the token's first character in the answer.
        end: Offset after its last character. Tokens that are parts of the same character have
            the same offsets.
        log_probability: Natural logarithm of the probability; 0 if the model was certain.
    """

    start: int
    end: int
    log_probability: float


@dataclass(frozen=True, slots=True)
class Request:
    """One edit to make.

    Attributes:
        prompt: The whole prompt, byte for byte. It ends where the edit begins.
        draft: The answer, exactly as it appears in the prompt: a good guess at the edit.
        max_new_tokens: Maximum length of the edit, in tokens.
        stop: Texts that end the edit; they are not part of it.
        temperature: Sampling temperature; 0 decodes greedily.
        deadline: Time at which the work must stop with `EditTimeout`, in seconds of
            `time.monotonic()`; `None` for no limit.
        refuse_repetition: Whether an edit that repeats itself ends at once, with `GuardError`.
            The text is watched while it streams, and when it is whole; an engine may end sooner.
        keep_above: Return the draft itself, without decoding, if its agreement is at least this
            value. One pass over the whole draft decides. `None` always decodes. Engines that
            don't report agreement ignore it.
        caution: By how much another token must be likelier than the draft's next one for the edit
            to leave the draft after its first three tokens, in nats. Ignored when sampling, and by
            engines without `keeps_caution`.
        token_agreement: Whether the edit should report the agreement of each token of the draft.
        templated: Whether the model's chat template wrote the prompt. If so, its control tokens
            are read as such, and no beginning-of-text token is added. If not, the prompt is plain
            text, and nothing in it is read as a control token.
        draft_at: Offset of the draft's first character in the prompt; `None` if unknown.
    """

    prompt: str = field(repr=False)
    draft: str = field(default="", repr=False)
    max_new_tokens: int = 1024
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    deadline: float | None = None
    keep_above: float | None = None
    token_agreement: bool = False
    templated: bool = False
    draft_at: int | None = None
    caution: float = 0.0
    refuse_repetition: bool = False


@dataclass(frozen=True, slots=True)
class Edit:
    """An engine's result for one request.

    Attributes:
        text: The edited answer, without stop texts and control tokens.
        finish_reason: `stop` if an end token or a stop text ended it, `length` if it reached the
            maximum length.
        usage: `input_tokens`, `output_tokens` and `total_tokens`, if the engine counts them.
        passes: Number of the model's forward passes that this edit took part in.
        agreement: Mean log-probability (natural logarithm, at most 0) of the draft's tokens under
            the model; `None` if the engine doesn't report it or no pass covered the whole draft.
        token_agreement: The log-probability of each token of the draft, in order; `None` if it
            was not requested or is not known for every token.
    """

    text: str = field(repr=False)
    finish_reason: FinishReason = "stop"
    usage: Mapping[str, int] | None = None
    passes: int | None = None
    agreement: float | None = None
    token_agreement: tuple[TokenAgreement, ...] | None = None


class _ClassName:
    """The name of an engine's class, if the engine has no name of its own."""

    def __get__(self, engine: object, kind: type) -> str:
        return kind.__name__


class EngineLike(Protocol):
    """Any other object that is accepted as an engine: it has a method `edit`."""

    def edit(self, requests: Any, /) -> Any:
        """Make all edits and return them in the order of the requests."""
        ...


class Engine(ABC):
    """Runs an aligner's model.

    A subclass must define `edit`; everything else has a working default. An object of any other
    class that has a method `edit` is also accepted wherever an engine is expected, and gets these
    defaults for whatever it lacks.

    Attributes:
        name: The model's name in records; by default the name of the class.
        origin: The checkpoint that the model was made from, if its files say so; else empty.
        family_hint: The prompt family that the model was trained on, if known.
        window: How many tokens the prompt and the edit may have together; `None` for no limit.
        control_tokens: Strings that the tokenizer reads as control tokens.
        template_marks: What the chat template writes between messages in plain text, such as
            `### Response:`; a text that holds it could forge a turn of a templated prompt.
        readings: What the tokenizer reads each character as. By default, a character counts as
            another one if some common tokenizer reads it so.
        keeps_deadlines: Whether each call stops by itself at the deadlines of its requests, with
            `EditTimeout`. If not, the caller stops waiting at the deadline, and the call runs on
            in its thread.
        prefills: Whether `warm` makes a later edit faster.
        reports_agreement: Whether edits have an `agreement`.
        keeps_caution: Whether edits leave their draft only where `Request.caution` allows it.
        scores_templated: Whether `reports_agreement` and `keeps_caution` hold for templated prompts
            too.
    """

    name: str = cast("str", _ClassName())
    origin: str = ""
    family_hint: str | None = None
    window: int | None = None
    control_tokens: Iterable[str] = ()
    template_marks: Sequence[str] = ()
    readings: Readings = AS_ANY
    keeps_deadlines: bool = False
    prefills: bool = False
    reports_agreement: bool = False
    keeps_caution: bool = False
    scores_templated: bool = True

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        # Any object with an `edit` counts as an engine; see `as_engine`.
        return True if cls is Engine and callable(getattr(other, "edit", None)) else NotImplemented

    @abstractmethod
    def edit(self, requests: Sequence[Request]) -> list[Edit]:
        """Make all edits.

        Args:
            requests: The edits to make.

        Returns:
            An edit for each request, in order.

        Raises:
            EngineError: The edits can't be made. Callers turn any other error into this one.
            EditTimeout: The deadline of a request has passed.
            OverloadedError: Too many edits are waiting already.
        """

    async def aedit(self, requests: Sequence[Request]) -> list[Edit]:
        """Make all edits without blocking the event loop.

        By default `edit` is called in one of at most 64 threads that the engine has.

        Args:
            requests: The edits to make.

        Returns:
            An edit for each request, in order.

        Raises:
            EngineError: As for `edit`.
        """

        def work() -> list[Edit]:
            with errors_of_ours():  # a future can't pass on StopIteration or CancelledError
                return self.edit(requests)

        limits = [one.deadline for one in requests if one.deadline is not None]
        try:
            return await threads.aresult(
                threads.calls_of(self).submit(work), min(limits, default=None)
            )
        except threads.Late:
            raise too_late() from None

    def edit_each(self, requests: Sequence[Request]) -> Sequence[Edit | MetaAlignerError]:
        """Make edits so that the failure of one does not affect the others.

        By default all are made together. If that fails with an `EngineError`, each is made alone.
        After any other error (overload, timeout) a second try would only add to the problem.

        Args:
            requests: The edits to make.

        Returns:
            An edit or its error for each request, in order.
        """
        try:
            with errors_of_ours():
                return as_many(self.edit(requests), len(requests))
        except MetaAlignerError as error:
            if not isinstance(error, EngineError) or len(requests) == 1:
                return [error] * len(requests)
        return [
            made
            for request in requests
            for made in ([too_late()] if is_late(request) else self.edit_each([request]))
        ]

    async def aedit_each(self, requests: Sequence[Request]) -> Sequence[Edit | MetaAlignerError]:
        """Make edits without blocking the event loop; like `edit_each`."""
        try:
            with errors_of_ours():
                return as_many(await self.aedit(requests), len(requests))
        except MetaAlignerError as error:
            if not isinstance(error, EngineError) or len(requests) == 1:
                return [error] * len(requests)
        return [
            made
            for request in requests
            for made in ([too_late()] if is_late(request) else await self.aedit_each([request]))
        ]

    def stream(self, request: Request) -> Iterator[str]:
        """Make one edit and yield its text as it is generated; by default in one piece.

        Args:
            request: The edit to make.

        Returns:
            A generator. Its pieces joined are the edit's text, and it may return the whole `Edit`.
            `.close()` stops the work.
        """
        return _in_one_piece(self, request)

    def astream(self, request: Request) -> AsyncIterator[str]:
        """Make one edit and yield its text without blocking the event loop.

        By default `stream` is read in threads, of which the engine has at most 64.

        Args:
            request: The edit to make.

        Returns:
            An asynchronous iterator over the pieces; `StopAsyncIteration` may carry the whole
            `Edit`. `.aclose()` stops the work.
        """
        return _InThreads(self, request)

    def warm(
        self,
        prompt: str,
        *,
        templated: bool = False,
        cancelled: threading.Event | None = None,
    ) -> None:
        """Prefill the beginning of a prompt to make its edit faster; by default does nothing.

        Args:
            prompt: The beginning of the prompt; the rest is not known yet.
            templated: As in `Request`.
            cancelled: An event that is set when the result is no longer wanted.
        """
        return

    def load(self) -> None:
        """Load the model, so that the first request need not wait; by default does nothing.

        Raises:
            CheckpointError: The model can't be found, read or used.
        """
        return

    def check_options(self, names: Sequence[str], *, templated: bool) -> None:
        """Refuse options that were given and that this engine can't keep; by default none.

        Args:
            names: Of `keep_above` and `token_agreement`, those that were given.
            templated: Whether prompts are written by the model's chat template.

        Raises:
            CheckpointError: It can't keep one of them. If it raises nothing, they are ignored.
        """
        return

    def close(self) -> None:
        """Release the engine's resources; by default does nothing."""
        return

    def count_tokens(self, text: str) -> int:
        """Count the tokens that a text has as a plain prompt.

        Args:
            text: Any text.

        Returns:
            The number of tokens, or an upper bound; by default the number of bytes in UTF-8.
        """
        return len(text.encode("utf-8", "surrogatepass"))

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]]) -> str | None:
        """Format messages with the model's chat template, up to the start of the next turn.

        Args:
            messages: Mappings with `role` and `content`.

        Returns:
            A prompt for `Request(templated=True)`; `None`, the default, if there is no template.

        Raises:
            EngineError: The template rejects these messages.
        """
        return None


def _in_one_piece(engine: Engine, request: Request) -> Generator[str, None, Edit]:
    (made,) = as_many(engine.edit([request]), 1)
    if made.text:
        yield made.text
    return made


class _InThreads(AsyncIterator[str]):
    """The pieces of a stream, each made in a thread.

    Args:
        engine: The engine.
        request: The edit to make.
    """

    def __init__(self, engine: Engine, request: Request) -> None:
        self._begin: Callable[[], Iterator[str]] | None = lambda: engine.stream(request)
        self._deadline = request.deadline
        self._threads = threads.calls_of(engine)
        self._pieces: Iterator[str] = iter(())
        self._left = False
        # A generator can't be closed while another thread is running it.
        self._turn = processes.Lock()

    async def __anext__(self) -> str:
        try:
            step = await threads.aresult(self._threads.submit(self._next), self._deadline)
        except threads.Late:
            self._leave()
            raise too_late() from None
        except asyncio.CancelledError:
            self._leave()
            raise
        if isinstance(step, Ended):
            raise StopAsyncIteration(step.value)
        return step

    async def aclose(self) -> None:
        """Close the stream; returns once it is closed, at once if a wait was given up."""
        if self._left:
            return
        closing = threads.start(self._close, "metaaligner-close")
        # An event loop that shuts down closes all open generators together, and an await here
        # would get in the way of the generators around this one. A quick close needs no await.
        wait([closing], _QUICK)
        await threads.aresult(closing, None)

    def _leave(self) -> None:
        """Let a thread close the stream, without waiting for it.

        The piece that is being made can't be stopped, but no other one is made.
        """
        self._left = True
        threads.start(self._close, "metaaligner-close")

    def _next(self) -> str | Ended[Any]:
        with self._turn:
            begin, self._begin = self._begin, None
            try:
                if begin is not None:
                    self._pieces = iter(begin())
                return next(self._pieces)
            except StopIteration as end:
                return Ended(end.value)

    def _close(self) -> None:
        with self._turn:
            self._begin = None
            pieces, self._pieces = self._pieces, iter(())
            if (close := getattr(pieces, "close", None)) is not None:
                close()


def as_engine(engine: Any) -> Engine:
    """Turn any object that can edit into an engine.

    Args:
        engine: An `Engine`, or another object with a method `edit`. Its other attributes and
            methods are used if they have the names of an engine's; defaults replace the rest.

    Returns:
        The engine itself, or an engine that wraps the object.

    Raises:
        CheckpointError: The object has no method `edit`.
    """
    if Engine in type(engine).__mro__:
        return cast("Engine", engine)
    is_class = isinstance(engine, type)
    what = f"{engine.__name__} (a class)" if is_class else f"an object of {type(engine).__name__}"
    if isinstance(engine, type) or not callable(getattr(engine, "edit", None)):
        message = (
            f"engine= is {what}, which is not an engine: expected an object with a method"
            f" edit(requests) -> list[Edit], ideally a subclass of Engine. See {DOCS}."
        )
        raise CheckpointError(message)
    return _adapted(engine)


class _Adapted(Engine):
    """An engine that wraps an object with some of an engine's attributes and methods.

    Args:
        inner: The object.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = self.__wrapped__ = inner

    def __reduce__(self) -> tuple[Any, ...]:
        return as_engine, (self._inner,)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python looks up for itself must not come from `inner`
            raise AttributeError(name)
        return getattr(self._inner, name)

    def edit(self, requests: Sequence[Request]) -> list[Edit]:
        """Call the object's own `edit`; it is here because an abstract class requires it."""
        return cast("list[Edit]", self._inner.edit(requests))

    def warm(
        self,
        prompt: str,
        *,
        templated: bool = False,
        cancelled: threading.Event | None = None,
    ) -> None:
        """Call the object's `warm` with the arguments that it accepts; some accept no options."""
        warm = getattr(self._inner, "warm", None)
        if warm is None:
            return
        given = {"templated": templated, "cancelled": cancelled, "gone": cancelled}
        taken = inspect.signature(warm).parameters.values()
        if any(one.kind is one.VAR_KEYWORD for one in taken):
            del given["gone"]  # the name of `cancelled` in version 0.1
        else:
            given = {one.name: given[one.name] for one in taken if one.name in given}
        warm(prompt, **given)

    def __repr__(self) -> str:
        return repr(self._inner)


# What is taken from a wrapped object. `warm` is missing because `_Adapted` defines it.
_CONTRACT = {
    *(name for name in Engine.__annotations__ if not name.startswith("_")),
    *("edit", "aedit", "edit_each", "aedit_each", "stream", "astream"),
    *("load", "close", "count_tokens", "apply_chat_template"),
}


# Not read when an object is wrapped: reading them may load a model or fail.
_TOLD_BY_MODEL = {
    *("window", "family_hint", "control_tokens", "template_marks", "readings", "origin"),
    *("reports_agreement", "keeps_caution", "scores_templated"),
}


def _adapted(inner: Any) -> Engine:
    """Wrap an object in an engine that reads the object's attributes at each use.

    Which attributes it has is decided now, except for those that `load` may set. Its `window` is
    used only if it also has `count_tokens`.
    """
    names = _CONTRACT - _TOLD_BY_MODEL
    has = {name for name in names if getattr(inner, name, None) not in (None, "")}
    for name in _TOLD_BY_MODEL:
        # A static lookup, which runs no property.
        found = inspect.getattr_static(inner, name, None)
        if found is not None:
            has.add(name)
    own: dict[str, Any] = {name: property(attrgetter(f"_inner.{name}")) for name in has}
    if "load" in has or hasattr(type(inner), "__getattr__"):
        own |= {name: _read_anew(name) for name in _TOLD_BY_MODEL - has}
    if "count_tokens" not in has:
        own.pop("window", None)
    own.setdefault("name", type(inner).__name__)
    own.setdefault("prefills", hasattr(inner, "warm"))
    kind = cast("type[_Adapted]", type(_Adapted.__name__, (_Adapted,), own))
    return kind(inner)


def _read_anew(name: str) -> property:
    """Make a property that looks the attribute up each time, with the default as a fallback."""

    def read(self: _Adapted) -> Any:
        found = getattr(self._inner, name, None)
        return getattr(Engine, name) if found is None else found

    return property(read)


def as_many(edits: Sequence[T], count: int) -> Sequence[T]:
    """Check that an engine returned one item for each request.

    Args:
        edits: What it returned.
        count: The number of requests.

    Returns:
        The same sequence; its items are not checked.

    Raises:
        EngineError: It is not a sequence of that length.
    """
    made: Any = edits
    if isinstance(made, Sequence) and not isinstance(made, str | bytes) and len(made) == count:
        return made
    if inspect.iscoroutine(made):
        made.close()
        what = "a coroutine (edit must not be async; aedit is)"
    else:
        what = f"{len(made)} items" if isinstance(made, Sequence) else type(made).__name__
    message = f"The engine returned {what} for {count} requests; expected one Edit each, in order."
    raise EngineError(message)


class errors_of_ours:  # noqa: N801 - used like a function; a generator would slow every edit down
    """Lets only errors of this package through; others become `EngineError`, with their cause."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        ours = as_ours(error)
        if ours is not error:
            raise ours from error


def as_ours(error: BaseException, who: str = "The engine") -> MetaAlignerError:
    """Turn any error into an error of this package.

    Args:
        error: What an engine raised, or a function of the user.
        who: As for `failed`.

    Returns:
        The error itself if it is one of this package; else an `EngineError` that it caused.

    Raises:
        KeyboardInterrupt: The error is a `KeyboardInterrupt`.
        asyncio.CancelledError: The error is one, and the current task is being cancelled.
        BaseException: A signal handler raised the error, to end the process or a job.
    """
    if isinstance(error, MetaAlignerError):
        return error
    if is_interrupt(error):
        raise error
    # In a batch of LangChain, an error outside Exception would replace the results of all items.
    ours = failed(error, who)
    ours.__cause__ = error
    return ours


def is_interrupt(error: BaseException) -> bool:
    """Whether an error ends the caller's own work, and must not be caught.

    Args:
        error: Any error.
    """
    if isinstance(error, asyncio.CancelledError):
        return _is_being_cancelled()
    return isinstance(error, KeyboardInterrupt) or is_of_signal(error)


def failed(error: BaseException, who: str = "The engine") -> EngineError:
    """Make the error for an engine that has failed.

    Args:
        error: What it raised.
        who: Names what failed if it is not the engine, at the start of a sentence.

    Returns:
        The error to raise in its place.
    """
    return EngineError(
        f"{who} failed: {type(error).__name__}: {error}. The answer was not edited. The"
        " cause is shown above; on_error decides what happens to such answers.",
        retryable=may_pass(error),
    )


def _is_being_cancelled() -> bool:
    """Whether the current task is being cancelled; an engine may raise CancelledError too."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    return task is not None and task.cancelling() > 0


def too_late() -> EditTimeout:
    """Make the error for an edit that was or would be finished after its deadline."""
    return EditTimeout(
        "The edit was stopped because its timeout had passed. Allow more time with timeout=..., use"
        " a smaller checkpoint or a lower max_new_tokens, or choose with on_error=... what happens"
        " to the answer."
    )


def is_late(request: Request) -> bool:
    """Whether a request's deadline has passed."""
    return request.deadline is not None and time.monotonic() > request.deadline
