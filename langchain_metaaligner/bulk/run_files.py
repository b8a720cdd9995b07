"""The files of a run: its source, its output, and what an earlier run has left."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from langchain_metaaligner.bulk.folder import WorkFolder, as_bytes, read_json
from langchain_metaaligner.bulk.kinds import KINDS, FileKind, kind_of, named_kind
from langchain_metaaligner.bulk.settings import differences
from langchain_metaaligner.bulk.shards import (
    Shards,
)
from langchain_metaaligner.bulk.source import Place, Source, open_source
from langchain_metaaligner.bulk.summary import BulkSummary
from langchain_metaaligner.errors import (
    BulkError,
)


@dataclass(frozen=True, slots=True)
class GivenSource:
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
    def of(cls, source: str | os.PathLike[str], out: Path, kind: str | None) -> GivenSource:
        """Look at a source before anything is read or written.

        Args:
            source: The source.
            out: The output.
            kind: What the source is, if its name doesn't say.

        Returns:
            The source.

        Raises:
            BulkError: It can't be a source, or the output can't be one.
        """
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


class RunFiles:
    """What an earlier run has left, and what this one leaves.

    Args:
        given: The source.
        out: The output.
        settings: What this run is asked to do.
        resume: Whether to go on with an earlier run.
    """

    def __init__(
        self, given: GivenSource, out: Path, settings: dict[str, Any], *, resume: bool
    ) -> None:
        self.given, self.out, self.settings = given, out, settings
        self.problems = out.with_name(f"{out.name}.problems.jsonl")
        self._record = out.with_name(f"{out.name}.run.json")
        self.folder = WorkFolder(out)
        with writing(out):
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
        with writing(self.out):
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
            with writing(self.out):
                self.folder.begin()
                if self.given.is_pipe:
                    self._keep_pipe()
            source = self._source(None)
        else:
            source = self._source(earlier["source"]["size"])
        try:
            if earlier is None:
                with writing(self.out):
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


@contextmanager
def writing(out: Path) -> Generator[None]:
    """Turn errors of the system into one that says what is kept.

    Args:
        out: The output.

    Raises:
        BulkError: The output, or what is beside it, can't be written.
    """
    try:
        yield
    except OSError as error:
        msg = (
            f"{out} and what is beside it can't be written: {error.strerror or error}. What is done"
            " is kept: make room or mend the cause, and run this again to go on."
        )
        raise BulkError(msg) from error


def _another_run(out: Path, unlike: Sequence[str]) -> BulkError:
    return BulkError(
        f"{out} belongs to a run that is not the same: {'; '.join(unlike)}. Call it as it was"
        " called before, or give another output, or start over with resume=False."
    )
