"""Quotes what other libraries' errors say."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Take the beginning of an error's message as one sentence.

    Args:
        error: Any error.

    Returns:
        Its first line, or its kind where it says nothing, with a full stop.
    """
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    line = line or type(error).__name__
    return line if line.endswith((".", "!", "?")) else f"{line}."
