"""How the help of a command reads: its words, its options by topic, and examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

SETTINGS = {"help_option_names": ["-h", "--help"]}
_OPTIONS = "Options"


def single(
    command: Callable[..., None], *, examples: Sequence[str], help: str | None = None
) -> typer.Typer:
    """Make an app of one command.

    Args:
        command: The command, whose docstring is its help.
        examples: Command lines.
        help: Its help, if not its docstring.

    Returns:
        The app.
    """
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    app.command(help=help, epilog="\n".join(examples), cls=Command, context_settings=SETTINGS)(
        command
    )
    return app


class _Sections:
    """Writes options under the titles of their panels, and examples as they are."""

    epilog: str | None
    get_params: Callable[[Any], Sequence[Any]]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                title = "Arguments" if param.param_type_name == "argument" else _OPTIONS
                title = getattr(param, "rich_help_panel", None) or title
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.splitlines():
                    formatter.write(f"  {line}\n")


class Command(_Sections, TyperCommand):
    """A command with the help of this project."""


class Group(_Sections, TyperGroup):
    """A group of commands with the help of this project."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        # Click's own shortens what a command does to one line.
        with formatter.section("Commands"):
            formatter.write_dl([
                (name, (self.get_command(ctx, name).help or "").split("\n\n")[0])  # type: ignore[union-attr]
                for name in self.list_commands(ctx)
            ])
