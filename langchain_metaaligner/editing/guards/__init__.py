"""What an edit that keeps most of the reply must keep, too: numbers, links, code, tables."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_metaaligner.editing.guards import forms, items
from langchain_metaaligner.editing.guards.passages import Change, Passages
from langchain_metaaligner.engines.base import as_ours
from langchain_metaaligner.errors import GuardError

Guard = Callable[[Change], str | None]
"""Looks at a changed passage; returns what is written there, or `None` if the edit must fail."""

GUARDS: Mapping[str, Guard] = {
    "citations": items.citations,
    "urls": items.urls,
    "emails": items.emails,
    "numbers": items.numbers,
    "fences": forms.fences,
    "tables": forms.tables,
    "json": forms.json_blocks,
    "language": forms.language,
}
"""The guards of passages by their names in the option `guards`."""

_BLOCK = 1 << 13
_REFUSAL = re.compile(
    r"(?:(?:i['\u2019]?m|i am) (?:very |so |really )?(?:sorry|afraid)|(?:sorry|unfortunately),?|as an ai[^.]{0,80},)"
    r"[^.!?\n]{0,60}\b(?:can(?:no|['\u2019])t|not able|unable|won['\u2019]t)\b"
    r"|i (?:can(?:no|['\u2019])t|am not able to|am unable to|won['\u2019]t|will not)\b",
    re.IGNORECASE,
)
_HELP = re.compile(
    r"(?m)^[ \t]*(?:\*\*)?(?:step )?1[.):]|^[ \t]*```|\b(?:here (?:is|are)|here['\u2019]s how|first, you|step 1)\b",
    re.IGNORECASE,
)
_BEGINNING = 300


class GuardedText:
    """An edit's text, piece by piece, as the guards let it through.

    Args:
        answer: The answer.
        prompt: The prompt of the edit.
        guards: The option `guards`: names, and guards of one's own.
        retryable: Whether another try may give another edit.
    """

    def __init__(
        self, answer: str, prompt: str, guards: Sequence[Any], *, retryable: bool = False
    ) -> None:
        self.told: Counter[tuple[str, str]] = Counter()
        self._answer, self._prompt, self._retryable = answer, prompt, retryable
        self._guards = [_named(one) for one in guards if one not in _OF_WHOLE]
        self._notes = "contradiction" in guards
        self._passages = Passages(answer, self._judged)
        self._made: list[str] = []
        self.text = ""

    def push(self, piece: str) -> str:
        """Append a piece.

        Args:
            piece: The next text of the edit, of any length.

        Returns:
            What can be given out.

        Raises:
            GuardError: A guard refuses the edit.
        """
        made = self._passages.push(piece)
        self._made.append(made)
        return made

    def finish(self) -> str:
        """End the text.

        Returns:
            What was held back.

        Raises:
            GuardError: A guard refuses the edit.
        """
        rest = self._passages.finish()
        self.text = "".join([*self._made, rest])
        if self._notes and contradicts(self.text) and not contradicts(self._answer):
            self.told["contradiction", "noted"] += 1
        return rest

    def _judged(self, change: Change, given: str) -> str:
        change = Change(
            change.before, change.after, change.answer, change.start, change.kept, change.moved,
            self._prompt,
        )
        for name, guard in self._guards:
            made = self._asked(name, guard, change)
            if made is None or not made.startswith(given):
                raise GuardError.of(name, retryable=self._retryable)
            if made != change.after:
                self.told[name, "restored" if change.before.strip() else "removed"] += 1
                change = change.with_after(made)
        return change.after

    def _asked(self, name: str, guard: Guard, change: Change) -> str | None:
        try:
            made = guard(change)
        except BaseException as error:  # noqa: BLE001 - `as_ours` raises again what must not be caught
            ours = as_ours(error, f"The guard {name!r}")
            raise ours from ours.__cause__
        if made is not None and not isinstance(made, str):
            message = (
                f"The guard {name!r} returned a {type(made).__name__}; expected the text that is"
                " written in place of the passage, or None to refuse the edit."
            )
            raise GuardError(message, guard=name)
        return made


_OF_WHOLE = ("contradiction", "repetition")


def guarded(text: str, given: GuardedText) -> str:
    """Let the guards look at a whole edit.

    Args:
        text: The edit.
        given: The guards, which have seen nothing yet.

    Returns:
        The text that they let through.
    """
    for start in range(0, len(text), _BLOCK):
        given.push(text[start : start + _BLOCK])
    given.finish()
    return given.text


def contradicts(text: str) -> bool:
    """Whether a text refuses first and helps then, as far as its form tells.

    Args:
        text: The text.
    """
    refusal = _REFUSAL.search(text, 0, _BEGINNING)
    return refusal is not None and _HELP.search(text, refusal.end()) is not None


def _named(guard: Any) -> tuple[str, Guard]:
    if isinstance(guard, str):
        return guard, GUARDS[guard]
    name = getattr(guard, "name", None) or getattr(guard, "__name__", None)
    return name if isinstance(name, str) else type(guard).__name__, guard
