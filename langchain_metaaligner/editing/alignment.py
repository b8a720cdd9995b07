"""The record of one edit: what was edited, towards what, at what cost; and its pictures."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from langchain_metaaligner.editing.word_diff import compare_words, split_words
from langchain_metaaligner.engines.base import TokenAgreement
from langchain_metaaligner.pickles import reduce_at_root

if TYPE_CHECKING:
    from rich.text import Text

Status = Literal["edited", "unchanged", "skipped", "passed", "blocked", "shadow", "failed"]
DiffOp = Literal["equal", "delete", "insert"]

METADATA_KEY = "metaaligner"

_LIKELY = 0.5  # tokens at least so likely are not worth the reader's attention
_SHADE = '<span style="background:rgba(255,160,0,{:.2f})" title="{:.1%}">{}</span>'


@dataclass(frozen=True, slots=True)
class Alignment:
    """What became of one answer.

    Attributes:
        original: The answer as the policy wrote it.
        text: The answer after the edit; in shadow mode what the edit would have been.
        objectives: The names of the objectives, as they were asked for.
        model: The aligner's checkpoint, or the kind of engine.
        family: The prompt family.
        status: `edited`; `unchanged`, the aligner gave the answer back as it was; `skipped`, there
            was no text to edit; `passed`, the edit failed and the original was let through;
            `blocked`, it failed and a fixed message took the answer's place; `failed`, it failed
            and the error was raised; `shadow`, the edit was made and the original went out.
        finish_reason: Why the edit ended: `stop` or `length`.
        usage: `input_tokens`, `output_tokens`, `total_tokens` of the aligner, where known.
        passes: Forward passes of the aligner's model, where known.
        seconds: Wall time from the request to the edit.
        agreement: Mean log-probability per token of the original under the aligner (natural
            logarithm); `None` where no pass saw all of it, as in most rewrites. `keep_above` and
            `token_agreement` have it seen.
        token_agreement: The same for each token of the original with its place in it, where
            `token_agreement=True` asked for it. `None`, like `agreement`, where the engine can't
            tell: it is no local one, or the edit parts from the answer and the model is of a kind
            that can't take tokens back (a sliding window).
        dropped: What of the context did not fit or was left out: counts by `system` (messages),
            `turns` and `words`; only what is more than zero.
        error: Kind and message of the error, where there was one.
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

    __reduce_ex__ = reduce_at_root

    @property
    def changed(self) -> bool:
        """Whether the text differs from the original."""
        return self.text != self.original

    def diff(self) -> list[tuple[DiffOp, str]]:
        """The way from the original to the text, word by word.

        Returns:
            Pairs of an operation and the text it is about. What is equal or deleted, joined, is
            the original; what is equal or inserted is the text.
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
        """What a message carries of this under `response_metadata["metaaligner"]`.

        Args:
            keep_original: Whether the original is part of it. What a message carries, every
                stream, trace and state carries too.

        Returns:
            Plain JSON: dicts, lists, text, numbers, booleans and None.
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
        if self.error is not None:
            # Its message may quote what was not to be shown.
            record["error"] = self.error.partition(":")[0]
        if keep_original:
            record["original"] = self.original
        return record

    def summary(self) -> str:
        """One line: the status, the objectives, the aligner and the time."""
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
        """A stretch of the original; what the aligner would hardly have written is darker."""
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
        """The diff for a terminal, coloured, with the summary above it."""
        from rich.text import Text

        styles = {"equal": "", "delete": "red strike", "insert": "green"}
        shown = Text(self.summary() + "\n", style="dim")
        for op, text in self.diff():
            shown.append(text, style=styles[op] or "not dim")
        return shown


def _apart(tokens: Sequence[TokenAgreement]) -> list[TokenAgreement]:
    """Tokens with those joined that are parts of one character."""
    joined: list[TokenAgreement] = []
    for token in tokens:
        if joined and token.start < joined[-1].end:
            start, end, odds = joined[-1]
            joined[-1] = TokenAgreement(start, max(end, token.end), odds + token.log_probability)
        else:
            joined.append(token)
    return joined


def _readable(steps: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Join changes with no more than a word or two in common between them.

    A rewrite keeps an "of" or a comma by chance; shown as kept, they cut it to ribbons.

    Args:
        steps: What is equal, or else what is deleted and inserted, by turns.

    Returns:
        The same way in fewer steps.
    """
    joined: list[tuple[str, str, str]] = []
    for step in steps:
        joined.append(step)
        while len(joined) > 2 and not joined[-1][0] and joined[-2][0] and not joined[-3][0]:
            (_, old1, new1), (same, _, _), (_, old2, new2) = joined[-3:]
            least = min(max(len(old1), len(new1)), max(len(old2), len(new2)))
            if len(same) > least or len(same.split()) > 2:
                break
            joined[-3:] = [("", old1 + same + old2, new1 + same + new2)]
    return joined
