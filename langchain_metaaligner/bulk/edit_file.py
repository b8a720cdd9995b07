"""Edits the replies of a file: in constant memory, and resumable at any moment."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from langchain_metaaligner.bulk.folder import WorkFolder, as_bytes, locked, read_json
from langchain_metaaligner.bulk.kinds import KINDS, FileKind, kind_of, named_kind
from langchain_metaaligner.bulk.progress import BulkProgress, Meter
from langchain_metaaligner.bulk.row_items import RowItems, missing_columns
from langchain_metaaligner.bulk.settings import differences, settings_of
from langchain_metaaligner.bulk.shards import (
    Added,
    Shards,
    as_json,
    shards_of,
)
from langchain_metaaligner.bulk.source import Place, Source, SourceRow, long_fields, open_source
from langchain_metaaligner.bulk.summary import BulkSummary
from langchain_metaaligner.editing.aligner import Aligner
from langchain_metaaligner.editing.alignment import Alignment
from langchain_metaaligner.editing.objectives import Objectives, parse_objectives
from langchain_metaaligner.errors import (
    BulkError,
    CheckpointError,
    MetaAlignerError,
    UnknownObjectiveError,
    first_line,
    may_repeat,
)
from langchain_metaaligner.training.data.fields import BadRowError

_CHUNK = 16 * 2**20  # bytes of rows after which a chunk ends, however few they are
_WAITS = (1.0, 4.0, 16.0)  # seconds before each repetition of edits that failed for the moment
_ENOUGH = 8  # rows that fail for the moment, one after the other, until a run stops
_EVERY = 0.5  # seconds between two reports within a chunk
# Not the same in each run of the same rows.
_PASSING = {"seconds", "passes"}

OnProgress = Callable[[BulkProgress], object]


def edit_file(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    objectives: Objectives,
    aligner: Aligner | None = None,
    columns: Mapping[str, str] | None = None,
    kind: str | None = None,
    prefix: str = "",
    chunk_size: int = 256,
    batch_size: int = 16,
    max_concurrency: int = 2,
    resume: bool = True,
    on_progress: OnProgress | None = None,
) -> BulkSummary:
    """Edit the replies of a file, and write its rows with the edits.

    Each row keeps its columns as they are and gets two more: `edited`, the answer after the edit,
    and `metaaligner`, what is known of it. Rows that can't be read, and rows whose edit fails, go
    to a file beside the output, `….problems.jsonl`, with their place and the reason. Rows stay in
    their order.

    Rows are read a chunk at a time, and a chunk that is done is on the disk for good: after an
    error, an interrupt or a kill, the same call goes on from there. Until the output is complete,
    the work is in the folder `….parts` beside it.

    A row has these fields; `columns` maps other names to them:

    - the context: `context` (text as given to the aligner, or messages), `messages`, or the user's
      question alone in `prompt`, `question`, `query` or `instruction`;
    - the answer: `answer`, `response`, `reply`, `completion`, `original`, or as the authors of
      MetaAligner call it, `generated_text`, `origin_responses` or `origins`. Of `messages` that end
      with an assistant's, the last is the answer.

    Args:
        source: A JSONL, CSV, TSV or parquet file, also compressed (`.jsonl.gz`), or a pipe; `-` is
            standard input. A pipe is first copied to the disk.
        out: The file to write; its name says of which kind. Without a known one, it becomes what
            the source is.
        objectives: One or more objectives, for all rows.
        aligner: The aligner; by default `Aligner()`.
        columns: Our name of a field to its name in the data, with dots into nested fields.
        kind: What the source is, if its name doesn't say: `jsonl`, `csv`, `tsv`, `parquet`.
        prefix: What to put before the names of the added columns.
        chunk_size: How many rows are read, edited and put on the disk at a time. Rows of like
            length of a chunk are edited together.
        batch_size: How many rows go to the engine with one call.
        max_concurrency: How many such calls are made at the same time.
        resume: Whether to go on with an earlier run. If not, what it has made is replaced.
        on_progress: Called after each chunk, and at times within one. What it raises ends the run,
            which can be resumed.

    Returns:
        What became of the rows. If the output is complete already, that of the run that made it.

    Raises:
        BulkError: The source can't be read, or no row has a context and an answer; the output can't
            be written, or belongs to another run; or the engine fails for all rows.
        CheckpointError: The checkpoint can't be loaded or used.
        UnknownObjectiveError: An objective is unknown, or not one of the checkpoint's.
    """
    for name, number in (
        ("chunk_size", chunk_size),
        ("batch_size", batch_size),
        ("max_concurrency", max_concurrency),
    ):
        if number < 1:
            msg = f"{name} must be at least 1, not {number}."
            raise BulkError(msg)
    wanted = parse_objectives(objectives)
    items = RowItems(columns)
    target = Path(out)
    given = _Given.of(source, target, kind)
    to = kind_of(target) or given.kind
    own = aligner is None
    used = Aligner() if aligner is None else aligner
    settings = settings_of(
        used, wanted, columns=columns, prefix=prefix, kinds=(str(given.kind), str(to))
    )
    try:
        with ExitStack() as held:
            with _writing(target):
                held.enter_context(locked(target))
            held.enter_context(long_fields())
            state = _State(given, target, settings, resume=resume)
            done = state.done()
            if done is not None:
                return done
            opened = held.enter_context(state.opened())
            run = _Run(
                state=state,
                source=opened,
                shards=shards_of(opened, to, [f"{prefix}edited", f"{prefix}metaaligner"]),
                items=items,
                aligner=used,
                objectives=wanted,
                names=(f"{prefix}edited", f"{prefix}metaaligner"),
                chunk_size=chunk_size,
                batch_size=batch_size,
                max_concurrency=max_concurrency,
                on_progress=on_progress,
            )
            return run.run()
    finally:
        if own:
            used.close()


@dataclass(frozen=True, slots=True)
class _Given:
    """The source as it was given.

    Attributes:
        path: The file; `None` for standard input.
        name: Its name in places and messages.
        kind: What it is.
        is_pipe: Whether it can be read only once.
    """

    path: Path | None
    name: str
    kind: FileKind
    is_pipe: bool

    @classmethod
    def of(cls, source: str | os.PathLike[str], out: Path, kind: str | None) -> _Given:
        path = None if os.fspath(source) == "-" else Path(source)
        name = "standard input" if path is None else path.name
        is_pipe = path is None or path.is_fifo() or path.is_char_device() or path.is_socket()
        if path is not None and not is_pipe and not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            msg = f"{path} {what}. Give a file of rows: {', '.join(KINDS)}."
            raise BulkError(msg)
        if path is not None and out.exists() and path.exists() and out.samefile(path):
            msg = f"{out} is the source itself. Give another file to write to."
            raise BulkError(msg)
        if out.is_dir():
            msg = f"{out} is a folder. Give the file to write."
            raise BulkError(msg)
        found = named_kind(kind) if kind is not None else path and kind_of(path)
        if not found and is_pipe:
            found = kind_of(out)
        if not found:
            msg = (
                f"What {name} is can't be told by its name. Give kind=, one of {', '.join(KINDS)}."
            )
            raise BulkError(msg)
        return cls(path, name, found, is_pipe)


class _State:
    """What an earlier run has left, and what this one leaves.

    Args:
        given: The source.
        out: The output.
        settings: What this run is asked to do.
        resume: Whether to go on with an earlier run.
    """

    def __init__(self, given: _Given, out: Path, settings: dict[str, Any], *, resume: bool) -> None:
        self.given, self.out, self.settings = given, out, settings
        self.problems = out.with_name(f"{out.name}.problems.jsonl")
        self._record = out.with_name(f"{out.name}.run.json")
        self.folder = WorkFolder(out)
        with _writing(out):
            if not resume:
                self.folder.remove()
                self._record.unlink(missing_ok=True)
            self._earlier = self.folder.read()
        self._replaces = not resume

    def done(self) -> BulkSummary | None:
        """The summary of the run that made the output; `None` if it is not complete."""
        if self._earlier is not None or self._replaces or not self.out.exists():
            return None
        record = read_json(self._record)
        if record is None:
            msg = (
                f"{self.out} exists already, and is not of a run of this package. Give another"
                " output, or replace it with resume=False."
            )
            raise BulkError(msg)
        with _writing(self.out):
            self.folder.remove()
        if self.given.is_pipe:
            msg = f"{self.out} is complete already. Give another output, or resume=False."
            raise BulkError(msg)
        source = self._source(None)
        try:
            now = source.identity()
        finally:
            source.close()
        unlike = differences(record["settings"], self.settings)
        if any(now[name] != record["source"][name] for name in ("size", "modified", "head")):
            unlike.append("the source has changed since")
        if unlike:
            raise _another_run(self.out, unlike)
        problems = self.problems if self.problems.exists() else None
        return BulkSummary(out=self.out, problems=problems, **record["summary"])

    @contextmanager
    def opened(self) -> Generator[Source]:
        """Open the source as it was when the first run began; begin the folder if there is none.

        Yields:
            The source.
        """
        earlier = self._earlier
        if earlier is None:
            with _writing(self.out):
                self.folder.begin()
                if self.given.is_pipe:
                    self._keep_pipe()
            source = self._source(None)
        else:
            source = self._source(earlier["source"]["size"])
        try:
            if earlier is None:
                with _writing(self.out):
                    self.folder.begin_journal(
                        {
                            "source": source.identity(),
                            "settings": self.settings,
                        }
                    )
            else:
                self._compare(earlier, source)
            yield source
        finally:
            source.close()

    def finish(self, shards: Shards, source: Source, summary: BulkSummary) -> None:
        """Put the output in its place, and remove the folder.

        Args:
            shards: Joins the shards.
            source: The source.
            summary: What became of the rows.
        """
        problems = self.folder.files(".problems")
        with self.folder.file(self.out) as file:
            shards.join(self.folder.files(".rows"), file)
        if problems:
            with self.folder.file(self.problems) as file:
                for one in problems:
                    with one.open("rb") as read:
                        shutil.copyfileobj(read, file)
        else:
            self.problems.unlink(missing_ok=True)
        record = {
            "source": source.identity(),
            "settings": self.settings,
            "summary": summary.as_record(),
        }
        with self.folder.file(self._record) as file:
            file.write(as_bytes(record))
        self.folder.remove()

    def _source(self, size: int | None) -> Source:
        given = self.given
        path = self.folder.path / "source" if given.is_pipe else given.path
        if path is None:
            raise AssertionError
        if size is not None and path.stat().st_size < size:
            msg = (
                f"{given.name} had {size:,} bytes when it was read first, and has fewer now. Put it"
                " back, or start over with resume=False."
            )
            raise BulkError(msg)
        return open_source(path, given.name, given.kind, size)

    def _keep_pipe(self) -> None:
        with ExitStack() as held:
            read: BinaryIO
            if self.given.path is None:
                read = sys.stdin.buffer
            else:
                read = held.enter_context(self.given.path.open("rb"))
            file = held.enter_context(self.folder.file(self.folder.path / "source"))
            shutil.copyfileobj(read, file)

    def _compare(self, earlier: Mapping[str, Any], source: Source) -> None:
        """Refuse to go on with a run that was asked to do something else."""
        unlike = differences(earlier["settings"], self.settings)
        if not self.given.is_pipe:
            unlike += self._changes(earlier["source"], source)
        if unlike:
            raise _another_run(self.out, unlike)

    def _changes(self, was: Mapping[str, Any], source: Source) -> list[str]:
        now = source.identity()
        if now["head"] != was["head"]:
            return ["the source begins with other rows"]
        if now["modified"] == was["modified"]:
            return []
        start = Place()
        for record in self.folder.journal:
            end = Place(*record["end"])
            digest = source.digest(start, end)
            if digest is None or digest != record["digest"]:
                return [f"the source was changed, before line {end.line + 1} or in it"]
            start = end
        return []


@dataclass
class _Run:
    """One run over the rows that are left."""

    state: _State
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
        folder = self.state.folder
        for record in folder.journal:
            self.counts.update(record["counts"])
        resumed = self.counts.total()
        if not (folder.journal and folder.journal[-1].get("ended")):
            self._edit(self._start())
        with _writing(self.state.out):
            summary = self._summary(resumed)
            self.state.finish(self.shards, self.source, summary)
        return summary

    def _start(self) -> Place:
        journal = self.state.folder.journal
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
            with _writing(self.state.out):
                self.state.folder.enter(record)
            self._report(start.reached)
        ended = {
            "ended": True,
            "end": list(start),
            "counts": {},
            "incomplete": self.source.incomplete,
            "source": None if self.state.given.is_pipe else self.source.changes(),
        }
        with _writing(self.state.out):
            self.state.folder.enter(ended)
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
                about = made.provenance()
                kept = {name: about[name] for name in about if name not in _PASSING}
                done.append((row, dict(zip(self.names, (made.text, kept), strict=True))))
            elif made is not None:
                counts["failed"] += 1
                failed[type(made).__name__] += 1
                problems[number] = f"{type(made).__name__}: {first_line(made)}"
        counts["bad"] = bad
        record: dict[str, Any] = {"counts": +counts}
        record["failed"], record["tokens"] = failed, tokens
        record["digest"] = self.source.digest(start, chunk[-1].end)
        record["files"] = self._write(done, [(chunk[i], problems[i]) for i in sorted(problems)])
        return record

    def _write(
        self, done: Sequence[tuple[SourceRow, Added]], problems: Sequence[tuple[SourceRow, str]]
    ) -> dict[str, int]:
        folder = self.state.folder
        number = f"{len(folder.journal):08}"
        written: dict[str, int] = {}
        with _writing(self.state.out):
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
            msg = (
                f"The last {self.failing:,} edits all failed, {len(_WAITS) + 1} times each:"
                f" {type(error).__name__}: {first_line(error)} What is done is kept"
                if isinstance(error, MetaAlignerError)
                else f"The last {self.failing:,} edits all failed ({type(error).__name__})."
                " What is done is kept"
            )
            msg += "; mend the cause, and run this again to go on from here."
            raise BulkError(msg) from (error if isinstance(error, Exception) else None)

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
        journal = self.state.folder.journal
        failed: Counter[str] = Counter()
        tokens: Counter[str] = Counter()
        for record in journal:
            failed.update(record.get("failed", {}))
            tokens.update(record.get("tokens", {}))
        last = journal[-1]
        problems = self.state.problems if self.counts["failed"] + self.counts["bad"] else None
        return BulkSummary(
            out=self.state.out,
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


def _another_run(out: Path, unlike: Sequence[str]) -> BulkError:
    return BulkError(
        f"{out} belongs to a run that is not the same: {'; '.join(unlike)}. Call it as it was"
        " called before, or give another output, or start over with resume=False."
    )


def _length(context: Any, answer: str) -> int:
    if isinstance(context, str):
        return len(context) + len(answer)
    return len(answer) + sum(len(str(one)) for one in context)


@contextmanager
def _writing(out: Path) -> Generator[None]:
    """Turn errors of the system into one that says what is kept."""
    try:
        yield
    except OSError as error:
        msg = (
            f"{out} and what is beside it can't be written: {error.strerror or error}. What is done"
            " is kept: make room or mend the cause, and run this again to go on."
        )
        raise BulkError(msg) from error
