"""The kinds of files that are read and written, told by their names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from langchain_metaaligner.errors import BulkError

DELIMITERS = {"csv": ",", "tsv": "\t"}
_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
KINDS = tuple(dict.fromkeys(_SUFFIXES.values()))


@dataclass(frozen=True, slots=True)
class FileKind:
    """What a file is.

    Attributes:
        name: One of `jsonl`, `csv`, `tsv`, `parquet`.
        gzipped: Whether it is compressed with gzip.
    """

    name: str
    gzipped: bool = False

    def __str__(self) -> str:
        return f"{self.name}.gz" if self.gzipped else self.name


def kind_of(path: Path) -> FileKind | None:
    """Tell a file's kind by its name.

    Args:
        path: The file, which need not exist.

    Returns:
        Its kind; `None` if the name doesn't tell.

    Raises:
        BulkError: It is compressed in a way that is not read or written.
    """
    gzipped = path.suffix.lower() == ".gz"
    name = _SUFFIXES.get((path.with_suffix("") if gzipped else path).suffix.lower())
    if name is None:
        return None
    if gzipped and name == "parquet":
        msg = f"{path.name}: parquet files are compressed inside. Leave out the .gz."
        raise BulkError(msg)
    return FileKind(name, gzipped)


def named_kind(name: str) -> FileKind:
    """The kind of a given name.

    Args:
        name: Such as `jsonl` or `csv.gz`.

    Returns:
        The kind.

    Raises:
        BulkError: There is none of this name.
    """
    found = kind_of(Path(f"file.{name.removeprefix('.')}"))
    if found is None:
        msg = f"There is no kind of file {name!r}. There are {', '.join(KINDS)}."
        raise BulkError(msg)
    return found
