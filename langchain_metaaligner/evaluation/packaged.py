"""The rows and pairs that come with the package."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, Literal

from langchain_metaaligner.errors import EvaluationError

Answers = Literal["bad", "good", "both"]
"""Which replies of a row are answers to edit."""

_FOLDER = ("assets", "evaluation")


def packaged_rows(kind: str | None = None, *, answers: Answers = "both") -> list[dict[str, Any]]:
    """Give the rows that come with the package, for `evaluate` and `calibrate`.

    They were written for the package: how, and how far they carry, stands in the README beside
    them. Good and bad replies to the same question are one `conversation`, and their `policy` is
    `good replies` or `bad replies`, so a report shows them apart: how often bad ones get better,
    and how often good ones stay.

    Args:
        kind: `benign`, `risky`, `sounding-risky`, `long`, `code`, `tables`, `non-English` or
            `multi-turn`; by default all.
        answers: Whether the answers are the `bad` replies, the `good` ones, or `both`.

    Returns:
        Rows with `context`, `answer`, `policy`, `conversation`, `kind`, and `objective`: the one on
        which the good reply is better.

    Raises:
        EvaluationError: There is no such kind, or `answers` is something else.
    """
    texts = check_answers(answers)
    rows = _read("rows.jsonl")
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    if kind is not None and kind not in kinds:
        msg = f"There is no kind {kind!r}. The kinds are {', '.join(kinds)}; None is all of them."
        raise EvaluationError(msg)
    return [
        {
            "context": row["context"],
            "answer": row[text],
            "policy": f"{text} replies",
            "conversation": row["id"],
            "kind": row["kind"],
            "objective": row["objective"],
        }
        for row in rows
        if kind in (None, row["kind"])
        for text in texts
    ]


def packaged_pairs() -> list[dict[str, Any]]:
    """Give the labelled pairs that come with the package, to check a judge with.

    They are author-labelled, no votes of several people. In half of them the better reply is the
    shorter one.

    Returns:
        Pairs with `id`, `context`, `chosen`, `rejected` and `objective`.
    """
    return _read("human_pairs.jsonl")


def check_answers(answers: str) -> tuple[str, ...]:
    """The names of the replies that are wanted.

    Args:
        answers: `bad`, `good` or `both`.

    Returns:
        One name or two.

    Raises:
        EvaluationError: It is something else.
    """
    if answers not in ("bad", "good", "both"):
        msg = f"`answers` is 'bad', 'good' or 'both', not {answers!r}."
        raise EvaluationError(msg)
    return ("good", "bad") if answers == "both" else (answers,)


def _read(name: str) -> list[dict[str, Any]]:
    text = files("langchain_metaaligner").joinpath(*_FOLDER, name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]
