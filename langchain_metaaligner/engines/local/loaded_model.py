"""The parts of a checkpoint, loaded on first use and shared by engines."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future, wait
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from langchain_metaaligner import checkpoints
from langchain_metaaligner.engines import processes, threads
from langchain_metaaligner.engines.cancellation import Cancellation
from langchain_metaaligner.engines.local.cpu_kernels import compile_feed_forward, prepack
from langchain_metaaligner.engines.local.decoder import Decoder
from langchain_metaaligner.engines.local.forward import input_device
from langchain_metaaligner.engines.local.placement import check_devices, check_split, warn_of_strays
from langchain_metaaligner.engines.local.prefix_cache import PrefixCache
from langchain_metaaligner.engines.local.progress import LoadProgress, progress_of
from langchain_metaaligner.engines.local.repeatability import make_repeatable
from langchain_metaaligner.engines.local.scheduler import EngineStats, Limits, Scheduler
from langchain_metaaligner.engines.local.tokenizer import PromptTokenizer
from langchain_metaaligner.engines.local.weights import Source, find_source
from langchain_metaaligner.engines.waits import Body, Wait, arun, run
from langchain_metaaligner.errors import CheckpointError, EngineError
from langchain_metaaligner.options import LoadOptions

logger = logging.getLogger(__name__)

CLOSED = (
    "This engine was closed. Get a new one from load_engine, and call close() only when you no"
    " longer need the engine."
)
_LOADING = "the model was being loaded"
_GLANCE = 0.05  # seconds between two checks whether a caller is still waiting for the weights
_PREFIXES_ON_CPU = 128 << 20
_PREFIXES_ON_ACCELERATORS = 1 << 30
# While transformers loads a model it replaces functions of its own, `tie_weights` among them, and
# torch's default type, for the whole process. Two that load at once would restore each other's
# replacements, and weights would not be tied any more. A fork in between would keep them for ever.
_ONE_AT_A_TIME = processes.Gate()


class LoadedModel:
    """A checkpoint in use.

    Args:
        name: A hub id, a folder, or `embedded`.
        options: How it is loaded.
        limits: Limits of its scheduler; `None` chooses limits that suit the device.

    Attributes:
        name: The hub id, the folder, or `embedded`.
        repeatable: Whether an edit depends on its request alone; known once the weights are loaded.
    """

    def __init__(self, name: str, options: LoadOptions, limits: Limits | None = None) -> None:
        self.name = name
        self.repeatable = False
        self._options = options
        self._limits = limits
        self._reading = processes.Lock()
        self._starting = processes.Lock()
        self._source: Source | None = None
        self._config_dict: Mapping[str, Any] | None = None
        self._config: Any = None
        self._tokenizer: PromptTokenizer | None = None
        self._model: Any = None
        self._scheduler: Scheduler | None = None
        self._closed = False
        self.renew()
        processes.renew_in_children(self)

    def renew(self) -> None:
        """Forget a load that is running, whose thread does not live on in a forked process."""
        self._loading: Future[Any] | None = None

    @property
    def config(self) -> Any:
        """The configuration; reading it does not load the weights."""
        if self._config is None:
            with self._reading:
                self._read_config()
        return self._config

    @property
    def config_dict(self) -> Mapping[str, Any]:
        """The content of `config.json`."""
        said = self._config_dict
        if said is None:
            with self._reading:
                self._read_config()
                said = self._config_dict
        return said or {}

    @property
    def tokenizer(self) -> PromptTokenizer:
        """The tokenizer; reading it does not load the weights."""
        tokenizer = self._tokenizer
        if tokenizer is None:
            with self._reading:
                tokenizer = self._read_tokenizer()
        return tokenizer

    def model(self, cancellation: Cancellation | None = None) -> Any:
        """Load the model if that has not been done yet.

        Args:
            cancellation: Ends the wait for the weights, but not the load, which others may share.

        Returns:
            The transformers model.
        """
        return run(self._model_in_time(cancellation or Cancellation()))

    def scheduler(self, cancellation: Cancellation | None = None) -> Scheduler:
        """Load the model if that has not been done yet, and return its scheduler.

        Args:
            cancellation: Ends the wait for the weights, but not the load, which others may share.

        Returns:
            The scheduler that all engines with this model share.

        Raises:
            EngineError: The model was closed.
        """
        return run(self._scheduler_in_time(cancellation or Cancellation()))

    def wait(self, cancellation: Cancellation) -> Wait[Scheduler]:
        """Wait for the scheduler, in a thread or in a task; as `scheduler`.

        Args:
            cancellation: Ends the wait for the weights.

        Returns:
            The wait.
        """
        return Wait(
            lambda: run(self._scheduler_in_time(cancellation)),
            lambda: arun(self._scheduler_in_time(cancellation)),
        )

    def _scheduler_in_time(self, cancellation: Cancellation) -> Body[Scheduler]:
        if self._scheduler is None:
            yield from self._model_in_time(cancellation)
        scheduler = self._scheduler
        if scheduler is None:  # closed in the meantime
            raise EngineError(CLOSED)
        return scheduler

    def _model_in_time(self, cancellation: Cancellation) -> Body[Any]:
        model = self._model
        if model is None:
            cancellation.check(_LOADING)
            loading = self._load()
            model = yield Wait(
                partial(_now, loading, cancellation), partial(_soon, loading, cancellation)
            )
            cancellation.check(_LOADING)
        return model

    def _load(self) -> Future[Any]:
        with self._starting:
            loading = self._loading
            if loading is None or (loading.done() and self._model is None):
                # When this thread ends, OpenMP frees the helper threads that it made for it.
                loading = threads.start(self._read_model, "metaaligner-load", stops=True)
                self._loading = loading
            return loading

    @property
    def stats(self) -> EngineStats:
        """Current figures; all zero before the weights are loaded."""
        scheduler = self._scheduler
        return EngineStats() if scheduler is None else scheduler.stats

    def close(self) -> None:
        """Release everything; edits that are still running keep the weights until they end."""
        self._closed = True
        scheduler = self._scheduler
        if scheduler is not None:
            scheduler.close()
        self._model = self._scheduler = self._tokenizer = self._config = self._source = None
        self._loading = None  # it holds the model too
        if torch.cuda.is_available():  # pragma: no cover
            torch.cuda.empty_cache()  # not run here: needs a GPU

    def _read_config(self) -> Source:
        if self._closed:
            raise EngineError(CLOSED)
        source = self._source
        if source is None:
            source = self._source = find_source(self.name, self._options)
        if self._config is None:
            self._config_dict = source.config_dict()
            self._config = source.config()
        return source

    def _read_tokenizer(self) -> PromptTokenizer:
        source = self._read_config()
        tokenizer = self._tokenizer
        if tokenizer is None:
            tokenizer = self._tokenizer = PromptTokenizer(source.tokenizer(), self.name)
        return tokenizer

    def _read_model(self) -> Any:
        if self.name == checkpoints.EMBEDDED:
            logger.warning(checkpoints.embedded_notice())
        start = time.monotonic()
        progress = progress_of(self.name)
        try:
            model = self._read_with(progress)
        except BaseException:
            progress.end()
            raise
        seconds = time.monotonic() - start
        logger.info("Loaded %s in %.1f s.", self.name, seconds)
        progress.loaded(seconds)
        if self._closed:  # closed while loading: nothing would free the weights later
            raise EngineError(CLOSED)
        self._scheduler = self._new_scheduler(model)
        self._model = model
        return model

    def _read_with(self, progress: LoadProgress) -> Any:
        progress.step("reading the configuration and the tokenizer")
        with self._reading:
            source = self._read_config()
            tokenizer = self._read_tokenizer()
        if checkpoints.family_of(self.name, self._config_dict or {}) is None:
            tokenizer.check_template(self._config.get_text_config().vocab_size)
        check_devices(self.name, self._options.device_map)
        check_split(self.name, self._options)
        with _ONE_AT_A_TIME, progress.with_bars():
            model = source.model(self._config, progress)
            warn_of_strays(self.name, model)
            model.eval()
            progress.step("preparing the weights")
            if self._options.torch_compile and self._options.native_kernels:
                message = (
                    "native_kernels=True was given, but torch_compile leaves the layers to torch's"
                    " compiler. Choose one of the two."
                )
                raise CheckpointError(message)
            if self._options.torch_compile:
                compile_feed_forward(model, self._options.torch_compile)
            else:
                prepack(model, self._options.prepack_weights, self._options.native_kernels)
        return model

    def _new_scheduler(self, model: Any) -> Scheduler:
        on_cpu = input_device(model).type == "cpu"
        limits = self._limits or Limits()
        if not on_cpu and self._limits is None:  # pragma: no cover
            # not run here: needs a GPU
            limits = replace(limits, sequences=128, chunk=8192, prefill=8192)
        if self._limits is None:
            limits = replace(limits, waiting=self._options.max_queue)
        most = self._options.prefix_cache_bytes
        if most is None:
            most = _PREFIXES_ON_CPU if on_cpu else _PREFIXES_ON_ACCELERATORS
        decoder = Decoder(model)
        # Compiled kernels depend on the number of rows, and trying that would compile them all.
        if not self._options.torch_compile:
            self.repeatable = make_repeatable(self.name, decoder.forward)
        return Scheduler(decoder, PrefixCache(most), limits)


def _now(loading: Future[Any], cancellation: Cancellation) -> Any:
    while not loading.done():
        left = cancellation.left()
        wait([loading], _GLANCE if left is None else min(_GLANCE, left))
        cancellation.check(_LOADING)
    return loading.result()


async def _soon(loading: Future[Any], cancellation: Cancellation) -> Any:
    try:
        return await threads.aresult(loading, cancellation.deadline)
    except threads.Late:
        raise cancellation.too_late(_LOADING) from None
