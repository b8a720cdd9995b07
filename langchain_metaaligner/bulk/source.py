"""Reads the rows of a file from any place on, each with its bytes as they stand in the file."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import re
import zlib
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from langchain_metaaligner.bulk.kinds import DELIMITERS, FileKind
from langchain_metaaligner.errors import BulkError

# `training.data.rows` reads rows too, but keeps neither their bytes nor a place to go on from.

_LONGEST = 64 * 2**20  # bytes of a row; a longer one is no row but a file of another kind
_HEAD = 64 * 2**10  # bytes of a file by which it is known again
_READ = 2**20
_LIST = re.compile(rb"\s*\[\s*(\{|$)")
_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class Place(NamedTuple):
    """A place between two rows of a source.

    Attributes:
        offset: Bytes before it, uncompressed; in parquet, rows.
        line: Lines before it; in parquet, rows.
        reached: How much of the source's `size` is before it.
    """

    offset: int = 0
    line: int = 0
    reached: int = 0


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row of a source, or what stands there instead of one.

    Attributes:
        place: File and line, or number of the row, from 1.
        end: The place after it.
        values: The fields; empty if the row can't be read.
        raw: The row's bytes without the end of its line; in parquet, its batch and its
            number there.
        problem: Why it can't be read.
        size: Length, in bytes or about as many.
    """

    place: str
    end: Place
    values: Mapping[str, Any] = field(repr=False)
    raw: Any = field(repr=False)
    problem: str | None = None
    size: int = 0


class _Record(NamedTuple):
    """One record of a CSV file: its bytes, its fields, or why it can't be read."""

    place: str
    end: Place
    raw: bytes
    fields: list[str]
    problem: str | None


class Source(ABC):
    """A file of rows.

    Args:
        path: The file.
        file: The file, opened.
        name: Its name in places and messages.
        kind: What it is.
        size: How much of it to read, in bytes; by default all that is there now.

    Attributes:
        size: How much there was to read when it was opened: bytes of the file.
        columns: The names of its columns, if they are the same for all rows.
        incomplete: Whether the last line was not complete yet when it was read.
    """

    columns: tuple[str, ...] | None = None
    incomplete: bool = False

    def __init__(
        self, path: Path, file: BinaryIO, name: str, kind: FileKind, size: int | None
    ) -> None:
        self.name, self.kind = name, kind
        self._path, self._file = path, file
        found = os.fstat(self._file.fileno())
        self._begun = found.st_mtime_ns
        self.size = found.st_size if size is None else size

    @abstractmethod
    def rows(self, start: Place) -> Iterator[SourceRow]:
        """Read the rows from a place on, up to the size that the source has.

        Args:
            start: The beginning, or where an earlier reading ended.

        Yields:
            The rows; those that can't be read have a `problem`.

        Raises:
            BulkError: The source has become shorter, or can't be read any further.
        """

    def identity(self) -> dict[str, Any]:
        """By what the source is known again."""
        self._file.seek(0)
        head = hashlib.sha256(self._file.read(min(_HEAD, self.size))).hexdigest()
        return {"name": self.name, "size": self.size, "modified": self._begun, "head": head}

    def digest(self, start: Place, end: Place) -> str | None:
        """The digest of what stands between two places; `None` if that can't be said."""
        if self.kind.gzipped or self.kind.name == "parquet":
            return None
        self._file.seek(start.offset)
        left, made = end.offset - start.offset, hashlib.blake2b(digest_size=16)
        while left > 0 and (read := self._file.read(min(left, _READ))):
            made.update(read)
            left -= len(read)
        return made.hexdigest()

    def changes(self) -> str | None:
        """What has happened to the file since it was opened; `None` if nothing."""
        try:
            now = self._path.stat()
        except OSError:
            return "removed"
        if now.st_size > self.size:
            return "grown"
        return None if (now.st_size, now.st_mtime_ns) == (self.size, self._begun) else "changed"

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Lines(Source):
    """A file of lines, which may be compressed."""

    def __init__(
        self, path: Path, file: BinaryIO, name: str, kind: FileKind, size: int | None
    ) -> None:
        super().__init__(path, file, name, kind, size)
        self._lines: BinaryIO = self._file
        if kind.gzipped:
            self._lines = cast("BinaryIO", gzip.GzipFile(fileobj=self._file))
        self._offset = self._line = 0
        self._back: deque[bytes] = deque()
        begin = self._at(Place(), _HEAD)
        if begin.startswith(_UTF_16):
            msg = f"{name} is written in UTF-16. Save it as UTF-8."
            raise BulkError(msg)
        if b"\r" in begin[:-1] and b"\n" not in begin:
            msg = f"The lines of {name} end with CR alone. Save it with LF or CRLF."
            raise BulkError(msg)
        if kind.name == "jsonl" and _LIST.match(begin.removeprefix(_BOM)):
            msg = f"{name} is one list of JSON. Write its objects one a line: jq -c '.[]' {name}."
            raise BulkError(msg)
        self._bom = len(_BOM) if begin.startswith(_BOM) else 0

    def _at(self, place: Place, count: int) -> bytes:
        self._seek(place)
        return self._read(count)

    def _seek(self, place: Place) -> None:
        with self._reading():
            self._lines.seek(place.offset)
        self._offset, self._line = place.offset, place.line
        self._back.clear()

    @contextmanager
    def _reading(self) -> Generator[None]:
        try:
            yield
        except (EOFError, OSError, zlib.error) as error:
            msg = (
                f"{self.name} can't be read any further ({error}). What was read is kept: mend the"
                " file, and run this again."
            )
            raise BulkError(msg) from error

    def _read(self, most: int) -> bytes:
        """Read to the end of the line, or as much of it as is wanted."""
        if self._back:
            return self._count(self._back.popleft())
        if not self.kind.gzipped:
            most = min(most, self.size - self._offset)
            if most <= 0:
                return b""
        with self._reading():
            line = self._lines.readline(most)
        if len(line) < most and not line.endswith(b"\n") and not self.kind.gzipped:
            msg = (
                f"{self.name} has become shorter while it was read: it had {self.size:,} bytes, and"
                f" now ends at {self._offset + len(line):,}. What was read is kept. Put the file"
                " back, or start over with resume=False."
            )
            raise BulkError(msg)
        return self._count(line)

    def _count(self, line: bytes) -> bytes:
        self._offset += len(line)
        self._line += line.endswith(b"\n")
        return line

    def _unread(self, lines: list[bytes]) -> None:
        """Put lines back, so that they are read again."""
        self._back.extendleft(reversed(lines))
        self._offset -= sum(map(len, lines))
        self._line -= sum(line.endswith(b"\n") for line in lines)

    def _line_or_none(self) -> bytes | None:
        """The next line; `None` if it is too long, and is passed over."""
        line = self._read(_LONGEST + 1)
        if len(line) <= _LONGEST:
            return line
        self._pass_over(line)
        return None

    def _pass_over(self, line: bytes) -> None:
        while line and not line.endswith(b"\n"):
            line = self._read(_READ)

    def _place(self) -> Place:
        return Place(
            self._offset, self._line, self._file.tell() if self.kind.gzipped else self._offset
        )

    def _has_grown(self) -> bool:
        return os.fstat(self._file.fileno()).st_size > self.size


class JsonLines(_Lines):
    """A JSONL file."""

    def rows(self, start: Place) -> Iterator[SourceRow]:
        """Read the rows from a place on; see `Source.rows`."""
        self._seek(start)
        while True:
            place, before = f"{self.name}:{self._line + 1}", self._offset
            line = self._line_or_none()
            if line is None:
                yield SourceRow(place, self._place(), {}, b"", _TOO_LONG)
                continue
            if not line:
                return
            raw = line.strip(b" \t\r\n")
            if before == 0:
                raw = raw.removeprefix(_BOM).lstrip(b" \t")
            if not raw:
                continue
            problem, values = None, {}
            try:
                values = json.loads(raw.decode())
            except (ValueError, RecursionError) as error:
                if not line.endswith(b"\n"):
                    self.incomplete = True
                    return
                problem = (
                    "the row is not valid UTF-8"
                    if isinstance(error, UnicodeDecodeError)
                    else f"the line is not valid JSON ({type(error).__name__})"
                )
            else:
                if not isinstance(values, dict):
                    problem = f"a row is a JSON object, not {type(values).__name__}"
                    values = {}
            yield SourceRow(place, self._place(), values, raw, problem, len(line))


class CsvRows(_Lines):
    """A CSV or TSV file with a header.

    Attributes:
        header: The header's line, with the end of the line.
        delimiter: What is between two fields: of CSV, a semicolon where the header has no comma, as
            Excel writes it in much of Europe.
    """

    def __init__(
        self, path: Path, file: BinaryIO, name: str, kind: FileKind, size: int | None
    ) -> None:
        super().__init__(path, file, name, kind, size)
        header = self._at(Place(self._bom), _HEAD)
        self.delimiter = DELIMITERS[kind.name]
        if kind.name == "csv" and b"," not in header and b";" in header:
            self.delimiter = ";"
        self._seek(Place(self._bom))
        self.header = b""
        self.columns = ()
        for record in self._records():
            if record.problem is not None:
                msg = f"The header of {name} can't be read: {record.problem}."
                raise BulkError(msg)
            self.columns, self.header = tuple(record.fields), _BOM[: self._bom] + record.raw
            break
        self._first = self._place()
        _check_columns(name, self.columns)

    def rows(self, start: Place) -> Iterator[SourceRow]:
        """Read the rows from a place on; see `Source.rows`."""
        self._seek(max(start, self._first))
        columns = self.columns or ()
        for place, end, raw, fields, unreadable in self._records():
            values: Mapping[str, Any] = {}
            problem = unreadable
            if problem is None:
                ended = raw.endswith((b"\n", b"\r"))
                if not ended and (len(fields) < len(columns) or self._has_grown()):
                    self.incomplete = True
                    return
                if len(fields) == len(columns):
                    values = dict(zip(columns, fields, strict=True))
                else:
                    problem = f"the row has {len(fields)} fields, the header {len(columns)}"
            yield SourceRow(place, end, values, raw.rstrip(b"\r\n"), problem, len(raw))

    def _records(self) -> Iterator[_Record]:
        """The records from here on."""
        taken = _Taken(self._read)
        read = csv.reader(taken, delimiter=self.delimiter, strict=True)
        while True:
            place = f"{self.name}:{self._line + 1}"
            taken.lines.clear()
            fields: list[str] = []
            problem = None
            try:
                fields = next(read)
            except StopIteration:
                return
            except csv.Error as error:
                problem = f"the row is not valid CSV ({error})"
                last = taken.lines[-1]
                if len(taken.lines[0]) > _LONGEST:
                    self._pass_over(taken.lines[0])
                elif not last.endswith(b"\n") and (len(taken.lines) == 1 or self._has_grown()):
                    self.incomplete = True
                    return
                # The quotation mark that is wrong may stand in this line: the next ones are rows.
                self._unread(taken.lines[1:])
                del taken.lines[1:]
            raw = b"".join(taken.lines)
            if problem is None:
                if not fields:
                    continue
                if not _is_utf8(raw):
                    problem = "the row is not valid UTF-8"
            yield _Record(place, self._place(), raw, fields, problem)


class _Taken(Iterator[str]):
    """The lines of a file for the csv module, and those that it has taken.

    Args:
        read: Reads the next line, or as much of it as is wanted.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.lines: list[bytes] = []
        self._read = read
        self._size = 0

    def __next__(self) -> str:
        if not self.lines:
            self._size = 0
        line = self._read(_LONGEST + 1)
        if not line:
            raise StopIteration
        self.lines.append(line)
        self._size += len(line)
        if self._size > _LONGEST:
            raise csv.Error(_TOO_LONG)
        return line.decode("utf-8", "surrogateescape")


class ParquetRows(Source):
    """A parquet file."""

    def __init__(
        self, path: Path, file: BinaryIO, name: str, kind: FileKind, size: int | None
    ) -> None:
        super().__init__(path, file, name, kind, size)
        pyarrow = arrow()
        try:
            self._table = pyarrow.parquet.ParquetFile(self._file)
        except (pyarrow.ArrowException, OSError) as error:
            msg = f"{name} can't be read as parquet ({type(error).__name__}). Write it again."
            raise BulkError(msg) from error
        self.schema = self._table.schema_arrow
        self.columns = tuple(self.schema.names)
        _check_columns(name, self.columns)
        about = self._table.metadata
        groups = [about.row_group(i) for i in range(about.num_row_groups)]
        self._starts = list(accumulate((one.num_rows for one in groups), initial=0))
        self._bytes = list(accumulate((one.total_byte_size for one in groups), initial=0))

    def rows(self, start: Place) -> Iterator[SourceRow]:
        """Read the rows from a place on; see `Source.rows`."""
        first = max(bisect_right(self._starts, start.offset) - 1, 0)
        groups = list(range(first, len(self._starts) - 1))
        number = self._starts[first]
        error_types = (arrow().ArrowException, OSError)
        batches = self._table.iter_batches(batch_size=64, row_groups=groups) if groups else ()
        try:
            for batch in batches:
                if number + batch.num_rows <= start.offset:
                    number += batch.num_rows
                    continue
                size = batch.nbytes // max(batch.num_rows, 1)
                for i, values in enumerate(batch.to_pylist()):
                    number += 1
                    if number > start.offset:
                        end = Place(number, number, self._reached(number))
                        place = f"{self.name} row {number}"
                        yield SourceRow(place, end, values, (batch, i), None, size)
        except error_types as error:
            msg = f"{self.name} can't be read any further ({type(error).__name__}: {error})."
            raise BulkError(msg) from error

    def _reached(self, number: int) -> int:
        group = min(bisect_right(self._starts, number), len(self._starts) - 1)
        first, last = self._starts[group - 1], self._starts[group]
        before, after = self._bytes[group - 1], self._bytes[group]
        part = (number - first) / max(last - first, 1)
        return int(self.size * (before + part * (after - before)) / max(self._bytes[-1], 1))


_TOO_LONG = f"the row is longer than {_LONGEST // 2**20} MiB"
_READERS: Mapping[str, Callable[[Path, BinaryIO, str, FileKind, int | None], Source]] = {
    "jsonl": JsonLines,
    "csv": CsvRows,
    "tsv": CsvRows,
    "parquet": ParquetRows,
}


def open_source(path: Path, name: str, kind: FileKind, size: int | None = None) -> Source:
    """Open a file of rows.

    Args:
        path: The file.
        name: Its name in places and messages.
        kind: What it is.
        size: How much of it to read, in bytes; by default all that is there now.

    Returns:
        The source.

    Raises:
        BulkError: It can't be read as a file of this kind.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        msg = f"{name} can't be read: {error.strerror or error}."
        raise BulkError(msg) from error
    try:
        return _READERS[kind.name](path, file, name, kind, size)
    except BaseException:
        file.close()
        raise


def pipe_identity(read: BinaryIO) -> dict[str, Any]:
    """By what the rows of a pipe are known again; reads them all.

    Args:
        read: The pipe.

    Returns:
        What `Source.identity` says of a copy of them, but for its name and time.
    """
    head = read.read(_HEAD)
    size = len(head) + sum(map(len, iter(lambda: read.read(_READ), b"")))
    return {"size": size, "head": hashlib.sha256(head).hexdigest()}


@contextmanager
def long_fields() -> Generator[None]:
    """Let the csv module read long texts; its own limit is 131,072 characters."""
    was = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(was)


def arrow() -> Any:
    """The package pyarrow with its part for parquet.

    Raises:
        BulkError: It is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as error:
        msg = (
            "Parquet files need the package pyarrow:"
            ' pip install "langchain-metaaligner[bulk]". JSONL and CSV need nothing.'
        )
        raise BulkError(msg) from error
    return pa


def _check_columns(name: str, columns: tuple[str, ...]) -> None:
    twice = sorted({one for one in columns if columns.count(one) > 1})
    if twice:
        msg = f"{name} has two columns of the same name: {', '.join(twice)}. Rename one."
        raise BulkError(msg)


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
