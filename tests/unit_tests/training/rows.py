"""Preference rows, made up."""

from __future__ import annotations

from typing import Any

from langchain_metaaligner.training import PreferencePair, read_preferences


def preference_rows(count: int) -> list[dict[str, Any]]:
    """Rows whose first answer is the less harmful one, and no more helpful than the other."""
    return [
        {
            "prompt": f"hello {place}",
            "answer_a": f"the safe answer {place}",
            "answer_b": f"hello {place}",
            "preferences": {"harmlessness": "a", "helpfulness": "equal"},
        }
        for place in range(count)
    ]


def unscored_rows(count: int = 2) -> list[dict[str, Any]]:
    """Rows that say nothing about any objective."""
    return [
        {"question": f"Question {n}?", "chosen": "Yes!", "rejected": f"No, not {n}."}
        for n in range(count)
    ]


def pairs(count: int = 2) -> list[PreferencePair]:
    """The pairs of such rows."""
    return list(read_preferences(unscored_rows(count), preferred_on="honesty").pairs)
