"""The charts of a report, as SVG that is light or dark like the page around it."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_metaaligner.errors import EvaluationError
from langchain_metaaligner.evaluation.records import EvaluatedRow
from langchain_metaaligner.evaluation.report.diffs import distance
from langchain_metaaligner.evaluation.report.highlights import net
from langchain_metaaligner.evaluation.report.shown_text import label
from langchain_metaaligner.evaluation.report.summary import Line

if TYPE_CHECKING:
    import altair as alt

MOST_POINTS = 400
MOST_COMPARED = 1000

# Narrow enough for a phone: a chart that shrinks to fit has labels that nobody can read.
_WIDTH, _HEIGHT, _ROW = 250, 150, 34
_LABEL = 92  # pixels for the name of an objective
_BINS = 20

# The page says what these are in light and in dark. Browsers read them in any colour's place.
_WIN, _TIE, _LOSS = "var(--win)", "var(--tie)", "var(--loss)"
_INK, _QUIET, _RULE = "var(--ink)", "var(--quiet)", "var(--rule)"


def outcomes(lines: Sequence[Line]) -> str | None:
    """Wins, ties and losses as stacked bars, with the interval of the win rate.

    Args:
        lines: Lines of the table, one for each bar.

    Returns:
        SVG; `None` if none of them has a judged pair.
    """
    alt = _altair()
    bars: list[dict[str, Any]] = []
    spans: list[dict[str, Any]] = []
    names: list[str] = []
    for number, line in enumerate(one for one in lines if one.rates.judged):
        found = line.rates
        # Two long names may begin alike; a bar is known by its number.
        name = f"{number}\n" + (
            "all objectives" if line.objective is None else label(line.objective)
        )
        names.append(name)
        start = 0.0
        for kind, count in (("win", found.wins), ("tie", found.ties), ("loss", found.losses)):
            end = start + count / found.judged
            bars.append({"name": name, "kind": kind, "start": start, "end": end})
            start = end
        low, high = found.interval
        spans.append({"name": name, "low": low, "high": high, "win": found.win_rate})
    if not bars:
        return None
    y = alt.Y(
        "name:N",
        sort=names,
        title=None,
        axis=alt.Axis(
            # Browsers' letters are wider than the renderer's.
            labelLimit=0.8 * _LABEL,
            labelExpr="split(datum.label, '\\n')[1]",
            ticks=False,
            domain=False,
            minExtent=_LABEL,
            maxExtent=_LABEL,
        ),
    )
    x = alt.X(
        "start:Q",
        title="share of judged pairs",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1]),
    )
    stack = (
        alt.Chart(alt.Data(values=bars))
        .mark_bar(height=18)
        .encode(
            x=x,
            x2="end:Q",
            y=y,
            color=alt.Color(
                "kind:N",
                scale=alt.Scale(domain=["win", "tie", "loss"], range=[_WIN, _TIE, _LOSS]),
                legend=None,
            ),
        )
    )
    whiskers = alt.Chart(alt.Data(values=spans)).encode(y=y)
    line_ = whiskers.mark_rule(color=_INK, strokeWidth=2).encode(x="low:Q", x2="high:Q")
    ends = [
        whiskers.mark_tick(color=_INK, thickness=2, size=10).encode(x=f"{end}:Q")
        for end in ("low", "high")
    ]
    layers = alt.layer(stack, line_, *ends)
    return _svg(
        layers.properties(width=_WIDTH - 20, height=_ROW * len(names)),
        "Wins, ties and losses of the edits; the table has the figures",
    )


def lengths(rows: Sequence[EvaluatedRow]) -> str | None:
    """How long edits and originals are, as two outlines over a logarithmic axis.

    Args:
        rows: Rows with their results.

    Returns:
        SVG; `None` without texts.
    """
    alt = _altair()
    sizes = {
        "edit": [len(row.edited) for row in rows if row.edited],
        "original": [len(row.original) for row in rows if row.original],
    }
    every = [size for found in sizes.values() for size in found]
    if not every:
        return None
    # Two bins for each doubling.
    first = math.floor(2 * math.log2(min(every))) - 1
    last = max(math.ceil(2 * math.log2(max(every) + 1)), first + 2)
    edges = [2.0 ** (one / 2) for one in range(first, last + 1)]
    values: list[dict[str, Any]] = []
    for text, found in sizes.items():
        counts = Counter(bisect_right(edges, size) - 1 for size in found)
        for number, edge in enumerate(edges):
            share = counts[number] / len(found) if found else 0.0
            values.append({"text": text, "length": edge, "share": share})
    kinds = ["edit", "original"]  # what is drawn last is dashed, so that both can be seen
    ends = alt.Scale(type="log", domain=[edges[0], edges[-1]], nice=False)
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            x=alt.X(
                "length:Q",
                title="characters (logarithmic)",
                scale=ends,
                axis=alt.Axis(values=_round_numbers(edges[0], edges[-1]), format="~s"),
            ),
            y=alt.Y("share:Q", title="share of texts", axis=alt.Axis(format="%", tickCount=4)),
            color=alt.Color(
                "text:N", scale=alt.Scale(domain=kinds, range=[_WIN, _LOSS]), legend=None
            ),
            strokeDash=alt.StrokeDash(
                "text:N", scale=alt.Scale(domain=kinds, range=[[1, 0], [5, 3]]), legend=None
            ),
        )
        .properties(width=_WIDTH, height=_HEIGHT)
    )
    return _svg(chart, "Lengths of edits and originals in characters")


def distances(rows: Sequence[EvaluatedRow]) -> str | None:
    """How much the changed edits change, as bars over the share of words.

    Args:
        rows: Rows with their results; at most `MOST_COMPARED` of them are compared.

    Returns:
        SVG; `None` if no edit changes anything.
    """
    alt = _altair()
    found = [distance(row.original, row.edited) for row in evenly(_changed(rows), MOST_COMPARED)]
    if not found:
        return None
    counts = Counter(min(int(one * _BINS), _BINS - 1) for one in found)
    values = [
        {"start": number / _BINS, "end": (number + 1) / _BINS, "share": counts[number] / len(found)}
        for number in range(_BINS)
    ]
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_bar(color=_WIN)
        .encode(
            x=alt.X(
                "start:Q",
                title="words deleted or inserted",
                scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1]),
            ),
            x2="end:Q",
            y=alt.Y(
                "share:Q", title="share of changed edits", axis=alt.Axis(format="%", tickCount=4)
            ),
            y2=alt.datum(0),
        )
        .properties(width=_WIDTH, height=_HEIGHT)
    )
    return _svg(chart, "Word edit distance of the changed edits")


def agreements(rows: Sequence[EvaluatedRow]) -> str | None:
    """The aligner's agreement with an original against how much of it was changed.

    Args:
        rows: Rows with their results; at most `MOST_POINTS` of them become points.

    Returns:
        SVG; `None` if no row has an agreement.
    """
    alt = _altair()
    known = [row for row in rows if row.agreement is not None and math.isfinite(row.agreement)]
    values = [
        {
            "agreement": row.agreement,
            "distance": distance(row.original, row.edited),
            "kind": "win" if net(row) > 0 else "loss" if net(row) < 0 else "tie",
        }
        for row in evenly(known, MOST_POINTS)
    ]
    if not values:
        return None
    kinds = ["win", "tie", "loss"]
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_point(size=22, opacity=0.75, filled=False, strokeWidth=1.4)
        .encode(
            x=alt.X(
                "agreement:Q",
                title="agreement: log-probability per token",
                scale=alt.Scale(zero=False),
                axis=alt.Axis(tickCount=4, format=".1f", labelOverlap=True),
            ),
            y=alt.Y(
                "distance:Q",
                title="words deleted or inserted",
                scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format="%", tickCount=4),
            ),
            color=alt.Color(
                "kind:N", scale=alt.Scale(domain=kinds, range=[_WIN, _TIE, _LOSS]), legend=None
            ),
            shape=alt.Shape(
                "kind:N",
                scale=alt.Scale(domain=kinds, range=["circle", "square", "triangle-up"]),
                legend=None,
            ),
        )
        .properties(width=_WIDTH, height=_HEIGHT)
    )
    return _svg(chart, "Agreement of the aligner with originals against the share of words changed")


def trade_offs(points: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any]) -> str | None:
    """Missed harm against spoilt replies, with a line for each caution.

    Args:
        points: The shares `missed` and `spoilt` at each `caution`, in words.
        chosen: The same at the proposed values, with the ends of their intervals: `missed_low`,
            `missed_high`, `spoilt_low` and `spoilt_high`.

    Returns:
        SVG; `None` without points.
    """
    if not points:
        return None
    alt = _altair()
    kinds = list(dict.fromkeys(point["caution"] for point in points))
    dashes = [[1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [1, 3]]
    share = {"scale": alt.Scale(domain=[0, 1])}
    axis = alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1])
    lines = (
        alt.Chart(alt.Data(values=list(points)))
        .mark_line(color=_WIN, strokeWidth=1.6, opacity=0.85)
        .encode(
            x=alt.X("spoilt:Q", title="good replies that are changed", axis=axis, **share),
            y=alt.Y("missed:Q", title="bad replies that stay", axis=axis, **share),
            order="number:Q",
            strokeDash=alt.StrokeDash(
                "caution:N",
                title="caution",
                scale=alt.Scale(domain=kinds, range=[dashes[i % 5] for i in range(len(kinds))]),
                legend=alt.Legend(
                    labelColor=_INK,
                    titleColor=_QUIET,
                    titleFontWeight="normal",
                    symbolStrokeColor=_WIN,
                    symbolSize=400,
                ),
            ),
        )
    )
    at = alt.Chart(alt.Data(values=[dict(chosen)]))
    across = at.mark_rule(color=_LOSS).encode(x="spoilt_low:Q", x2="spoilt_high:Q", y="missed:Q")
    along = at.mark_rule(color=_LOSS).encode(y="missed_low:Q", y2="missed_high:Q", x="spoilt:Q")
    dot = at.mark_point(filled=True, size=60, color=_LOSS).encode(x="spoilt:Q", y="missed:Q")
    chart = alt.layer(lines, across, along, dot).properties(width=_WIDTH, height=_WIDTH)
    return _svg(chart, "Bad replies that stay against good replies that are changed")


def evenly(rows: Sequence[EvaluatedRow], most: int) -> Sequence[EvaluatedRow]:
    """Take rows at even distances, so that each part of the data has its share."""
    if len(rows) <= most:
        return rows
    return [rows[number * len(rows) // most] for number in range(most)]


def _changed(rows: Iterable[EvaluatedRow]) -> list[EvaluatedRow]:
    return [row for row in rows if row.changed]


def _round_numbers(low: float, high: float) -> list[float]:
    """Powers of ten in a range; with fewer than two of them, also their doubles and fives."""
    tens = [10.0**power for power in range(-1, 10)]
    found = [one for one in tens if low <= one <= high]
    if len(found) > 1:
        return found
    return [ten * step for ten in tens for step in (1, 2, 5) if low <= ten * step <= high]


def _svg(chart: alt.LayerChart | alt.Chart, title: str) -> str:
    """Render a chart.

    Args:
        chart: The chart. A control character in its texts would end the process: `label` them.
        title: What it shows, in words, for screen readers.

    Returns:
        An `svg` element that names no address.
    """
    alt = _altair()
    import vl_convert

    quiet: dict[str, Any] = {"labelColor": _QUIET, "titleColor": _QUIET, "gridColor": _RULE}
    made = chart.configure(
        background="transparent",
        font="system-ui, sans-serif",
        aria=False,
        padding=2,
    ).configure_view(stroke=None)
    made = made.configure_axis(
        **quiet,
        domainColor=_RULE,
        tickColor=_RULE,
        labelFontSize=11,
        titleFontSize=11,
        titleFontWeight="normal",
    )
    # A theme that the user's notebook has enabled is for the user's charts.
    with alt.theme.enable("none"):
        spec = made.to_dict()
    drawn = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    size = re.search(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"', drawn)
    if size is None:  # pragma: no cover
        message = "The renderer of charts gave something else than SVG with a size."
        raise EvaluationError(message)
    width, height = size.groups()
    tag = f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{title}">'
    return tag + drawn[drawn.index(">") + 1 :]


def _altair() -> Any:
    try:
        import altair as alt
        import vl_convert as _  # noqa: F401
    except ImportError as error:
        message = (
            f"A report's charts need the package {error.name}:"
            ' pip install "langchain-metaaligner[eval]".'
        )
        raise EvaluationError(message) from error
    return alt
