"""Preference rows, made up."""

from __future__ import annotations

from typing import Any


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
