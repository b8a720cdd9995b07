"""HTML for the notebooks: tables of texts and diffs, bars, and conversations."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Any

from langchain_core.messages import BaseMessage


class Picture:
    """Markup that a notebook shows."""

    def __init__(self, markup: str) -> None:
        self._markup = markup

    def __repr__(self) -> str:
        return "<a picture>"

    def _repr_html_(self) -> str:
        return self._markup


def table(rows: Iterable[Mapping[str, Any]]) -> Picture:
    """One row for each mapping; a value that can draw itself, such as an edit's diff, does so."""
    rows = list(rows)
    top = "".join(f'<th style="text-align:left">{html.escape(name)}</th>' for name in rows[0])
    cell = '<td style="text-align:left;vertical-align:top;max-width:34em">{}</td>'
    lines = ["".join(cell.format(_drawn(value)) for value in row.values()) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return Picture(f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>")


def bars(values: Mapping[str, float], *, unit: str = "", colours: Iterable[str] = ()) -> Picture:
    """One bar for each value; all values have the same sign."""
    longest = max(map(abs, values.values())) or 1
    shades = list(colours) or ["#4a78b5"] * len(values)
    lines = []
    for place, ((name, value), shade) in enumerate(zip(values.items(), shades, strict=True)):
        y, length = 24 * place, max(1, round(300 * abs(value) / longest))
        lines.append(
            f'<text x="232" y="{y + 16}" text-anchor="end">{html.escape(name)}</text>'
            f'<rect x="240" y="{y + 3}" width="{length}" height="18" fill="{shade}"/>'
            f'<text x="{length + 246}" y="{y + 16}">{value:g}{unit}</text>'
        )
    return Picture(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{24 * len(values)}"'
        f' font-family="sans-serif" font-size="13" fill="#777">{"".join(lines)}</svg>'
    )


def conversation(messages: Iterable[BaseMessage]) -> Picture:
    """A conversation, with the user on the right and everybody else on the left."""
    places = {"human": "margin-left:25%", "system": "opacity:.6", "tool": "opacity:.6"}
    looks = "border:1px solid #8886;border-radius:10px;padding:.4em .8em;margin:.3em 0;width:70%"
    shown = []
    for message in messages:
        said = html.escape(message.text)
        calls = "".join(
            f"<code>{html.escape(_called(call))}</code>"
            for call in getattr(message, "tool_calls", ())
        )
        shown.append(
            f'<div style="{looks};{places.get(message.type, "")}">'
            f'<small style="opacity:.6">{message.type}</small><br>{calls}{said}</div>'
        )
    return Picture(f'<div style="max-width:50em">{"".join(shown)}</div>')


def verbatim(text: str) -> Picture:
    """A text as it is, with long lines broken between words."""
    return Picture(f'<pre style="white-space:pre-wrap">{html.escape(text)}</pre>')


def beside(**pictures: Any) -> Picture:
    """Pictures side by side, each under its name."""
    return table([{name.replace("_", " "): one for name, one in pictures.items()}])


def _drawn(value: Any) -> str:
    draw = getattr(value, "_repr_html_", None)
    return draw() if draw else html.escape(str(value))


def _called(call: Mapping[str, Any]) -> str:
    return f"{call['name']}({', '.join(map(str, call['args'].values()))})"
