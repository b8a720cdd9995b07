"""How the help of a command reads: its words, its options by topic, and examples."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

SETTINGS = {"help_option_names": ["-h", "--help"]}
_OPTIONS = "Options"
_WIDEST = 80


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
    get_params: Any

    def make_context(self, *args: Any, **given: Any) -> Any:
        """Make the context, with the width of the terminal."""
        # Click would write no narrower than 50 columns.
        columns = min(shutil.get_terminal_size().columns, _WIDEST)
        return super().make_context(*args, **{"terminal_width": columns - 1, **given})  # type: ignore[misc]

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words after the command's name; versions of Typer write them in several ways."""
        taken = [one for one in self.get_params(ctx) if one.param_type_name == "argument"]
        return ["[OPTIONS]", *(_name_of(one) for one in taken)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                title = _OPTIONS
                if param.param_type_name == "argument":
                    title, record = "Arguments", (_name_of(param), record[1])
                title = getattr(param, "rich_help_panel", None) or title
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records, col_max=_first_column(formatter))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples."""
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.splitlines():
                    formatter.write(f"  {line}\n")


class Command(_Sections, TyperCommand):
    """A command with the help of this project."""


class Group(_Sections, TyperGroup):
    """A group of commands with the help of this project."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words after the group's name."""
        return [*super().collect_usage_pieces(ctx), "COMMAND ..."]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options and the commands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands; Click's own list cuts what they do to one line."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, (self.get_command(ctx, name).help or "").split("\n\n")[0])  # type: ignore[union-attr]
                    for name in self.list_commands(ctx)
                ]
            )


def _name_of(argument: Any) -> str:
    name = argument.metavar or str(argument.name).upper()
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _first_column(formatter: Any) -> int:
    return min(30, int(formatter.width) // 3)
