"""The records of an evaluation: a row that was given, a comparison, and a row with its results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["win", "tie", "loss"]
"""How an edit does against its original; or a text against a reference."""


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One row as it was given, checked.

    Attributes:
        key: Hash of everything below that bears on the results; a resumed run knows rows by it.
        place: Where it was read: file and line, or number of the row.
        conversation: Rows of the same conversation are not independent; intervals count them as
            one cluster. The row's own `conversation`, or a hash of its context.
        policy: Who wrote the answer; empty if the row doesn't say.
        context: The conversation before the answer, as text.
        answer: The answer as the policy wrote it.
        edited: The answer after the edit; `None` if an aligner is to make it.
        reference: A text that both are compared with; `None` compares them with each other.
        provenance: What is known of a given edit, as `Alignment.provenance` writes it.
    """

    key: str
    place: str
    conversation: str
    policy: str
    context: str = field(repr=False)
    answer: str = field(repr=False)
    edited: str | None = field(default=None, repr=False)
    reference: str | None = field(default=None, repr=False)
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a judge said of two texts on one objective, asked in both orders.

    Attributes:
        outcome: Of the edit: `win` or `loss` if both orders agree on it, else `tie`. `None` if
            the judge gave no verdict in one of the orders.
        verdicts: The judge's two verdicts as it gave them, 1 for the text that it read first, 2
            for the second, 0 for neither, `None` for none: first with the edit read first, then
            with the edit read second.
        reason: Why there is no outcome.
        seconds: Time that the judge took for both.
    """

    outcome: Outcome | None
    verdicts: tuple[int | None, int | None] = (None, None)
    reason: str | None = None
    seconds: float = 0.0

    @property
    def consistent(self) -> bool | None:
        """Whether both orders say the same; `None` without two verdicts."""
        edit_first, edit_second = self.verdicts
        if edit_first is None or edit_second is None:
            return None
        return (edit_first, edit_second) in ((1, 2), (2, 1), (0, 0))


@dataclass(frozen=True, slots=True)
class EvaluatedRow:
    """One row with everything that was found out about its edit; a line of the results.

    Attributes:
        key: As in `EvaluationRow`, as are `place`, `conversation`, `policy` and `reference`.
        context: The conversation before the answer, as text.
        original: The answer as the policy wrote it.
        edited: The answer after the edit; the original if the edit failed.
        status: What became of the edit, as in `Alignment`.
        comparisons: Name of an objective to what the judge said of edit and original.
        second: The same by the second judge.
        against_reference: Name of an objective to two comparisons with the reference: of the
            edit, and of the original. Empty without a reference.
        refuses: Whether the original, and the edit, read as a refusal.
        kept: Kind of structure that the original has (`numbers`, `urls`, `code`, `table`, `json`,
            `citations`, `language`, …) to whether the edit keeps it.
        guards: What guards did, as in `Alignment`.
        agreement: Mean log-probability per token of the original under the aligner.
        usage: `input_tokens`, `output_tokens` and `total_tokens` of the aligner.
        seconds: Time that the edit took.
        error: Type and message of the error, if the edit failed.
    """

    key: str
    place: str
    conversation: str
    policy: str
    context: str = field(repr=False)
    original: str = field(repr=False)
    edited: str = field(repr=False)
    status: str
    comparisons: Mapping[str, Comparison]
    second: Mapping[str, Comparison] = field(default_factory=dict)
    against_reference: Mapping[str, tuple[Comparison, Comparison]] = field(default_factory=dict)
    reference: str | None = field(default=None, repr=False)
    refuses: tuple[bool, bool] = (False, False)
    kept: Mapping[str, bool] = field(default_factory=dict)
    guards: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    agreement: float | None = None
    usage: Mapping[str, int] | None = None
    seconds: float | None = None
    error: str | None = None

    @property
    def changed(self) -> bool:
        """Whether the edit differs from the original."""
        return self.edited != self.original
