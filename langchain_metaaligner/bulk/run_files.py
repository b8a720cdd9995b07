"""The files of a run: its source, its output, and what an earlier run has left."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from langchain_metaaligner.bulk.folder import WorkFolder, as_bytes, foreign, read_json
from langchain_metaaligner.bulk.kinds import KINDS, FileKind, kind_of, named_kind
from langchain_metaaligner.bulk.settings import differences
from langchain_metaaligner.bulk.shards import (
    Shards,
)
from langchain_metaaligner.bulk.source import Place, Source, open_source, pipe_identity
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
        for one in (out, problems_of(out), record_of(out)):
            if path is not None and one.exists() and one.samefile(path):
                msg = f"{one} is the source itself. Give another file to write to."
                raise BulkError(msg)
        if out.exists() and not out.is_file():
            what = "a folder" if out.is_dir() else "no file of rows"
            msg = f"{out} is {what}. Give the file to write."
            raise BulkError(msg)
        if not out.parent.is_dir():
            msg = f"{out.parent}, where {out.name} should be written, is no folder. Make it first."
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
        self.problems = problems_of(out)
        self._record = record_of(out)
        self.folder = WorkFolder(out)
        with writing(out):
            if not resume:
                self.folder.remove()
            earlier = self.folder.read()
        self._replaces = not resume or bool(earlier and earlier["replaces"])
        if earlier and not self.folder.journal:
            # No row is done. What was kept of a pipe can't be read again, except by the same run.
            kept = given.is_pipe and not differences(earlier["settings"], settings)
            earlier = earlier if kept else None
        self._earlier = earlier

    def done(self) -> BulkSummary | None:
        """The summary of the run that made the output; `None` if it is not complete."""
        if self._replaces:
            return None
        if self._earlier is not None:
            journal = self.folder.journal
            if self.out.exists() and not (journal and journal[-1].get("ended")):
                raise foreign(self.out)
            return None
        record = read_json(self._record)
        if record is None:
            for one in (self.out, self.problems):
                if one.exists():
                    raise foreign(one)
            return None
        if not record.keys() >= {"source", "settings", "summary"}:
            raise foreign(self._record)
        if not self.out.exists():  # its own record is all that is left of it
            self._replaces = True
            return None
        with writing(self.out):
            self.folder.remove()
        if self.given.is_pipe:
            if self.given.path is not None:  # it may have no end, as nobody writes to it again
                msg = f"{self.out} is complete already. Give another output, or resume=False."
                raise BulkError(msg)
            now = pipe_identity(sys.stdin.buffer)
        else:
            source = self._source(None)
            try:
                now = source.identity()
            finally:
                source.close()
        unlike = differences(record["settings"], self.settings)
        known = ("size", "head") if self.given.is_pipe else ("size", "modified", "head")
        if any(now[name] != record["source"][name] for name in known):
            unlike.append("the source has changed since")
        if unlike:
            raise _another_run(self.out, unlike)
        summary = record["summary"]
        problems = self.problems if summary["failed"] or summary["bad"] else None
        return BulkSummary(out=self.out, problems=problems, **summary)

    @contextmanager
    def opened(self) -> Generator[Source]:
        """Open the source as it was when the first run began; begin the folder if there is none.

        Yields:
            The source.
        """
        earlier = self._earlier
        if earlier is None:
            if self.given.is_pipe:
                with writing(self.out):
                    self.folder.begin()
                    self._keep_pipe()
            source = self._source(None)
        else:
            source = self._source(earlier["source"]["size"])
        try:
            if earlier is None:
                with writing(self.out):
                    if not self.given.is_pipe:
                        self.folder.begin()
                    self.folder.begin_journal(
                        {
                            "source": source.identity(),
                            "settings": self.settings,
                            "replaces": self._replaces,
                        }
                    )
            else:
                self._compare(earlier, source)
            yield source
        except BaseException:
            if not (self.folder.journal or self.given.is_pipe):
                with suppress(OSError):
                    self.folder.remove()  # nothing is done
            raise
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
        with self.folder.file(self.out, replaces=self._replaces) as file:
            shards.join(self.folder.files(".rows"), file)
        if problems:
            with self.folder.file(self.problems, replaces=self._replaces) as file:
                for one in problems:
                    with one.open("rb") as read:
                        shutil.copyfileobj(read, file)
        elif self._replaces:
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


def problems_of(out: Path) -> Path:
    """The file with the rows that are not in an output."""
    return out.with_name(f"{out.name}.problems.jsonl")


def record_of(out: Path) -> Path:
    """The file that keeps how an output was made."""
    return out.with_name(f"{out.name}.run.json")


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
