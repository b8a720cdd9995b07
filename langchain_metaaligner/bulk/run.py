"""One run over the rows of a source that are left to edit."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from langchain_metaaligner.bulk.added_columns import provenance_of, reason_of
from langchain_metaaligner.bulk.progress import BulkProgress, Meter
from langchain_metaaligner.bulk.row_items import RowItems, missing_columns
from langchain_metaaligner.bulk.run_files import RunFiles, writing
from langchain_metaaligner.bulk.shards import (
    Added,
    Shards,
    as_json,
)
from langchain_metaaligner.bulk.source import Place, Source, SourceRow
from langchain_metaaligner.bulk.summary import BulkSummary
from langchain_metaaligner.editing.aligner import Aligner
from langchain_metaaligner.editing.alignment import Alignment
from langchain_metaaligner.errors import (
    BulkError,
    CheckpointError,
    UnknownObjectiveError,
    may_repeat,
)
from langchain_metaaligner.training.data.fields import BadRowError

_CHUNK = 16 * 2**20  # bytes of rows after which a chunk ends, however few they are
_WAITS = (1.0, 4.0, 16.0)  # seconds before each repetition of edits that failed for the moment
_ENOUGH = 8  # rows that fail for the moment, one after the other, until a run stops
_EVERY = 0.5  # seconds between two reports within a chunk

OnProgress = Callable[[BulkProgress], object]


@dataclass
class Run:
    """One run over the rows that are left."""

    files: RunFiles
    source: Source
    shards: Shards
    items: RowItems
    aligner: Aligner
    objectives: Any
    names: tuple[str, str]
    chunk_size: int
    batch_size: int
    max_concurrency: int
    on_progress: OnProgress | None
    counts: Counter[str] = field(default_factory=Counter)
    failing: int = 0  # rows in a row that failed for the moment
    meter: Meter = field(init=False)
    own_rows: int = 0
    reported: float = 0.0

    def run(self) -> BulkSummary:
        """Edit the rows that are left, and put the output in its place.

        Returns:
            What became of all rows.
        """
        folder = self.files.folder
        for record in folder.journal:
            self.counts.update(record["counts"])
        resumed = self.counts.total()
        if not (folder.journal and folder.journal[-1].get("ended")):
            self._edit(self._start())
        with writing(self.files.out):
            summary = self._summary(resumed)
            self.files.finish(self.shards, self.source, summary)
        return summary

    def _start(self) -> Place:
        journal = self.files.folder.journal
        return Place(*journal[-1]["end"]) if journal else Place()

    def _edit(self, start: Place) -> None:
        self._check_names(self.source.columns or ())
        chunks = self._chunks(start)
        first = next(chunks, None)
        if first is not None:
            self.aligner.load()
        self.meter = Meter(self.source.size, start.reached)
        for chunk in chain(() if first is None else (first,), chunks):
            begun = time.monotonic()
            record = self._edit_chunk(chunk, start)
            start = chunk[-1].end
            record["seconds"] = round(time.monotonic() - begun, 3)
            record["end"] = list(start)
            self.counts.update(record["counts"])
            with writing(self.files.out):
                self.files.folder.enter(record)
            self._report(start.reached)
        ended = {
            "ended": True,
            "end": list(start),
            "counts": {},
            "incomplete": self.source.incomplete,
            "source": None if self.files.given.is_pipe else self.source.changes(),
        }
        with writing(self.files.out):
            self.files.folder.enter(ended)
        self._report(self.source.size)

    def _chunks(self, start: Place) -> Iterator[list[SourceRow]]:
        chunk: list[SourceRow] = []
        size = 0
        for row in self.source.rows(start):
            chunk.append(row)
            size += row.size
            if len(chunk) >= self.chunk_size or size >= _CHUNK:
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk

    def _edit_chunk(self, chunk: Sequence[SourceRow], start: Place) -> dict[str, Any]:
        """Edit the rows of a chunk, and write their shard."""
        problems: dict[int, str] = {}
        given: dict[int, tuple[Any, Any]] = {}
        missing = set()
        for number, row in enumerate(chunk):
            try:
                if row.problem is not None:
                    raise BadRowError(kind="unreadable", detail=row.problem)
                self._check_names(row.values, row.place)
                given[number] = self.items.read(row.values)
            except BadRowError as error:
                problems[number] = error.detail
                if error.kind == "missing":
                    missing.add(error.detail)
        if missing and not given and not self.counts.total():
            columns = dict.fromkeys(name for row in chunk for name in row.values)
            raise missing_columns(self.source.name, columns, missing.pop())
        span = (start.reached, chunk[-1].end.reached)
        bad = len(problems)
        edits = self._align(given, span, bad)
        done: list[tuple[SourceRow, Added]] = []
        counts: Counter[str] = Counter()
        failed: Counter[str] = Counter()
        tokens: Counter[str] = Counter()
        for number, row in enumerate(chunk):
            made = edits.get(number)
            if isinstance(made, Alignment):
                counts[made.status] += 1
                tokens.update(made.usage or {})
                added = made.text, provenance_of(made)
                done.append((row, dict(zip(self.names, added, strict=True))))
            elif made is not None:
                counts["failed"] += 1
                failed[type(made).__name__] += 1
                problems[number] = reason_of(made)
        counts["bad"] = bad
        record: dict[str, Any] = {"counts": +counts}
        record["failed"], record["tokens"] = failed, tokens
        record["digest"] = self.source.digest(start, chunk[-1].end)
        record["files"] = self._write(done, [(chunk[i], problems[i]) for i in sorted(problems)])
        return record

    def _write(
        self, done: Sequence[tuple[SourceRow, Added]], problems: Sequence[tuple[SourceRow, str]]
    ) -> dict[str, int]:
        folder = self.files.folder
        number = f"{len(folder.journal):08}"
        written: dict[str, int] = {}
        with writing(self.files.out):
            if done:
                name = f"{number}.rows"
                written[name] = folder.write(name, self.shards.write(done))
            if problems:
                lines = b"".join(self._problem(row, reason) for row, reason in problems)
                name = f"{number}.problems"
                written[name] = folder.write(name, lines)
        return written

    def _problem(self, row: SourceRow, reason: str) -> bytes:
        about = as_json({"place": row.place, "reason": reason}).encode()
        if row.problem is None:
            whole = row.raw if self.source.kind.name == "jsonl" else as_json(row.values).encode()
            about = b'%b, "row": %b}' % (about[:-1], whole)
        return about + b"\n"

    def _align(
        self, given: Mapping[int, tuple[Any, Any]], span: tuple[int, int], bad: int
    ) -> dict[int, Alignment | Exception]:
        """Edit the answers of a chunk, the longest first, and repeat what failed for the moment."""
        length = {number: _length(context, answer) for number, (context, answer) in given.items()}
        order = sorted(given, key=lambda number: -length[number])
        whole = max(sum(length.values()), 1)
        edits: dict[int, Alignment | Exception] = {}
        counts = self.counts + Counter(bad=bad)
        reached = float(span[0])
        for wait in (0.0, *_WAITS):
            if not order:
                break
            time.sleep(wait)
            items = ((*given[number], self.objectives) for number in order)
            again = []
            for place, made in self.aligner.align_as_completed(
                items, batch_size=self.batch_size, max_concurrency=self.max_concurrency
            ):
                number = order[place]
                edits[number] = made
                if isinstance(made, CheckpointError | UnknownObjectiveError):
                    raise made
                if isinstance(made, Exception) and may_repeat(made):
                    again.append(number)
                    continue
                counts[made.status if isinstance(made, Alignment) else "failed"] += 1
                reached += (span[1] - span[0]) * length[number] / whole
                self._report_at_times(reached, counts)
            order = sorted(again, key=lambda number: -length[number])
        self.own_rows += len(given) + bad
        self._check_failing(edits, order)
        return edits

    def _check_failing(
        self, edits: Mapping[int, Alignment | Exception], failing: Sequence[int]
    ) -> None:
        """Stop before rows are given up for an engine that is gone."""
        if any(isinstance(one, Alignment) for one in edits.values()):
            self.failing = 0
            return
        self.failing += len(failing)
        if failing and self.failing >= _ENOUGH:
            error = edits[failing[-1]]
            assert isinstance(error, Exception)  # noqa: S101 - those that succeeded aren't failing
            msg = (
                f"The last {self.failing:,} edits all failed, {len(_WAITS) + 1} times each, with"
                f" {reason_of(error)} What is done is kept: mend the cause, and run this again to"
                " go on from here."
            )
            raise BulkError(msg) from error

    def _check_names(self, columns: Any, place: str | None = None) -> None:
        """Refuse columns of the same names as those that are added."""
        taken = [name for name in self.names if name in columns]
        if not taken:
            return
        if place is not None and self.counts.total():
            detail = f"the row has a column {taken[0]} already; choose another prefix="
            raise BadRowError(kind="structure", detail=detail)
        msg = (
            f"{place or self.source.name} has a column {taken[0]!r} already, which the edit would"
            " replace. Give a prefix= for the names of the added columns, such as 'new_'."
        )
        raise BulkError(msg)

    def _report_at_times(self, reached: float, counts: Counter[str]) -> None:
        now = time.monotonic()
        if self.on_progress is not None and now - self.reported >= _EVERY:
            self._report(reached, counts)

    def _report(self, reached: float, counts: Counter[str] | None = None) -> None:
        self.reported = time.monotonic()
        if self.on_progress is not None:
            known = self.counts if counts is None else counts
            rows = self.own_rows
            if counts is not None:
                rows += counts.total() - self.counts.total()
            self.on_progress(self.meter.measure(reached, known, rows))

    def _summary(self, resumed: int) -> BulkSummary:
        journal = self.files.folder.journal
        failed: Counter[str] = Counter()
        tokens: Counter[str] = Counter()
        for record in journal:
            failed.update(record.get("failed", {}))
            tokens.update(record.get("tokens", {}))
        last = journal[-1]
        problems = self.files.problems if self.counts["failed"] + self.counts["bad"] else None
        return BulkSummary(
            out=self.files.out,
            problems=problems,
            rows=self.counts.total(),
            edited=self.counts["edited"],
            unchanged=self.counts["unchanged"],
            skipped=self.counts["skipped"],
            failed=dict(failed),
            bad=self.counts["bad"],
            seconds=round(sum(record.get("seconds", 0.0) for record in journal), 3),
            tokens=dict(tokens),
            resumed=resumed,
            incomplete=last["incomplete"],
            source=last["source"],
        )


def _length(context: Any, answer: str) -> int:
    if isinstance(context, str):
        return len(context) + len(answer)
    return len(answer) + sum(len(str(one)) for one in context)
