"""What the exit codes of the command line mean."""

from __future__ import annotations

from enum import IntEnum
from typing import Self


class ExitCode(IntEnum):
    """How a command ended; each member says in words what it means."""

    words: str

    def __new__(cls, number: int, words: str) -> Self:
        """Take a number and its meaning."""
        made = int.__new__(cls, number)
        made._value_ = number
        made.words = words
        return made

    DONE = 0, "everything that was asked for is done"
    FAILED = 1, "an error; one line on stderr says which, and what to do"
    USAGE = 2, "the command line is wrong; nothing was begun"
    GATE_MISSED = 3, "an evaluation is complete, and missed `--fail-under` or its baseline"
    ROWS_FAILED = 4, "some rows failed and are reported; all others are done"
    INTERRUPTED = 130, "stopped by Ctrl-C"
    PIPE_CLOSED = 141, "what reads the output has closed it, as `head` does"
