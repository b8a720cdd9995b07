"""Reads the command line of the training, and runs what it asks for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from langchain_metaaligner.errors import MetaAlignerError

_FAILED, _STOPPED = 1, 130
_EMBEDDED_HELP = """\
Make the adapter of the embedded aligner from human preference pairs and the texts of this
package, with the settings of training/embedded/recipe.py. Two cores and 4 GiB of memory are
enough. A run that was stopped, however, goes on when the command is given again.

glibc's malloc lets a training with batches of many lengths grow: on Linux, put
LD_PRELOAD=libjemalloc.so.2 in front (Debian: libjemalloc2)."""
_PREFERENCES_HELP = """\
Train an aligner on your own preference data: pairs of answers and how they compare on each
objective. Rows that can't be used are reported with their place and left out. A run that was
stopped goes on when the command is given again."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The command line without the program; the process's own.

    Returns:
        0 when it is done, 1 after an error, 130 when it was interrupted.
    """
    given = _parser().parse_args(arguments)
    try:
        folder = given.run(given)
    except (MetaAlignerError, OSError) as error:
        _say(f"error: {' '.join(str(error).split())}")
        return _FAILED
    except KeyboardInterrupt:
        _say("stopped; the same command goes on from the last checkpoint")
        return _STOPPED
    print(folder)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m langchain_metaaligner.training",
        description="Train an aligner: warm-up, equal and contrastive stage, one after the other.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    embedded = commands.add_parser(
        "embedded",
        help="make the adapter of the embedded aligner",
        description=_EMBEDDED_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    embedded.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="holds hh_harmless_pairs.jsonl and hh_helpful_pairs.jsonl, with rows of context,"
        " chosen and rejected",
    )
    embedded.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="for checkpoints, edits.jsonl and, in the end, adapter/",
    )
    embedded.set_defaults(run=_embedded)
    return parser


def _embedded(given: argparse.Namespace) -> Path:
    from langchain_metaaligner.training.embedded import recipe

    return recipe.train(given.data, given.out, report=_say)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
