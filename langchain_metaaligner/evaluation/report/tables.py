"""The table of a report in the terminal and in Markdown, and its cells."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

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
    from rich.console import Console, ConsoleOptions, Group
    from rich.table import Table

_T = TypeVar("_T")

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
_NAMES = ("objective", "policy")  # columns of words
_MOST_REASONS = 5
_WIDEST = 16  # the most that a line's column takes where the table stands on its side
_HARMLESS = re.compile(r"[^\W_](?:[^\W_]|[ .,;:()%·–−+'\"?-])*")


def cells_of(line: Line) -> tuple[str, ...]:
    """The cells of a line of the table.

    Args:
        line: The line.

    Returns:
        Objective, policy, judged, win rate and its interval, ties, losses, wins less losses in
        points, the win rate at equal length (where lengths differ enough to tell it), the sign
        test's p value, pairs on which the orders disagree, and pairs without a verdict.
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
        NONE if found.length_note else percent(found.length_controlled),
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

    def row(name: str, cells: Iterable[str]) -> None:
        found = list(cells)
        if any(one != NONE for one in found):
            made.append((name, found))

    def each(
        name: str, of: Callable[[Effects], Mapping[str, _T]], cell: Callable[[_T], str]
    ) -> None:
        for key in dict.fromkeys(key for one in effects for key in of(one)):
            cells = (cell(of(one)[key]) if key in of(one) else NONE for one in effects)
            row(f"{name}{label(key)}", cells)

    row("Rows", (f"{one.rows:,}" for one in effects))
    row("Unchanged", (part(one.unchanged, one.rows) for one in effects))
    each("Status: ", lambda one: one.statuses, "{:,}".format)
    over = "Over-refusals: the edit refuses, the original answers"
    row(over, (part(one.over_refusals, one.answered) for one in effects))
    row(
        "The edit answers, the original refuses",
        (part(one.answers, one.refused) for one in effects),
    )
    each("Kept: ", lambda one: one.kept, lambda found: part(*found))
    each("Guard: ", lambda one: one.guards, _counts)
    each("Failed: ", lambda one: one.errors, "{:,}".format)
    row("Length, edit over original, median", (percent(one.growth) for one in effects))
    row("Agreement, median", (_decimal(one.agreement) for one in effects))
    times = [one.seconds or (None, None) for one in effects]
    row("Time of an edit, median", (time_taken(middle) for middle, _ in times))
    row("Time of an edit, 95th percentile", (time_taken(high) for _, high in times))
    row("Tokens of the aligner", (f"{one.tokens:,}" if one.tokens else NONE for one in effects))
    return made


def markdown(summary: Summary) -> str:
    """The report's first lines and its table for a pull request.

    Args:
        summary: What the report shows.

    Returns:
        Markdown.
    """
    heads, rows = _table(summary)
    lines = [
        _literal(label(summary.judge, 500)),
        "",
        f"**{summary.verdict()}.** {summary.headline()}",
    ]
    if rows:
        aligned = ["---" if head in _NAMES else "---:" for head in heads]
        named = [
            [
                _literal(cell) if head in _NAMES else cell
                for head, cell in zip(heads, cells, strict=True)
            ]
            for cells in rows
        ]
        lines += ["", *(f"| {' | '.join(cells)} |" for cells in (heads, aligned, *named))]
    if notes := _notes(summary):
        lines += ["", *(f"- {name}: {', '.join(map(_literal, said))}" for name, said in notes)]
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
    words = [head in _NAMES for head in heads]
    lines = [
        "  ".join(
            cell.ljust(width) if is_word else cell.rjust(width)
            for cell, width, is_word in zip(cells, widths, words, strict=True)
        ).rstrip()
        for cells in found
    ]
    said = [label(summary.judge, 500), f"{summary.verdict()}. {summary.headline()}"]
    if rows:
        said += ["", *lines, ""]
    return "\n".join(said + [f"{name}: {', '.join(of)}" for name, of in _notes(summary)]) + "\n"


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
        from rich.measure import Measurement
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return plain(summary)
    heads, rows = _table(summary)
    colours = {"win": "blue", "loss": "yellow"}

    def table(lines: Sequence[Sequence[tuple[str, str]]]) -> Table:
        made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
        for number, (head, _) in enumerate(lines[0]):
            is_name = number == 0 or head in _NAMES
            made.add_column(Text(head), justify="left" if is_name else "right", overflow="fold")
        for line in lines[1:]:
            # As `Text`: a name may look like rich's markup.
            made.add_row(*(Text(cell, style) for cell, style in line))
        return made

    class Fitting:
        """The table; where it is too wide, each of its lines is a column."""

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
            lines = [[(head, "") for head in heads]]
            lines += [
                [(cell, colours.get(head, "")) for head, cell in zip(heads, cells, strict=True)]
                for cells in rows
            ]
            wide = table(lines)
            if (
                Measurement.get(console, options.update(width=1000), wide).maximum
                <= options.max_width
            ):
                yield wide
                return
            room = options.max_width - max(map(len, heads))
            at_once = max(room // (_WIDEST + 2), 1)
            for first in range(1, len(lines), at_once):
                yield table(list(zip(lines[0], *lines[first : first + at_once], strict=True)))

    said = [
        Text(label(summary.judge, 500), "italic"),
        Text.assemble((f"{summary.verdict()}.", "bold"), " ", summary.headline()),
    ]
    notes = [Text(f"{name}: {', '.join(of)}", "dim") for name, of in _notes(summary)]
    return Group(*said, *([Fitting()] if rows else []), *notes)


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


def _notes(summary: Summary) -> list[tuple[str, list[str]]]:
    """What must not be missed, beside the table: names, each with its parts."""
    if not summary.rows:
        return []
    whole = summary.effects[0]
    said = [("Unchanged", [part(whole.unchanged, whole.rows)])]
    if whole.answered:
        said.append(("Over-refusals", [part(whole.over_refusals, whole.answered)]))
    if whole.kept:
        lost = [
            f"{label(kind)} {part(*found)}"
            for kind, found in whole.kept.items()
            if found[0] < found[1]
        ]
        said.append(("Structure kept", lost or ["all of it"]))
    if summary.second:
        shares = [f"{label(name)} {part(*found)}" for name, found in summary.second.items()]
        said.append(("Second judge, same outcome", shares))
    reasons: Counter[str] = Counter()
    for found in summary.unjudged.values():
        reasons.update(found)
    for name, counts in (("No verdict", reasons), ("Failed edits", Counter(whole.errors))):
        if counts:
            most = counts.most_common(_MOST_REASONS)
            rest = counts.total() - sum(count for _, count in most)
            shown = [f"{label(why)} ({count:,})" for why, count in most]
            said.append((name, [*shown, *([f"others ({rest:,})"] if rest else [])]))
    if summary.problems:
        said.append(("Rows that were not used", [f"{len(summary.problems):,}"]))
    return said


def _counts(counts: Mapping[str, int]) -> str:
    return " · ".join(f"{label(name)} {count:,}" for name, count in counts.items()) or NONE


def _decimal(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}".replace("-", "−")


def _literal(text: str) -> str:
    """Text that Markdown shows as it is: without links, tags, mentions or cells of its own."""
    if _HARMLESS.fullmatch(text) and "www." not in text:
        return text
    # In code nothing is linked, nobody is mentioned, and only the bar has to be escaped.
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{fence} {text} {fence}".replace("|", "\\|")
