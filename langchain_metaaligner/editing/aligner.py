"""The aligner: a conversation and an answer in, an `Alignment` out."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, overload

from langchain_metaaligner.editing.alignment import Alignment
from langchain_metaaligner.editing.objectives import Objectives
from langchain_metaaligner.editing.pending_edit import (
    SHORT,
    Item,
    Part,
    PendingEdit,
    Prepared,
    deadline_of,
    edit_all,
    is_long,
    prepare,
    prepare_all,
)
from langchain_metaaligner.editing.prompts import (
    FAMILIES,
    HH_RLHF,
    PromptFamily,
    family_of,
    find_family,
)
from langchain_metaaligner.engines import deadlines
from langchain_metaaligner.engines.base import Edit, Engine, as_engine
from langchain_metaaligner.engines.processes import Lock
from langchain_metaaligner.engines.registry import check_model, load_engine
from langchain_metaaligner.engines.waits import (
    Body,
    Ended,
    Wait,
    aadvance,
    advance,
    arun,
    at_once,
    run,
)
from langchain_metaaligner.errors import CheckpointError
from langchain_metaaligner.options import (
    AlignerOptions,
    check_names,
    given_options,
    load_options,
)
from langchain_metaaligner.pickles import reduce_at_root

if TYPE_CHECKING:
    from langchain_metaaligner.editing.aligner_arguments import AlignerArguments

T = TypeVar("T")

# Placeholder for an answer that is not known yet.
_UNKNOWN = "\N{HORIZONTAL ELLIPSIS}"


_Begun = tuple[PendingEdit | Alignment, Engine]
_Begin = Callable[[], _Begun]


class AlignmentStream:
    """The text of one edit, piece by piece, for `for` or `async for`.

    Args:
        begin: Prepares the edit and returns it with its engine; called for the first piece.
        aside: Decides in which thread `begin` is called, and how long a caller waits for it.

    Attributes:
        alignment: The record of the edit; `None` until the stream has ended without an error.
    """

    def __init__(self, begin: _Begin, aside: Callable[[_Begin], Wait[_Begun]] = at_once) -> None:
        self.alignment: Alignment | None = None
        self._body = self._run(begin, aside)
        self._pieces: deadlines.Pieces | None = None
        # A generator can't be closed while another thread is running it.
        self._turn = Lock()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        with self._turn:
            step = advance(self._body)
        if isinstance(step, Ended):
            raise StopIteration
        return step

    def close(self) -> None:
        """Stop the generation; returns once it has stopped."""
        with self._turn:
            self._body.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        step = await aadvance(self._body, self._turn)
        if isinstance(step, Ended):
            raise StopAsyncIteration
        return step

    async def aclose(self) -> None:
        """Stop the generation; returns once it has stopped."""
        if self._pieces is not None:
            await self._pieces.aclose()
        self.close()

    def _run(self, begin: _Begin, aside: Callable[[_Begin], Wait[_Begun]]) -> Body[None]:
        pending, engine = yield aside(begin)
        if isinstance(pending, Alignment):  # there is nothing to edit
            if pending.text:
                yield pending.text
            self.alignment = pending
            return
        edits: list[Edit] = []
        for part in pending.parts:
            if part.before:
                yield part.before
            self._pieces = deadlines.Pieces(engine, part.request)
            edits.append((yield from _pieces_of(part, self._pieces)))
        if pending.after:
            yield pending.after
        self.alignment = yield deadlines.in_time(
            partial(pending.finish, edits), None, is_long=lambda: len(pending.original) > SHORT
        )


def _pieces_of(part: Part, pieces: deadlines.Pieces) -> Body[Edit]:
    # White space is held back until text follows: an edit of white space alone is an error.
    blank: list[str] | None = []
    write = part.writer() if part.value is not None or part.prompt.undo else None
    with closing(pieces):
        while not isinstance(piece := (yield pieces.wait), Ended):
            if blank is not None:
                blank.append(piece)
                if not piece.strip():
                    continue
                piece, blank = "".join(blank), None
            yield piece if write is None else write(piece)
        made: Edit = piece.value
        return made


class Aligner:
    """Edits answers to meet objectives; works outside of LangChain runs.

    A context is text (used word for word), a `Context`, or messages; an answer is text or an
    `AIMessage`; objectives are names, sentences or `Objective`s.

    Args:
        model: Hub id or folder of a checkpoint; `None` uses the environment variable
            `METAALIGNER_MODEL`, or the embedded aligner if it is not set.
        **options: See `AlignerOptions` in `langchain_metaaligner.options`, and docs/options.md.

    Attributes:
        options: All options, after validation.
        model_name: The checkpoint, or the name of the engine that was given.
        prefills: Whether `warm` can make a later edit faster.

    Raises:
        CheckpointError: The family is unknown, or an option would run a checkpoint's own code.
        pydantic.ValidationError: An option is unknown or out of range.
    """

    def __init__(
        self, model: str | os.PathLike[str] | None = None, **options: Unpack[AlignerArguments]
    ) -> None:
        check_names(AlignerOptions, options, face=type(self).__name__)
        given: dict[str, Any] = {"model": model, **options}
        self.options = AlignerOptions(**given)
        self._family = None if self.options.family is None else find_family(self.options.family)
        self._lock = Lock()
        self._engine: Engine | None = None
        if self.options.engine is None:
            self.model_name = check_model(self.options.model, load_options(self.options))
            self.prefills = True
        else:
            self._engine = as_engine(self.options.engine)
            self.model_name = self._engine.name
            self.prefills = self._engine.prefills

    __reduce_ex__ = reduce_at_root

    def __getstate__(self) -> AlignerOptions:
        return self.options

    def __setstate__(self, options: AlignerOptions) -> None:
        Aligner.__init__(self, **{name: getattr(options, name) for name in given_options(options)})

    @property
    def engine(self) -> Engine:
        """The engine; reading this property does not load the weights."""
        given: Engine | None = self.options.engine
        return self._contract if given is None else given

    @property
    def _contract(self) -> Engine:
        """The engine; an object that only has an engine's methods comes wrapped."""
        engine = self._engine
        if engine is None:
            with self._lock:
                engine = self._engine
                if engine is None:
                    engine = load_engine(self.model_name, **load_options(self.options))
                    self._engine = engine
        return engine

    @property
    def family(self) -> PromptFamily:
        """The prompt family.

        Raises:
            CheckpointError: The checkpoint's family is not known, and none was given.
        """
        if self._family is None:
            engine = self._contract
            told = family_of(engine)
            if told is None and self.options.engine is None:
                msg = (
                    f"The checkpoint {engine.name!r} does not tell which prompts it was trained"
                    f" on. Give family=, one of {', '.join(repr(one.name) for one in FAMILIES)};"
                    " 'instruct' is for models with a chat template."
                )
                raise CheckpointError(msg)
            self._family = told or HH_RLHF
        return self._family

    def load(self) -> Self:
        """Load the weights now, so that the first request does not wait for them.

        Returns:
            The aligner itself.

        Raises:
            CheckpointError: The checkpoint can't be loaded or used.
        """
        self._contract.load()
        return self

    def warm(
        self,
        context: Any,
        objectives: Objectives,
        answer: str = "",
        *,
        cancelled: threading.Event | None = None,
    ) -> None:
        """Prefill the beginning of an edit's prompt, before its answer is known or complete.

        The later edit starts from what was prefilled; its text stays the same. If the engine
        can't prefill, nothing happens.

        Args:
            context: The context of the later edit.
            objectives: The objectives of the later edit.
            answer: The answer, as far as it is known.
            cancelled: Set it to cancel the prefill, which then stops within one forward pass.

        Raises:
            MetaAlignerError: As for `align`.
        """
        if not self._contract.prefills:
            return
        # A prompt can't be written without an answer; only what precedes a placeholder is used.
        pending = self._prepare(context, answer or _UNKNOWN, objectives)
        request = pending.parts[0].request if isinstance(pending, PendingEdit) else None
        if request is not None and request.draft_at:
            end = request.draft_at + (len(request.draft) if answer else 0)
            self._contract.warm(
                request.prompt[:end], templated=request.templated, cancelled=cancelled
            )

    def close(self) -> None:
        """Release the engine; the weights are freed once nothing else in the process uses them.

        An engine object that was given stays open. A later edit loads the model again.
        """
        with self._lock:
            if self.options.engine is not None:
                return
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def prompt(self, context: Any, answer: Any, objectives: Objectives) -> str:
        """The prompt that the engine would get, byte for byte.

        Args:
            context: Text, a `Context`, or messages.
            answer: Text or an `AIMessage`.
            objectives: One or more objectives.

        Returns:
            The prompt, shortened to fit the engine's window, as for an edit; empty if the answer
            has no text.

        Raises:
            MetaAlignerError: As for `align`, except for errors of the edit itself.
        """
        pending = self._prepare(context, answer, objectives)
        # An answer without text has no prompt, because it never reaches an engine.
        return pending.parts[0].request.prompt if isinstance(pending, PendingEdit) else ""

    def align(self, context: Any, answer: Any, objectives: Objectives) -> Alignment:
        """Edit one answer.

        Args:
            context: Text, a `Context`, or messages.
            answer: Text or an `AIMessage`.
            objectives: One or more objectives.

        Returns:
            The record of the edit. Its status is `edited` or `unchanged`, or `skipped` if the
            answer has no text.

        Raises:
            MissingContextError: The context is empty or missing.
            UnknownObjectiveError: An objective is unknown.
            InputTypeError: The context or the answer is of the wrong type.
            AnswerTooLongError: The answer does not fit into the window.
            CheckpointError: The checkpoint can't be loaded or used.
            EditTimeout: The edit reached its time limit.
            OverloadedError: The engine's queue is full.
            EngineError: The engine failed, or the edit was empty or ran out of tokens.
        """
        return self.align_batch([(context, answer, objectives)])[0]

    async def aalign(self, context: Any, answer: Any, objectives: Objectives) -> Alignment:
        """Edit one answer without blocking the event loop; as `align`."""
        return (await self.aalign_batch([(context, answer, objectives)]))[0]

    @overload
    def align_batch(self, items: Iterable[Item]) -> list[Alignment]: ...

    @overload
    def align_batch(
        self, items: Iterable[Item], *, return_exceptions: bool
    ) -> list[Alignment | Exception]: ...

    def align_batch(
        self, items: Iterable[Item], *, return_exceptions: bool = False
    ) -> Sequence[Alignment | Exception]:
        """Edit several answers with one call to the engine.

        Args:
            items: Triples of context, answer and objectives, each as for `align`.
            return_exceptions: Whether to return the error of a failed item in its place instead
                of raising it. The other items are edited in either case.

        Returns:
            One result for each item, in order.

        Raises:
            MetaAlignerError: The first error, as for `align`, unless `return_exceptions` is set.
        """
        made = run(self._edit_all(list(items)))
        return made if return_exceptions else _good(made)

    @overload
    async def aalign_batch(self, items: Iterable[Item]) -> list[Alignment]: ...

    @overload
    async def aalign_batch(
        self, items: Iterable[Item], *, return_exceptions: bool
    ) -> list[Alignment | Exception]: ...

    async def aalign_batch(
        self, items: Iterable[Item], *, return_exceptions: bool = False
    ) -> Sequence[Alignment | Exception]:
        """Edit several answers without blocking the event loop; as `align_batch`."""
        made = await arun(self._edit_all(list(items)))
        return made if return_exceptions else _good(made)

    def stream(self, context: Any, answer: Any, objectives: Objectives) -> AlignmentStream:
        """Edit one answer and return the edited text piece by piece, as it is generated.

        Args:
            context: Text, a `Context`, or messages.
            answer: Text or an `AIMessage`.
            objectives: One or more objectives.

        Returns:
            An iterator over the pieces. At its end, its `alignment` is the record of the edit.
            `close()` stops the generation.

        Raises:
            MetaAlignerError: As for `align`, but raised by the iterator. After the first piece,
                an error means that the text is incomplete.
        """
        item = context, answer, objectives

        def aside(work: Callable[[], T]) -> Wait[T]:
            return self._in_time(work, [item], time.monotonic())

        return AlignmentStream(lambda: (self._prepare(*item), self._contract), aside)

    def astream(self, context: Any, answer: Any, objectives: Objectives) -> AlignmentStream:
        """Edit one answer piece by piece without blocking the event loop; as `stream`.

        Returns:
            An asynchronous iterator over the pieces; `aclose()` stops the generation.
        """
        return self.stream(context, answer, objectives)

    def _prepare(
        self, context: Any, answer: Any, objectives: Objectives, *, started: float | None = None
    ) -> PendingEdit | Alignment:
        started = time.monotonic() if started is None else started
        return prepare(
            self._contract,
            self.family,
            self.options,
            context,
            answer,
            objectives,
            started=started,
        )

    def _edit_all(self, items: Sequence[Item]) -> Body[Sequence[Alignment | Exception]]:
        started = time.monotonic()  # finding engine and family takes time, too

        def prepared() -> list[Prepared]:
            return prepare_all(self._contract, self.family, self.options, items, started=started)

        try:
            ready = yield self._in_time(prepared, items, started)
            made = yield from edit_all(self._contract, ready)
        except Exception as error:  # noqa: BLE001 - with no engine or family, it is each item's own
            made = [error] * len(items)
        return made

    def _in_time(self, work: Callable[[], T], items: Iterable[Item], started: float) -> Wait[T]:
        """Wait for a preparation, which may load a tokenizer, ask an engine or read long texts."""

        def is_slow() -> bool:
            engine, family = self._engine, self._family
            if engine is None or family is None or family.chat or engine.window is not None:
                return True
            return any(is_long(item) for item in items)

        return deadlines.in_time(work, deadline_of(self.options, started), is_long=is_slow)


def _good(made: Sequence[Alignment | Exception]) -> list[Alignment]:
    good = []
    for result in made:
        if isinstance(result, Exception):
            raise result
        good.append(result)
    return good
