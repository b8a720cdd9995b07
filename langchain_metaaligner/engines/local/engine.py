"""The engine that runs a checkpoint in this process, with torch and transformers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from langchain_metaaligner import checkpoints
from langchain_metaaligner.engines import threads
from langchain_metaaligner.engines.base import Edit, Engine, Request
from langchain_metaaligner.engines.cancellation import Cancellation, Cancelled, EditStream
from langchain_metaaligner.engines.leases import Leases
from langchain_metaaligner.engines.local.decoder import costs_for
from langchain_metaaligner.engines.local.drafting import CPU, Drafter
from langchain_metaaligner.engines.local.loaded_model import CLOSED, LoadedModel
from langchain_metaaligner.engines.local.scheduler import EngineStats, Limits, Scheduler
from langchain_metaaligner.engines.local.sequence import EditSequence
from langchain_metaaligner.engines.local.tokenizer import OutputText, PromptTokenizer
from langchain_metaaligner.engines.readings import Readings
from langchain_metaaligner.engines.waits import Body, Wait, arun, run
from langchain_metaaligner.errors import EngineError, MetaAlignerError, first_line, may_pass
from langchain_metaaligner.options import load_key, normal_name, parse_load_options

_UNSURE = 4  # tokens at the end of a growing text that may change when more text follows
_TOKENISING = "its text was being tokenised"
_SHORT = 2048  # characters that are tokenised sooner than a thread would begin with them


_shared: Leases[LoadedModel] = Leases()


class LocalEngine(Engine):
    """A checkpoint in transformers' format, run in this process.

    All engines with the same model and settings share the weights and one scheduler, which batches
    their edits into common forward passes. The weights are freed when every engine that shares
    them has been closed or dropped. After `close()` an engine raises `EngineError`.

    On Linux, the C library may return large buffers to the system after each pass and request
    them again, page by page. If `perf` or `ps` shows much time in the kernel, run the process with
    `LD_PRELOAD=libjemalloc.so.2`. A process can't change its own allocator.

    Edits are greedy unless a request has a temperature. Of the checkpoint's generation settings,
    only the end tokens are used.

    Args:
        model: A hub id, a folder, or `embedded`.
        limits: Limits of the scheduler; by default they suit the device.
        **options: See `LoadOptions`.

    Attributes:
        keeps_deadlines: True: an edit stops within one forward pass after its deadline.

    Raises:
        CheckpointError: An option would run code that comes with a checkpoint.
        TypeError: An option is unknown.
    """

    keeps_deadlines = True
    prefills = True
    reports_agreement = True
    keeps_caution = True

    def __init__(self, model: str, *, limits: Limits | None = None, **options: Any) -> None:
        parsed = parse_load_options(options)
        name = normal_name(model)
        key = name, load_key(parsed), limits
        self._lease = _shared.lease(key, lambda: LoadedModel(name, parsed, limits))

    @property
    def _loaded(self) -> LoadedModel:
        if self._lease.closed:
            raise EngineError(CLOSED)
        return self._lease.value

    # -- what it is -------------------------------------------------------------------------

    @property
    def name(self) -> str:  # type: ignore[override]  # read-only
        """The checkpoint: its hub id or folder, or `embedded`."""
        return self._lease.value.name

    @property
    def config(self) -> Any:
        """The model's configuration; reading it does not load the weights."""
        return self._loaded.config

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; reading it does not load the weights."""
        return self.prompt_tokenizer.tokenizer

    @property
    def prompt_tokenizer(self) -> PromptTokenizer:
        """The converter between prompts, tokens and edits; reading it does not load the weights."""
        return self._loaded.tokenizer

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler that all engines with this model share; reading it loads the weights."""
        return self._loaded.scheduler()

    @property
    def stats(self) -> EngineStats:
        """Current figures, for all engines that share the model."""
        return self._loaded.stats

    @property
    def model(self) -> Any:
        """The transformers model; reading it loads the weights."""
        return self._loaded.model()

    @property
    def repeatable(self) -> bool:
        """Whether an edit depends on its request alone; reading it loads the weights.

        If so, it is the same token by token whatever else the model is doing, which beginnings of
        prompts are kept, and whatever was drafted. It depends on the kernels of this processor.
        """
        loaded = self._loaded
        loaded.model()
        return loaded.repeatable

    @property
    def window(self) -> int:  # type: ignore[override]
        """How many tokens the prompt and the edit may have together."""
        told = checkpoints.window_of(self.config)
        if told is not None:
            return told
        known = checkpoints.published(self.name)
        return known.window if known else 2048

    @property
    def family_hint(self) -> str | None:  # type: ignore[override]
        """The prompt family that the checkpoint was trained on, if known.

        A hub id may be enough, with nothing read or downloaded. For a folder, the configuration
        takes precedence over the name. Otherwise, a checkpoint with a chat template is `instruct`.
        The weights are not loaded.
        """
        by_name = checkpoints.family_of(self.name, {})
        if by_name and not Path(self.name).is_dir():
            return by_name
        family = checkpoints.family_of(self.name, self._loaded.config_dict)
        if family is None and self.tokenizer.chat_template:
            return "instruct"
        return family

    @property
    def control_tokens(self) -> tuple[str, ...]:  # type: ignore[override]
        """Strings that the tokenizer reads as control tokens."""
        return self.prompt_tokenizer.control_tokens

    @property
    def template_marks(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the chat template writes between messages in plain text."""
        return self.prompt_tokenizer.template_marks

    @property
    def readings(self) -> Readings:  # type: ignore[override]
        """What the tokenizer reads each character as."""
        return self.prompt_tokenizer.readings

    @property
    def origin(self) -> str:  # type: ignore[override]
        """The checkpoint that it was made from, if its configuration says so; else empty."""
        found = self._loaded.config_dict.get("_name_or_path")
        return found if isinstance(found, str) else ""

    def count_tokens(self, text: str) -> int:
        """Count the tokens that a text has as a plain prompt, including a beginning-of-text token.

        Args:
            text: Any text.

        Returns:
            The number of tokens.
        """
        return self.prompt_tokenizer.count(text)

    def apply_chat_template(self, messages: Sequence[Any]) -> str:
        """Format messages with the checkpoint's chat template, up to the start of the next turn.

        Args:
            messages: Dicts with `role` and `content`.

        Returns:
            A prompt for `Request(templated=True)`.

        Raises:
            EngineError: There is no template, or it rejects these messages.
        """
        return self.prompt_tokenizer.chat(messages)

    # -- life -------------------------------------------------------------------------------

    def load(self) -> None:
        """Load the weights now, so that the first request need not wait for them.

        Raises:
            CheckpointError: They can't be loaded.
        """
        self._loaded.model()

    def close(self) -> None:
        """Release this engine's share of the weights; the last share frees them.

        Closing an engine again has no effect.
        """
        self._lease.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LocalEngine({self.name!r})"

    # -- edits ------------------------------------------------------------------------------

    def edit(self, requests: Sequence[Request]) -> list[Edit]:
        """Make all edits, in the same forward passes as those of other callers.

        Args:
            requests: The edits to make.

        Returns:
            The edits, in the order of the requests.

        Raises:
            CheckpointError: The weights can't be loaded.
            EditTimeout: The earliest of the requests' deadlines has passed; all edits are lost.
            EngineError: A prompt doesn't fit into the window, or the model failed.
            OverloadedError: Too many edits are waiting already.
        """
        return _all(run(self._each(requests, Cancellation(requests))))

    async def aedit(self, requests: Sequence[Request]) -> list[Edit]:
        """Make all edits without a thread for each caller.

        Cancelling stops the model within one forward pass.

        Args:
            requests: The edits to make.

        Returns:
            The edits, in the order of the requests.

        Raises:
            CheckpointError: The weights can't be loaded.
            EditTimeout: The earliest of the requests' deadlines has passed; all edits are lost.
            EngineError: A prompt doesn't fit into the window, or the model failed.
            OverloadedError: Too many edits are waiting already.
        """
        return _all(await arun(self._each(requests, Cancellation(requests))))

    def edit_each(self, requests: Sequence[Request]) -> list[Edit | MetaAlignerError]:
        """Make edits so that the failure of one does not affect the others.

        Args:
            requests: The edits to make; each request's deadline applies to that request alone.

        Returns:
            An edit or its error for each request, in order.

        Raises:
            CheckpointError: The weights can't be loaded.
            OverloadedError: Too many edits are waiting already.
        """
        return run(self._each(requests, Cancellation.longest(requests)))

    async def aedit_each(self, requests: Sequence[Request]) -> list[Edit | MetaAlignerError]:
        """Make edits without a thread for each caller; like `edit_each`."""
        return await arun(self._each(requests, Cancellation.longest(requests)))

    def stream(self, request: Request) -> EditStream:
        """Make one edit and yield its text as it is generated.

        The model works on this edit only while a piece is requested. So the work pauses when the
        consumer stops reading, and other edits proceed between two pieces.

        Args:
            request: The edit to make.

        Returns:
            A generator, which is an asynchronous iterator too. Its pieces joined are the edit's
            text, and it returns the `Edit`. Its `close()` may be called from any thread, even while
            a piece is being made.
        """
        cancellation = Cancellation([request])
        return EditStream(self._stream(request, cancellation), cancellation)

    def astream(self, request: Request) -> EditStream:
        """Make one edit and yield its text as it is generated, without a thread; as `stream`."""
        return self.stream(request)

    def warm(
        self,
        prompt: str,
        *,
        templated: bool = False,
        cancelled: threading.Event | None = None,
    ) -> None:
        """Prefill the beginning of a prompt, so that its edit starts sooner.

        Args:
            prompt: The beginning of the prompt. Its last tokens are left out, because the text
                that follows may change them.
            templated: As in `Request`.
            cancelled: An event that is set when the result is no longer wanted.

        Raises:
            Cancelled: The result is no longer wanted.
            CheckpointError: The weights can't be loaded.
            EngineError: The model failed.
            OverloadedError: Too many edits are waiting already.
        """
        cancellation = Cancellation(cancelled=cancelled)
        loaded = self._loaded
        with _as_engine_errors(loaded.name):
            scheduler = loaded.scheduler(cancellation)
            tokens = loaded.tokenizer.encode(prompt, templated=templated)[:-_UNSURE]
            if not scheduler.keeps_prefixes or not 0 < len(tokens) < self.window:
                return
            sequence = EditSequence.of_prefix(
                tokens, OutputText(loaded.tokenizer, ()), Drafter((), CPU, 0)
            )
            scheduler.run([sequence], cancellation)
            if sequence.error is not None:
                raise sequence.error

    def _each(
        self, requests: Sequence[Request], cancellation: Cancellation
    ) -> Body[list[Edit | MetaAlignerError]]:
        if not requests:
            return []
        loaded = self._loaded
        cancellation.check("it was waiting to start")
        with _as_engine_errors(loaded.name):
            scheduler = yield loaded.wait(cancellation)
            made = yield self._sequences(requests, cancellation)
            yield scheduler.wait(
                [sequence for sequence in made if isinstance(sequence, EditSequence)], cancellation
            )
        return [_edit_or_error(loaded.name, sequence) for sequence in made]

    def _stream(self, request: Request, cancellation: Cancellation) -> Body[Edit]:
        loaded = self._loaded
        cancellation.check("it was waiting to start")
        with _as_engine_errors(loaded.name):
            scheduler = yield loaded.wait(cancellation)
            (made,) = yield self._sequences([request], cancellation)
            if isinstance(made, MetaAlignerError):
                raise made
            sequence: EditSequence = made
            while not sequence.ended:
                yield scheduler.wait([sequence], cancellation, _has_piece)
                if sequence.error is not None:
                    raise sequence.error
                piece, sequence.piece = sequence.piece, ""
                if piece:
                    yield piece
            return sequence.edit()

    def _sequences(
        self, requests: Sequence[Request], cancellation: Cancellation
    ) -> Wait[list[EditSequence | MetaAlignerError]]:
        def make() -> list[EditSequence | MetaAlignerError]:
            return [self._sequence_or_error(request) for request in requests]

        async def make_soon() -> list[EditSequence | MetaAlignerError]:
            if sum(len(request.prompt) for request in requests) <= _SHORT:
                return make()
            try:
                making = threads.PREPARATION.submit(make)
                return await threads.aresult(making, cancellation.deadline)
            except threads.Late:
                raise cancellation.too_late(_TOKENISING) from None

        return Wait(make, make_soon)

    def _sequence_or_error(self, request: Request) -> EditSequence | MetaAlignerError:
        try:
            return self._sequence(request)
        except MetaAlignerError as error:
            return error

    def _sequence(self, request: Request) -> EditSequence:
        loaded, model = self._loaded, self._loaded.model()
        tokenizer, draft = loaded.tokenizer, request.draft
        prompt = tokenizer.encode(request.prompt, templated=request.templated)
        spellings = tokenizer.spellings(draft) if draft else []
        own = getattr(model, "generation_config", None)
        whole = request.keep_above is not None or request.token_agreement
        stop = (*request.stop, *tokenizer.end_texts) if request.templated else request.stop
        sequence = EditSequence.of_request(
            request,
            prompt,
            OutputText(tokenizer, stop, draft, spellings),
            Drafter(spellings, costs_for(model), len(prompt), whole=whole, context=prompt),
            window=self.window,
            ends=tokenizer.end_ids(
                getattr(self.config, "eos_token_id", None), getattr(own, "eos_token_id", None)
            ),
        )
        draft_at = request.draft_at
        if draft_at is None and draft:  # a request that the aligner did not make
            # Searched from behind; `rfind` itself can take the product of both lengths.
            behind = request.prompt[::-1].find(draft[::-1])
            draft_at = 0 if behind < 0 else len(request.prompt) - behind - len(draft)
        if draft_at:  # later prompts may begin with the same text, up to the answer
            sequence.shareable = tokenizer.tokens_before(
                request.prompt, draft_at, templated=request.templated
            )
        return sequence


def _has_piece(sequence: EditSequence) -> bool:
    return bool(sequence.piece)


def _all(made: Sequence[Edit | MetaAlignerError]) -> list[Edit]:
    for one in made:
        if isinstance(one, MetaAlignerError):
            raise one
    return [one for one in made if isinstance(one, Edit)]


def _edit_or_error(name: str, sequence: EditSequence | MetaAlignerError) -> Edit | MetaAlignerError:
    if isinstance(sequence, MetaAlignerError):
        return sequence
    if sequence.error is None:
        return sequence.edit()
    try:
        with _as_engine_errors(name):
            raise sequence.error
    except MetaAlignerError as error:
        return error


@contextmanager
def _as_engine_errors(name: str) -> Iterator[None]:
    """Turn errors of other packages into `EngineError`, with advice if memory ran out."""
    try:
        yield
    except (MetaAlignerError, Cancelled):
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise EngineError(_out_of_memory(name, error), retryable=True) from error
    except Exception as error:
        if "alloc" in str(error) and "memory" in str(error):  # torch's CPU allocator
            raise EngineError(_out_of_memory(name, error), retryable=True) from error
        message = f"The model {name} failed: {type(error).__name__}: {error}"
        raise EngineError(message, retryable=may_pass(error)) from error


def _out_of_memory(name: str, error: BaseException) -> str:
    return (
        f"Memory ran out while {name} was editing: {first_line(error)} Edit fewer or shorter"
        " replies at once, lower max_new_tokens, or load the weights in a smaller format with"
        " dtype='bfloat16' or quantization_config=..."
    )
