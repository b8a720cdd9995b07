"""The scheduler of a model: one thread makes the forward passes for all callers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest

from langchain_metaaligner.engines import processes
from langchain_metaaligner.engines.cancellation import Cancellation
from langchain_metaaligner.engines.local.decoder import Decoder
from langchain_metaaligner.engines.local.prefix_cache import PrefixCache
from langchain_metaaligner.engines.local.sequence import EditSequence, SequenceState
from langchain_metaaligner.engines.threads import Signal
from langchain_metaaligner.engines.waits import Wait
from langchain_metaaligner.errors import EditTimeout, EngineError, OverloadedError


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a scheduler.

    Attributes:
        sequences: How many sequences may have keys and values in memory at a time.
        chunk: How many tokens of a prompt one pass may process; longer prompts take several.
        prefill: How many prompt tokens one pass may process if they are of several prompts.
        waiting: How many sequences may wait for their first pass; beyond that, calls are refused.
        glance: Seconds between two checks whether a caller is still waiting.
        idle: Seconds without work after which the thread ends.
    """

    sequences: int = 32
    chunk: int = 2048
    prefill: int = 512
    waiting: int = 256
    glance: float = 0.05
    idle: float = 1.0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Current figures of an engine; all zero before its weights are loaded.

    Attributes:
        calls: Number of calls that are waiting for an edit or a piece of one.
        waiting: Number of their sequences that wait for their first pass.
        running: Number of their sequences with keys and values in memory.
        passes: Number of forward passes since the weights were loaded.
        prefix_bytes: Bytes of keys and values that are kept for later prompts.
        packs: Whether all sequences share each pass.
        has_thread: Whether the thread that makes the passes is alive.
    """

    calls: int = 0
    waiting: int = 0
    running: int = 0
    passes: int = 0
    prefix_bytes: int = 0
    packs: bool = False
    has_thread: bool = False


def _has_ended(sequence: EditSequence) -> bool:
    return sequence.ended


@dataclass(slots=True, eq=False)
class _Call:
    """The sequences that one caller is waiting for."""

    sequences: Sequence[EditSequence]
    cancellation: Cancellation
    done: Callable[[EditSequence], bool]
    ready: threading.Event | Signal

    @property
    def over(self) -> bool:
        """Whether nobody wants any more of it."""
        forsaken = isinstance(self.ready, Signal) and self.ready.forsaken
        return forsaken or self.cancellation.over

    def wanted(self) -> list[EditSequence]:
        """Sequences that are neither done, cancelled nor past their deadline."""
        if self.over:
            return []
        return [sequence for sequence in self.left() if not sequence.cancellation.over]

    def left(self) -> list[EditSequence]:
        return [one for one in self.sequences if not one.ended and not self.done(one)]

    def time(self) -> float | None:
        """Seconds until the next deadline; `None` if there is none."""
        limits = [one.cancellation.left() for one in self.left()]
        limits.append(self.cancellation.left())
        return min((one for one in limits if one is not None), default=None)


class Scheduler:
    """Combines the requests of all callers, threads and tasks alike, into shared passes.

    One thread makes the passes for all sequences; a new request joins at the next pass. When a
    call is cancelled or passes its deadline, only its own sequences are dropped.

    A single thread is used because OpenMP keeps helper threads for each thread that ever ran a
    model. With more helpers than cores they slow each other down: 16 edits took 1.5 times as long.
    The thread starts with the first request and ends after a second (`Limits.idle`) without work.
    A change by `torch.set_num_threads` takes effect when the thread next starts.

    Args:
        decoder: Makes the passes.
        prefixes: Keys and values of the beginnings of prompts.
        limits: The scheduler's limits.

    Attributes:
        decoder: Makes the passes.
        prefixes: Keys and values of the beginnings of prompts.
    """

    def __init__(self, decoder: Decoder, prefixes: PrefixCache, limits: Limits) -> None:
        self.decoder, self.prefixes, self._limits = decoder, prefixes, limits
        self._passes = 0
        self._closed = self._ending = False
        # Libraries hold locks during a pass, which nobody would release in a forked process.
        self._gate = processes.Gate()
        self.renew()
        processes.renew_in_children(self)

    def renew(self) -> None:
        """Start without callers and without a thread."""
        self._calls: deque[_Call] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._running: Sequence[EditSequence] = ()

    @property
    def keeps_prefixes(self) -> bool:
        """Whether prefixes are kept, so that prefilling ahead is useful."""
        return self.decoder.forward.packs and self.prefixes.limit > 0

    @property
    def stats(self) -> EngineStats:
        """Current figures."""
        with self._changed:
            states = [one.state for call in self._calls for one in call.sequences]
            begun = (SequenceState.PREFILLING, SequenceState.DECODING)
            return EngineStats(
                calls=len(self._calls),
                waiting=states.count(SequenceState.WAITING),
                running=sum(state in begun for state in states),
                passes=self._passes,
                prefix_bytes=self.prefixes.bytes,
                packs=self.decoder.forward.packs,
                has_thread=self._thread is not None and self._thread.is_alive(),
            )

    def run(
        self,
        sequences: Sequence[EditSequence],
        cancellation: Cancellation,
        done: Callable[[EditSequence], bool] = _has_ended,
    ) -> None:
        """Wait until sequences are done; a failed sequence has its error in `error`.

        Args:
            sequences: The sequences.
            cancellation: Tells whether the caller still wants the result.
            done: Tells whether a sequence is done; by default when it has ended.

        Raises:
            Cancelled: The caller no longer wants the result.
            EditTimeout: The deadline of the whole call has passed.
            OverloadedError: Too many requests are waiting already.
        """
        ready = threading.Event()
        call = self._join(_Call(sequences, cancellation, done, ready))
        try:
            while self._is_wanted(call):
                with self._changed:
                    self._wake()
                ready.wait(self._limits.glance)
        finally:
            with self._changed:
                self._drop(call)
                while any(one in self._running for one in sequences):  # a pass still uses them
                    self._changed.wait()
            for one in sequences:
                if one.state is SequenceState.FAILED:
                    one.cache = None

    async def arun(
        self,
        sequences: Sequence[EditSequence],
        cancellation: Cancellation,
        done: Callable[[EditSequence], bool] = _has_ended,
    ) -> None:
        """Wait until sequences are done, without a thread; as `run`.

        A task that is cancelled leaves at once; a pass that is running goes on to its end.
        """
        ready = Signal()
        call = self._join(_Call(sequences, cancellation, done, ready))
        try:
            while self._is_wanted(call):
                with self._changed:
                    self._wake()
                await ready.wait(call.time())
        finally:
            with self._changed:
                self._drop(call)

    def wait(
        self,
        sequences: Sequence[EditSequence],
        cancellation: Cancellation,
        done: Callable[[EditSequence], bool] = _has_ended,
    ) -> Wait[None]:
        """What `run` and `arun` wait for."""
        return Wait(
            lambda: self.run(sequences, cancellation, done),
            lambda: self.arun(sequences, cancellation, done),
        )

    def end(self) -> None:
        """Make no more passes."""
        with self._changed:
            self._ending = True
            for call in self._calls:
                call.cancellation.cancel()
            self._changed.notify_all()

    def join(self) -> None:
        """Wait for the pass that is running."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def close(self) -> None:
        """Let the thread end as soon as no caller is waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread if not self._calls else None
        # An engine may be garbage-collected in any thread, even in the scheduler's own.
        if thread is not None and thread is not threading.current_thread():
            thread.join(self._limits.glance)

    def _join(self, call: _Call) -> _Call:
        with self._changed:
            if self._ending:
                message = "The process is ending, so the answer was not edited."
                raise EngineError(message)
            self._admit()
            self._calls.append(call)
        return call

    def _drop(self, call: _Call) -> None:
        """Forget a call; called by its caller and by the thread, whoever is first."""
        with suppress(ValueError):
            self._calls.remove(call)

    def _tidy(self) -> None:
        """Wake the callers who have nothing left to wait for, and forget their calls."""
        for call in [one for one in self._calls if one.over or not one.left()]:
            call.ready.set()
            self._drop(call)

    def _admit(self) -> None:
        waiting = sum(
            one.state is SequenceState.WAITING for call in self._calls for one in call.left()
        )
        if waiting >= self._limits.waiting:
            message = (
                f"{waiting} edits are waiting for this model already, and no more are accepted."
                " Try again later, send fewer at once, or allow more with max_queue=..."
            )
            raise OverloadedError(message)

    def _is_wanted(self, call: _Call) -> bool:
        """Whether a caller still waits for a sequence; fails those whose deadline has passed."""
        left = call.left()
        if not left:
            return False
        call.cancellation.check(_doing(left))
        for sequence in left:
            try:
                sequence.cancellation.check(_doing([sequence]))
            except EditTimeout as error:
                sequence.fail(error)
        return any(not sequence.ended for sequence in left)

    def _wake(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="metaaligner-model", daemon=True)
            processes.end_with_process(self)
            thread.start()
            self._thread = thread
        self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._tidy()
                self._running = () if self._ending else self._choose()
                if not self._running:
                    if self._closed or self._ending or not self._changed.wait(self._limits.idle):
                        self._thread = None
                        return
                    continue
            try:
                with self._gate:
                    self._pass(self._running)
            finally:
                with self._changed:
                    self._running = ()
                    self._passes += 1
                    self._tidy()
                    self._changed.notify_all()

    def _pass(self, sequences: Sequence[EditSequence]) -> None:
        """Make one pass for some of the sequences."""
        try:
            for sequence in sequences:
                self._begin(sequence)
            self.decoder.step(sequences, self._limits.chunk)
        except BaseException as error:  # noqa: BLE001 - it becomes the error of its sequence
            if len(sequences) == 1:
                sequences[0].fail(error)
            for sequence in sequences:  # each gets a pass of its own, to find the one at fault
                sequence.isolated = True
        else:
            for sequence in sequences:
                sequence.isolated = False
                self._share(sequence)
                if sequence.state is SequenceState.FINISHED:
                    sequence.cache = None

    def _choose(self) -> list[EditSequence]:
        """Choose the sequences of the next pass: all that are being decoded, then prompts."""
        self._calls.rotate(-1)
        sequences = list(self._in_turn())
        alone = next((sequence for sequence in sequences if sequence.isolated), None)
        if alone is not None:
            return [alone]
        if not self.decoder.forward.packs:
            return sequences[:1]
        chosen = [one for one in sequences if one.state is SequenceState.DECODING]
        prompts = [one for one in sequences if one.state is SequenceState.PREFILLING]
        free = self._limits.sequences - len(chosen) - len(prompts)
        prompts += [one for one in sequences if one.state is SequenceState.WAITING][:free]
        taken = 0
        for sequence in prompts:
            tokens = min(sequence.unseen, self._limits.chunk)
            if taken and taken + tokens > self._limits.prefill:
                break
            chosen.append(sequence)
            taken += tokens
        return chosen

    def _in_turn(self) -> Iterator[EditSequence]:
        """Take a sequence from each caller in turn, so that large calls don't delay small ones."""
        for turn in zip_longest(*(call.wanted() for call in self._calls)):
            yield from (sequence for sequence in turn if sequence is not None)

    def _begin(self, sequence: EditSequence) -> None:
        if sequence.state is not SequenceState.WAITING:
            return
        cache = self.decoder.new_cache(sequence)
        if self.keeps_prefixes:
            cache.begin_with(self.prefixes.find(sequence.prompt[:-1]))
        sequence.begin(cache)

    def _share(self, sequence: EditSequence) -> None:
        """Keep the beginning of the prompt for other sequences, once it has been computed."""
        begun = sequence.shared < sequence.shareable <= sequence.cache.length
        if begun and self.keeps_prefixes:
            self.prefixes.add(sequence.prompt[: sequence.shareable], sequence.cache.copy)
            sequence.shared = sequence.shareable


def _doing(sequences: Sequence[EditSequence]) -> str:
    begun = any(one.state is not SequenceState.WAITING for one in sequences)
    return "the edit was being made" if begun else "another edit was being made"
