"""The dialogue of `metaaligner align`: a question and a reply, their edit, and so on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from rich.console import Console
from rich.padding import Padding

from langchain_metaaligner.cli.running import report
from langchain_metaaligner.cli.terminal import console, under_way, word_diff
from langchain_metaaligner.editing.aligner import Aligner
from langchain_metaaligner.errors import MetaAlignerError

_BLOCK = '"""'
_HOW = (
    f"An empty line ends a text; {_BLOCK} before and after it keeps its empty lines. Ctrl-D ends"
    " the dialogue."
)


class Dialogue:
    """A conversation whose replies are edited.

    Args:
        aligner: Edits the replies.
        objectives: The objectives.
        out: Where it is shown.
        read: Reads a line after a prompt; raises `EOFError` at Ctrl-D.
    """

    def __init__(
        self,
        aligner: Aligner,
        objectives: Iterable[str],
        *,
        out: Console | None = None,
        read: Callable[[str], str] = input,
    ) -> None:
        self._aligner = aligner
        self._objectives = tuple(objectives)
        self._out = out or console()
        self._read = read
        self._messages: list[tuple[str, str]] = []

    def run(self, *, question: str | None = None, answer: str | None = None) -> None:
        """Ask, edit and show, until Ctrl-D.

        Args:
            question: The first question, if it is known.
            answer: The first reply, if it is known.
        """
        if self._read is input:
            _edit_lines()
        self._aligner.load()  # tells of itself
        self._out.print(
            f"{self._aligner.engine.name} · {', '.join(self._objectives)}\n{_HOW}", style="dim"
        )
        try:
            while True:
                self._round(question or self._text("Question"), answer)
                question = answer = None
        except EOFError:
            self._out.print()

    def _round(self, question: str, answer: str | None) -> None:
        if answer is None:
            answer = self._text("Reply")
        asked = [*self._messages, ("human", question)]
        try:
            with under_way(self._out, "editing"):
                made = self._aligner.align(asked, answer, self._objectives)
        except MetaAlignerError as error:
            report(f"{error} The conversation goes on without this turn.")
            return
        self._out.print("Edit", style="bold")
        self._out.print(Padding(word_diff(made, self._out), (0, 0, 0, 2)))
        self._out.print(f"  {made.status} in {made.seconds:.2f} s\n", style="dim")
        self._messages = [*asked, ("ai", made.text)]

    def _text(self, what: str) -> str:
        """Read a text of one or more lines; it is never empty."""
        while True:
            self._out.print(what, style="bold")
            lines: list[str] = []
            while line := self._read("  "):
                if not lines and line.strip() == _BLOCK:
                    while (line := self._read("  ")).strip() != _BLOCK:
                        lines.append(line)
                    break
                lines.append(line)
            if text := "\n".join(lines).strip():
                return text


def _edit_lines() -> None:
    """Let lines be edited, and take what is pasted as one text."""
    try:
        import readline
    except ImportError:  # Python was built without it
        return
    if sys.stdin.isatty() and "libedit" not in (readline.__doc__ or ""):
        readline.parse_and_bind("set enable-bracketed-paste on")
