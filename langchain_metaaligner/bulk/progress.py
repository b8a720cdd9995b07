"""How far a run has come, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

# Less of the work, or of time, makes an estimate rough.
_SURE = 0.05
_SURE_SECONDS = 5.0
_FEW = 10  # rows, after which there is an estimate at all


@dataclass(frozen=True, slots=True)
class BulkProgress:
    """How far a run has come.

    Attributes:
        rows: Rows that are done, with those of earlier runs.
        edited: How many of them were changed.
        unchanged: How many the aligner left as they were, or had no text to edit.
        failed: How many failed, or could not be read.
        fraction: Part of the source that is done, by length of the rows, from 0 to 1.
        seconds: Time since this run began its first edit.
        rows_per_second: Rows of this run in that time.
        remaining: Seconds that the rest will take, at the rate of this run; `None` after the first
            few rows, which tell nothing.
        rough: Whether too little is done for that to be more than a guess.
    """

    rows: int
    edited: int
    unchanged: int
    failed: int
    fraction: float
    seconds: float
    rows_per_second: float
    remaining: float | None
    rough: bool

    def __str__(self) -> str:
        parts = [
            f"{self.rows:,} rows",
            f"{self.fraction:.0%}",
            f"{self.rows_per_second:.1f} rows/s",
        ]
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        if self.remaining is not None and self.fraction < 1:
            parts.append(f"{'roughly ' if self.rough else ''}{duration(self.remaining)} left")
        return " · ".join(parts)


class Meter:
    """Measures a run by the length of its rows: long ones take longer.

    Args:
        size: Length of the whole source.
        reached: How much of it was done by earlier runs.
    """

    def __init__(self, size: int, reached: int) -> None:
        self._size, self._first = size, reached
        self._begun = time.monotonic()

    def seconds(self) -> float:
        """Time since the run began."""
        return time.monotonic() - self._begun

    def measure(self, reached: float, counts: Mapping[str, int], rows: int) -> BulkProgress:
        """Say how far the run has come.

        Args:
            reached: How much of the source is done.
            counts: Of the rows that are done, how many were `edited`, `unchanged`, `skipped`,
                `failed` and `bad`.
            rows: Rows of this run.

        Returns:
            The progress.
        """
        seconds = self.seconds()
        own, whole = reached - self._first, self._size - self._first
        part = own / whole if whole > 0 else 1.0
        is_known = own > 0 and (rows >= _FEW or part >= _SURE)
        return BulkProgress(
            rows=sum(counts.values()),
            edited=counts.get("edited", 0),
            unchanged=counts.get("unchanged", 0) + counts.get("skipped", 0),
            failed=counts.get("failed", 0) + counts.get("bad", 0),
            fraction=min(reached / self._size, 1.0) if self._size else 1.0,
            seconds=seconds,
            rows_per_second=rows / seconds if seconds > 0 else 0.0,
            remaining=max(seconds * (whole - own) / own, 0.0) if is_known else None,
            rough=part < _SURE or seconds < _SURE_SECONDS,
        )


def duration(seconds: float) -> str:
    """A time in words.

    Args:
        seconds: The time.

    Returns:
        Such as `40 s`, `12 min` or `3 h 20 min`.
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
