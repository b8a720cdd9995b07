"""What is shown at a terminal: diffs, tables, and what is under way."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from langchain_metaaligner.editing.alignment import Alignment

# All but tab and line feed; those of a reply could rewrite what is on the screen.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_STYLES = {"equal": "", "delete": "red strike", "insert": "green"}
_MARKS = {"equal": "{}", "delete": "[-{}-]", "insert": "{{+{}+}}"}


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave a closed pipe to the command line; rich would end the process with its own code."""
        raise BrokenPipeError


def console(*, stderr: bool = False) -> Console:
    """A console that honours `NO_COLOR`, and whose output is plain where nobody looks at it.

    Args:
        stderr: Whether it writes to stderr.

    Returns:
        The console.
    """
    return _Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def visible(text: str) -> str:
    """Replace control characters by pictures of them.

    Args:
        text: Any text.

    Returns:
        The text, which can do nothing to a terminal.
    """
    return _CONTROLS.sub(_picture, text.replace("\r\n", "\n"))


def _picture(found: re.Match[str]) -> str:
    code = ord(found[0])
    return chr(0x2400 + code) if code < 0x20 else "\N{REPLACEMENT CHARACTER}"


def word_diff(alignment: Alignment, to: Console) -> Text:
    """An edit as a diff: removed text red and struck out, new text green.

    Args:
        alignment: The edit.
        to: Where it is shown; without colours, the changes are `[-marked-]` and `{+marked+}`.

    Returns:
        The diff.
    """
    coloured = to.color_system is not None and not to.no_color
    shown = Text()
    for op, text in alignment.diff():
        if coloured:
            shown.append(visible(text), style=_STYLES[op])
        else:
            shown.append(_MARKS[op].format(visible(text)))
    return shown


def under_way(to: Console, what: str) -> AbstractContextManager[object]:
    """Show that something takes its time, where somebody looks.

    Args:
        to: The console.
        what: What is under way.

    Returns:
        A context for the work.
    """
    return to.status(what) if to.is_terminal else nullcontext()


def print_json(value: Mapping[str, Any]) -> None:
    """Print an object as a line of JSON.

    Args:
        value: The object.
    """
    line = json.dumps(value, ensure_ascii=False, default=str)
    try:
        line.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates, which only an escape can hold
        line = json.dumps(value, default=str)
    typer.echo(line)


def print_indented(to: Console, text: str) -> None:
    """Print a text under a title.

    Args:
        to: The console; where nobody looks at it, lines stay whole.
        text: The text.
    """
    if to.is_terminal:
        to.print(Padding(Text(visible(text), overflow="fold"), (0, 0, 0, 2), expand=False))
    else:
        to.print(f"  {visible(text)}", soft_wrap=True)
