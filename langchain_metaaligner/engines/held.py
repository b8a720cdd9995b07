"""A checkpoint's parts, loaded when first needed and held for all engines that share them."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import torch

from langchain_metaaligner import checkpoints
from langchain_metaaligner.engines.batching import Limits, Queue
from langchain_metaaligner.engines.compiling import compile_feed_forward
from langchain_metaaligner.engines.decoding import Decoder
from langchain_metaaligner.engines.options import LoadOptions
from langchain_metaaligner.engines.passes import input_device
from langchain_metaaligner.engines.placing import warn_of_strays
from langchain_metaaligner.engines.prefixes import PrefixCache
from langchain_metaaligner.engines.prepacking import prepack
from langchain_metaaligner.engines.sources import Source, find_source
from langchain_metaaligner.engines.tokenizing import TextCodec
from langchain_metaaligner.engines.watching import Watch
from langchain_metaaligner.errors import EngineError

logger = logging.getLogger(__name__)

T = TypeVar("T")

CLOSED = (
    "This engine was closed. Ask load_engine for a new one; close() belongs at the very end of an"
    " owner's work."
)
_WORKERS = 64
_PREFIXES_ON_CPU = 128 << 20
_PREFIXES_ON_ACCELERATORS = 1 << 30


class Held:
    """A checkpoint that is being used.

    Args:
        name: A hub id, a folder, or `embedded`.
        options: How it is loaded.

    Attributes:
        name: The same name.
    """

    def __init__(self, name: str, options: LoadOptions) -> None:
        self.name = name
        self._options = options
        self._loading = threading.Lock()
        self._source: Source | None = None
        self._said: Mapping[str, Any] | None = None
        self._config: Any = None
        self._codec: TextCodec | None = None
        self._model: Any = None
        self._queue: Queue | None = None
        self._closed = False

    @property
    def config(self) -> Any:
        """The configuration, read without any weights."""
        if self._config is None:
            with self._loading:
                self._read_config()
        return self._config

    @property
    def said(self) -> Mapping[str, Any]:
        """The configuration as its file has it."""
        said = self._said
        if said is None:
            with self._loading:
                self._read_config()
                said = self._said
        return said or {}

    @property
    def codec(self) -> TextCodec:
        """The tokenizer's rules, read without any weights."""
        codec = self._codec
        if codec is None:
            with self._loading:
                codec = self._read_codec()
        return codec

    def model(self, watch: Watch | None = None) -> Any:
        """The model, which is loaded where it isn't yet.

        Args:
            watch: Ends the wait for another thread's loading.

        Returns:
            The model of transformers.
        """
        model = self._model
        if model is None:
            watch = watch or Watch()
            with watch.holding(self._loading, "the model was being loaded"):
                model = self._model
                if model is None:
                    model = _apart(self._read_model)
            watch.check("the model was being loaded")
        return model

    def queue(self, watch: Watch | None = None) -> Queue:
        """The queue of the model, which is loaded where it isn't yet.

        Args:
            watch: Ends the wait for another thread's loading.

        Returns:
            The one queue of all who share the model.
        """
        self.model(watch)
        queue = self._queue
        if queue is None:  # closed meanwhile
            raise EngineError(CLOSED)
        return queue

    @cached_property
    def workers(self) -> ThreadPoolExecutor:
        """Threads that wait for edits in place of an event loop."""
        return ThreadPoolExecutor(_WORKERS, thread_name_prefix="metaaligner")

    def close(self) -> None:
        """Let go of everything; work that is under way keeps the weights until it ends."""
        self._closed = True
        queue = self._queue
        if queue is not None:
            queue.close()
        self._model = self._queue = self._codec = self._config = self._source = None
        if "workers" in self.__dict__:
            self.workers.shutdown(wait=False)
        if torch.cuda.is_available():  # pragma: no cover
            torch.cuda.empty_cache()  # not run here: needs a GPU

    def _read_config(self) -> Source:
        if self._closed:
            raise EngineError(CLOSED)
        source = self._source
        if source is None:
            source = self._source = find_source(self.name, self._options)
        if self._config is None:
            self._said = source.said()
            self._config = source.config()
        return source

    def _read_codec(self) -> TextCodec:
        source = self._read_config()
        codec = self._codec
        if codec is None:
            codec = self._codec = TextCodec(source.tokenizer(), self.name)
        return codec

    def _read_model(self) -> Any:
        source = self._read_config()
        self._read_codec()
        if self.name == checkpoints.EMBEDDED:
            logger.warning(checkpoints.embedded_notice())
        start = time.monotonic()
        model = source.model(self._config)
        logger.info("Loaded %s in %.1f s.", self.name, time.monotonic() - start)
        warn_of_strays(self.name, model)
        model.eval()
        if self._options.torch_compile:
            compile_feed_forward(model, self._options.torch_compile)
        else:
            prepack(model, self._options.prepack_weights)
        if self._closed:  # meanwhile; nobody would free it again
            raise EngineError(CLOSED)
        self._queue = self._new_queue(model)
        self._model = model
        return model

    def _new_queue(self, model: Any) -> Queue:
        on_cpu = input_device(model).type == "cpu"
        limits = Limits(waiting=self._options.max_queue)
        if not on_cpu:  # pragma: no cover
            # not run here: needs a GPU
            limits = replace(limits, rows=128, piece=8192, prompts=8192)
        held = self._options.prefix_cache_bytes
        if held is None:
            held = _PREFIXES_ON_CPU if on_cpu else _PREFIXES_ON_ACCELERATORS
        return Queue(Decoder(model), PrefixCache(held), limits)


def _apart(work: Callable[[], T]) -> T:
    """Do something in a thread that ends with it.

    What OpenMP keeps for a thread that has multiplied anything goes with it; see `Queue`.
    """
    done: Future[T] = Future()
    inside = contextvars.copy_context()

    def run() -> None:
        try:
            done.set_result(inside.run(work))
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            done.set_exception(error)

    threading.Thread(target=run, name="metaaligner-load", daemon=True).start()
    return done.result()
