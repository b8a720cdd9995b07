"""Runs a GGUF file with llama.cpp in this process, through xllamacpp."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import re
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from langchain_metaaligner.engines import processes, thoughts, threads
from langchain_metaaligner.engines.completions.base import Call, Piece, Served, Transport
from langchain_metaaligner.engines.completions.gguf_model import (
    GgufModel,
    check_memory,
    describe,
    find_file,
)
from langchain_metaaligner.engines.completions.native_threads import CHANGING, NativeThreads
from langchain_metaaligner.engines.completions.server_kind import LLAMA_SERVER
from langchain_metaaligner.engines.completions.unix_http import UnixHttp
from langchain_metaaligner.errors import CheckpointError, EngineError, MetaAlignerError
from langchain_metaaligner.options import LoadOptions

T = TypeVar("T")

logger = logging.getLogger(__name__)

KIND = "llama.cpp"
"""Its name, in messages and records."""

_BATCH = 512  # tokens of a prompt between two looks at whether it is still wanted
_PREFIXES = 128 << 20
_READ = 16 << 20
_ERRORS_ONLY = 1  # llama.cpp's verbosity
_STOPPING = 20.0  # seconds that running edits have to stop when the model is closed
_MARK = "metaaligner-message"
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# What is sent with each request besides its own settings. The list of samplers alone would do, but
# a file may set defaults of its own for every one of them.
_SAMPLING: Mapping[str, Any] = {
    **LLAMA_SERVER.sampling,
    "samplers": ["temperature"],
    "top_p": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "adaptive_target": -1.0,
    "n": 1,
    "n_probs": 0,
    "cache_prompt": True,
    "stream": True,
    "stream_options": {"include_usage": True},
    # A sign of life after each batch of the prompt: only then can an edit be stopped.
    "return_progress": True,
}
# The names that templates have for thinking; each ignores those of others.
_NO_THOUGHTS = {"enable_thinking": False, "thinking": False, "reasoning": False}


class LlamaCppTransport(Transport):
    """A GGUF file in llama.cpp.

    llama.cpp brings its own server, which does the work in slots; prompts go to it by a call, not
    by a connection. Only its tokenizer and its chat template can be reached by a connection alone:
    a Unix socket in a folder that belongs to this user, with a key.

    Prompts are sent as tokens, so that nothing in them is read as a control token.

    Args:
        name: The file, or `hub_id:file.gguf`.
        options: The options; those that `TakenBy("llama.cpp")`.
    """

    def __init__(self, name: str, options: LoadOptions) -> None:
        self._name, self._options = name, options
        self._pool = threads.Pool("metaaligner-llamacpp", 64)
        self._running: set[_Run] = set()
        self._idle = threading.Condition()
        self._http: UnixHttp | None = None
        self._server: NativeThreads | None = None
        self._model: GgufModel | None = None
        self._template: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        self._ending = False

    # -- life -------------------------------------------------------------------------------

    async def open(self) -> Served:
        """Load the file; as `Transport.open`."""
        model = await self._in_thread(self._load)
        options = self._options
        return Served(
            kind=KIND,
            model=self._name,
            origin=model.title,
            family=model.family,
            window=model.window,
            chats=model.chats,
            counts=True,
            speculates=options.spec_type != "none",
            flags="Leave spec_type out: most of an edit stands in its prompt.",
            slots=model.slots,
        )

    def _load(self) -> GgufModel:
        check_installed()
        options = self._options
        started = time.monotonic()
        file = find_file(self._name, options, options.revision)
        model = describe(file, options)
        adapter = None
        if options.adapter is not None:
            adapter = find_file(options.adapter, options, options.adapter_revision)
        if not _uses_gpu(options):
            check_memory(model)
        _read_ahead(model)
        http = UnixHttp()
        processes.end_with_process(self)
        try:
            with CHANGING:
                server = _server(model, adapter, options, http)
                self._server = NativeThreads(server)
            # Freed before its loop has begun, it would wait for the loop's end for ever.
            server.handle_completions({"prompt": [0], "max_tokens": 1, "cache_prompt": False})
            del server
        except Exception as error:
            http.remove()
            message = (
                f"llama.cpp can't load {self._name}: {error} Its own messages stand in this"
                " process's error output. The file may be damaged or too new for this version, the"
                " adapter may be for another model, or memory may have run out."
            )
            raise CheckpointError(message) from error
        self._http, self._model = http, model
        logger.info("Loaded %s in %.1f s.", self._name, time.monotonic() - started)
        return model

    async def close(self) -> None:
        """Free the model, after the edits that are being made have stopped."""
        await self._in_thread(self._end)

    def end(self) -> None:
        """Stop all edits, since the process ends."""
        self._ending = True
        for run in list(self._running):
            run.stopped = True

    def join(self) -> None:
        """Wait until they have stopped, and free the model."""
        with self._idle:
            stopped = self._idle.wait_for(lambda: not self._running, _STOPPING)
        server, self._server = self._server, None
        if server is not None:
            if not stopped:
                server.keep()
            server.drop()
        if self._http is not None:
            self._http.remove()

    def _end(self) -> None:
        self.end()
        self.join()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._pool.submit(work))

    # -- tokens -----------------------------------------------------------------------------

    async def count(self, text: str) -> int:
        """Count a text's tokens; as `Transport.count`."""
        return len(await self._in_thread(lambda: self._ids(text, special=True)))

    def _ids(self, text: str, *, special: bool, control: bool = False) -> tuple[int, ...]:
        """Split a text into tokens.

        Args:
            text: The text.
            special: Whether a beginning-of-text token is added, if the model uses one.
            control: Whether control tokens in it are read as such.

        Returns:
            The ids.
        """
        body = {
            "content": _LONE_SURROGATE.sub("\ufffd", text),
            "add_special": special,
            "parse_special": control,
        }
        return tuple(self._asked("/tokenize", body)["tokens"])

    def _prompt(self, call: Call) -> tuple[int, ...]:
        if not isinstance(call.prompt, str):
            return call.prompt
        if not call.chat:
            return self._ids(call.prompt, special=True)
        if self._template is None:
            self._template = self._read_template()
        before, after = self._template
        return (*before, *self._ids(call.prompt, special=False), *after)

    def _read_template(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tokens that the chat template writes before and after a user message."""
        body = {
            "messages": [{"role": "user", "content": _MARK}],
            "chat_template_kwargs": _NO_THOUGHTS,
        }
        written = thoughts.closed(self._asked("/apply-template", body)["prompt"])
        before, found, after = written.partition(_MARK)
        if not found:
            message = f"The chat template of {self._name} leaves out the message."
            raise EngineError(message)
        return (
            self._ids(before, special=True, control=True),
            self._ids(after, special=False, control=True),
        )

    def _asked(self, path: str, body: Mapping[str, Any]) -> Any:
        http = self._http
        if http is None:
            raise EngineError(_CLOSED)
        try:
            status, reply = http.post(path, body)
        except (OSError, ValueError) as error:
            message = f"llama.cpp did not answer: {type(error).__name__}."
            raise EngineError(message, retryable=True) from error
        if status != HTTPStatus.OK:
            raise self._failed(reply)
        return reply

    # -- completions ------------------------------------------------------------------------

    async def complete(self, call: Call) -> AsyncGenerator[Piece, None]:
        """Complete a prompt; as `Transport.complete`."""
        run = _Run(asyncio.get_running_loop(), each=call.pieces)
        work = asyncio.wrap_future(self._pool.submit(lambda: self._run(call, run)))
        work.add_done_callback(lambda _: run.pieces.put_nowait(None))
        try:
            while (piece := await run.pieces.get()) is not None:
                yield piece
            await work
        finally:
            run.stopped = True
            work.cancel()
            work.add_done_callback(_seen)

    def _run(self, call: Call, run: _Run) -> None:
        """Complete a prompt in this thread, which waits for llama.cpp without Python's lock."""
        with self._idle:
            server: Any = None if self._server is None else self._server.native
            if server is None or self._ending:
                raise EngineError(_CLOSED)
            self._running.add(run)
        try:
            body = {
                **_SAMPLING,
                "prompt": list(self._prompt(call)),
                "max_tokens": call.max_tokens,
                "stop": list(call.stop),
                "temperature": call.temperature,
                "seed": call.seed,
            }
            model = self._model
            run.trims = model is not None and model.leads_with_space
            server.handle_completions(body, run.take)
        finally:
            del server
            with self._idle:
                self._running.discard(run)
                self._idle.notify_all()
        if run.failure is not None:
            raise run.failure
        if run.error is not None:
            raise self._failed(run.error)

    def _failed(self, reply: Any) -> MetaAlignerError:
        """The error for what llama.cpp said instead of an answer."""
        error = reply.get("error") if isinstance(reply, Mapping) else None
        said = error if isinstance(error, Mapping) else {}
        if said.get("type") == "exceed_context_size_error":
            message = (
                f"The prompt has {said.get('n_prompt_tokens')} tokens, but {self._name} was loaded"
                f" for {said.get('n_ctx')}. Allow more with n_ctx=..., or shorten the answer."
            )
            return EngineError(message)
        passing = int(said.get("code") or 0) >= HTTPStatus.INTERNAL_SERVER_ERROR
        message = (
            f"llama.cpp failed ({said.get('type', 'unknown error')}). The answer was not edited."
        )
        return EngineError(message, retryable=passing)


class _Run:
    """A completion that is being made.

    Args:
        loop: The event loop that reads its pieces.
        each: Whether each piece is given as it comes.

    Attributes:
        pieces: What has come; `None` is the end.
        stopped: Set when nobody wants more.
        trims: Whether a space before the first word is no part of the text.
        error: What llama.cpp said instead of an answer.
        failure: An error in reading its answer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, each: bool) -> None:
        self.pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        self.stopped = self.trims = False
        self.error: Any = None
        self.failure: Exception | None = None
        self._loop, self._each = loop, each
        self._texts: list[str] = []

    def take(self, reply: Mapping[str, Any]) -> bool:
        """Take what comes next, in llama.cpp's call.

        Args:
            reply: The next part of the answer.

        Returns:
            Whether llama.cpp has to stop.
        """
        if self.stopped:
            return True
        try:
            self._take(reply)
        except Exception as error:  # noqa: BLE001 - llama.cpp would swallow it
            self.failure = error
            return True
        return False

    def _take(self, reply: Mapping[str, Any]) -> None:
        if "error" in reply or "choices" not in reply:
            self.error = reply
            return
        for choice in reply["choices"]:
            text = choice.get("text") or ""
            if text and self.trims:
                text, self.trims = text.removeprefix(" "), False
            self._texts.append(text)
            finish = choice.get("finish_reason")
            if finish is None and not (self._each and text):
                continue
            piece = Piece(
                "".join(self._texts),
                None if finish is None else "length" if finish == "length" else "stop",
                _usage(reply),
            )
            self._texts.clear()
            self._loop.call_soon_threadsafe(self.pieces.put_nowait, piece)


def check_installed() -> None:
    """Check that llama.cpp is installed.

    Raises:
        CheckpointError: It is not.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        message = (
            "Running a GGUF file needs the package xllamacpp, which is not installed. Install it"
            ' with pip install "langchain-metaaligner[llamacpp]".'
        )
        raise CheckpointError(message)


def _server(model: GgufModel, adapter: Path | None, options: LoadOptions, http: UnixHttp) -> Any:
    """Make llama.cpp's own server. Its binding holds Python's lock until the file is loaded."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model.file)
    if adapter is not None:
        lora = xllamacpp.CommonAdapterLoraInfo()
        lora.path, lora.scale = str(adapter), 1.0
        params.lora_adapters = [lora]
    params.n_ctx, params.n_parallel = model.window * model.slots, model.slots
    params.kv_unified = False
    params.n_batch = params.n_ubatch = min(_BATCH, model.window)
    if options.n_gpu_layers is not None:
        params.n_gpu_layers = options.n_gpu_layers
    cpus = options.n_threads or len(os.sched_getaffinity(0))
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = cpus
    if model.exact:
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    kept = _PREFIXES if options.prefix_cache_bytes is None else options.prefix_cache_bytes
    params.cache_ram_mib = kept >> 20
    _draft(params.speculative, options.spec_type)
    params.warmup = False
    params.offline = True
    params.verbosity = _ERRORS_ONLY
    params.hostnames, params.api_keys = [str(http.path)], [http.key]
    params.ui = params.endpoint_slots = False
    params.n_threads_http = 2
    return xllamacpp.Server(params)


def _draft(speculative: Any, how: str) -> None:
    """Let llama.cpp draft tokens.

    By default it looks for the last 12 tokens (simple) or 24 (mod) before it drafts. An edit finds
    its way back to the answer after fewer: a copied answer of 115 tokens takes 19 passes with 12,
    8 with 4, and a text that is all new is drafted for in none of the two.
    """
    import xllamacpp

    types = xllamacpp.common_speculative_type
    if how == "ngram-simple":
        speculative.types = [types.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
        speculative.ngram_simple.size_n, speculative.ngram_simple.size_m = 4, 32
    elif how == "ngram-mod":
        speculative.types = [types.COMMON_SPECULATIVE_TYPE_NGRAM_MOD]
        mod = speculative.ngram_mod
        mod.n_match, mod.n_min, mod.n_max = 16, 8, 64
    else:
        speculative.types = [types.COMMON_SPECULATIVE_TYPE_NONE]


def _uses_gpu(options: LoadOptions) -> bool:
    """Whether layers go to a GPU, whose memory llama.cpp measures itself."""
    import xllamacpp

    if options.n_gpu_layers == 0:
        return False
    return any("CPU" not in str(one.get("name")) for one in xllamacpp.get_device_info())


def _read_ahead(model: GgufModel) -> None:
    """Read the file once, so that the disk does not hold up the whole process while it loads."""
    with model.file.open("rb", buffering=0) as file:
        while file.read(_READ):
            pass


def _usage(reply: Mapping[str, Any]) -> dict[str, int] | None:
    told = reply.get("usage")
    if not isinstance(told, Mapping):
        return None
    usage = {"input_tokens": told["prompt_tokens"], "output_tokens": told["completion_tokens"]}
    timings = reply.get("timings") or {}
    if "draft_n" in timings:
        usage["draft_tokens"] = timings["draft_n"]
        usage["accepted_draft_tokens"] = timings["draft_n_accepted"]
    return usage


def _seen(work: asyncio.Future[None]) -> None:
    """Look at an error that nobody waits for any more."""
    if not work.cancelled():
        work.exception()


_CLOSED = "The model was closed. Load it again with load_engine or a new Aligner."
