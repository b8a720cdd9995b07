"""The one door to an edit: a conversation and an answer in, an `Alignment` out."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Literal, Self, overload

from langchain_metaaligner.editing.alignment import Alignment
from langchain_metaaligner.editing.objectives import ObjectiveLike
from langchain_metaaligner.editing.pending_edit import Job, model_name, prepare, skipped
from langchain_metaaligner.editing.prompts import HH_RLHF, PromptFamily, find_family
from langchain_metaaligner.engines import deadlines as calling
from langchain_metaaligner.engines.base import Edit, Engine, as_engine
from langchain_metaaligner.engines.registry import load_engine
from langchain_metaaligner.errors import CheckpointError
from langchain_metaaligner.options import AlignerSettings

# Seconds that an event loop may be held up without anybody noticing.
_QUICK = 0.02

Pieces = Generator[str, None, Edit]
"""The text of an edit as the engine makes it, and the whole in the end."""


class AlignmentStream:
    """The pieces of one edit, for `for` or `async for`.

    Args:
        answer: What is edited.
        begin: Prepares the edit and begins it; called when the first piece is asked for.

    Attributes:
        alignment: The record of the edit once the pieces have ended well, else `None`.
    """

    def __init__(self, answer: Any, begin: Callable[[], tuple[Job, Pieces]]) -> None:
        self.alignment: Alignment | None = None
        self._pieces = self._run(answer, begin)
        # A generator can't be closed while another thread is inside it.
        self._turn = threading.Lock()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        with self._turn:
            return next(self._pieces)

    def close(self) -> None:
        """Stop the generation; returns when nothing runs any more."""
        with self._turn:
            self._pieces.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        try:
            piece = await asyncio.to_thread(self._next_or_none)
        except asyncio.CancelledError:
            # The step under way ends by itself; nobody may start another.
            threading.Thread(target=self.close, daemon=True).start()
            raise
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Stop the generation; returns when nothing runs any more."""
        closing = threading.Thread(target=self.close, daemon=True)
        closing.start()
        # A loop that shuts down closes all forgotten generators at once, and one that waits there
        # is in the way of those around it: where the close is quick nothing is waited for.
        closing.join(_QUICK)
        if closing.is_alive():
            await asyncio.to_thread(closing.join)

    def _next_or_none(self) -> str | None:
        return next(self, None)

    def _run(
        self, answer: Any, begin: Callable[[], tuple[Job, Pieces]]
    ) -> Generator[str, None, None]:
        if (nothing := skipped(answer)) is not None:
            self.alignment = nothing
            if nothing.text:
                yield nothing.text
            return
        job, pieces = begin()
        # Nothing goes out before there is something to read: an edit of white space alone is none.
        blank: str | None = ""
        try:
            while True:
                try:
                    piece = next(pieces)
                except StopIteration as end:
                    self.alignment = job.finish(end.value)
                    return
                if blank is not None:
                    blank += piece
                    if not blank.strip():
                        continue
                    piece, blank = blank, None
                yield job.prompt.restore(piece)
        finally:
            pieces.close()


_UNKNOWN = "\N{HORIZONTAL ELLIPSIS}"

Objectives = ObjectiveLike | Iterable[ObjectiveLike]
Item = tuple[Any, Any, Objectives]


class Aligner:
    """Edits answers towards objectives; works with no LangChain run around it.

    A context is text (used word for word), a `Context`, or messages; an answer is text or an
    `AIMessage`; objectives are names, sentences or `Objective`s.

    Args:
        model: Hub id or folder of a checkpoint; `None` is the environment variable
            `METAALIGNER_MODEL`, else the embedded aligner.
        family: The prompt family, where the checkpoint's name or config does not tell it.
        adapter: A PEFT adapter to put on the model.
        engine: An engine object to use instead of loading a model.
        max_new_tokens: Most tokens of an edit.
        temperature: 0 decodes greedily.
        timeout: Seconds after which an edit is stopped with `EditTimeout`; it counts from the
            call, waiting and loading included.
        system: `None` leaves system messages out of the context, `"first_turn"` joins them to
            the first human turn.
        keep_above: Agreement (mean log-probability of the answer's tokens under the aligner, 0 at
            most) from which on the answer stays as it is, with no decoding; engines that can't
            tell it edit as ever.
        token_agreement: Whether records tell the agreement of each token of the answer, for
            diffs; messages never carry it. The whole answer is then tried with the prompt, which
            takes a larger first pass and no pass more (one, where both are more than a pass
            holds).
        eager: Whether the context and the answer are prefilled while the policy works. `None`
            does so in streams, unless tools are bound, so that a reply may call them instead.
        **load_options: `dtype`, `device_map`, `revision`, `token`, `cache_dir`,
            `local_files_only`, `attn_implementation`, `quantization_config`, `max_memory`,
            `offload_folder`, `model_kwargs`: as transformers names them; `prefix_cache_bytes` and
            `max_queue`. Left out, `dtype` is bfloat16 where the device has instructions for it
            (AVX-512 BF16 or AMX on a CPU), else float16 on an accelerator and float32 on a CPU.
            Edits are those of plain greedy decoding, token for token, in `dtype="float32"` only.

    Raises:
        CheckpointError: The family is unknown.
        pydantic.ValidationError: An option is unknown or out of range.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        family: str | None = None,
        adapter: str | os.PathLike[str] | None = None,
        engine: Engine | None = None,
        max_new_tokens: int = 1024,
        temperature: float = 0.0,
        timeout: float | None = None,
        system: Literal["first_turn"] | None = None,
        keep_above: float | None = None,
        token_agreement: bool = False,
        eager: bool | None = None,
        **load_options: Any,
    ) -> None:
        self.settings = AlignerSettings(
            model=None if model is None else os.fspath(model),
            family=family,
            adapter=None if adapter is None else os.fspath(adapter),
            engine=engine,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            timeout=timeout,
            system=system,
            keep_above=keep_above,
            token_agreement=token_agreement,
            eager=eager,
            **load_options,
        )
        self._family = None if family is None else find_family(family)
        self._engine: Engine | None = None if engine is None else as_engine(engine)
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_settings, (type(self), self.settings)

    @property
    def engine(self) -> Engine:
        """The engine; finding it reads no weights."""
        engine = self._engine
        if engine is None:
            with self._lock:
                engine = self._engine
                if engine is None:
                    settings = self.settings
                    engine = load_engine(settings.model, **settings.load_options())
                    self._engine = engine
        return engine

    @property
    def family(self) -> PromptFamily:
        """The prompt family.

        Raises:
            CheckpointError: The checkpoint does not tell its family, and none was given.
        """
        if self._family is None:
            hint = self.engine.family_hint
            if hint is None and self.settings.engine is None:
                msg = (
                    f"The checkpoint {model_name(self.engine)!r} does not tell which prompts it"
                    " was trained on. Give family='HH-RLHF', 'UltraFeedback', 'IMHI' or 'Aligner',"
                    " or 'instruct' for a model with a chat template."
                )
                raise CheckpointError(msg)
            self._family = HH_RLHF if hint is None else find_family(hint)
        return self._family

    def load(self) -> Self:
        """Load the weights now, so that no first request waits for them.

        Returns:
            The aligner itself.

        Raises:
            CheckpointError: The checkpoint can't be had or used.
        """
        self.engine.load()
        return self

    def warm(
        self,
        context: Any,
        objectives: Objectives,
        answer: str = "",
        *,
        gone: threading.Event | None = None,
    ) -> None:
        """Prefill what an edit's prompt will begin with, before its answer is known or whole.

        The edit then takes up what it finds; it is the same with and without. Where the engine
        can't prefill, nothing happens.

        Args:
            context: The context of the edit to come.
            objectives: Its objectives.
            answer: The answer as far as it is known.
            gone: Set when nobody wants it any more; stops within one forward pass.

        Raises:
            MetaAlignerError: As for `align`.
        """
        if not self.engine.prefills:
            return
        # The prompt needs some answer to be written; where none is known it ends before that.
        job = self._prepare(context, answer or _UNKNOWN, objectives, time.monotonic())
        request = job.request
        if request.draft_at:
            end = request.draft_at + (len(request.draft) if answer else 0)
            self.engine.warm(request.prompt[:end], templated=request.templated, cancelled=gone)

    def close(self) -> None:
        """Give the engine up; the weights go when nobody else in the process uses them.

        An engine object that was given stays as it is; a later edit loads the model again.
        """
        with self._lock:
            if self.settings.engine is not None:
                return
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def prompt(self, context: Any, answer: Any, objectives: Objectives) -> str:
        """The prompt that the engine would get, byte for byte.

        Args:
            context: Text, a `Context`, or messages.
            answer: Text or an `AIMessage`.
            objectives: One or several objectives.

        Returns:
            The prompt, shortened to the engine's window as for an edit.

        Raises:
            MetaAlignerError: As for `align`, short of the edit.
        """
        return self._prepare(context, answer, objectives, time.monotonic()).request.prompt

    def align(self, context: Any, answer: Any, objectives: Objectives) -> Alignment:
        """Edit one answer.

        Args:
            context: Text, a `Context`, or messages.
            answer: Text or an `AIMessage`.
            objectives: One or several objectives.

        Returns:
            What became of the answer: `edited` or `unchanged`, or `skipped` where the answer
            holds no text.

        Raises:
            MissingContextError: There is nothing that the answer answers.
            UnknownObjectiveError: An objective is unknown.
            InputTypeError: Context or answer are of the wrong type.
            AnswerTooLongError: The answer does not fit into the window.
            CheckpointError: The checkpoint can't be had or used.
            EditTimeout: The time was up.
            EngineError: The engine failed; the edit was empty or ran out of tokens.
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
            return_exceptions: Whether an item that fails gives its error in its place instead
                of raising it; the others are edited all the same.

        Returns:
            One result for each item, in order.

        Raises:
            MetaAlignerError: As for `align`, the first one, unless `return_exceptions`.
        """
        started = time.monotonic()
        prepared = [self._prepare_safely(item, started) for item in items]
        jobs = [one for one in prepared if isinstance(one, Job)]
        edits = calling.edit(self.engine, [job.request for job in jobs]) if jobs else []
        return _results(prepared, edits, return_exceptions=return_exceptions)

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
        started = time.monotonic()
        items = list(items)

        def prepare_all() -> list[Job | Alignment | Exception]:
            return [self._prepare_safely(item, started) for item in items]

        # Counting tokens and reading a tokenizer take longer than a loop may be held up.
        blocks = self._engine is None or self._engine.window is not None
        prepared = await asyncio.to_thread(prepare_all) if blocks else prepare_all()
        jobs = [one for one in prepared if isinstance(one, Job)]
        edits = await calling.aedit(self.engine, [job.request for job in jobs]) if jobs else []
        return _results(prepared, edits, return_exceptions=return_exceptions)

    def stream(self, context: Any, answer: Any, objectives: Objectives) -> AlignmentStream:
        """Edit one answer and give the edited text piece by piece, as it is made.

        Args:
            context: Text, a `Context`, or messages.
            answer: Text or an `AIMessage`.
            objectives: One or several objectives.

        Returns:
            An iterator over the pieces; when it has ended, its `alignment` is the record.
            `close()` stops the generation.

        Raises:
            MetaAlignerError: As for `align`, from the iterator. After the first piece it means
                that the text is not whole.
        """

        def begin() -> tuple[Job, Pieces]:
            job = self._prepare(context, answer, objectives, time.monotonic())
            return job, calling.stream(self.engine, job.request)

        return AlignmentStream(answer, begin)

    def astream(self, context: Any, answer: Any, objectives: Objectives) -> AlignmentStream:
        """Edit one answer piece by piece without blocking the event loop; as `stream`.

        Returns:
            An asynchronous iterator over the pieces; `aclose()` stops the generation.
        """
        return self.stream(context, answer, objectives)

    def _prepare_safely(self, item: Item, started: float) -> Job | Alignment | Exception:
        try:
            context, answer, objectives = item
            return skipped(answer) or self._prepare(context, answer, objectives, started)
        except Exception as error:  # noqa: BLE001 - one item must not take the others with it
            return error

    def _prepare(self, context: Any, answer: Any, objectives: Objectives, started: float) -> Job:
        return prepare(
            self.engine,
            self.family,
            self.settings,
            context,
            answer,
            objectives,
            started=started,
        )


def _results(
    prepared: Sequence[Job | Alignment | Exception],
    edits: Sequence[Edit | Exception],
    *,
    return_exceptions: bool,
) -> list[Alignment | Exception]:
    made = iter(edits)
    results = [_result(one, made) for one in prepared]
    if not return_exceptions:
        for one in results:
            if isinstance(one, Exception):
                raise one
    return results


def _result(prepared: Job | Alignment | Exception, made: Any) -> Alignment | Exception:
    if not isinstance(prepared, Job):
        return prepared
    edit = next(made)
    if isinstance(edit, Exception):
        return edit
    try:
        return prepared.finish(edit)
    except Exception as error:  # noqa: BLE001 - belongs to this item alone
        return error


def _from_settings(kind: type[Aligner], settings: AlignerSettings) -> Aligner:
    return kind(**{name: getattr(settings, name) for name in AlignerSettings.model_fields})
