"""The folder of a run's work until it is done: its settings, its shards, and a journal of them."""

from __future__ import annotations

import errno
import filecmp
import json
import os
import re
import shutil
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from langchain_metaaligner.errors import BulkError

_NEW = ".new"  # the end of the name of a file that is not written to its end
_OWN = re.compile(r"(settings\.json|chunks\.jsonl|source|\d{8,}\.(rows|problems))(\.new)?|.+\.new")


class WorkFolder:
    """The folder of a run, beside its output.

    What is in it is complete, or has a name by which it is known not to be. A chunk of rows counts
    as done once it is in the journal; its shard is written before that.

    Args:
        out: The file that the run makes.

    Attributes:
        journal: The records of the chunks that are done, in order.
    """

    def __init__(self, out: Path) -> None:
        self.path = out.with_name(f"{out.name}.parts")
        self._out = out
        self._journal = self.path / "chunks.jsonl"
        self.journal: list[dict[str, Any]] = []

    def read(self) -> dict[str, Any] | None:
        """Read the settings and the journal of an earlier run.

        Returns:
            The settings; `None` if no earlier run has left any.

        Raises:
            BulkError: The folder was damaged, or is not of a run.
        """
        self._check_own()
        settings = read_json(self.path / "settings.json")
        if settings is None:
            return None
        with suppress(FileNotFoundError):
            written = self._journal.read_bytes()
            whole = written[: written.rfind(b"\n") + 1]  # a kill leaves the last line half written
            if len(whole) < len(written):
                os.truncate(self._journal, len(whole))
            self.journal = [json.loads(line) for line in whole.splitlines()]
        for number, record in enumerate(self.journal):
            for name, size in record.get("files", {}).items():
                path = self.path / name
                if not path.is_file() or path.stat().st_size != size:
                    msg = (
                        f"{self.path.name}/{name} (chunk {number}) is not as it was written. Start"
                        " over with resume=False."
                    )
                    raise BulkError(msg)
        return settings

    def begin(self) -> None:
        """Make the folder, empty."""
        self.remove()
        self.path.mkdir()

    def begin_journal(self, settings: Mapping[str, Any]) -> None:
        """Write the settings; from here on, the folder can be resumed.

        Args:
            settings: The settings.
        """
        self.write("settings.json", as_bytes(settings))

    def remove(self) -> None:
        """Remove the folder; the settings first, so that no half of it is taken for a run."""
        self.journal = []
        if self._check_own():
            (self.path / "settings.json").unlink(missing_ok=True)
            sync(self.path)
            shutil.rmtree(self.path)

    def _check_own(self) -> bool:
        """Whether the folder is there; an error if it is not a run's own."""
        if not self.path.exists():
            return False
        others = [self.path.name]
        if self.path.is_dir():
            others = [one.name for one in self.path.iterdir() if not _OWN.fullmatch(one.name)]
        if others:
            msg = (
                f"{self.path} is kept for the work of this run, but holds {min(others)!r}, which is"
                " not of one. Move it away, or give another output."
            )
            raise BulkError(msg)
        return True

    def write(self, name: str, content: bytes) -> int:
        """Write a file, which is there as a whole or not at all.

        Args:
            name: Its name.
            content: What is in it.

        Returns:
            Its size.
        """
        with self.file(self.path / name) as file:
            file.write(content)
        return len(content)

    @contextmanager
    def file(self, path: Path, *, replaces: bool = True) -> Generator[BinaryIO]:
        """Write a file that takes its name, and the place of an earlier one, once it is complete.

        Args:
            path: The file.
            replaces: Whether it may take the place of one that is not the same.

        Yields:
            A file to write into.

        Raises:
            BulkError: There is another file, which it may not replace.
        """
        new = self.path / f"{path.name}{_NEW}"
        try:
            with new.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if not replaces and path.exists() and not filecmp.cmp(new, path, shallow=False):
                raise foreign(path)
            new.replace(path)
            sync(path.parent)
        except BaseException:
            with suppress(OSError):
                new.unlink(missing_ok=True)
            raise

    def enter(self, record: Mapping[str, Any]) -> None:
        """Enter a chunk that is done into the journal.

        Args:
            record: What is known of it; `files` are its files' names and sizes.
        """
        self.journal.append(dict(record))
        with self._journal.open("ab") as file:
            file.write(as_bytes(record))
            file.flush()
            os.fsync(file.fileno())

    def files(self, ending: str) -> list[Path]:
        """The files of the chunks that are done, in order.

        Args:
            ending: The end of their names.
        """
        names = [name for one in self.journal for name in one.get("files", ())]
        return [self.path / name for name in names if name.endswith(ending)]


def foreign(path: Path) -> BulkError:
    """The error of a file in the place of one that a run writes.

    Args:
        path: The file.

    Returns:
        The error.
    """
    return BulkError(
        f"{path} exists already, and is not of this run. Move it away, give another output, or"
        " replace it with resume=False."
    )


def as_bytes(record: Mapping[str, Any]) -> bytes:
    """Write a record as a line of JSON.

    Args:
        record: The record.
    """
    return json.dumps(record).encode() + b"\n"


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a record that was written as a whole.

    Args:
        path: The file.

    Returns:
        The record; `None` if there is no such file.

    Raises:
        BulkError: It holds something else.
    """
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        found = error
    if not isinstance(found, dict):
        msg = f"{path} can't be read. Remove it, or start over with resume=False."
        raise BulkError(msg)
    return found


def sync(folder: Path) -> None:
    """Make the names in a folder last.

    Args:
        folder: The folder.
    """
    if sys.platform == "win32":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def locked(out: Path) -> Generator[None]:
    """Keep other runs away from an output; a run that ends in any way sets it free.

    Args:
        out: The output.

    Raises:
        BulkError: Another run writes to it.
    """
    path = out.with_name(f"{out.name}.lock")
    held = _lock(path)
    try:
        yield
    finally:
        try:
            with suppress(OSError):
                path.unlink()
        finally:
            os.close(held)


def _lock(path: Path) -> int:
    while True:
        opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _take(opened):
                owner = os.read(opened, 20).decode(errors="replace").strip() or "unknown"
                msg = (
                    f"Another run writes to {path.name.removesuffix('.lock')} (process {owner})."
                    " Wait for its end, or give another output."
                )
                raise BulkError(msg)
            if not re.fullmatch(rb"\d*", os.read(opened, 20)):
                msg = f"{path} is not the lock of a run. Move it away, or give another output."
                raise BulkError(msg)
            with suppress(FileNotFoundError):
                # The run that ended just now has removed the file that it had locked.
                if path.stat().st_ino == os.fstat(opened).st_ino:
                    os.truncate(opened, 0)
                    os.lseek(opened, 0, os.SEEK_SET)
                    os.write(opened, str(os.getpid()).encode())
                    return opened
        except BaseException:
            os.close(opened)
            raise
        os.close(opened)


def _take(opened: int) -> bool:
    """Lock an open file without waiting, and say whether that was possible."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(opened, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK):
            return False
        raise
    return True
