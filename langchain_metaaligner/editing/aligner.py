"""The aligner: a conversation and an answer in, an `Alignment` out."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, overload

from langchain_metaaligner.editing.alignment import Alignment
from langchain_metaaligner.editing.in_flight import aas_completed, as_completed
from langchain_metaaligner.editing.objectives import Objectives
from langchain_metaaligner.editing.pending_edit import (
    Item,
    Model,
    PendingEdit,
    caution_of,
    check_options,
    edit_all,
    prepare,
    stream_edit,
)
from langchain_metaaligner.editing.prompts import (
    FAMILIES,
    HH_RLHF,
    PromptFamily,
    family_of,
    find_family,
)
from langchain_metaaligner.engines.base import Engine, as_engine, errors_of_ours
from langchain_metaaligner.engines.processes import Lock
from langchain_metaaligner.engines.registry import check_model, load_engine
from langchain_metaaligner.engines.waits import Body, TextStream, arun, run
from langchain_metaaligner.errors import CheckpointError
from langchain_metaaligner.options import (
    AlignerOptions,
    check_names,
    given_options,
    load_options,
)
from langchain_metaaligner.pickles import reduce_at_root

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from langchain_metaaligner.editing.aligner_arguments import AlignerArguments

T = TypeVar("T")

# Placeholder for an answer that is not known yet.
_UNKNOWN = "\N{HORIZONTAL ELLIPSIS}"


class AlignmentStream(TextStream[Alignment]):
    """The text of one edit, piece by piece, for `for` or `async for`."""

    @property
    def alignment(self) -> Alignment | None:
        """The record of the edit; `None` until the stream has ended without an error."""
        return self.result


class Aligner:
    """Edits answers to meet objectives; works outside of LangChain runs.

    A context is text (used word for word), a `Context`, or messages; an answer is text or an
    `AIMessage`; objectives are names, sentences or `Objective`s.

    Args:
        model: Hub id or folder of a checkpoint, address of a server, or a LangChain chat model or
            its name; `None` uses the environment variable
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
        self,
        model: str | os.PathLike[str] | BaseChatModel | None = None,
        **options: Unpack[AlignerArguments],
    ) -> None:
        check_names(AlignerOptions, options, face=type(self).__name__)
        given: dict[str, Any] = {"model": model, **options}
        self.options = AlignerOptions(**given)
        self._family = None if self.options.family is None else find_family(self.options.family)
        self._lock = Lock()
        self._engine: Engine | None = None
        if self.options.engine is None:
            self.model_name = check_model(
                self.options.model,
                load_options(self.options),
                # Every engine can do without caution.
                set(given_options(self.options))
                - ({"caution"} if self.options.caution == 0 else set()),
            )
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
                    given = self.options.model
                    name = self.model_name if isinstance(given, str | None) else given
                    engine = load_engine(name, **load_options(self.options))
                    self._engine = engine
        return engine

    @property
    def family(self) -> PromptFamily:
        """The prompt family.

        Raises:
            CheckpointError: The checkpoint's family is not known, and none was given.
            EngineError: The engine can't tell.
        """
        if self._family is None:
            engine = self._contract
            with errors_of_ours():
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
        engine = self._contract
        engine.load()
        caution_of(self.options, engine, self.family)
        check_options(self.options, engine, self.family)
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
            MetaAlignerError: The first error, as for `align`, unless `return_exceptions` is set. A
                note on it says which item it belongs to; the edits of the others are lost.
        """
        made = run(self._edit_all(items))
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
        made = await arun(self._edit_all(items))
        return made if return_exceptions else _good(made)

    def align_as_completed(
        self, items: Iterable[Item], *, batch_size: int = 1, max_concurrency: int = 16
    ) -> Iterator[tuple[int, Alignment | Exception]]:
        """Edit any number of answers, and get each result as soon as it is there.

        Items are read as they are needed, and no more than `batch_size` times `max_concurrency`
        of them are held at a time. What fails is that item's own result.

        Args:
            items: Triples of context, answer and objectives, each as for `align`.
            batch_size: How many items go to the engine with one call; their results come together.
            max_concurrency: How many such calls are made at the same time, each in a thread.

        Returns:
            An iterator over pairs: the number of the item, from 0, and its record or its error.
            `close()` takes back what has not begun.

        Raises:
            ValueError: One of the two numbers is below 1.
        """
        _check_numbers(batch_size=batch_size, max_concurrency=max_concurrency)
        edit = partial(self.align_batch, return_exceptions=True)
        return as_completed(edit, items, batch_size=batch_size, max_concurrency=max_concurrency)

    def aalign_as_completed(
        self,
        items: Iterable[Item] | AsyncIterable[Item],
        *,
        batch_size: int = 1,
        max_concurrency: int = 16,
    ) -> AsyncIterator[tuple[int, Alignment | Exception]]:
        """Edit any number of answers without blocking the event loop; as `align_as_completed`.

        Args:
            items: As for `align_as_completed`; or an asynchronous iterable of such triples.
            batch_size: How many items go to the engine with one call.
            max_concurrency: How many such calls are made at the same time, each in a task.

        Returns:
            An asynchronous iterator over pairs; `aclose()` cancels what has not ended.

        Raises:
            ValueError: One of the two numbers is below 1.
        """
        _check_numbers(batch_size=batch_size, max_concurrency=max_concurrency)
        edit = partial(self.aalign_batch, return_exceptions=True)
        return aas_completed(edit, items, batch_size=batch_size, max_concurrency=max_concurrency)

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
        body = stream_edit(item, self.options, ready=self._ready, load=self._loaded)
        return AlignmentStream(body)

    def astream(self, context: Any, answer: Any, objectives: Objectives) -> AlignmentStream:
        """Edit one answer piece by piece without blocking the event loop; as `stream`.

        Returns:
            An asynchronous iterator over the pieces; `aclose()` stops the generation.
        """
        return self.stream(context, answer, objectives)

    def _prepare(
        self, context: Any, answer: Any, objectives: Objectives
    ) -> PendingEdit | Alignment:
        started = time.monotonic()  # finding the model takes time, too
        return prepare(
            self._contract,
            self.family,
            self.options,
            context,
            answer,
            objectives,
            started=started,
        )

    def _edit_all(self, items: Iterable[Item]) -> Body[Sequence[Alignment | Exception]]:
        return edit_all([*items], self.options, ready=self._ready, load=self._loaded)

    @property
    def _ready(self) -> Model | None:
        engine, family = self._engine, self._family
        return None if engine is None or family is None else (engine, family)

    def _loaded(self) -> Model:
        return self._contract, self.family


def _good(made: Sequence[Alignment | Exception]) -> list[Alignment]:
    good = [one for one in made if isinstance(one, Alignment)]
    if len(good) == len(made):
        return good
    number, error = next((i, one) for i, one in enumerate(made) if isinstance(one, Exception))
    if len(made) > 1:
        error.add_note(
            f"This is the error of item {number} (from 0); {len(good)} of {len(made)} items were"
            " edited. return_exceptions=True returns their edits too, with each error in the place"
            " of its item."
        )
    raise error


def _check_numbers(**given: int) -> None:
    for name, number in given.items():
        if number < 1:
            msg = f"{name} must be at least 1, not {number}."
            raise ValueError(msg)
