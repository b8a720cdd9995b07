"""The table of a report in the terminal and in Markdown, and its cells."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from langchain_metaaligner.evaluation.report.shown_text import (
    NONE,
    label,
    p_value,
    part,
    percent,
    percents,
    points,
)
from langchain_metaaligner.evaluation.report.summary import Effects, Line, Summary

if TYPE_CHECKING:
    from rich.console import Group

_HEADS = (
    "objective",
    "policy",
    "judged",
    "win",
    "95 % interval",
    "tie",
    "loss",
    "win − loss",
    "equal length",
    "p",
    "orders disagree",
    "no verdict",
)


def cells_of(line: Line) -> tuple[str, ...]:
    """The cells of a line of the table.

    Args:
        line: The line.

    Returns:
        Objective, policy, judged, win rate and its interval, ties, losses, wins less losses in
        points, the win rate at equal length, the sign test's p value, pairs on which the orders
        disagree, and pairs without a verdict.
    """
    found = line.rates
    judged = bool(found.judged)
    return (
        "all objectives" if line.objective is None else label(line.objective),
        "all policies" if line.policy is None else policy_name(line.policy),
        f"{found.judged:,}",
        percent(found.win_rate),
        percents(found.interval) if judged else NONE,
        percent(found.ties / found.judged) if judged else NONE,
        percent(found.loss_rate),
        points(found.net),
        percent(line.length_controlled),
        p_value(found.sign_test) if judged else NONE,
        f"{found.inconsistent:,}",
        f"{found.unjudged:,}",
    )


def effects_of(effects: Sequence[Effects]) -> list[tuple[str, list[str]]]:
    """The rows of the table of what edits changed and broke.

    Args:
        effects: One for each column.

    Returns:
        The name of each row, and its cells.
    """
    made: list[tuple[str, list[str]]] = []

    def row(name: str, cell: Callable[[Effects], str]) -> None:
        cells = [cell(one) for one in effects]
        if any(one != NONE for one in cells):
            made.append((name, cells))

    row("Rows", lambda one: f"{one.rows:,}")
    row("Unchanged", lambda one: part(one.unchanged, one.rows))
    for status in _names(effects, lambda one: one.statuses):
        row(f"Status {status}", lambda one, of=status: f"{one.statuses.get(of, 0):,}")  # type: ignore[misc]
    row("Over-refusals: refuses, the original answers", lambda one: part(one.over_refusals, one.answered))
    row("Answers, the original refuses", lambda one: part(one.answers, one.refused))
    for kind in _names(effects, lambda one: one.kept):
        row(f"Kept: {kind}", lambda one, of=kind: part(*one.kept.get(of, (0, 0))))  # type: ignore[misc]
    for guard in _names(effects, lambda one: one.guards):
        row(f"Guard {guard}", lambda one, of=guard: _counts(one.guards.get(of, {})))  # type: ignore[misc]
    for error in _names(effects, lambda one: one.errors):
        row(f"Failed: {error}", lambda one, of=error: f"{one.errors.get(of, 0):,}")  # type: ignore[misc]
    row("Length, edit over original, median", lambda one: percent(one.growth))
    row("Agreement, median", lambda one: _decimal(one.agreement))
    row("Time of an edit, median", lambda one: time_taken(one.seconds and one.seconds[0]))
    row("Time of an edit, 95th percentile", lambda one: time_taken(one.seconds and one.seconds[1]))
    row("Tokens of the aligner", lambda one: f"{one.tokens:,}" if one.tokens else NONE)
    return made


def markdown(summary: Summary) -> str:
    """The report's first lines and its table for a pull request.

    Args:
        summary: What the report shows.

    Returns:
        Markdown.
    """
    heads, rows = _table(summary)
    lines = [f"**{summary.verdict()}.** {_plain(summary.headline())}", "", f"Judge: {_plain(label(summary.judge, 500))}"]
    if rows:
        aligned = ["---" if head in _HEADS[:2] else "---:" for head in heads]
        lines += ["", *(_line(cells) for cells in (heads, aligned))]
        lines += [_line([_plain(cell) for cell in cells]) for cells in rows]
    lines += [f"{'' if number else chr(10)}- {_plain(one)}" for number, one in enumerate(_notes(summary))]
    return "\n".join(lines) + "\n"


def plain(summary: Summary) -> str:
    """The same as text without colours or marks.

    Args:
        summary: What the report shows.

    Returns:
        Lines of text.
    """
    heads, rows = _table(summary)
    found = [heads, *rows]
    widths = [max(map(len, column)) for column in zip(*found, strict=True)]
    words = [head in _HEADS[:2] for head in heads]
    lines = [
        "  ".join(
            cell.ljust(width) if is_word else cell.rjust(width)
            for cell, width, is_word in zip(cells, widths, words, strict=True)
        ).rstrip()
        for cells in found
    ]
    said = [f"Judge: {label(summary.judge, 500)}", f"{summary.verdict()}. {summary.headline()}"]
    return "\n".join([*said, *(["", *lines, ""] if rows else []), *_notes(summary)]) + "\n"


def terminal(summary: Summary) -> Group | str:
    """The same for a terminal, coloured unless `NO_COLOR` is set.

    Args:
        summary: What the report shows.

    Returns:
        What rich prints; plain text if rich is not installed.
    """
    try:
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return plain(summary)
    heads, rows = _table(summary)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for head in heads:
        table.add_column(Text(head), justify="left" if head in _HEADS[:2] else "right", overflow="fold")
    colours = {"win": "blue", "loss": "yellow"}
    for cells in rows:
        # As `Text`: a name may look like rich's markup.
        table.add_row(
            *(Text(cell, colours.get(head, "")) for head, cell in zip(heads, cells, strict=True))
        )
    said = [Text(f"Judge: {label(summary.judge, 500)}", "italic"), Text(f"{summary.verdict()}.", "bold"), Text(summary.headline())]
    return Group(*said, *([table] if rows else []), *(Text(one, "dim") for one in _notes(summary)))


def policy_name(name: str) -> str:
    """The name of a policy in one line."""
    return label(name) or "unnamed policy"


def time_taken(seconds: float | None) -> str:
    """A time, with a unit that fits."""
    if seconds is None:
        return NONE
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    rows = [cells_of(line) for line in summary.lines]
    # A column that says the same of all lines is of no use in a narrow terminal.
    kept = [
        number
        for number, head in enumerate(_HEADS)
        if not (head == "policy" and len(summary.policies) < 2)
        and not (head == "equal length" and all(row[number] == NONE for row in rows))
    ]
    return [_HEADS[number] for number in kept], [[row[number] for number in kept] for row in rows]


def _notes(summary: Summary) -> list[str]:
    """What must not be missed, beside the table."""
    if not summary.effects or not summary.rows:
        return []
    whole = summary.effects[0]
    said = [f"Unchanged: {part(whole.unchanged, whole.rows)}"]
    if whole.answered:
        said.append(f"Over-refusals: {part(whole.over_refusals, whole.answered)}")
    lost = [
        f"{label(kind)} {part(*found)}" for kind, found in whole.kept.items() if found[0] < found[1]
    ]
    if whole.kept:
        said.append(f"Structure kept: {', '.join(lost) if lost else 'all of it'}")
    if whole.errors:
        said.append(f"Failed edits: {_counts(whole.errors)}")
    if summary.problems:
        said.append(f"Rows that were not used: {len(summary.problems):,}")
    return said


def _names(effects: Sequence[Effects], of: Callable[[Effects], object]) -> list[str]:
    found: dict[str, None] = {}
    for one in effects:
        found.update(dict.fromkeys(of(one)))  # type: ignore[call-overload]
    return list(found)


def _counts(counts: object) -> str:
    return " · ".join(f"{label(name)} {count:,}" for name, count in dict(counts).items()) or NONE  # type: ignore[call-overload]


def _decimal(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}".replace("-", "−")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: no links, no tags, no mentions, no cells of its own."""
    return re.sub(r"([\\`*_{}\[\]<>|#~@!&])", r"\\\1", text)
