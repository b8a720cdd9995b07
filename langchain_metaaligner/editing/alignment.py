"""The record of one edit, and its diff for notebooks and terminals."""

from __future__ import annotations

import html
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from langchain_metaaligner.editing.word_diff import compare_words, split_words
from langchain_metaaligner.engines.base import TokenAgreement
from langchain_metaaligner.pickles import reduce_at_root

if TYPE_CHECKING:
    from rich.text import Text

Status = Literal["edited", "unchanged", "skipped", "passed", "blocked", "shadow", "failed"]
DiffOp = Literal["equal", "delete", "insert"]

METADATA_KEY = "metaaligner"

_LIKELY = 0.5  # tokens with a higher probability are not shaded
_SHADE = '<span style="background:rgba(255,160,0,{:.2f})" title="{:.1%}">{}</span>'


@dataclass(frozen=True, slots=True)
class Alignment:
    """The record of one edit.

    Attributes:
        original: The answer as the policy wrote it.
        text: The answer after the edit; in shadow mode, what the edit would have been.
        objectives: The names of the objectives.
        model: The aligner's checkpoint, or the kind of engine.
        family: The prompt family.
        status: `edited`; `unchanged`, the aligner returned the answer as it was; `skipped`, the
            answer had no text, or `when` decided against an edit; `passed`, the edit failed and
            the original was passed through; `blocked`, the edit failed and a fixed message
            replaced the answer; `failed`, the edit failed and the error was raised; `shadow`, the
            edit was made but the original was returned.
        finish_reason: Why the edit ended: `stop` or `length`.
        usage: `input_tokens`, `output_tokens` and `total_tokens` of the aligner, if known.
        passes: Number of forward passes of the aligner's model, if known.
        seconds: Time from the request to the finished edit, in seconds.
        agreement: Mean log-probability per token of the original under the aligner (natural
            logarithm). `None` if no forward pass covered the whole original, as in most rewrites;
            with `keep_above` or `token_agreement`, a pass covers it.
        token_agreement: The same for each token of the original, with its position, if
            `token_agreement=True` was given. `None`, like `agreement`, if the engine can't report
            it: it is not a local engine, or the edit differs from the answer and the model can't
            remove tokens from its cache (sliding-window attention).
        caution: The margin in nats with which the edit could leave the original; 0 is plain
            decoding. `None` if no edit was made.
        guards: What guards did: for each that did something, how often it put the answer's own
            text back (`restored`), took out what was added (`removed`), or only `noted` something.
            After a failure, the guard that refused the edit (`refused`).
        dropped: What was left out of the context: counts of `system` messages, `turns` and
            `words`, only those above zero.
        error: Type and message of the error, if there was one.
        reason: Why a reply, or something beside its text, was not edited; `None` if all was.
        context: The conversation before the answer as the aligner read it: text, or a pair of the
            speaker (`human` or `assistant`) and what was said for each turn. `None` if no edit was
            made. It is never part of a message, nor of what makes two records equal.
    """

    original: str = field(repr=False)
    text: str = field(repr=False)
    objectives: tuple[str, ...] = ()
    model: str = ""
    family: str = ""
    status: Status = "edited"
    finish_reason: str | None = None
    usage: Mapping[str, int] | None = None
    passes: int | None = None
    seconds: float = 0.0
    agreement: float | None = None
    token_agreement: tuple[TokenAgreement, ...] | None = field(default=None, repr=False)
    dropped: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None
    reason: str | None = None
    caution: float | None = None
    guards: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    context: str | tuple[tuple[str, str], ...] | None = field(
        default=None, repr=False, compare=False
    )

    __reduce_ex__ = reduce_at_root

    def __setstate__(self, state: Sequence[Any]) -> None:
        # Pickles of earlier versions contain the values of the fields that there were, in order.
        names = [one.name for one in fields(self)]
        Alignment.__init__(self, **dict(zip(names, state, strict=False)))

    @property
    def changed(self) -> bool:
        """Whether the text differs from the original."""
        return self.text != self.original

    def diff(self) -> list[tuple[DiffOp, str]]:
        """Compare the original with the text, word by word.

        Returns:
            Pairs of an operation and the text that it applies to. The equal and deleted texts,
            joined, give the original; the equal and inserted texts give the edited text.
        """
        before, after = split_words(self.original), split_words(self.text)
        steps: list[tuple[str, str, str]] = []
        for tag, i1, i2, j1, j2 in compare_words(before, after):
            old, new = "".join(before[i1:i2]), "".join(after[j1:j2])
            steps.append((old, "", "") if tag == "equal" else ("", old, new))
        pairs: list[tuple[DiffOp, str]] = []
        for same, old, new in _readable(steps):
            found: list[tuple[DiffOp, str]] = [("equal", same), ("delete", old), ("insert", new)]
            pairs.extend(pair for pair in found if pair[1])
        return pairs

    def provenance(self, *, keep_original: bool = False) -> dict[str, Any]:
        """The part of this record that goes into `response_metadata["metaaligner"]`.

        Args:
            keep_original: Whether to include the original. Everything in a message also appears
                in streams, traces and states.

        Returns:
            Plain JSON values: dicts, lists, strings, numbers, booleans and `None`.
        """
        record: dict[str, Any] = {
            "status": self.status,
            "changed": self.changed,
            "objectives": list(self.objectives),
            "model": self.model,
            "family": self.family,
            "finish_reason": self.finish_reason,
            "usage": None if self.usage is None else dict(self.usage),
            "passes": self.passes,
            "seconds": round(self.seconds, 6),
            "agreement": self.agreement,
            "dropped": dict(self.dropped),
        }
        if self.caution is not None:
            record["caution"] = self.caution
        if self.error is not None:
            # The message may quote text that must not be shown.
            record["error"] = self.error.partition(":")[0]
        if self.reason is not None:
            record["reason"] = self.reason
        if self.guards:
            record["guards"] = {name: dict(counts) for name, counts in self.guards.items()}
        if keep_original:
            record["original"] = self.original
        return record

    def summary(self) -> str:
        """One line with the status, the objectives, the aligner and the time in seconds."""
        parts = [self.status, ", ".join(self.objectives), self.model, f"{self.seconds:.2f} s"]
        return " · ".join(part for part in parts if part)

    def _repr_html_(self) -> str:
        marks = {
            "equal": "{}",
            "delete": '<del style="background:#fdd;color:#900">{}</del>',
            "insert": '<ins style="background:#dfd;color:#060;text-decoration:none">{}</ins>',
        }
        body, place = "", 0
        for op, text in self.diff():
            if op == "insert":
                shown = html.escape(text)
            else:
                shown, place = self._shaded(place, place + len(text)), place + len(text)
            body += marks[op].format(shown)
        return (
            f'<div><div style="opacity:.7;font-size:85%">{html.escape(self.summary())}</div>'
            f'<div style="white-space:pre-wrap">{body}</div></div>'
        )

    def _shaded(self, start: int, end: int) -> str:
        """Part of the original as HTML; the less likely a token, the darker its shade."""
        made, place = "", start
        for first, last, odds in _apart(self.token_agreement or ()):
            left, right = max(first, place), min(last, end)
            chance = math.exp(odds)
            if left >= right or chance > _LIKELY:
                continue
            made += html.escape(self.original[place:left])
            made += _SHADE.format((1 - chance) / 2, chance, html.escape(self.original[left:right]))
            place = right
        return made + html.escape(self.original[place:end])

    def __rich__(self) -> Text:
        """The coloured diff for a terminal, with the summary above it."""
        from rich.text import Text

        styles = {"equal": "", "delete": "red strike", "insert": "green"}
        shown = Text(self.summary() + "\n", style="dim")
        for op, text in self.diff():
            shown.append(text, style=styles[op] or "not dim")
        return shown


def _apart(tokens: Sequence[TokenAgreement]) -> list[TokenAgreement]:
    """Join tokens that are parts of the same character."""
    joined: list[TokenAgreement] = []
    for token in tokens:
        if joined and token.start < joined[-1].end:
            start, end, odds = joined[-1]
            joined[-1] = TokenAgreement(start, max(end, token.end), odds + token.log_probability)
        else:
            joined.append(token)
    return joined


def _readable(steps: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Join changes that are separated by only a word or two.

    A rewrite keeps an "of" or a comma by chance. Shown as unchanged, such words would split the
    rewrite into many small pieces.

    Args:
        steps: Tuples of equal, deleted and inserted text; equal text alternates with changes.

    Returns:
        The same changes in fewer steps.
    """
    joined: list[_Step] = []
    for same, old, new in steps:
        # Joined texts are joined once, at the end: a long one must not be copied at each step.
        pieces = deque([(old, new)])
        joined.append(_Step(pieces, len(old), len(new), same, len(same.split(None, 2)) <= 2))
        while len(joined) > 2 and not joined[-1].same and joined[-2].same and not joined[-3].same:
            one, between, other = joined[-3:]
            least = min(max(one.deleted, one.inserted), max(other.deleted, other.inserted))
            if len(between.same) > least or not between.few:
                break
            joined[-3:] = [one.joined(between.same, other)]
    return [
        (one.same, "".join(old for old, _ in one.pieces), "".join(new for _, new in one.pieces))
        for one in joined
    ]


@dataclass(slots=True)
class _Step:
    """A step of a diff: equal text, or the pieces of a change and the lengths of its two texts."""

    pieces: deque[tuple[str, str]]
    deleted: int
    inserted: int
    same: str = ""
    few: bool = True

    def joined(self, same: str, other: _Step) -> _Step:
        """Join this change, the equal text after it, and the change after that."""
        self.pieces.append((same, same))
        if len(self.pieces) < len(other.pieces):
            other.pieces.extendleft(reversed(self.pieces))
            pieces = other.pieces
        else:
            self.pieces.extend(other.pieces)
            pieces = self.pieces
        length = len(same)
        return _Step(
            pieces, self.deleted + length + other.deleted, self.inserted + length + other.inserted
        )
