"""Keeps the records of `on_edit` in a file, and what people say of them."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from langchain_metaaligner.editing.alignment import METADATA_KEY, Alignment
from langchain_metaaligner.editing.sparing_log import SparingLog
from langchain_metaaligner.errors import EvaluationError
from langchain_metaaligner.training.data.accepted import ACCEPTED, with_verdicts
from langchain_metaaligner.training.data.rows import Row, read_rows

_EDITS = ("edited", "unchanged", "shadow")


class EditRecords:
    """Writes each record of `on_edit` as a line of JSON, and reads them again.

    ```python
    records = EditRecords("edits.jsonl")
    chain = llm | MetaAlignerRunnable(apply=False, on_edit=records)
    ```

    A line is a row for `evaluate` and, once people have accepted its edit, for `read_edits`. Lines
    hold whole conversations: only the user who runs the process may read the file.

    Any number of threads and processes may write to one file, forked ones too. Each line is
    appended by a single write to a file that is opened for it, so there is nothing to close. A
    record that can't be written is counted and logged; it never reaches the reply.

    Args:
        path: A `.jsonl` file; its folder is made if needed.
        policy: Who writes the answers, for results by policy.
        redact: A function that is given each text (turns of the context, original, edit) and
            returns what is kept of it. If it fails, the record is not written.
        max_bytes: Size from which the file is put aside, as `edits.1.jsonl` and so on, and a new
            one begun. A record that is larger by itself is not written. `None` for no limit.
        keep: How many files that were put aside are kept; the oldest are deleted. `None` keeps all.

    Attributes:
        path: The file.
        lost: How many records this process could not write.

    Raises:
        EvaluationError: The file can't be written, or an argument is out of its range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        policy: str = "",
        redact: Callable[[str], str] | None = None,
        max_bytes: int | None = 64 * 1024**2,
        keep: int | None = None,
    ) -> None:
        self.path = Path(path)
        self.lost = 0
        self._policy, self._redact = policy, redact
        self._max_bytes, self._keep = max_bytes, keep
        self._log = SparingLog(logging.getLogger(__name__))
        if self.path.suffix.lower() not in (".jsonl", ".ndjson"):
            msg = f"Records are lines of JSON: give a .jsonl file, not {self.path.name!r}."
            raise EvaluationError(msg)
        for name, value in (("max_bytes", max_bytes), ("keep", keep)):
            if value is not None and value < 1:
                msg = f"`{name}` is at least 1, or None for no limit, not {value}."
                raise EvaluationError(msg)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(_opened(self.path))
        except OSError as error:
            msg = (
                f"Records can't be written to {str(self.path)!r} ({error.strerror}). Give a file"
                " that this process may write."
            )
            raise EvaluationError(msg) from error

    def __call__(self, record: Alignment) -> None:
        """Write a record.

        Args:
            record: The record of an edit or of a failure.
        """
        try:
            self._append(self._row(record))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the file, the reply goes on
            self.lost += 1
            kind = type(error).__name__
            self._log.tell(kind, f"A record was not written to {self.path.name} ({kind}: {error})")

    def accept(self, *names: str) -> None:
        """Note that people accept edits, so that `read_edits` uses them.

        Args:
            *names: The `id` of each record.

        Raises:
            EvaluationError: There is no such record.
        """
        self._decide(names, accepted=True)

    def reject(self, *names: str) -> None:
        """Note that people reject edits.

        Args:
            *names: The `id` of each record.

        Raises:
            EvaluationError: There is no such record.
        """
        self._decide(names, accepted=False)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """Read the records, oldest first, with the verdicts on them.

        Yields:
            Rows for `evaluate` and `read_edits`. Lines that are damaged, or are no record, are
            left out.
        """
        for row in with_verdicts(self._lines()):
            if isinstance(row, Row):
                yield row.values

    def _lines(self) -> Iterator[Any]:
        for path in (*_put_aside(self.path).values(), self.path):
            with suppress(FileNotFoundError):  # put aside, or deleted, while this reads
                yield from read_rows(path) if path.is_file() else ()

    def _decide(self, names: tuple[str, ...], *, accepted: bool) -> None:
        known = {row.get("id") for row in self}
        unknown = [name for name in names if name not in known]
        if unknown:
            msg = (
                f"{self.path.name} has no record {unknown[0]!r}. Give the `id` of one: iterate over"
                " the records to see them."
            )
            raise EvaluationError(msg)
        for name in names:
            self._append({"id": name, ACCEPTED: accepted, "time": _now()})

    def _row(self, record: Alignment) -> dict[str, Any]:
        context: Any = record.context
        if isinstance(context, str):
            context = self._kept(context)
        elif context is not None:
            context = [{"role": _ROLES[who], "content": self._kept(said)} for who, said in context]
        row: dict[str, Any] = {
            "id": secrets.token_hex(8),
            "time": _now(),
            "status": record.status,
            "context": context,
            "original": self._kept(record.original),
            "objectives": list(record.objectives),
            ACCEPTED: None,
            METADATA_KEY: record.provenance(),
        }
        if self._policy:
            row["policy"] = self._policy
        if record.status in _EDITS:  # what a failed edit left is no edit to judge or to learn
            row["edited"] = self._kept(record.text)
        return row

    def _kept(self, text: str) -> str:
        if self._redact is None or not text:
            return text
        kept: object = self._redact(text)
        if not isinstance(kept, str):
            msg = f"redact gave {type(kept).__name__}, where text was expected"
            raise TypeError(msg)
        return kept

    def _append(self, row: Mapping[str, Any]) -> None:
        text = json.dumps(row, ensure_ascii=False, default=str)
        try:
            line = text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can only escape
            line = json.dumps(row, default=str).encode()
        line += b"\n"
        if self._max_bytes is not None and len(line) > self._max_bytes:
            msg = f"it has {len(line):,} bytes, and max_bytes is {self._max_bytes:,}"
            raise ValueError(msg)
        file = _opened(self.path)
        try:
            size = os.fstat(file).st_size
            if self._max_bytes is not None and size and size + len(line) > self._max_bytes:
                self._put_aside(len(line))
                os.close(file)
                file = _opened(self.path)
            written = os.write(file, line)
            if written < len(line):  # the disk is full; what follows must begin on its own line
                os.write(file, b"\n")
                msg = f"only {written} of {len(line)} bytes fitted on the disk"
                raise OSError(msg)
        finally:
            os.close(file)

    def _put_aside(self, room: int) -> None:
        """Put the file aside, unless another thread or process has just done so."""
        with _Turn(self.path.with_suffix(".lock")):
            size = self.path.stat().st_size if self.path.exists() else 0
            if not size or size + room <= (self._max_bytes or 0):
                return
            aside = _put_aside(self.path)
            self.path.rename(_aside(self.path, max(aside, default=0) + 1))
            if self._keep is not None:
                for number in sorted(aside)[: len(aside) + 1 - self._keep]:
                    aside[number].unlink(missing_ok=True)


_ROLES = {"human": "user", "assistant": "assistant"}


class _Turn:
    """The turn to put a file aside, which one thread of one process has at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._file = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        with suppress(ImportError, OSError):  # not on Windows, nor on each file system
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *error: object) -> None:
        os.close(self._file)


def _opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _aside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}.{number}{path.suffix}")


def _put_aside(path: Path) -> dict[int, Path]:
    """The files that were put aside, oldest first, by their numbers."""
    form = re.compile(rf"{re.escape(path.stem)}\.([0-9]+){re.escape(path.suffix)}")
    found = ((form.fullmatch(one.name), one) for one in path.parent.iterdir())
    return dict(sorted((int(match[1]), one) for match, one in found if match))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
