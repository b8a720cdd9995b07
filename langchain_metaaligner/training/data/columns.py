"""Finds the fields of a preference row, whatever a data set calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_metaaligner.errors import PreferenceDataError

# Text in one of the first is a whole context; in one of the others it is a user's question.
CONTEXTS = ("context", "messages")
QUESTIONS = ("prompt", "question", "query", "instruction")
_ALIASES: Mapping[str, tuple[str, ...]] = {
    "answer_a": ("chosen",),
    "answer_b": ("rejected",),
    "original": ("original_response", "answer"),
    "edited": ("edited_response", "edit"),
}
PREFERENCE_FIELDS = (*CONTEXTS, *QUESTIONS, "answer_a", "answer_b", "answers", "answer")
EDIT_FIELDS = (*CONTEXTS, *QUESTIONS, "original", "edited", "objectives")
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
"""The columns of `openbmb/UltraFeedback`."""


class Columns:
    """Where the fields of a row are.

    Args:
        given: Our name of a field to its name in the data. A dot leads into a nested field, as in
            `scores_a.helpfulness` or `annotations.helpfulness.Rating`.
        fields: The fields that rows have, `PREFERENCE_FIELDS` or `EDIT_FIELDS`.

    Raises:
        PreferenceDataError: There is no such field.
    """

    def __init__(
        self,
        given: Mapping[str, str] | None = None,
        fields: Sequence[str] = PREFERENCE_FIELDS,
    ) -> None:
        self._given = dict(given or {})
        named = _NAMED if fields is PREFERENCE_FIELDS else ()
        for name in self._given:
            if name not in fields and name.partition(".")[0] not in named:
                msg = (
                    f"`columns` names the field {name!r}, which these rows do not have. They have"
                    f" {', '.join(fields)}"
                )
                msg += f", and {', '.join(named)} followed by a dot and an objective." * bool(named)
                raise PreferenceDataError(msg if named else f"{msg}.")

    def text(self, values: Mapping[str, Any], name: str) -> Any:
        """The value of a text field; `None` if it is missing."""
        if name in self._given:
            return _at(values, self._given[name])
        for one in (name, *_ALIASES.get(name, ())):
            if values.get(one) is not None:
                return values[one]
        return None

    def context(self, values: Mapping[str, Any]) -> tuple[Any, bool]:
        """The context before the answers, and whether text in it is a question."""
        given = [name for name in (*CONTEXTS, *QUESTIONS) if name in self._given]
        for name in given or (*CONTEXTS, *QUESTIONS):
            found = self.text(values, name)
            if found is not None:
                return found, name in QUESTIONS
        return None, False

    def named(self, values: Mapping[str, Any], name: str) -> dict[str, Any]:
        """The values of a field that has one for each objective, by objective.

        Args:
            values: The fields of a row.
            name: One of `scores_a`, `scores_b`, `preferences`, `scores`.

        Returns:
            The values, from a nested field, from columns such as `scores_a.helpfulness`, and from
            the columns that the mapping names.

        Raises:
            PreferenceDataError: The field exists but is not nested.
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
