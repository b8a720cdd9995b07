"""Makes the embedded adapter: `python -m cookbook.recipes.embedded --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cookbook.recipes.embedded import recipe
from langchain_metaaligner.errors import MetaAlignerError

_FAILED, _INTERRUPTED = 1, 130
_HELP = """\
Make the embedded aligner's adapter from human preference pairs and the texts in this folder, in
five rounds: about four and a half hours on two cores with 5 GiB of memory. An interrupted run
resumes when the command is repeated.

With glibc's malloc the memory of a training over batches of many lengths keeps growing. On Linux,
run it with LD_PRELOAD=libjemalloc.so.2 (Debian: libjemalloc2)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line without the program; the process's own by default.

    Returns:
        0 on success, 1 after an error, 130 after an interruption.
    """
    parser = argparse.ArgumentParser(
        prog="python -m cookbook.recipes.embedded",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder with hh_harmless_pairs.jsonl and hh_helpful_pairs.jsonl (rows of context,"
        " chosen and rejected)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder for the rounds, each with its checkpoints, edits.jsonl and adapter",
    )
    given = parser.parse_args(arguments)
    try:
        folder = recipe.train(given.data, given.out, report=_report)
    except (MetaAlignerError, OSError) as error:
        _report(f"error: {' '.join(str(error).split())}")
        return _FAILED
    except KeyboardInterrupt:
        _report("interrupted; repeat the command to resume from the last checkpoint")
        return _INTERRUPTED
    print(folder)
    return 0


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
