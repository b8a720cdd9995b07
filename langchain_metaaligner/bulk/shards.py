"""Writes edited rows as shards, and joins the shards to one file."""

from __future__ import annotations

import csv
import gzip
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from langchain_metaaligner.bulk.kinds import DELIMITERS, FileKind
from langchain_metaaligner.bulk.source import CsvRows, ParquetRows, Source, SourceRow, arrow

Added = Mapping[str, Any]
"""The columns that an edit adds to its row, in order."""

_COPIED = 2**20  # bytes at a time
_ROWS = 1000  # rows of JSON that become parquet at a time
_GROUP = 64 * 2**20  # bytes of rows in one row group of parquet


class Shards(ABC):
    """One form of shards.

    Args:
        source: The source of the rows.
        out: What the joined file is.
        added: The names of the columns that edits add.
    """

    def __init__(self, source: Source, out: FileKind, added: Sequence[str]) -> None:
        self._source, self._out, self._added = source, out, list(added)

    @abstractmethod
    def write(self, rows: Sequence[tuple[SourceRow, Added]]) -> bytes:
        """Write rows as one shard.

        Args:
            rows: The rows, each with its added columns.

        Returns:
            The shard.
        """

    def join(self, shards: Sequence[Path], file: BinaryIO) -> None:
        """Join shards to one file.

        Args:
            shards: The shards, in order.
            file: The file to write.
        """
        if not self._out.gzipped:
            self._join(shards, file)
            return
        # Without a name and a time in it, the same rows give the same bytes.
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
            self._join(shards, cast("BinaryIO", packed))

    @abstractmethod
    def _join(self, shards: Sequence[Path], file: BinaryIO) -> None: ...


def shards_of(source: Source, out: FileKind, added: Sequence[str]) -> Shards:
    """Choose the form of the shards: that of the source if it is the output's too, else JSONL.

    Args:
        source: The source.
        out: What the joined file is.
        added: The names of the columns that edits add.

    Returns:
        What writes and joins the shards.
    """
    if source.kind.name == out.name:
        if isinstance(source, CsvRows):
            return _CsvShards(source, out, added)
        if isinstance(source, ParquetRows):
            return _ParquetShards(source, out, added)
    if out.name == "parquet":
        arrow()  # an error about it should come before the edits, not after
    return _JsonShards(source, out, added)


def as_json(value: Any) -> str:
    """Write a value as JSON; half of a surrogate pair, which UTF-8 can't hold, is escaped.

    Args:
        value: The value; what JSON has no form for is written as text.

    Returns:
        One line of JSON.
    """
    text = json.dumps(value, ensure_ascii=False, default=_plain)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, default=_plain)
    return text


def with_fields(raw: bytes, added: Mapping[str, Any]) -> bytes:
    """Add fields at the end of a JSON object, whose own bytes stay as they are.

    Args:
        raw: The object, without white space around it.
        added: The fields, at least one.

    Returns:
        The object with them.
    """
    kept = raw[:-1].rstrip()
    between = b"" if kept == b"{" else b", "
    return b"%b%b%b" % (kept, between, as_json(added)[1:].encode())


class _JsonShards(Shards):
    def write(self, rows: Sequence[tuple[SourceRow, Added]]) -> bytes:
        lines = (
            with_fields(row.raw, added)
            if self._source.kind.name == "jsonl"
            else as_json({**row.values, **added}).encode()
            for row, added in rows
        )
        return b"".join(line + b"\n" for line in lines)

    def _join(self, shards: Sequence[Path], file: BinaryIO) -> None:
        if self._out.name == "jsonl":
            _copy(shards, file)
        elif self._out.name == "parquet":
            self._to_parquet(shards, file)
        else:
            self._to_csv(shards, file)

    def _columns(self, shards: Sequence[Path]) -> list[str]:
        known = dict.fromkeys(self._source.columns or ())
        if self._source.columns is None:
            for line in _lines(shards):
                known.update(dict.fromkeys(json.loads(line)))
        return [*(name for name in known if name not in self._added), *self._added]

    def _to_csv(self, shards: Sequence[Path], file: BinaryIO) -> None:
        columns = self._columns(shards)
        delimiter = DELIMITERS[self._out.name]
        file.write(_csv(columns, delimiter) + b"\n")
        for line in _lines(shards):
            fields = _written_fields(line.decode())
            cells = [_cell(fields.get(name)) for name in columns]
            file.write(_csv(cells, delimiter) + b"\n")

    def _to_parquet(self, shards: Sequence[Path], file: BinaryIO) -> None:
        pa = arrow()
        columns = self._columns(shards)
        types: dict[str, Any] = {name: pa.null() for name in columns}
        for batch in _batches(shards):
            for name in columns:
                types[name] = _common(pa, types[name], [row.get(name) for row in batch])
        nothing = pa.null()
        schema = pa.schema(
            [(name, pa.string() if kind == nothing else kind) for name, kind in types.items()]
        )
        with _ParquetFile(file, schema) as written:
            for batch in _batches(shards):
                arrays = [
                    pa.array([_as_type(row.get(name), pa, kind) for row in batch], kind)
                    for name, kind in zip(schema.names, schema.types, strict=True)
                ]
                written.add(pa.Table.from_arrays(arrays, schema=schema))


class _CsvShards(Shards):
    _source: CsvRows

    def __init__(self, source: CsvRows, out: FileKind, added: Sequence[str]) -> None:
        super().__init__(source, out, added)
        self._delimiter = source.delimiter
        self._ending = b"\r\n" if source.header.endswith(b"\r\n") else b"\n"

    def write(self, rows: Sequence[tuple[SourceRow, Added]]) -> bytes:
        return b"".join(self._line(row.raw, list(added.values())) for row, added in rows)

    def _line(self, raw: bytes, cells: Sequence[Any]) -> bytes:
        texts = [one if isinstance(one, str) else as_json(one) for one in cells]
        more = _csv(texts, self._delimiter)
        return b"%b%b%b%b" % (raw, self._delimiter.encode(), more, self._ending)

    def _join(self, shards: Sequence[Path], file: BinaryIO) -> None:
        if self._source.header:
            file.write(self._line(self._source.header.rstrip(b"\r\n"), self._added))
        _copy(shards, file)


class _ParquetShards(Shards):
    _source: ParquetRows

    def __init__(self, source: ParquetRows, out: FileKind, added: Sequence[str]) -> None:
        super().__init__(source, out, added)
        pa = arrow()
        self._schema = source.schema
        for name in added:
            self._schema = self._schema.append(pa.field(name, pa.string()))

    def write(self, rows: Sequence[tuple[SourceRow, Added]]) -> bytes:
        pa = arrow()
        pieces: list[Any] = []
        first = 0
        for number, (row, _) in enumerate(rows, start=1):
            batch, place = row.raw
            if number == len(rows) or not _follows(rows[number][0], row):
                begin = rows[first][0].raw[1]
                # A slice: not each type has a kernel for `take`, nor for a cast of what it gives.
                pieces.append(batch.slice(begin, place + 1 - begin))
                first = number
        table = pa.Table.from_batches(pieces, self._source.schema)
        columns = table.columns
        for name in self._added:
            cells = [added[name] for _, added in rows]
            texts = [_clean(one if isinstance(one, str) else as_json(one)) for one in cells]
            columns.append(pa.chunked_array([pa.array(texts, pa.string())]))
        file = io.BytesIO()
        pa.parquet.write_table(pa.Table.from_arrays(columns, schema=self._schema), file)
        return file.getvalue()

    def _join(self, shards: Sequence[Path], file: BinaryIO) -> None:
        pa = arrow()
        with _ParquetFile(file, self._schema) as written:
            for shard in shards:
                written.add(pa.parquet.read_table(shard, schema=self._schema))


def _follows(row: SourceRow, before: SourceRow) -> bool:
    """Whether a row of parquet is the next one of the same batch."""
    batch, place = before.raw
    return row.raw[0] is batch and row.raw[1] == place + 1


class _ParquetFile:
    """Writes tables as row groups of a fair size.

    Args:
        file: The file.
        schema: The schema of all tables.
    """

    def __init__(self, file: BinaryIO, schema: Any) -> None:
        self._writer = arrow().parquet.ParquetWriter(file, schema)
        self._tables: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()
        self._writer.close()

    def add(self, table: Any) -> None:
        """Take a table."""
        self._tables.append(table)
        if sum(one.nbytes for one in self._tables) >= _GROUP:
            self._write()

    def _write(self) -> None:
        if self._tables:
            self._writer.write_table(arrow().concat_tables(self._tables))
            self._tables.clear()


def _csv(cells: Sequence[str], delimiter: str) -> bytes:
    """Write cells as a line of CSV, without its end."""
    text = io.StringIO(newline="")
    # The csv module quotes a cell with a character of the end of its lines, and no other end.
    csv.writer(text, delimiter=delimiter, lineterminator="\r\n").writerow(cells)
    return text.getvalue()[:-2].encode(errors="replace")


def _copy(shards: Sequence[Path], file: BinaryIO) -> None:
    for shard in shards:
        with shard.open("rb") as read:
            while piece := read.read(_COPIED):
                file.write(piece)


def _lines(shards: Sequence[Path]) -> Iterator[bytes]:
    for shard in shards:
        with shard.open("rb") as lines:
            yield from lines


def _batches(shards: Sequence[Path]) -> Iterator[list[dict[str, Any]]]:
    rows = (json.loads(line) for line in _lines(shards))
    while batch := list(islice(rows, _ROWS)):
        for row in batch:
            for name, value in row.items():
                if isinstance(value, str):
                    row[name] = _clean(value)
        yield batch


def _written_fields(line: str) -> dict[str, str]:
    """The fields of a JSON object, each as it is written in it."""
    read = json.JSONDecoder()
    fields: dict[str, str] = {}
    place = _after_space(line, 1)
    while line[place] != "}":
        name, place = read.raw_decode(line, place)
        start = _after_space(line, _after_space(line, place) + 1)
        _, place = read.raw_decode(line, start)
        fields[name] = line[start:place]
        place = _after_space(line, place)
        place = _after_space(line, place + (line[place] == ","))
    return fields


def _after_space(line: str, place: int) -> int:
    while line[place] in " \t\r\n":
        place += 1
    return place


def _cell(written: str | None) -> str:
    """A JSON value as a cell of CSV: text without its quotes, anything else as it was written."""
    if written is None or written == "null":
        return ""
    return str(json.loads(written)) if written.startswith('"') else written


def _common(pa: Any, known: Any, values: Sequence[Any]) -> Any:
    """The type of a column, given more of its values; text, if they have none in common."""
    if known == pa.string() and any(not isinstance(one, str | None) for one in values):
        return known
    try:
        found = pa.array(values).type
        if found == known:
            return known
        schemas = [pa.schema([("one", known)]), pa.schema([("one", found)])]
        both = pa.unify_schemas(schemas, promote_options="permissive").field("one").type
        pa.array(values, both)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return pa.string()
    # A struct without fields can't be written.
    return pa.string() if _is_hollow(pa, both) else both


def _is_hollow(pa: Any, kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return kind.num_fields == 0 or any(_is_hollow(pa, one.type) for one in kind)
    if pa.types.is_list(kind):
        return _is_hollow(pa, kind.value_type)
    return False


def _as_type(value: Any, pa: Any, kind: Any) -> Any:
    if kind == pa.string() and value is not None and not isinstance(value, str):
        return _clean(as_json(value))
    return value


def _clean(text: str) -> str:
    return text.encode(errors="replace").decode()


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
