"""Finds the fields of a preference row under the names that a data set gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_metaaligner.errors import PreferenceDataError

# A text under one of these is a whole context; under one of the others it is what a user asked.
CONTEXTS = ("context", "messages")
QUESTIONS = ("prompt", "question", "query", "instruction")
_ALIASES: Mapping[str, tuple[str, ...]] = {
    "answer_a": ("chosen",),
    "answer_b": ("rejected",),
}
_TEXTS = (*CONTEXTS, *QUESTIONS, "answer_a", "answer_b", "answers", "answer")
_NAMED = ("scores_a", "scores_b", "preferences", "scores")

ULTRAFEEDBACK_COLUMNS: Mapping[str, str] = {
    "question": "instruction",
    "answers": "completions",
    "answer": "response",
    "scores.instruction_following": "annotations.instruction_following.Rating",
    "scores.honesty": "annotations.honesty.Rating",
    "scores.truthfulness": "annotations.truthfulness.Rating",
    "scores.helpfulness": "annotations.helpfulness.Rating",
}
"""Where `openbmb/UltraFeedback` has its fields."""


class Columns:
    """Where the fields of a row are.

    Args:
        given: A field's name here to its name in the data. A dot leads into a nested field, in
            `scores_a.helpfulness` as in `annotations.helpfulness.Rating`.

    Raises:
        PreferenceDataError: A name that no field has.
    """

    def __init__(self, given: Mapping[str, str] | None = None) -> None:
        self._given = dict(given or {})
        for name in self._given:
            if name not in _TEXTS and name.partition(".")[0] not in _NAMED:
                msg = (
                    f"`columns` names the field {name!r}, which preference rows do not have. They"
                    f" have {', '.join(_TEXTS)} and, followed by a dot and an objective,"
                    f" {', '.join(_NAMED)}."
                )
                raise PreferenceDataError(msg)

    def text(self, values: Mapping[str, Any], name: str) -> Any:
        """What stands in a field of text; `None` where there is none."""
        if name in self._given:
            return _at(values, self._given[name])
        for one in (name, *_ALIASES.get(name, ())):
            if values.get(one) is not None:
                return values[one]
        return None

    def context(self, values: Mapping[str, Any]) -> tuple[Any, bool]:
        """What stands before the answers, and whether text there is a question."""
        given = [name for name in (*CONTEXTS, *QUESTIONS) if name in self._given]
        for name in given or (*CONTEXTS, *QUESTIONS):
            found = self.text(values, name)
            if found is not None:
                return found, name in QUESTIONS
        return None, False

    def named(self, values: Mapping[str, Any], name: str) -> dict[str, Any]:
        """What stands in a field that has a part for each objective, by the part's name.

        Args:
            values: The fields of a row.
            name: One of `scores_a`, `scores_b`, `preferences`, `scores`.

        Returns:
            Each part, from a nested field, from columns such as `scores_a.helpfulness`, and from
            where the mapping leads.

        Raises:
            PreferenceDataError: The field is there but has no parts.
        """
        nested = _at(values, self._given.get(name, name))
        if nested is not None and not isinstance(nested, Mapping):
            msg = f"`{name}` holds a value for each objective, not {type(nested).__name__}"
            raise PreferenceDataError(msg)
        before = f"{name}."
        return {
            **(nested or {}),
            **{k.removeprefix(before): v for k, v in values.items() if k.startswith(before)},
            **{
                field.removeprefix(before): _at(values, path)
                for field, path in self._given.items()
                if field.startswith(before)
            },
        }


def _at(values: Mapping[str, Any], path: str) -> Any:
    if path in values:
        return values[path]
    found: Any = values
    for part in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part)
    return found
