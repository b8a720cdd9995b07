"""What became of the rows of a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from langchain_metaaligner.bulk.progress import duration


@dataclass(frozen=True, slots=True)
class BulkSummary:
    """What became of the rows of a file.

    Attributes:
        out: The file with the edited rows.
        problems: The file with the rows that are not in `out`; `None` if all are.
        rows: Rows that were read.
        edited: How many were changed.
        unchanged: How many the aligner left as they were.
        skipped: How many have an answer without text, and are kept as they are.
        failed: Kind of error to the number of rows whose edit failed with it.
        bad: How many could not be read, or lack an answer or a context.
        seconds: Time that the edits took, in all runs together.
        tokens: `input_tokens`, `output_tokens` and `total_tokens`, if the engine counts them.
        resumed: Rows that earlier runs had done.
        incomplete: Whether the last line of the source was not complete yet, and was left.
        source: What happened to the source after it was opened: `grown` (only what was there is
            read), `changed` or `removed`; `None` if nothing.
    """

    out: Path
    problems: Path | None
    rows: int
    edited: int
    unchanged: int
    skipped: int
    failed: Mapping[str, int]
    bad: int
    seconds: float
    tokens: Mapping[str, int] = field(default_factory=dict)
    resumed: int = 0
    incomplete: bool = False
    source: str | None = None

    @property
    def rows_per_second(self) -> float:
        """Rows in each second of edits."""
        return self.rows / self.seconds if self.seconds > 0 else 0.0

    @property
    def complete(self) -> bool:
        """Whether each row that was read is in `out`."""
        return not self.failed and not self.bad

    def __str__(self) -> str:
        rate = f"{self.rows_per_second:.1f} rows/s"
        each = (
            f"{self.edited:,} edited, {self.unchanged:,} unchanged, {self.skipped:,} without text"
        )
        lines = [f"{self.rows:,} rows in {duration(self.seconds)} ({rate}): {each}"]
        if self.failed:
            each = ", ".join(f"{name} {count:,}" for name, count in sorted(self.failed.items()))
            lines.append(f"failed: {each}")
        if self.bad:
            lines.append(f"not readable as rows to edit: {self.bad:,}")
        if self.tokens:
            counted = ", ".join(f"{name} {count:,}" for name, count in self.tokens.items())
            lines.append(counted.replace("_", " "))
        if self.resumed:
            lines.append(f"{self.resumed:,} of the rows were done by an earlier run")
        if self.incomplete:
            lines.append("the last line of the source is not complete yet, and was left")
        if self.source is not None:
            lines.append(_SOURCES[self.source])
        lines.append(f"edits: {self.out}")
        if self.problems is not None:
            lines.append(f"rows that are not there, with reasons: {self.problems}")
        return "\n".join(lines)

    def as_record(self) -> dict[str, Any]:
        """The summary as plain JSON values, without the paths."""
        record = asdict(self)
        del record["out"], record["problems"]
        return record


_SOURCES = {
    "grown": "the source has grown since; only the rows that were there at the start were read",
    "changed": "the source was changed while it was read; the rows were read as they came",
    "removed": "the source was removed or replaced while it was read",
}
