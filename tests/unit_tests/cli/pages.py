"""The tables of docs/command_line.md, made from the commands themselves."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import typer

from langchain_metaaligner.cli.app import COMMANDS
from langchain_metaaligner.cli.exit_codes import ExitCode

_ALIGNERS = ("The aligner", "Weights in this process", "A model behind a server", "A GGUF file")
_SECTIONS = re.compile(r"\n\n(?=\S[^\n]*:\n)")


def exit_codes() -> str:
    rows = [f"| {code.value} | {code.words} |" for code in ExitCode]
    return "\n".join(["| code | meaning |", "| --- | --- |", *rows])


def commands() -> str:
    rows = [f"| [`{name}`](#{name}) | {words} |" for name, words in COMMANDS.items()]
    return "\n".join(["| command | what it does |", "| --- | --- |", *rows])


def help_of(*path: str) -> str:
    """The help of a command, as it is shown 80 columns wide."""
    with _width(80):
        command: Any = typer.main.get_command(
            import_module(f"langchain_metaaligner.cli.{path[0]}").APP
        )
        context = command.make_context(f"metaaligner {path[0]}", [], resilient_parsing=True)
        for name in path[1:]:
            command = command.get_command(context, name)
            context = command.make_context(name, [], parent=context, resilient_parsing=True)
        return str(context.get_help()).rstrip()


def _fenced(text: str) -> str:
    return f"```sh\n{text}\n```"


def _without_aligner(text: str) -> str:
    """A help without the options that several commands share."""
    parts = _SECTIONS.split(text)
    return "\n\n".join(one for one in parts if not one.startswith(_ALIGNERS))


def aligner_flags() -> str:
    parts = _SECTIONS.split(help_of("align"))
    return _fenced("\n\n".join(one for one in parts if one.startswith(_ALIGNERS)))


def _help(*path: str) -> Callable[[], str]:
    return lambda: _fenced(_without_aligner(help_of(*path)))


TABLES: dict[str, Callable[[], str]] = {
    "commands": commands,
    "exit_codes": exit_codes,
    "aligner_flags": aligner_flags,
    **{f"help_{name}": _help(name) for name in COMMANDS},
    "help_models_gguf": _help("models", "gguf"),
}


@contextmanager
def _width(columns: int) -> Iterator[None]:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(columns)
    try:
        yield
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
