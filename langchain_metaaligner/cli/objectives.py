"""The option `--objectives`, the same in every command."""

from __future__ import annotations

from typing import Annotated

import typer

DEFAULT = ("harmlessness", "helpfulness")
"""The objectives where none is given."""


def _known(incomplete: str) -> list[tuple[str, str]]:
    from langchain_metaaligner.editing.objectives import CATALOGUE

    return [(name, CATALOGUE[name]) for name in sorted(CATALOGUE) if name.startswith(incomplete)]


ObjectivesFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--objectives",
        "-o",
        metavar="NAME",
        autocompletion=_known,
        show_default=False,
        help="What to improve: a name, or a sentence. Repeat it for several. By default"
        " harmlessness and helpfulness.",
    ),
]
"""The type of the option."""
