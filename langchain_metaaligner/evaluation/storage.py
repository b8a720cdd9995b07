"""The file of an evaluation: what was done so far, so that a run that was killed goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any, Self

from pydantic import TypeAdapter, ValidationError

from langchain_metaaligner.errors import EvaluationError
from langchain_metaaligner.evaluation.records import EvaluatedRow
from langchain_metaaligner.training.data.pairs import Problem

FILE = "results.jsonl"
_OTHER_FORMS = frozenset([".json", ".csv", ".tsv", ".parquet", ".html", ".md"])
_HEAD = "evaluation"
_BEGINS = b'{"evaluation": {'
_VERSION = 1
_SHOWN = 160


@dataclass(slots=True)
class Head:
    """The first line of the file, and of each later run; the last one counts.

    Attributes:
        settings: Objectives, judges and aligner; results of other ones are never mixed.
        problems: The rows that can't be used.
        judge: Whether the judge is worth it, as plain JSON; `None` until it was checked.
        done: Whether the run has ended.
        version: Version of the file's form.
    """

    settings: Mapping[str, Any]
    problems: Sequence[Problem] = ()
    judge: Mapping[str, Any] | None = None
    done: bool = False
    version: int = _VERSION


@dataclass(slots=True)
class Contents:
    """What a file holds.

    Attributes:
        head: Its first line.
        rows: The results by the rows' keys.
        others: Results of rows that the last run was not given.
        notes: Edits and verdicts that belong to no result yet, or to the check of the judge.
    """

    head: Head
    rows: dict[str, EvaluatedRow] = field(default_factory=dict)
    others: dict[str, EvaluatedRow] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


class ResultsFile:
    """Keeps what an evaluation has done, line by line, and finds it again.

    A line is written at once, so a process that is killed loses at most what it was doing. The
    file has notes of single edits and verdicts while the run goes on; at its end it is written
    anew: the results in the order of the rows, one a line.

    Args:
        path: A `.jsonl` file, or a folder for one; `None` keeps nothing.
        settings: What the results depend on.
        retry_failed: Whether results without an edit or a verdict are left out of what is known.

    Attributes:
        path: The file.
        rows: The results that are known, by the rows' keys.
        notes: The edits and verdicts that are known.

    Raises:
        EvaluationError: The file holds something else, or another process writes it.
    """

    def __init__(
        self, path: str | Path | None, settings: Mapping[str, Any], *, retry_failed: bool = False
    ) -> None:
        self.path = None if path is None else file_of(path)
        self.rows: dict[str, EvaluatedRow] = {}
        self.notes: dict[str, Any] = {}
        self._head = Head(json.loads(json.dumps(settings)))
        self._file: IO[bytes] | None = None
        if self.path is None:
            return
        self._file = _opened(self.path)
        try:
            self._resume(retry_failed)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def keep(self, row: EvaluatedRow) -> None:
        """Keep a result.

        Args:
            row: The result.
        """
        self.rows[row.key] = row
        self._write(_written_row(row))

    def note(self, key: str, value: Any) -> None:
        """Keep an edit or a verdict that a later result will hold.

        Args:
            key: What it is known by.
            value: Plain JSON.
        """
        self.notes[key] = value
        self._write({"note": key, "value": value})

    def sync(self) -> None:
        """Make sure that what was written outlives the machine."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def finish(self, head: Head, order: Sequence[str], notes: Iterable[str]) -> None:
        """Write the file anew, without what belongs to results by now.

        Args:
            head: The first line.
            order: Keys of the results, in the order of the rows.
            notes: Keys of the notes that stay.
        """
        if self.path is None or self._file is None:
            return
        mine = set(order)
        write_file(
            self.path,
            head,
            [self.rows[key] for key in order],
            others=[row for key, row in self.rows.items() if key not in mine],
            notes={key: self.notes[key] for key in notes if key in self.notes},
        )

    def _resume(self, retry_failed: bool) -> None:
        path, file = self.path, self._file
        if path is None or file is None:
            return
        whole = _whole_lines(path)
        if whole == 0 and _may_be_cut_head(path):
            file.truncate(0)
            self._write(_written_head(self._head))
            return
        found = read_file(path)
        if not (found.rows or found.others or found.notes):
            file.truncate(0)
            self._write(_written_head(self._head))
            return
        changed = _changed(found.head.settings, self._head.settings)
        if changed:
            msg = (
                f"{path} holds results of other settings: {changed}. They are not mixed. Give"
                " another out=, or delete the file to begin anew."
            )
            raise EvaluationError(msg)
        again = retry_failed or not found.head.done
        known = {**found.others, **found.rows}
        self.rows = {key: row for key, row in known.items() if not (again and has_failed(row))}
        self.notes = found.notes
        file.truncate(whole)
        self._write(_written_head(self._head))  # from here on the run has not ended

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(_line(record))
        except OSError as error:
            msg = f"{self.path} can't be written ({error.strerror}). What it holds is kept."
            raise EvaluationError(msg) from error


def has_failed(row: EvaluatedRow) -> bool:
    """Whether a row has no edit, or lacks a verdict.

    Args:
        row: The row.
    """
    compared = [*row.comparisons.values(), *row.second.values()]
    return row.status == "failed" or any(one.outcome is None for one in compared)


def file_of(path: str | Path) -> Path:
    """The file of results that a path means.

    Args:
        path: A `.jsonl` file, or a folder.

    Raises:
        EvaluationError: By its name it is a file of another kind.
    """
    given = Path(path)
    if given.suffix.lower() in _OTHER_FORMS and not given.exists():
        msg = (
            f"Results are a folder or a .jsonl file, not {given.name!r}. Of a result,"
            " .to_parquet(path) writes a table and .to_html(path) the report."
        )
        raise EvaluationError(msg)
    if given.is_dir() or (given.suffix.lower() != ".jsonl" and not given.is_file()):
        return given / FILE
    return given


def read_file(path: str | Path) -> Contents:
    """Read a file of results, also one whose run was killed.

    Args:
        path: The file, or its folder.

    Returns:
        What it holds.

    Raises:
        EvaluationError: It does not exist, or holds something else.
    """
    file = file_of(path)
    try:
        with file.open("rb") as lines:
            head = _read_head(next(lines, b""), file)
            found = Contents(head)
            for line in lines:
                _read_line(line, found)
    except OSError as error:
        msg = f"The results {file} can't be read ({error.strerror})."
        raise EvaluationError(msg) from error
    return found


def write_file(
    path: Path,
    head: Head,
    rows: Sequence[EvaluatedRow],
    *,
    others: Sequence[EvaluatedRow] = (),
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write a file of results in one step: whole, or not at all.

    Args:
        path: The file.
        head: Its first line.
        rows: The results.
        others: Results of other rows.
        notes: Notes that stay.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.writelines(_lines(head, rows, others, notes or {}))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        msg = f"{path} can't be written ({error.strerror})."
        raise EvaluationError(msg) from error


def _lines(
    head: Head,
    rows: Sequence[EvaluatedRow],
    others: Sequence[EvaluatedRow],
    notes: Mapping[str, Any],
) -> Iterator[bytes]:
    yield _line(_written_head(head))
    for row in rows:
        yield _line(_written_row(row))
    for row in others:
        yield _line({"other": _written_row(row)})
    for key, value in notes.items():
        yield _line({"note": key, "value": value})


def _line(record: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a pair of surrogates
        text = json.dumps(record).encode()
    return text + b"\n"


def _written_head(head: Head) -> dict[str, Any]:
    made: dict[str, Any] = TypeAdapter(Head).dump_python(head, mode="json")
    return {_HEAD: made}


@cache
def _rows() -> TypeAdapter[EvaluatedRow]:
    return TypeAdapter(EvaluatedRow)


def _written_row(row: EvaluatedRow) -> dict[str, Any]:
    made: dict[str, Any] = _rows().dump_python(row, mode="json")
    return made


def _read_head(line: bytes, path: Path) -> Head:
    try:
        head = TypeAdapter(Head).validate_python(json.loads(line)[_HEAD])
    except (ValueError, KeyError, TypeError) as error:
        msg = (
            f"{path} holds no results of an evaluation. Give the file or folder that"
            " evaluate(out=…) or EvaluationResult.to_jsonl wrote, or for out= one that does not"
            " exist yet."
        )
        raise EvaluationError(msg) from error
    if head.version != _VERSION:
        msg = (
            f"{path} was written by another version of this package (its form is"
            f" {head.version}, not {_VERSION}). Make the results again."
        )
        raise EvaluationError(msg)
    return head


def _read_line(line: bytes, found: Contents) -> None:
    try:
        record = json.loads(line)
        if _HEAD in record:
            found.head = TypeAdapter(Head).validate_python(record[_HEAD])
        elif "note" in record:
            found.notes[record["note"]] = record["value"]
        elif "other" in record:
            row = _rows().validate_python(record["other"])
            found.others[row.key] = row
        else:
            row = _rows().validate_python(record)
            found.rows[row.key] = row
    except (ValueError, KeyError, TypeError, ValidationError):
        # The half line of a run that was killed; what stood there is done again.
        return


def _whole_lines(path: Path) -> int:
    """How many bytes of a file are whole lines."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            begin = max(0, end - (1 << 16))
            file.seek(begin)
            at = file.read(end - begin).rfind(b"\n")
            if at >= 0:
                return begin + at + 1
            end = begin
    return 0


def _may_be_cut_head(path: Path) -> bool:
    """Whether a file without a whole line is empty, or holds the beginning of a first line."""
    with path.open("rb") as file:
        begun = file.read(len(_BEGINS))
    return _BEGINS.startswith(begun)


def _opened(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b", buffering=0)
    except OSError as error:
        msg = f"The results can't be kept in {path} ({error.strerror}). Give another out=."
        raise EvaluationError(msg) from error
    try:
        import fcntl
    except ImportError:  # not on Windows
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        msg = f"Another evaluation writes {path}. Wait for its end, or give another out=."
        raise EvaluationError(msg) from error
    except OSError:  # a file system without locks
        pass
    return file


def _changed(before: Any, now: Any) -> str:
    """Which settings differ, and how, in words."""
    return "; ".join(
        f"{name} was {_short(old)} and is {_short(new)}"
        for name, old, new in _apart("", before, now)
    )


def _apart(name: str, before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for part in sorted({*before, *now}):
            inside = f"{name}.{part}" if name else part
            yield from _apart(inside, before.get(part), now.get(part))
    elif before != now:
        yield name, before, now


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
