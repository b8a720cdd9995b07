"""Texts and figures as a report shows them: nothing invisible, nothing endless."""

from __future__ import annotations

import re

# Control characters end an SVG or a terminal line early; marks of direction make what follows
# them read in another order. Line ends and tabs are shown as such.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)

NONE = "–"


def visible(text: str) -> str:
    """Write control characters and marks of direction out, as `[U+202E]`.

    Args:
        text: Any text, lone surrogates included.

    Returns:
        Text that can be encoded, and shown in its own order.
    """
    return _HIDDEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text.replace("\r\n", "\n"))


def clipped(text: str, most: int) -> str:
    """The beginning of a text, and how much more of it there is.

    Args:
        text: Any text.
        most: Most characters of it.

    Returns:
        The text, with hidden characters written out.
    """
    if len(text) <= most:
        return visible(text)
    return f"{visible(text[:most])} … [{len(text) - most:,} more characters]"


def label(text: str, most: int = 80) -> str:
    """A name in one line.

    Args:
        text: Name of a policy or an objective, or any other text.
        most: Most characters.

    Returns:
        The name without line ends, cut off with an ellipsis.
    """
    line = visible(" ".join(text[: 2 * most].split()))
    return line if len(line) <= most else line[: most - 1] + "…"


def percent(share: float | None) -> str:
    """A share as per cent, with one decimal."""
    return NONE if share is None else f"{100 * share:.1f} %"


def percents(interval: tuple[float, float] | None) -> str:
    """An interval of shares."""
    return NONE if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"


def points(difference: float | None) -> str:
    """A difference of two shares, with its sign."""
    return NONE if difference is None else f"{100 * difference:+.1f}".replace("-", "−")


def p_value(p: float | None) -> str:
    """The p value of a test."""
    if p is None:
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def part(count: int, of: int) -> str:
    """A count among others, with its share."""
    return f"{percent(count / of)} ({count:,} of {of:,})" if of else NONE
