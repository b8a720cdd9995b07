"""The engine that lets a model elsewhere complete its prompts, over any transport."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, TypeVar

from langchain_metaaligner import checkpoints
from langchain_metaaligner.engines import threads
from langchain_metaaligner.engines.base import (
    Edit,
    Engine,
    FinishReason,
    Request,
    as_ours,
    too_late,
)
from langchain_metaaligner.engines.cancellation import Cancellation, Cancelled, EditStream
from langchain_metaaligner.engines.completions.base import Call, Prompt, Scores, Served, Transport
from langchain_metaaligner.engines.completions.departure import agreement, kept_tokens
from langchain_metaaligner.engines.completions.loop import LoopThread
from langchain_metaaligner.engines.completions.stop_texts import StopTexts
from langchain_metaaligner.engines.leases import Leases
from langchain_metaaligner.engines.waits import Body, Ended, Wait
from langchain_metaaligner.errors import (
    CheckpointError,
    EngineError,
    MetaAlignerError,
    OverloadedError,
)

T = TypeVar("T")

logger = logging.getLogger(__name__)

_SLOTS = 64  # edits that are under way together, if the transport knows no better number
_TEMPLATE = 64  # tokens that a chat template may add to a message
_COUNTED = 256  # texts whose number of tokens is remembered
_COUNTING = 60.0  # seconds that the count of a text's tokens may take
_OPENING = 600.0  # seconds that loading a model may take; connecting has its own limit
_SEEDS = 2**31
_CUT = (
    "The model's reply broke off before its end. The answer was not edited. The model may have been"
    " stopped; look at its own log."
)

CLOSED = "This engine was closed. Load the model again with load_engine or a new Aligner."
"""The message for an edit with a closed engine."""

_shared: Leases[Backend] = Leases()


class CompletionsEngine(Engine):
    """A model that is reached by a transport: behind a server, or in llama.cpp in this process.

    All engines with the same key share one transport. It is opened by `load`, by the first edit or
    by whatever asks what the model is; making an engine reaches for nothing.

    Edits are greedy unless a request has a temperature.

    Args:
        name: The model's name until the transport has told another one; without secrets.
        key: Equal keys share a transport.
        make: Makes the transport.
        max_queue: How many edits may wait.

    Attributes:
        keeps_deadlines: True: calls stop at their deadlines by themselves.
    """

    keeps_deadlines = True

    def __init__(
        self, name: str, key: Hashable, make: Callable[[], Transport], *, max_queue: int = 256
    ) -> None:
        self._name = name
        self._lease = _shared.lease(key, partial(Backend, name, make, max_queue))

    @property
    def _backend(self) -> Backend:
        if self._lease.closed:
            raise EngineError(CLOSED)
        return self._lease.value

    # -- what it is -------------------------------------------------------------------------

    @property
    def served(self) -> Served:
        """What the transport has found out; asking opens it."""
        return self._backend.served()

    @property
    def name(self) -> str:  # type: ignore[override]  # read-only
        """The model's name; before the transport is open, what was given."""
        known = self._lease.value.known
        return known.model if known is not None else self._name

    @property
    def origin(self) -> str:  # type: ignore[override]
        """Another name of the model, such as its file; empty if it has none."""
        return self.served.origin

    @property
    def window(self) -> int | None:  # type: ignore[override]
        """How many tokens the prompt and the edit may have together, if known."""
        served = self.served
        if served.window is not None:
            return served.window
        for name in (served.model, served.origin):
            if (known := checkpoints.published(name)) is not None:
                return known.window
        return None

    @property
    def family_hint(self) -> str | None:  # type: ignore[override]
        """The prompt family that the model was trained on, if its file or its name tells it.

        A model with a chat template and no such name is `instruct`.
        """
        served = self.served
        if served.family is not None:
            return served.family
        for name in (served.model, served.origin):
            if name and (family := checkpoints.family_of(name, {})) is not None:
                return family
        return "instruct" if served.chats else None

    @property
    def reports_agreement(self) -> bool:  # type: ignore[override]
        """Whether edits have an agreement: whether the model tells a prompt's log-probabilities."""
        return self.served.scores

    @property
    def keeps_caution(self) -> bool:  # type: ignore[override]
        """Whether edits leave the answer only with a margin; needs the same log-probabilities."""
        return self.served.scores

    @property
    def scores_templated(self) -> bool:  # type: ignore[override]
        """Whether the log-probabilities are known after the model's chat template, too."""
        return self.served.scores_templated

    def count_tokens(self, text: str) -> int:
        """Count the tokens that a text has as a plain prompt.

        Args:
            text: Any text.

        Returns:
            The number that the transport counts; if it can't, an estimate that is hardly ever too
            low.
        """
        return self._backend.count(text) + (_TEMPLATE if isinstance(text, _Message) else 0)

    def apply_chat_template(self, messages: Sequence[Any]) -> str:
        """Return a user message as the prompt; the model's template is put around it elsewhere.

        Args:
            messages: One mapping with `role` and `content`.

        Returns:
            The content, for `Request(templated=True)`.

        Raises:
            CheckpointError: The model has no chat template.
            EngineError: There are several messages, or one that is not the user's.
        """
        served = self.served
        if served.chats is False:
            message = (
                f"{served.model} has no chat template, so it is a base model and can't be asked"
                " with family='instruct'. Give the family that it was trained on, or use a model"
                " that follows instructions."
            )
            raise CheckpointError(message)
        if len(messages) != 1 or messages[0].get("role") != "user":
            message = "Only a single user message can be put into the model's chat template."
            raise EngineError(message)
        return _Message(messages[0]["content"])

    # -- life -------------------------------------------------------------------------------

    def load(self) -> None:
        """Open the transport now, so that the first request need not wait for it.

        Raises:
            CheckpointError: The model can't be found or used.
            EngineError: It can't be reached.
        """
        self._backend.served()

    def check_options(self, names: Sequence[str], *, templated: bool) -> None:
        """Refuse options that need log-probabilities, if the model doesn't tell them.

        Args:
            names: The options that were given.
            templated: Whether prompts are written by the model's chat template.

        Raises:
            CheckpointError: They can't be kept.
            EngineError: The model can't be reached.
        """
        served = self.served
        if not served.scores or (templated and not served.scores_templated):
            message = (
                f"{names[0]}= can't be kept by {served.model}: {served.kind} doesn't tell the"
                f" log-probabilities of a {'message' if templated else 'prompt'}'s tokens. Leave it"
                " out, or serve the model with vLLM or run it in this process."
            )
            raise CheckpointError(message)

    def close(self) -> None:
        """Release this engine's share of the transport; the last share closes it."""
        self._lease.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    # -- edits ------------------------------------------------------------------------------

    def edit(self, requests: Sequence[Request]) -> list[Edit]:
        """Make all edits together.

        Args:
            requests: The edits to make.

        Returns:
            The edits, in the order of the requests.

        Raises:
            CheckpointError: The model can't be found or used.
            EditTimeout: The earliest of the requests' deadlines has passed; all edits are lost.
            EngineError: The model can't be reached, or an edit failed.
            OverloadedError: Too many edits are waiting already.
        """
        return threads.result(self._backend.run(_all(self._backend, requests)), None)

    async def aedit(self, requests: Sequence[Request]) -> list[Edit]:
        """Make all edits without a thread for each caller; cancelling closes the connections."""
        return await asyncio.wrap_future(self._backend.run(_all(self._backend, requests)))

    def edit_each(self, requests: Sequence[Request]) -> list[Edit | MetaAlignerError]:
        """Make edits so that the failure of one does not affect the others.

        Args:
            requests: The edits to make; each request's deadline applies to that request alone.

        Returns:
            An edit or its error for each request, in order.
        """
        return threads.result(self._backend.run(_each(self._backend, requests)), None)

    async def aedit_each(self, requests: Sequence[Request]) -> list[Edit | MetaAlignerError]:
        """Make edits without a thread for each caller; like `edit_each`."""
        return await asyncio.wrap_future(self._backend.run(_each(self._backend, requests)))

    def stream(self, request: Request) -> EditStream:
        """Make one edit and yield its text as it is generated.

        Args:
            request: The edit to make.

        Returns:
            A generator, which is an asynchronous iterator too. Its pieces joined are the edit's
            text, and it returns the `Edit`. Its `close()` closes the connection; it may be called
            from any thread, even while a piece is awaited.
        """
        flow = _Flow(self._backend, request)
        return EditStream(flow.body(), flow.cancellation)

    def astream(self, request: Request) -> EditStream:
        """Make one edit and yield its text as it is generated, without a thread; as `stream`."""
        return self.stream(request)


class _Message(str):
    """A user message as a prompt: the chat template is put around it elsewhere."""

    __slots__ = ()


class Backend:
    """A transport with its event loop, which all engines with the same key share.

    Args:
        name: The model's name, for messages.
        make: Makes the transport.
        max_queue: How many edits may wait.
    """

    def __init__(self, name: str, make: Callable[[], Transport], max_queue: int) -> None:
        self.name = name
        self._make, self._max_queue = make, max_queue
        self._loop = LoopThread("metaaligner-completions", self._renew)
        self.count = lru_cache(_COUNTED)(self._count)
        self._renew()

    def _renew(self) -> None:
        # In a forked process the parent's connections must not be used, nor closed.
        self._forgotten = getattr(self, "_transport", None)
        self._transport: Transport | None = None
        self.known: Served | None = None
        self._opening: asyncio.Lock | None = None
        self._slots = asyncio.Semaphore(_SLOTS)
        self._waiting = 0
        self.count.cache_clear()

    def run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in the loop of the transport."""
        try:
            return self._loop.submit(self._unless_closed(work))
        except BaseException:
            work.close()
            raise

    async def _unless_closed(self, work: Coroutine[Any, Any, T]) -> T:
        """Say that the engine was closed if that has cancelled the work, and not its caller."""
        try:
            return await work
        except asyncio.CancelledError:
            if self._loop.stopped:
                raise EngineError(CLOSED) from None
            raise

    def served(self) -> Served:
        """What the transport is; opens it if need be."""
        return self.known or threads.result(self.run(self._open_in_time()), None)

    def close(self) -> None:
        """Close the transport and end the loop's thread."""
        transport, self._transport = self._transport, None
        self._loop.stop(None if transport is None else transport.close)

    async def opened(self) -> tuple[Transport, Served]:
        """Open the transport, once."""
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if self._transport is None or self.known is None:
                transport = self._transport or self._make()
                self._transport = transport
                served = await transport.open()
                self._slots = asyncio.Semaphore(served.slots or _SLOTS)
                self.known = served
                _say_what_is_fast(served)
            return self._transport, self.known

    async def edit(self, request: Request, emit: Callable[[str], None] | None) -> Edit:
        """Make an edit in time, as soon as a slot is free.

        Args:
            request: The edit to make.
            emit: Takes the pieces, if somebody reads them.

        Returns:
            The edit.
        """
        waits, limit = True, asyncio.timeout_at(request.deadline)
        try:
            async with limit:
                transport, served = await self.opened()
                async with self._slots:
                    self._waiting, waits = self._waiting - 1, False
                    return await _make(transport, served, request, emit)
        except TimeoutError as error:
            if limit.expired():
                raise too_late() from None
            raise as_ours(error) from None
        finally:
            self._waiting -= waits

    async def _open_in_time(self) -> Served:
        try:
            async with asyncio.timeout(_OPENING):
                return (await self.opened())[1]
        except TimeoutError:
            message = f"{self.name} was not ready after {_OPENING:.0f} s. Look at its own log."
            raise EngineError(message, retryable=True) from None

    def _count(self, text: str) -> int:
        if not self.served().counts:
            return _estimate(text)
        return threads.result(self.run(self._counted(text)), None)

    async def _counted(self, text: str) -> int:
        try:
            async with asyncio.timeout(_COUNTING):
                transport, _ = await self.opened()
                return await transport.count(text)
        except TimeoutError:
            message = f"{self.name} has not counted the tokens of a prompt in {_COUNTING:.0f} s."
            raise EngineError(message, retryable=True) from None

    def admit(self, count: int) -> None:
        """Let edits into the queue.

        Args:
            count: How many; each leaves it when it begins or ends.

        Raises:
            OverloadedError: Too many are waiting already.
        """
        if self._waiting >= self._max_queue:
            message = (
                f"{self._waiting} edits are waiting for {self.name} already, and no more are"
                " accepted. Try again later, send fewer at once, or allow more with max_queue=..."
            )
            raise OverloadedError(message)
        self._waiting += count


def _estimate(text: str) -> int:
    """Estimate the number of a text's tokens, rather too high than too low."""
    plain = len(text.encode("ascii", "ignore"))
    return plain // 3 + 2 * (len(text) - plain) + 2


async def _each(backend: Backend, requests: Sequence[Request]) -> list[Edit | MetaAlignerError]:
    backend.admit(len(requests))
    made = await asyncio.gather(
        *(backend.edit(request, None) for request in requests), return_exceptions=True
    )
    return [one if isinstance(one, Edit) else as_ours(one) for one in made]


async def _all(backend: Backend, requests: Sequence[Request]) -> list[Edit]:
    backend.admit(len(requests))
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(backend.edit(request, None)) for request in requests]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def _make(
    transport: Transport, served: Served, request: Request, emit: Callable[[str], None] | None
) -> Edit:
    """Make an edit: score the answer if that is possible, and complete what is left to write.

    A model's own greedy edit begins with the answer up to the place where another token is likelier
    by the margin. So only what comes after that place has to be written.
    """
    if not (served.completes or request.templated):
        message = (
            f"{served.model} takes no plain prompts from {served.kind}: there is no"
            " /v1/completions for it. The published families need that: serve the model with vLLM,"
            " SGLang or llama-server, or choose family='instruct' for a chat model."
        )
        raise CheckpointError(message)
    scores = None
    if request.draft and served.scores and (served.scores_templated or not request.templated):
        asked = request.keep_above is not None or request.token_agreement
        if asked or request.temperature == 0:
            scores = await transport.score(
                request.prompt, request.draft, request.deadline, chat=request.templated
            )
    if scores is None:
        return await _completed(transport, request, emit, request.prompt)
    mean = agreement(scores)
    kept = kept_tokens(scores, request.caution) if request.temperature == 0 else 0
    if mean is not None and request.keep_above is not None and mean >= request.keep_above:
        kept = None
    made = await _completed(transport, request, emit, request.prompt, scores, kept)
    tokens = scores.tokens if request.token_agreement else None
    return replace(made, agreement=mean, token_agreement=tokens)


async def _completed(
    transport: Transport,
    request: Request,
    emit: Callable[[str], None] | None,
    prompt: Prompt,
    scores: Scores | None = None,
    kept: int | None = 0,
) -> Edit:
    """Write what follows the kept tokens; `None` keeps the whole answer and writes nothing."""
    give = emit or (lambda _: None)
    stop, texts, usage = StopTexts(request.stop), [], {}
    finish: FinishReason | None = None

    def push(text: str) -> None:
        if sure := stop.push(text):
            texts.append(sure)
            give(sure)

    known = 0
    if scores is not None:
        known = len(scores.tokens) if kept is None else kept
        known = min(known, request.max_new_tokens)
        while (
            0 < known < len(scores.tokens)
            and scores.tokens[known][:2] == scores.tokens[known - 1][:2]
        ):
            known -= 1  # the two are parts of one character
        end = scores.tokens[known - 1].end if known else 0
        prompt = scores.prompts[known] if known else request.prompt
        push(request.draft[:end] if known < len(scores.tokens) else request.draft)
        usage = {"input_tokens": scores.input_tokens, "output_tokens": known}
        if kept is None and known == len(scores.tokens):
            finish = "stop"
    left = request.max_new_tokens - known
    if left <= 0:
        finish = finish or "length"
    if finish is None and not stop.found:
        call = Call(
            prompt=prompt,
            max_tokens=left,
            stop=request.stop,
            temperature=request.temperature,
            seed=random.randrange(_SEEDS) if request.temperature else 0,
            chat=request.templated and not known,
            pieces=emit is not None,
            deadline=request.deadline,
        )
        told = None
        async with aclosing(transport.complete(call)) as pieces:
            async for piece in pieces:
                push(piece.text)
                finish, told = piece.finish_reason or finish, piece.usage or told
                if stop.found:
                    break
        if finish is None and not stop.found:
            raise EngineError(_CUT, retryable=True)
        usage = _sum_of(usage, told, known)
    if not stop.found and (rest := stop.finish()):
        texts.append(rest)
        give(rest)
    return Edit(
        "".join(texts), "stop" if stop.found else finish or "stop", usage=_with_total(usage)
    )


def _sum_of(usage: Mapping[str, int], told: Mapping[str, int] | None, known: int) -> dict[str, int]:
    """The usage of a completion, with the tokens of the answer that were kept as its output."""
    if told is None:
        return {}
    return {
        **told,
        **({} if not usage else {"input_tokens": usage["input_tokens"]}),
        "output_tokens": told.get("output_tokens", 0) + known,
    }


def _with_total(usage: Mapping[str, int]) -> dict[str, int] | None:
    if not {"input_tokens", "output_tokens"} <= usage.keys():
        return None
    return {**usage, "total_tokens": usage["input_tokens"] + usage["output_tokens"]}


class _Flow:
    """The pieces of an edit on their way from the loop to whoever reads them.

    Args:
        backend: The backend that makes the edit.
        request: The edit to make.
    """

    def __init__(self, backend: Backend, request: Request) -> None:
        self._backend, self._request = backend, request
        self._lock = threading.Lock()
        self._ready: deque[str | Ended[Any]] = deque()
        self._wanted: Future[str | Ended[Any]] | None = None
        self._work: Future[None] | None = None
        self.cancellation = _Stopping(self)

    def body(self) -> Body[Edit]:
        """The body of the stream: yields pieces and what they wait for, and returns the edit."""
        self._work = self._backend.run(self._make())
        try:
            while True:
                step = yield Wait(
                    lambda: threads.result(self._next(), None),
                    lambda: threads.aresult(self._next(), None),
                )
                if isinstance(step, Ended):
                    made: Edit | BaseException = step.value
                    if isinstance(made, BaseException):
                        raise made
                    return made
                yield step
        finally:
            self.stop()

    def stop(self) -> None:
        """Stop the work, and wake whoever waits for a piece."""
        if self._work is not None:
            self._work.cancel()
        self._put(Ended(Cancelled()))

    def _next(self) -> Future[str | Ended[Any]]:
        made: Future[str | Ended[Any]] = Future()
        made.set_running_or_notify_cancel()
        with self._lock:
            if not self._ready:
                self._wanted = made
                return made
            ready = self._ready.popleft()
        made.set_result(ready)
        return made

    def _put(self, step: str | Ended[Any]) -> None:
        with self._lock:
            wanted, self._wanted = self._wanted, None
            if wanted is None:
                self._ready.append(step)
                return
        wanted.set_result(step)

    async def _make(self) -> None:
        try:
            self._backend.admit(1)
            made = await self._backend.edit(self._request, self._put)
        except BaseException as error:
            self._put(Ended(Cancelled() if isinstance(error, asyncio.CancelledError) else error))
            raise
        self._put(Ended(made))


class _Stopping(Cancellation):
    """A cancellation that ends the wait for the next piece, too.

    Args:
        flow: What is stopped.
    """

    def __init__(self, flow: _Flow) -> None:
        super().__init__()
        self._flow = flow

    def cancel(self) -> None:
        """Record that the result is no longer wanted, and stop the work."""
        super().cancel()
        self._flow.stop()


def _say_what_is_fast(served: Served) -> None:
    if served.speculates is False and served.flags:
        logger.info(
            "%s doesn't draft tokens, so edits take longer than they need to. %s",
            served.kind,
            served.flags,
        )
