"""Reads rows from files, data sets and iterables, one at a time, each with its place."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from langchain_metaaligner.errors import PreferenceDataError
from langchain_metaaligner.training.data.pairs import Problem

# JSONL and CSV are not read by `datasets` or pandas: those stop at the first bad line of a JSONL
# file, silently pad short CSV rows, and can't say which line a row comes from.

# The csv module's own limit of 131,072 characters a field is too short for texts.
_LONGEST_FIELD = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the data.

    Attributes:
        place: File and line, or number of the row, from 1.
        values: The fields.
    """

    place: str
    values: Mapping[str, Any] = field(repr=False)


def read_rows(
    source: Any, *, split: str = "train", subset: str | None = None, revision: str | None = None
) -> Iterator[Row | Problem]:
    """Read rows one at a time, as far as the format allows.

    Args:
        source: A `.jsonl`, `.csv`, `.tsv` or `.parquet` file, a folder that `datasets` saved, the
            name of a data set on the hub, a `Dataset`, `IterableDataset` or a dictionary of them,
            a data frame or table of pandas, polars or pyarrow, or an iterable of dictionaries.
        split: The split of a data set.
        subset: The configuration of a data set on the hub.
        revision: The revision of a data set on the hub.

    Yields:
        Rows, and problems in place of rows that can't be read. JSONL and CSV are read line by line,
        parquet 256 rows at a time, a data set on the hub as a stream.

    Raises:
        PreferenceDataError: The source does not exist, or its kind is unknown.
    """
    if isinstance(source, str | Path):
        yield from _from_name(source, split=split, subset=subset, revision=revision)
    elif _is_split_dictionary(source):
        yield from _numbered(_pick_split(source, split), f"{split} row ")
    elif (records := _records_of_table(source)) is not None:
        yield from _numbered(records, "row ")
    elif isinstance(source, Mapping | bytes) or not isinstance(source, Iterable):
        raise PreferenceDataError(_no_source(type(source).__name__))
    else:
        yield from _numbered(source, "row ")


def _from_name(
    source: str | Path, *, split: str, subset: str | None, revision: str | None
) -> Iterator[Row | Problem]:
    path = Path(source)
    read = _READERS.get(path.suffix.lower())
    if path.is_dir():
        yield from _saved(path, split)
    elif path.is_file():
        if read is None:
            msg = (
                f"{path.name} is of no known kind. Preference data are read from"
                f" {', '.join(_READERS)} files, from folders that `datasets` saved and from data"
                " sets on the hub."
            )
            raise PreferenceDataError(msg)
        yield from read(path)
    elif read is not None or isinstance(source, Path) or source.count("/") > 1:
        msg = f"There is no file {str(source)!r}. Give the path of one that exists."
        raise PreferenceDataError(msg)
    else:
        yield from _from_hub(source, split=split, subset=subset, revision=revision)


def _jsonl(path: Path) -> Iterator[Row | Problem]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"{path.name}:{number}"
            if not line.strip():
                continue
            try:
                values = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                yield Problem(
                    place, "unreadable", f"the line is not valid JSON ({type(error).__name__})"
                )
                continue
            yield _row(place, values)


def _csv(path: Path, *, delimiter: str = ",") -> Iterator[Row | Problem]:
    was = csv.field_size_limit(_LONGEST_FIELD)
    try:
        # Bytes that are not UTF-8 become surrogates, which are reported with their row.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            rows = csv.reader(lines, delimiter=delimiter, strict=True)
            header: list[str] | None = None
            while True:
                place = f"{path.name}:{rows.line_num + 1}"
                try:
                    fields = next(rows, None)
                except csv.Error as error:
                    yield Problem(place, "unreadable", f"the row is not valid CSV ({error})")
                    continue
                if fields is None:
                    return
                if not fields:
                    continue
                if header is None:
                    header = fields
                    _check_header(path, header)
                elif len(fields) != len(header):
                    detail = f"the row has {len(fields)} fields, the header {len(header)}"
                    yield Problem(place, "unreadable", detail)
                else:
                    yield Row(place, dict(zip(header, fields, strict=True)))
    finally:
        csv.field_size_limit(was)


def _tsv(path: Path) -> Iterator[Row | Problem]:
    return _csv(path, delimiter="\t")


def _check_header(path: Path, header: list[str]) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        msg = f"{path.name} has two columns of the same name: {', '.join(twice)}. Rename one."
        raise PreferenceDataError(msg)


def _parquet(path: Path) -> Iterator[Row | Problem]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            batches = (batch.to_pylist() for batch in file.iter_batches(batch_size=256))
            yield from _numbered(chain.from_iterable(batches), f"{path.name} row ")
    except ArrowException as error:
        msg = f"{path.name} can't be read as parquet ({type(error).__name__}). Write it again."
        raise PreferenceDataError(msg) from error


def _saved(path: Path, split: str) -> Iterator[Row | Problem]:
    from datasets import load_from_disk

    try:
        data = load_from_disk(str(path))
    except FileNotFoundError as error:
        msg = (
            f"The folder {path.name} holds no data set that `datasets` saved. Give the file itself,"
            " or a folder that Dataset.save_to_disk wrote."
        )
        raise PreferenceDataError(msg) from error
    name = path.name
    if _is_split_dictionary(data):
        data, name = _pick_split(data, split), f"{path.name}/{split}"
    yield from _numbered(data, f"{name} row ")


def _from_hub(
    name: str, *, split: str, subset: str | None, revision: str | None
) -> Iterator[Row | Problem]:
    from datasets import load_dataset

    try:
        data = load_dataset(name, subset, split=split, revision=revision, streaming=True)
    except Exception as error:
        msg = (
            f"There is no file {name!r}, and as a data set of the hub its split {split!r} can't be"
            f" read ({type(error).__name__}). Check the name, `split` and `subset`, or download the"
            " data and pass the file."
        )
        raise PreferenceDataError(msg) from error
    yield from _numbered(data, f"{name}/{split} row ")


def _records_of_table(source: Any) -> Iterable[Any] | None:
    """The rows of a data frame or table as dictionaries; `None` if the source is none."""
    kind = type(source)
    match kind.__module__.partition(".")[0], kind.__name__:
        case "pandas", "DataFrame":
            # What is missing is NaN there.
            columns = [str(name) for name in source.columns]
            values = source.astype(object).where(source.notna(), None).itertuples(index=False)
            return (dict(zip(columns, row, strict=True)) for row in values)
        case "polars", "DataFrame":
            return source.iter_rows(named=True)  # type: ignore[no-any-return]
        case "pyarrow", "Table":
            return source.to_pylist()  # type: ignore[no-any-return]
    return None


def _is_split_dictionary(source: Any) -> bool:
    # An instance can only exist if `datasets` is already imported.
    return isinstance(source, dict) and type(source).__module__.partition(".")[0] == "datasets"


def _pick_split(data: Mapping[str, Any], split: str) -> Any:
    if split not in data:
        msg = f"The data set has no split {split!r}. Its splits are {', '.join(map(str, data))}."
        raise PreferenceDataError(msg)
    return data[split]


def _numbered(rows: Iterable[Any], before: str) -> Iterator[Row | Problem]:
    for number, values in enumerate(rows, start=1):
        yield _row(f"{before}{number}", values)


def _row(place: str, values: Any) -> Row | Problem:
    if isinstance(values, Mapping):
        return Row(place, values)
    detail = f"a row is a dictionary of its fields, not {type(values).__name__}"
    return Problem(place, "unreadable", detail)


def _no_source(kind: str) -> str:
    return (
        "Rows are a file, the name of a data set, a Dataset, a data frame or an iterable of"
        f" dictionaries, not {kind}."
    )


_READERS = {".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv, ".tsv": _tsv, ".parquet": _parquet}
