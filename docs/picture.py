"""Draws the README's picture from real edits by the embedded aligner: `make picture`."""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from langchain_metaaligner import Aligner, Alignment

PICTURE = Path(__file__).with_name("edit.svg")
OBJECTIVES = ("harmlessness", "helpfulness")
# Questions, each with a model's reply: one that should be edited, and one that should stay.
CASES = (
    (
        "How can I get back at my boss?",
        "Slash the tires of his car while he is at work.",
    ),
    (
        "How do I keep cut flowers fresh?",
        (
            "Trim the stems at an angle, put them in clean water, and change the water every two"
            " days. Keep the vase away from the sun and from ripening fruit."
        ),
    ),
)

WIDTH, MARGIN, LINE, GLYPH = 860, 24, 22, 8.1
COLUMNS = int((WIDTH - 2 * MARGIN) / GLYPH)
# Fewest characters of a deletion after which the text starts on a new line.
LONG = 40

STYLE = """
    text { font: 13.5px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
           white-space: pre; fill: #1f2328 }
    .card { fill: #ffffff; stroke: #d0d7de }
    .rule { stroke: #d0d7de }
    .quiet { fill: #59636e }
    .status { font-weight: 600 }
    .delete { fill: #ffebe9 } text.delete { fill: #a40e26; text-decoration: line-through }
    .insert { fill: #dafbe1 } text.insert { fill: #116329 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 }
      .card { fill: #0d1117; stroke: #30363d }
      .rule { stroke: #30363d }
      .quiet { fill: #9198a1 }
      .delete { fill: #4a1a1d } text.delete { fill: #ffa198 }
      .insert { fill: #16361f } text.insert { fill: #7ee787 }
    }
""".strip("\n")

Run = tuple[str, str]


def lines_of(alignment: Alignment, columns: int) -> list[list[Run]]:
    """Break a diff into lines, between words.

    Args:
        alignment: The record of an edit.
        columns: Most characters in a line.

    Returns:
        Lines, each a list of runs; a run is a kind (`equal`, `delete`, `insert`) and its text.
    """
    lines: list[list[Run]] = [[]]
    for op, text in alignment.diff():
        for word in re.findall(r"\s*\S+|\s+$", text):
            line = lines[-1]
            if line and sum(len(run) for _, run in line) + len(word) > columns:
                lines.append([(op, word.lstrip())])
            elif line and line[-1][0] == op:
                line[-1] = (op, line[-1][1] + word)
            else:
                line.append((op, word))
        if op == "delete" and len(text) >= LONG:
            lines.append([])
    return [line for line in lines if line]


def _text(column: int, y: float, text: str, kind: str = "") -> str:
    # The length is fixed, so that the marks fit in any monospaced font.
    x, length = MARGIN + column * GLYPH, len(text) * GLYPH
    return (
        f'  <text class="{kind}" x="{x:.1f}" y="{y:.1f}" textLength="{length:.1f}">'
        f"{html.escape(text)}</text>"
    )


def _mark(column: int, y: float, text: str, kind: str) -> str:
    x, length = MARGIN + column * GLYPH, len(text) * GLYPH
    return f'  <rect class="{kind}" x="{x:.1f}" y="{y - 15:.1f}" width="{length:.1f}" height="20"/>'


def draw(alignments: Sequence[Alignment]) -> str:
    """Draw the picture.

    Args:
        alignments: The edits of the cases, in the same order.

    Returns:
        SVG, which is light or dark like the reader's system.
    """
    y: float = MARGIN + 14
    names = ", ".join(f'"{name}"' for name in OBJECTIVES)
    shown = [_text(0, y, f"llm | MetaAlignerRunnable([{names}])")]
    for (question, _), alignment in zip(CASES, alignments, strict=True):
        y += LINE * 0.7
        shown.append(f'  <line class="rule" x1="0" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        y += LINE * 1.2
        status = alignment.status
        shown.append(_text(0, y, question, "quiet"))
        shown.append(_text(COLUMNS - len(status), y, status, "status"))
        y += LINE * 0.2
        for line in lines_of(alignment, COLUMNS):
            y += LINE
            column = 0
            for op, text in line:
                if op != "equal":
                    shown.append(_mark(column, y, text, op))
                shown.append(_text(column, y, text, op))
                column += len(text)
    height = y + MARGIN
    description = "; ".join(
        f"asked {question!r}, the model replies {one.original!r}, and the user reads {one.text!r}"
        for (question, _), one in zip(CASES, alignments, strict=True)
    )
    size = f'width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}"'
    card = f'x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:.0f}" rx="8"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}>',
            "  <title>Two replies before and after the aligner</title>",
            f"  <desc>{html.escape(description)}</desc>",
            f"  <style>\n{STYLE}\n  </style>",
            f'  <rect class="card" {card}/>',
            *shown,
            "</svg>\n",
        ]
    )


def edits() -> list[Alignment]:
    """Edit the replies of the cases with the embedded aligner.

    Returns:
        The records in the same order, from float32 weights: the same text on every machine.
    """
    aligner = Aligner(dtype="float32")
    items = [([("human", question)], reply, OBJECTIVES) for question, reply in CASES]
    try:
        return aligner.align_batch(items)
    finally:
        aligner.close()


def main() -> None:
    """Draw the picture and print what it shows."""
    made = edits()
    PICTURE.write_text(draw(made), encoding="utf-8")
    for one in made:
        sys.stdout.write(f"{one.status}: {one.text}\n")


if __name__ == "__main__":
    main()
