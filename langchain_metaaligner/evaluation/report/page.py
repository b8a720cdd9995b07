"""Writes a report as one HTML page that needs no network."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from langchain_metaaligner.errors import EvaluationError
from langchain_metaaligner.evaluation.records import EvaluatedRow
from langchain_metaaligner.evaluation.report import charts
from langchain_metaaligner.evaluation.report.diffs import pieces
from langchain_metaaligner.evaluation.report.highlights import Highlight, choose
from langchain_metaaligner.evaluation.report.shown_text import (
    clipped,
    label,
    part,
    percent,
    visible,
)
from langchain_metaaligner.evaluation.report.summary import Summary
from langchain_metaaligner.evaluation.report.tables import (
    cells_of,
    effects_of,
    policy_name,
    time_taken,
)

MOST_BYTES = 5_000_000
"""Most bytes of a page: what a pull request's artefact viewer and a phone still open at once."""

MOST_EDITS = 40
"""Most edits of each kind."""

_LINES, _COLUMNS, _FAILURES, _PROBLEMS, _SETTINGS = 300, 8, 60, 50, 60
_DIFF, _CONTEXT, _NAME = 4000, 1500, 160

# Marks of the charts' legends, as page.css draws them, and what they stand for.
_OUTCOMES = (
    ("win", "win"),
    ("tie", "tie"),
    ("loss", "loss"),
    ("whisker", "95 % interval of wins"),
)
_TEXTS = (("dashed", "original"), ("solid", "edit"))
_SHAPES = (("ring", "wins"), ("square", "neither"), ("triangle", "loses"))

_NOTES = {
    "best": "the judge prefers them, most clearly first.",
    "worst": "the judge prefers the original, most clearly first.",
    "most changed": "by the share of words deleted or inserted, whatever the judge says.",
}


def to_html(summary: Summary, path: str | os.PathLike[str]) -> None:
    """Write a report.

    Args:
        summary: What it shows.
        path: The file; one that is there is replaced when the new one is whole.

    Raises:
        EvaluationError: A package of the extra `eval` is missing.
    """
    text, target = html(summary), Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    made = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        made.write_text(text, encoding="utf-8")
        made.replace(target)
    finally:
        made.unlink(missing_ok=True)


def html(summary: Summary) -> str:
    """Make a report.

    Args:
        summary: What it shows.

    Returns:
        A whole page of at most `MOST_BYTES` in UTF-8. With many rows only some edits stand in it.

    Raises:
        EvaluationError: A package of the extra `eval` is missing.
    """
    template, figures = _template(), _figures(summary)
    groups = _groups(summary, choose(summary.rows, MOST_EDITS))
    most = MOST_EDITS
    while True:
        fewer = [one | {"edits": one["edits"][:most]} for one in groups if most]
        text = template(**figures, groups=fewer)
        if len(text.encode()) <= MOST_BYTES or not most:
            return text
        most //= 2


@cache
def _template() -> Callable[..., str]:
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        message = (
            f'A report needs the package {error.name}: pip install "langchain-metaaligner[eval]".'
        )
        raise EvaluationError(message) from error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "visible": visible,
        "clipped": clipped,
        "label": label,
        "policy": policy_name,
        "seconds": time_taken,
        "unbroken": lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%"),
    }
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.from_string(
        _asset("page.html.jinja"),
        {
            # Ours, word for word; everything else on the page is escaped.
            "style": Markup(_asset("page.css")),  # noqa: S704
            "script": Markup(script),  # noqa: S704
            "script_hash": f"sha256-{digest}",
        },
    ).render


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _figures(summary: Summary) -> dict[str, Any]:
    """All but the edits."""
    policy_at = {name: str(number) for number, name in enumerate(summary.policies)}
    objective_at = {name: str(number) for number, name in enumerate(summary.objectives)}
    failures = [
        {
            "number": objective_at[objective],
            "name": label(objective),
            "reason": clipped(reason, 300),
            "count": f"{count:,}",
        }
        for objective, reasons in summary.unjudged.items()
        for reason, count in reasons.items()
    ]
    effects = summary.effects[: _COLUMNS + 1]
    return {
        "summary": summary,
        "policies": summary.policies,
        "objectives": summary.objectives,
        "several": len(summary.policies) > 1,
        "lines": [
            {
                # The lines of all together are hidden while one of them is chosen.
                "policy": "all" if line.policy is None else policy_at[line.policy],
                "objective": "all" if line.objective is None else objective_at[line.objective],
                "cells": cells_of(line),
            }
            for line in summary.lines[:_LINES]
        ],
        "charts": list(_charts(summary)),
        "effects": {
            "columns": [
                {
                    "policy": None if one.policy is None else policy_at[one.policy],
                    "name": "all" if one.policy is None else policy_name(one.policy),
                }
                for one in effects
            ],
            "rows": effects_of(effects) if summary.rows else [],
        },
        "references": [
            {
                "number": objective_at[one.objective],
                "name": label(one.objective),
                "edit": part(*one.edit),
                "original": part(*one.original),
            }
            for one in summary.references
        ],
        "failures": failures[:_FAILURES],
        "second": [
            {"number": objective_at[name], "name": label(name), "share": part(*found)}
            for name, found in summary.second.items()
        ],
        "no_edits": (
            "The edits changed nothing."
            if not any(row.changed for row in summary.rows)
            else "The changed edits did not fit on this page."
        ),
        "problems": [clipped(one, 300) for one in summary.problems[:_PROBLEMS]],
        "settings": [
            (label(str(name)), clipped(str(value), 500))
            for name, value in list(summary.settings.items())[:_SETTINGS]
        ],
        "left_out": {
            "lines": max(len(summary.lines) - _LINES, 0),
            "policies": max(len(summary.policies) - _COLUMNS, 0) + summary.other_policies,
            "failures": max(len(failures) - _FAILURES, 0),
            "problems": max(len(summary.problems) - _PROBLEMS, 0),
        },
    }


def _charts(summary: Summary) -> Iterator[dict[str, Any]]:
    several = len(summary.policies) > 1
    by_policy = [
        (
            name,
            str(number) if several else None,
            [row for row in summary.rows if row.policy == name],
        )
        for number, name in enumerate(summary.policies[:_COLUMNS])
    ]
    for name, place, _ in by_policy:
        svg = charts.outcomes([line for line in summary.lines if line.policy == name])
        title = f"Outcomes: {policy_name(name)}" if several else "Outcomes"
        yield from _figure(svg, title, _OUTCOMES, policy=place)
    if several:
        yield from _distributions(summary.rows, "all", "")
    for name, place, rows in by_policy:
        yield from _distributions(rows, place, f": {policy_name(name)}" if several else "")


def _distributions(
    rows: Sequence[EvaluatedRow], policy: str | None, of: str
) -> Iterator[dict[str, Any]]:
    # Those of one policy are shown once it is chosen; the page would be long with all of them.
    figure = partial(_figure, policy=policy, once=policy not in (None, "all"))
    yield from figure(charts.lengths(rows), f"Length{of}", _TEXTS)
    changed = sum(row.changed for row in rows)
    note = f"{part(changed, len(rows))} are changed"
    if changed > charts.MOST_COMPARED:
        note += f"; {charts.MOST_COMPARED:,} of them, evenly taken, are measured"
    yield from figure(charts.distances(rows), f"Word edit distance{of}", (), note)
    known = sum(row.agreement is not None for row in rows)
    note = f"{charts.MOST_POINTS:,} of {known:,} edits" if known > charts.MOST_POINTS else ""
    title = f"Agreement against change{of}"
    yield from figure(charts.agreements(rows), title, _SHAPES, note)


def _figure(
    svg: str | None,
    title: str,
    legend: Sequence[tuple[str, str]],
    note: str = "",
    *,
    policy: str | None,
    once: bool = False,
) -> Iterator[dict[str, Any]]:
    from markupsafe import Markup

    if svg is not None:
        shown = Markup(svg)  # noqa: S704 - the renderer escapes the names in it
        yield {
            "svg": shown,
            "title": title,
            "legend": legend,
            "note": note,
            "policy": policy,
            "once": once,
        }


def _groups(summary: Summary, chosen: Mapping[Any, Sequence[Highlight]]) -> list[dict[str, Any]]:
    policy_at = {name: str(number) for number, name in enumerate(summary.policies)}
    objective_at = {name: str(number) for number, name in enumerate(summary.objectives)}
    return [
        {
            "title": f"{kind.capitalize()} edits",
            "note": _NOTES[kind],
            "edits": [_edit(one, policy_at, objective_at) for one in edits],
        }
        for kind, edits in chosen.items()
        if edits
    ]


def _edit(
    one: Highlight, policy_at: Mapping[str, str], objective_at: Mapping[str, str]
) -> dict[str, Any]:
    row = one.row
    return {
        "policy": policy_at.get(row.policy, ""),
        "objectives": " ".join(objective_at[name] for name in one.objectives),
        "policy_name": policy_name(row.policy),
        "outcomes": [
            (label(name), found.outcome or "no verdict") for name, found in row.comparisons.items()
        ],
        "status": label(row.status),
        "changed": percent(one.distance),
        "place": label(row.place, _NAME),
        "context": clipped(row.context, _CONTEXT),
        "pieces": pieces(row.original, row.edited, _DIFF),
    }
