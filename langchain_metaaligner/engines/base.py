"""The contract between the aligner and whatever runs its model."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, cast

from langchain_metaaligner.engines import threads
from langchain_metaaligner.errors import (
    CheckpointError,
    EditTimeout,
    EngineError,
    MetaAlignerError,
)

FinishReason = Literal["stop", "length"]
T = TypeVar("T")

DOCS = '"Your own engine" (docs/your_own_engine.md)'
"""The page that says how to write an engine, as errors name it."""


class TokenAgreement(NamedTuple):
    """How likely the model was to write one token of the answer, after all that came before it.

    Attributes:
        start: Offset of the token's first character in the answer.
        end: Offset behind its last character. Tokens that are parts of one character have the
            same two.
        log_probability: Natural logarithm; 0 where the model was sure of it.
    """

    start: int
    end: int
    log_probability: float


@dataclass(frozen=True, slots=True)
class Request:
    """One edit to make.

    Attributes:
        prompt: The whole prompt, byte for byte; it ends where the edit begins.
        draft: The answer as it stands in the prompt: a good guess of the edit.
        max_new_tokens: Most tokens that the edit may have.
        stop: Texts at which the edit ends; they are not part of it.
        temperature: 0 decodes greedily.
        deadline: Time of `time.monotonic()` at which the work must stop with `EditTimeout`, in
            seconds; `None` for no limit.
        keep_above: Agreement from which on the draft itself is the edit, with nothing decoded:
            one pass over the whole draft decides. `None` never does. Engines that don't report
            agreement ignore it.
        token_agreement: Whether the edit should report the agreement of each of the draft's
            tokens.
        templated: The prompt was written by the model's chat template, so its control tokens
            are meant as such and no beginning-of-text token is to be added. Otherwise the
            prompt is plain text in which nothing counts as a control token.
        draft_at: Offset of the draft's first character in the prompt; `None` where it is unknown.
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


@dataclass(frozen=True, slots=True)
class Edit:
    """What an engine made of one request.

    Attributes:
        text: The edited answer, without stop text and control tokens.
        finish_reason: `stop` at an end token or a stop text, `length` where tokens ran out.
        usage: `input_tokens`, `output_tokens` and `total_tokens`, where the engine counts.
        passes: Forward passes of the model that this edit took part in.
        agreement: Mean log-probability per token (natural logarithm, 0 at most) of the draft
            under the model; `None` where the engine doesn't report it, or no pass saw all of the
            draft.
        token_agreement: The same for each token of the draft, in order, where it was asked for;
            `None` where it was not, or is not known for all of them.
    """

    text: str = field(repr=False)
    finish_reason: FinishReason = "stop"
    usage: Mapping[str, int] | None = None
    passes: int | None = None
    agreement: float | None = None
    token_agreement: tuple[TokenAgreement, ...] | None = None


class _ClassName:
    """The name of an engine's class, where the engine has no name of its own."""

    def __get__(self, engine: object, kind: type) -> str:
        return kind.__name__


class EngineLike(Protocol):
    """What is accepted as an engine, too: any object with a method `edit`."""

    def edit(self, requests: Any, /) -> Any:
        """Make all edits, in the order of the requests."""
        ...


class Engine(ABC):
    """Runs an aligner's model.

    A subclass has to write `edit`; everything else has a default that works. An object of any
    other class with an `edit` is accepted wherever an engine is asked for, too: what it lacks is
    filled in from here.

    Attributes:
        name: What records call the model; by default the class's name.
        origin: The checkpoint that the model was made from, where its files say so; else empty.
        family_hint: The prompt family that the model was trained on, where it is known.
        window: Tokens that prompt and edit share; `None` where there is no such limit.
        control_tokens: Strings that the tokenizer reads as control tokens.
        keeps_deadlines: Whether each call ends by itself at its requests' deadlines, with
            `EditTimeout`. Calls of any other engine are left alone in their thread at the deadline.
        prefills: Whether `warm` makes a later edit quicker.
        reports_agreement: Whether edits carry `agreement`.
    """

    name: str = cast("str", _ClassName())
    origin: str = ""
    family_hint: str | None = None
    window: int | None = None
    control_tokens: Iterable[str] = ()
    keeps_deadlines: bool = False
    prefills: bool = False
    reports_agreement: bool = False

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        # Objects with an `edit` of their own count as engines, see `as_engine`.
        return True if cls is Engine and callable(getattr(other, "edit", None)) else NotImplemented

    @abstractmethod
    def edit(self, requests: Sequence[Request]) -> list[Edit]:
        """Make all edits.

        Args:
            requests: What to edit.

        Returns:
            An edit for each request, in order.

        Raises:
            EngineError: The edits can't be made; any other error becomes one.
            EditTimeout: The time of one of them is up.
            OverloadedError: Too many edits wait already.
        """

    async def aedit(self, requests: Sequence[Request]) -> list[Edit]:
        """Make all edits without blocking the event loop; by default in a thread of its own.

        Args:
            requests: What to edit.

        Returns:
            An edit for each request, in order.

        Raises:
            EngineError: As for `edit`.
        """

        def work() -> list[Edit]:
            with errors_of_ours():  # a future takes no StopIteration, nor a CancelledError as such
                return self.edit(requests)

        return await asyncio.wrap_future(threads.start(work, "metaaligner-edit"))

    def edit_each(self, requests: Sequence[Request]) -> Sequence[Edit | MetaAlignerError]:
        """Make edits so that a bad one takes no other with it.

        By default all are tried together, and each alone where that fails with an `EngineError`;
        any other failure (overload, time) would only cost more of the same.

        Args:
            requests: What to edit.

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
        """Make edits without blocking the event loop; as `edit_each`."""
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
        """Make one edit and give its text out as it is made; by default in one piece.

        Args:
            request: What to edit.

        Returns:
            A generator whose pieces join to the edit's text, and which may return the whole
            `Edit`. `.close()` stops the work.
        """
        return _in_one_piece(self, request)

    def warm(
        self,
        prompt: str,
        *,
        templated: bool = False,
        cancelled: threading.Event | None = None,
    ) -> None:
        """Prefill the beginning of a prompt, so that its edit is quicker; by default nothing.

        Args:
            prompt: The beginning; what follows is not known yet.
            templated: As in a `Request`.
            cancelled: Set when nobody wants it any more.
        """
        return

    def load(self) -> None:
        """Get everything ready, so that no first request waits for it; by default nothing.

        Raises:
            CheckpointError: The model can't be found, read or used.
        """
        return

    def close(self) -> None:
        """Give up what the engine holds; by default nothing."""
        return

    def count_tokens(self, text: str) -> int:
        """Count a text's tokens as a plain prompt.

        Args:
            text: Any text.

        Returns:
            The number of tokens or more; by default the number of bytes in UTF-8.
        """
        return len(text.encode("utf-8", "surrogatepass"))

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]]) -> str | None:
        """Write messages as the model's chat template does, with the next turn opened.

        Args:
            messages: Each with `role` and `content`.

        Returns:
            A prompt for a `Request(templated=True)`; by default `None`: there is no template.

        Raises:
            EngineError: The template does not take these messages.
        """
        return None


def _in_one_piece(engine: Engine, request: Request) -> Generator[str, None, Edit]:
    (made,) = as_many(engine.edit([request]), 1)
    if made.text:
        yield made.text
    return made


def as_engine(engine: Any) -> Engine:
    """Take anything that can edit as an engine.

    Args:
        engine: An `Engine`, or an object with an `edit`. What else it has under the names of an
            engine's attributes and methods is used; the rest is filled in.

    Returns:
        The engine itself, or one around the object.

    Raises:
        CheckpointError: It can't edit.
    """
    if Engine in type(engine).__mro__:
        return cast("Engine", engine)
    what = f"{engine.__name__} (a class)" if isinstance(engine, type) else f"{engine!r:.80}"
    if isinstance(engine, type) or not callable(getattr(engine, "edit", None)):
        message = (
            f"engine={what} is no engine: expected an object with a method"
            f" edit(requests) -> list[Edit], best a subclass of Engine. See {DOCS}."
        )
        raise CheckpointError(message)
    return _adapted(engine)


class _Adapted(Engine):
    """An engine around an object that has some of what an engine has.

    Args:
        inner: The object.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __reduce__(self) -> tuple[Any, ...]:
        return as_engine, (self._inner,)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python's own questions are about this object
            raise AttributeError(name)
        return getattr(self._inner, name)

    def edit(self, requests: Sequence[Request]) -> list[Edit]:
        """The object's own; never called, but an abstract class wants one."""
        return cast("list[Edit]", self._inner.edit(requests))

    def warm(
        self,
        prompt: str,
        *,
        templated: bool = False,
        cancelled: threading.Event | None = None,
    ) -> None:
        """Prefill with what the object's method takes: some take the prompt alone."""
        warm = getattr(self._inner, "warm", None)
        if warm is None:
            return
        given = {"templated": templated, "cancelled": cancelled, "gone": cancelled}
        taken = inspect.signature(warm).parameters.values()
        if any(one.kind is one.VAR_KEYWORD for one in taken):
            del given["gone"]  # the name that it had in version 0.1
        else:
            given = {one.name: given[one.name] for one in taken if one.name in given}
        warm(prompt, **given)

    def __repr__(self) -> str:
        return repr(self._inner)


# What an object may have of an engine; `warm` is missing, since it is adapted.
_CONTRACT = {
    *(name for name in Engine.__annotations__ if not name.startswith("_")),
    *("edit", "aedit", "edit_each", "aedit_each", "stream"),
    *("load", "close", "count_tokens", "apply_chat_template"),
}


# Not asked for before the first edit: what tells it may load a model, or fail, as may an edit.
_TOLD_BY_MODEL = {"window", "family_hint", "control_tokens", "origin"}


def _adapted(inner: Any) -> Engine:
    """An engine that reads what an object has of an engine anew each time; the rest is filled in.

    What the object has is found out now; a `window` counts only beside a `count_tokens` of its own.
    """
    names = _CONTRACT - _TOLD_BY_MODEL
    has = {name for name in names if getattr(inner, name, None) not in (None, "")}
    for name in _TOLD_BY_MODEL:
        # Without running a property's code; what a `load` may set later is looked for each time.
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
    def read(self: _Adapted) -> Any:
        found = getattr(self._inner, name, None)
        return getattr(Engine, name) if found is None else found

    return property(read)


def as_many(edits: Sequence[T], count: int) -> Sequence[T]:
    """Check that an engine returned something for each request.

    Args:
        edits: What it returned.
        count: The number of requests.

    Returns:
        The same; what it consists of was not looked at.

    Raises:
        EngineError: It is no list of that length.
    """
    made: Any = edits
    if isinstance(made, Sequence) and not isinstance(made, str | bytes) and len(made) == count:
        return made
    if inspect.iscoroutine(made):
        made.close()
        what = "a coroutine (edit is no async method; aedit is)"
    else:
        what = f"{len(made)} items" if isinstance(made, Sequence) else type(made).__name__
    message = f"The engine returned {what} for {count} requests; expected as many Edits, in order."
    raise EngineError(message)


class errors_of_ours:  # noqa: N801 - used like a function, but no generator: every edit passes here
    """Lets only errors of this package out; others become `EngineError`, with their cause."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        ours = as_ours(error)
        if ours is not error:
            raise ours from error


def as_ours(error: BaseException) -> MetaAlignerError:
    """Make an error of this package of any other.

    Args:
        error: What an engine raised.

    Returns:
        The error, or one that has it as its cause.

    Raises:
        KeyboardInterrupt: It is one.
        asyncio.CancelledError: It is one, and the task that we are in is being cancelled.
    """
    if isinstance(error, MetaAlignerError):
        return error
    cancelled = isinstance(error, asyncio.CancelledError) and _is_being_cancelled()
    if cancelled or isinstance(error, KeyboardInterrupt):
        raise error
    # Anything outside Exception would take the place of every item of LangChain's batch.
    ours = failed(error)
    ours.__cause__ = error
    return ours


def failed(error: BaseException) -> EngineError:
    """Say that an engine has failed.

    Args:
        error: What it raised.

    Returns:
        The error that stands for it.
    """
    return EngineError(
        f"The engine failed: {type(error).__name__}: {error}. The answer was not edited; the"
        " cause stands above, and on_error says what becomes of such answers."
    )


def _is_being_cancelled() -> bool:
    """Whether somebody cancels the task we are in; an engine may raise the same on its own."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    return task is not None and task.cancelling() > 0


def too_late() -> EditTimeout:
    """Make the error for an edit that came, or would come, after its deadline."""
    return EditTimeout(
        "The edit was stopped because its timeout had passed. Give more time with timeout=, choose"
        " a smaller checkpoint or a lower max_new_tokens, or say with on_error= what becomes of"
        " the answer."
    )


def is_late(request: Request) -> bool:
    """Whether a request's deadline has passed."""
    return request.deadline is not None and time.monotonic() > request.deadline
