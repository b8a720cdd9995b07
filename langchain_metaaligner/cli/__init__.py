"""The command line `metaaligner`: one module for each command."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the entry point `metaaligner`.

    Args:
        arguments: The command line without the program; the process's own by default.

    Returns:
        An exit code, as `ExitCode` has them.
    """
    if importlib.util.find_spec("typer") is None:
        sys.stderr.write(
            "error: The command line needs packages that are not installed. Install them with"
            ' pip install "langchain-metaaligner[cli]".\n'
        )
        return 1
    from langchain_metaaligner.cli.app import APP
    from langchain_metaaligner.cli.running import run

    return run(APP, arguments)
