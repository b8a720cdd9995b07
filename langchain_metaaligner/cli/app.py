"""The commands by their names; the module of each is imported when it is called."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer

from langchain_metaaligner.cli.help import SETTINGS, Group
from langchain_metaaligner.cli.running import PROGRAM

COMMANDS = {
    "align": "Edit a reply: in a dialogue, from arguments or from stdin.",
    "bulk": "Edit a file of replies; interrupted at any moment, it goes on where it was.",
    "evaluate": "Measure how much better edits are than their originals.",
    "calibrate": "Choose keep_above and caution from replies that should stay and that should not.",
    "train": "Train an aligner on your own preference data.",
    "models": "List the published checkpoints and what fits this machine; write GGUF files.",
    "doctor": "Say what is missing here, what a server is, and what mends it.",
}
"""Each command and what it does; its module has the same name and an `APP`."""


class _Commands(Group):
    """The commands, known by their names until one is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            command = typer.main.get_command(import_module(f"{__package__}.{name}").APP)
            command.name = name
        return name, command, rest


APP = typer.Typer(
    name=PROGRAM,
    cls=_Commands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=SETTINGS,
)
"""The command line."""


def _nothing() -> None:
    """Stands for a command in lists."""


for _name, _words in COMMANDS.items():
    APP.command(_name, help=_words)(_nothing)


def _tell_version(given: bool) -> None:
    if given:
        from importlib.metadata import version

        typer.echo(f"{PROGRAM} {version('langchain-metaaligner')}")
        raise typer.Exit


@APP.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_tell_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
) -> None:
    """Edit replies of language models to meet objectives, with a MetaAligner.

    metaaligner align asks for a question and a reply and shows the edit.
    metaaligner COMMAND --help shows a command's options and examples.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
