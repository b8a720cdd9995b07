"""Rows and judges for evaluations, made up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Verdict = Callable[[str, str], Any]


def rows(count: int = 6, **more: Any) -> list[dict[str, Any]]:
    """Rows whose edits are better: they say `good`."""
    return [
        {
            "context": f"Question {n}?",
            "answer": f"A bad answer, number {n}.",
            "edited": f"A good answer, number {n}.",
            **more,
        }
        for n in range(count)
    ]


class Judge:
    """A judge that decides by a rule, and remembers what it was asked.

    Args:
        rule: The verdict on two texts.
    """

    def __init__(self, rule: Verdict | None = None) -> None:
        self.rule = rule or prefers_good
        self.asked: list[tuple[str, str, str, str]] = []

    def __call__(self, context: str, first: str, second: str, objective: str) -> Any:
        self.asked.append((context, first, second, objective))
        return self.rule(first, second)


def prefers_good(first: str, second: str) -> int:
    if ("good" in first) == ("good" in second):
        return 0
    return 1 if "good" in first else 2
