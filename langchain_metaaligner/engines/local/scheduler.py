"""The queue of a model: one thread makes passes for all who wait for an edit."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from langchain_metaaligner.engines.cancellation import Watch
from langchain_metaaligner.engines.local.decoder import Decoder, Row
from langchain_metaaligner.engines.local.prefix_cache import PrefixCache
from langchain_metaaligner.errors import EditTimeout, OverloadedError

_GLANCE = 0.05  # seconds between two looks at whether a caller who waits has gone
_IDLE = 1.0  # seconds without work after which the thread ends


@dataclass(frozen=True, slots=True)
class Limits:
    """What one queue takes on.

    Attributes:
        rows: Most rows that keep keys and values at a time.
        piece: Most tokens of a prompt in one pass; a longer one takes several.
        prompts: Tokens up to which a pass takes on more than one prompt.
        waiting: Rows waiting for their first pass at which further callers are turned away.
    """

    rows: int = 32
    piece: int = 2048
    prompts: int = 512
    waiting: int = 256


@dataclass(slots=True, eq=False)
class _Call:
    """The rows of one caller, who waits for them."""

    rows: Sequence[Row]
    watch: Watch
    done: Callable[[Row], bool]
    ready: threading.Event = field(default_factory=threading.Event)

    def going(self) -> list[Row]:
        """The rows that are still wanted, even if the caller has not found out yet."""
        if self.watch.over:
            return []
        return [row for row in self.left() if not row.watch.over]

    def left(self) -> list[Row]:
        return [row for row in self.rows if row.error is None and not self.done(row)]


class Queue:
    """Gathers the requests of all callers, threads and tasks alike, into shared passes.

    One thread makes the passes for everybody's rows; a request that arrives joins at the next one.
    A caller who has gone, or whose time is up, takes only its own rows along.

    The thread is there because OpenMP keeps helpers for each thread that ever ran a model, and
    with more of them than cores all wait for each other the slow way: 16 edits took 1.5 times as
    long. It starts with the first request and ends when there is nothing to do for a second; what
    `torch.set_num_threads` says counts for it from its next start on.

    Args:
        decoder: Makes the passes.
        prefixes: Keys and values of prompts' beginnings.
        limits: What is taken on.
    """

    def __init__(self, decoder: Decoder, prefixes: PrefixCache, limits: Limits) -> None:
        self._decoder, self._prefixes, self._limits = decoder, prefixes, limits
        self._calls: deque[_Call] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._running: Sequence[Row] = ()
        self._closed = False

    @property
    def keeps_prefixes(self) -> bool:
        """Whether it is any use to prefill ahead."""
        return self._decoder.passes.packs and self._prefixes.limit > 0

    def run(
        self,
        rows: Sequence[Row],
        watch: Watch,
        done: Callable[[Row], bool] = lambda row: row.finish is not None,
    ) -> None:
        """Wait until rows are done; what went wrong with one is its `error`.

        Args:
            rows: The rows.
            watch: Says whether the caller is still there.
            done: When a row is done, if not at its end.

        Raises:
            Cancelled: The caller has gone.
            OverloadedError: Too many requests wait already.
        """
        call = _Call(rows, watch, done)
        with self._changed:
            self._admit()
            self._calls.append(call)
        try:
            while self._wanted(call, watch):
                with self._changed:
                    self._wake()
                call.ready.wait(_GLANCE)
        finally:
            with self._changed:
                self._calls.remove(call)
                while any(row in self._running for row in rows):  # they are being worked on
                    self._changed.wait()
            for row in rows:
                if row.error is not None:
                    row.cache = None

    def close(self) -> None:
        """Let the thread end as soon as nobody waits for anything."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread if not self._calls else None
        # Whoever forgets an engine may be any thread, this one too.
        if thread is not None and thread is not threading.current_thread():
            thread.join(_GLANCE)

    def _admit(self) -> None:
        waiting = sum(row.cache is None for call in self._calls for row in call.left())
        if waiting >= self._limits.waiting:
            message = (
                f"{waiting} edits wait for this model already, and no more are taken on. Try"
                " again in a while, send fewer at once, or allow more with max_queue=..."
            )
            raise OverloadedError(message)

    def _wanted(self, call: _Call, watch: Watch) -> bool:
        """Whether the caller still waits for any row; rows whose time is up are given up."""
        left = call.left()
        if not left:
            return False
        watch.check(_doing(left))
        for row in left:
            try:
                row.watch.check(_doing([row]))
            except EditTimeout as error:
                row.error = error
        return any(row.error is None for row in left)

    def _wake(self) -> None:
        if self._thread is None or not self._thread.is_alive():  # none is, behind a fork
            self._thread = threading.Thread(
                target=self._work, name="metaaligner-model", daemon=True
            )
            self._thread.start()
        self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._running = self._choose()
                if not self._running:
                    if self._closed or not self._changed.wait(_IDLE):
                        self._thread = None
                        return
                    continue
            try:
                self._pass(self._running)
            finally:
                with self._changed:
                    self._running = ()
                    for call in self._calls:
                        if not call.left():
                            call.ready.set()
                    self._changed.notify_all()

    def _pass(self, rows: Sequence[Row]) -> None:
        """Make one pass for some of the rows that are waited for."""
        try:
            for row in rows:
                self._begin(row)
            self._decoder.step(rows, self._limits.piece)
        except BaseException as error:  # noqa: BLE001 - belongs to the row that caused it
            if len(rows) == 1:
                rows[0].error = error
            for row in rows:  # which of them was it? Each goes by itself next time.
                row.suspect = True
        else:
            for row in rows:
                row.suspect = False
                self._share(row)
                if row.finish is not None:
                    row.cache = None

    def _choose(self) -> list[Row]:
        """The rows of the next pass: all that are being decoded, and prompts in turn."""
        self._calls.rotate(-1)
        rows = [row for row in self._in_turn() if row.finish is None]
        alone = next((row for row in rows if row.suspect), None)
        if alone is not None:
            return [alone]
        if not self._decoder.passes.packs:
            return rows[:1]
        begun = [row for row in rows if row.cache is not None]
        chosen = [row for row in begun if row.waiting == 1]
        prompts = [row for row in begun if row.waiting > 1]
        prompts += [row for row in rows if row.cache is None][: self._limits.rows - len(begun)]
        taken = 0
        for row in prompts:
            tokens = min(row.waiting, self._limits.piece)
            if taken and taken + tokens > self._limits.prompts:
                break
            chosen.append(row)
            taken += tokens
        return chosen

    def _in_turn(self) -> Iterator[Row]:
        """Rows of all callers, one of each in turn, so that a large call holds up no small one."""
        for turn in zip_longest(*(call.going() for call in self._calls)):
            yield from (row for row in turn if row is not None)

    def _begin(self, row: Row) -> None:
        if row.cache is None:
            passes = self._decoder.passes
            row.cache = passes.cache(len(row.prompt) + min(row.limit, 64))
            if passes.packs and self._prefixes.limit:
                row.cache.begin_with(self._prefixes.find(row.prompt[:-1]))
                row.found = row.cache.length

    def _share(self, row: Row) -> None:
        """Keep what the prompt begins with for others, once it was computed."""
        if row.shared > row.found and row.cache is not None and row.cache.length >= row.shared:
            self._prefixes.add(row.prompt[: row.shared], row.cache.copy)
            row.found = row.shared


def _doing(rows: Sequence[Row]) -> str:
    begun = any(row.cache is not None for row in rows)
    return "the edit was being made" if begun else "another edit was being made"
