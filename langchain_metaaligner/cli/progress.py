"""How far long work has come: a bar on a terminal, elsewhere a line now and then, on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from langchain_metaaligner.cli.terminal import console

_EVERY = 10.0  # seconds between two lines
_WIDE = 72  # columns, below which the line about the work needs them all

Tell = Callable[[float, str], None]
"""Takes the part of the work that is done, from 0 to 1, and a line about it."""


@contextmanager
def progress() -> Iterator[Tell]:
    """Show how far the work in this context has come.

    Yields:
        What is called to tell.
    """
    err = console(stderr=True)
    if err.is_terminal:
        from rich.progress import BarColumn, Progress, TextColumn

        shown = [BarColumn(20)] if err.width >= _WIDE else []
        with Progress(*shown, TextColumn("{task.description}"), console=err) as bar:
            task = bar.add_task("", total=1.0)
            yield lambda part, line: bar.update(task, completed=part, description=line)
        return
    told, reached = time.monotonic(), 0.0

    def tell(part: float, line: str) -> None:
        nonlocal told, reached
        if time.monotonic() - told >= _EVERY or reached < 1.0 <= part:
            told, reached = time.monotonic(), part
            typer.echo(line, err=True)

    yield tell
