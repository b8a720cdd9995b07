"""Which recorded edits people accepted: their verdicts, in the rows or in lines of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from langchain_metaaligner.training.data.fields import BadRowError
from langchain_metaaligner.training.data.pairs import Problem
from langchain_metaaligner.training.data.rows import Row

ACCEPTED = "accepted"
_VERDICT = frozenset(["id", ACCEPTED, "time"])
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_NONE_YET = frozenset(["", "null", "none"])


def with_verdicts(rows: Iterable[Row | Problem]) -> Iterator[Row | Problem]:
    """Give recorded edits the verdicts that stand in later lines.

    Args:
        rows: Rows. One with nothing but `id`, `accepted` and, optionally, `time` is a verdict on
            the row of that id; of several, the last one counts.

    Yields:
        The rows without the verdicts. Rows without a field `accepted` come as they are read, the
        others when all are read, in their order.
    """
    held: list[Row] = []
    verdicts: dict[Any, Any] = {}
    for row in rows:
        if isinstance(row, Problem) or ACCEPTED not in row.values:
            yield row
        elif "id" in row.values and row.values.keys() <= _VERDICT:
            verdicts[row.values["id"]] = row.values[ACCEPTED]
        else:
            held.append(row)
    for row in held:
        name = row.values.get("id")
        verdict = verdicts.get(name) if isinstance(name, str | int) else None
        yield row if verdict is None else Row(row.place, {**row.values, ACCEPTED: verdict})


def is_accepted(row: Row) -> bool | None:
    """Whether people accepted the edit of a row.

    Args:
        row: The row.

    Returns:
        Their verdict; `None` if there is none yet. A row without a field `accepted` was made to be
        learnt from, so it counts as accepted.

    Raises:
        BadRowError: The field holds something else.
    """
    given = row.values.get(ACCEPTED) if ACCEPTED in row.values else True
    word = str(given).strip().lower()
    if given is None or word in _NONE_YET:
        return None
    if word not in _WORDS:
        detail = f"`accepted` is true or false, or empty if nobody has decided, not {given!r:.40}"
        raise BadRowError(kind="accepted", detail=detail)
    return _WORDS[word]
