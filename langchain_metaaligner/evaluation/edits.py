"""Edits the rows that come without an edit, with the aligner, and keeps each edit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from langchain_metaaligner.editing.alignment import Alignment
from langchain_metaaligner.editing.objectives import Objective
from langchain_metaaligner.errors import EvaluationError, first_line, without_quotes
from langchain_metaaligner.evaluation.asking import GIVE_UP, went_on
from langchain_metaaligner.evaluation.records import EvaluationRow
from langchain_metaaligner.evaluation.storage import ResultsFile

_TOGETHER = 8  # edits that a run makes again if it is killed meanwhile


class Editor(Protocol):
    """What edits answers: an `Aligner`."""

    def align_batch(self, items: Any, *, return_exceptions: bool) -> Sequence[Any]:
        """Edit several answers."""
        ...


@dataclass(frozen=True, slots=True)
class MadeEdit:
    """An edit, and what is known of it.

    Attributes:
        text: The answer after the edit; the answer itself if the edit failed.
        status: As in `Alignment`.
        guards: As in `Alignment`.
        agreement: As in `Alignment`.
        usage: As in `Alignment`.
        seconds: Time that it took.
        error: Type and message of the error, if it failed.
    """

    text: str = field(repr=False)
    status: str
    guards: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    agreement: float | None = None
    usage: Mapping[str, int] | None = None
    seconds: float | None = None
    error: str | None = None


class Editing:
    """Edits rows that come without an edit.

    Args:
        aligner: The aligner; `None` if every row has its edit.
        objectives: What the edits are for.
        contexts: Key of a row to its context.
        kept: Where edits are kept.
    """

    def __init__(
        self,
        aligner: Editor | None,
        objectives: Sequence[Objective],
        contexts: Mapping[str, Any],
        kept: ResultsFile,
    ) -> None:
        self._aligner, self._objectives = aligner, objectives
        self._contexts, self._kept = contexts, kept
        self._failures = 0
        self._loaded = False

    def of(self, rows: Sequence[EvaluationRow]) -> list[MadeEdit]:
        """The edit of each row, made or given.

        Args:
            rows: The rows.

        Returns:
            An edit for each row, in order.

        Raises:
            EvaluationError: Many edits in a row failed.
        """
        made = {row.key: edit for row in rows if (edit := self._known(row)) is not None}
        lacking = [row for row in rows if row.key not in made]
        if lacking and self._aligner is not None:
            self._load()
            for start in range(0, len(lacking), _TOGETHER):
                made |= self._edited(self._aligner, lacking[start : start + _TOGETHER])
        return [made[row.key] for row in rows]

    def _edited(self, aligner: Editor, rows: Sequence[EvaluationRow]) -> dict[str, MadeEdit]:
        items = [(self._contexts[row.key], row.answer, self._objectives) for row in rows]
        results = aligner.align_batch(items, return_exceptions=True)
        made: dict[str, MadeEdit] = {}
        for row, result in zip(rows, results, strict=True):
            edit = made[row.key] = _made(row, result)
            if edit.status != "failed":
                self._kept.note(f"edit {row.key}", asdict(edit))
        for edit in made.values():
            self._check_alive(edit)
        return made

    def _load(self) -> None:
        """Load the model once, since what fails there fails for every row."""
        load = getattr(self._aligner, "load", None)
        if not self._loaded and load is not None:
            load()
        self._loaded = True

    def _known(self, row: EvaluationRow) -> MadeEdit | None:
        if row.edited is not None:
            return _given(row, row.edited)
        known = self._kept.notes.get(f"edit {row.key}")
        return None if known is None else MadeEdit(**known)

    def _check_alive(self, edit: MadeEdit) -> None:
        self._failures = self._failures + 1 if edit.status == "failed" else 0
        if self._failures >= GIVE_UP:
            msg = (
                f"{self._failures} edits in a row failed, the last one with {edit.error}"
                f" {went_on(self._kept)}"
            )
            raise EvaluationError(msg)


def _made(row: EvaluationRow, result: Alignment | Exception) -> MadeEdit:
    if isinstance(result, Exception):
        said = without_quotes(first_line(result), row.answer, row.context)
        return MadeEdit(row.answer, "failed", error=f"{type(result).__name__}: {said}")
    return MadeEdit(
        result.text,
        result.status,
        guards={name: dict(counts) for name, counts in result.guards.items()},
        agreement=result.agreement,
        usage=None if result.usage is None else dict(result.usage),
        seconds=round(result.seconds, 6),
        error=result.error,
    )


def _given(row: EvaluationRow, edited: str) -> MadeEdit:
    """An edit that came with its row; of its provenance, what is of the right kind."""
    told = row.provenance
    status, error = told.get("status"), told.get("error")
    otherwise = "edited" if edited != row.answer else "unchanged"
    usage, guards = told.get("usage"), told.get("guards")
    return MadeEdit(
        edited,
        status if isinstance(status, str) else otherwise,
        guards={str(name): _counts(one) for name, one in guards.items() if isinstance(one, Mapping)}
        if isinstance(guards, Mapping)
        else {},
        agreement=_number(told.get("agreement")),
        usage=_counts(usage) if isinstance(usage, Mapping) else None,
        seconds=_number(told.get("seconds")),
        error=error if isinstance(error, str) else None,
    )


def _counts(given: Mapping[Any, Any]) -> dict[str, int]:
    return {str(name): count for name, count in given.items() if type(count) is int}


def _number(given: Any) -> float | None:
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    return float(given) if is_number and math.isfinite(given) else None
