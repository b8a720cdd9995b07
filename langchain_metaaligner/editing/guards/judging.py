"""Asks the guards what is written for a changed passage."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_metaaligner.editing.guards import forms, items
from langchain_metaaligner.editing.guards.change import Change
from langchain_metaaligner.engines.base import as_ours
from langchain_metaaligner.errors import GuardError

Guard = Callable[[Change], str | None]
"""Looks at a changed passage; returns what is written there, or `None` if the edit must fail."""

Guards = str | Guard | Sequence[str | Guard]
"""The option `guards`: names of guards, functions, or one of them."""

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

_REFUSAL = re.compile(
    r"(?:(?:i['\u2019]?m|i am) (?:very |so |really )?(?:sorry|afraid)|(?:sorry|unfortunately),?"
    r"|as an ai[^.]{0,80},)"
    r"[^.!?\n]{0,60}\b(?:can(?:no|['\u2019])t|not able|unable|won['\u2019]t)\b"
    r"|i (?:can(?:no|['\u2019])t|am not able to|am unable to|won['\u2019]t|will not)\b",
    re.IGNORECASE,
)
_HELP = re.compile(
    r"(?m)^[ \t]*(?:\*\*)?(?:step )?1[.):]|^[ \t]*```"
    r"|\b(?:here (?:is|are)|here['\u2019]s how|first, you|step 1)\b",
    re.IGNORECASE,
)
_BEGINNING = 300


def judged(
    change: Change,
    given: str,
    guards: Sequence[Any],
    told: dict[str, dict[str, int]],
    *,
    retryable: bool,
) -> str:
    """Let each guard look at a passage.

    Args:
        change: The passage.
        given: The beginning of what is written for it, where a consumer has that already.
        guards: Names of guards, and functions of the user's own.
        told: Where it is noted what each guard did.
        retryable: Whether another try may give another edit.

    Returns:
        What is written for the passage.

    Raises:
        GuardError: A guard refuses the edit, or wants another text than what a consumer has.
        EngineError: A guard failed.
    """
    for one in guards:
        guard = GUARDS.get(one) if isinstance(one, str) else one
        if guard is None:  # it looks at whole texts
            continue
        name = one if isinstance(one, str) else _name_of(one)
        made = _asked(name, guard, change)
        if made is None or not made.startswith(given):
            raise GuardError.of(name, retryable=retryable)
        if made != change.after:
            counts = told.setdefault(name, {})
            what = "restored" if change.before.strip() else "removed"
            counts[what] = counts.get(what, 0) + 1
            change = change.with_after(made)
    return change.after


def _asked(name: str, guard: Guard, change: Change) -> str | None:
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


def _name_of(guard: Any) -> str:
    names = (getattr(guard, "name", None), getattr(guard, "__name__", None))
    return next((name for name in names if isinstance(name, str)), type(guard).__name__)


def contradicts(text: str) -> bool:
    """Whether a text refuses first and helps then, as far as its form tells.

    Args:
        text: The text.
    """
    refusal = _REFUSAL.search(text, 0, _BEGINNING)
    return refusal is not None and _HELP.search(text, refusal.end()) is not None
