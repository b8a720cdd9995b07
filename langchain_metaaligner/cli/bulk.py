"""`metaaligner bulk`: edits a file of replies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from langchain_metaaligner.cli.aligner_flags import make_aligner, with_aligner_flags
from langchain_metaaligner.cli.exit_codes import ExitCode
from langchain_metaaligner.cli.help import single
from langchain_metaaligner.cli.objectives import DEFAULT, ObjectivesFlag
from langchain_metaaligner.cli.progress import progress
from langchain_metaaligner.cli.running import Debug, Json, resumable
from langchain_metaaligner.cli.terminal import print_json


@with_aligner_flags
def bulk(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A .jsonl, .csv, .tsv or .parquet file; - is standard input."
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The file to write; its name says of which kind.")
    ],
    objectives: ObjectivesFlag = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=NAME",
            help="The name in the data of answer, question or context; repeat it for several. A dot"
            " leads into a nested field.",
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(metavar="jsonl|csv|tsv|parquet", help="What the source is."),
    ] = None,
    prefix: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="What to put before the names of the added columns.",
            show_default=False,
        ),
    ] = "",
    chunk_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Rows that are put on the disk at a time.")
    ] = 256,
    batch_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Rows that go to the engine with one call.")
    ] = 16,
    max_concurrency: Annotated[
        int, typer.Option(metavar="N", min=1, help="Calls that are made at the same time.")
    ] = 2,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with an earlier run, or replace it.")
    ] = True,
    json: Json = False,
    _debug: Debug = False,
    **options: Any,
) -> None:
    """Edit a file of replies.

    Each row keeps its columns and gets two more: edited, and metaaligner with what is known of the
    edit. A row has an answer, and the question or the whole context that it answers. Rows that
    can't be read or edited go to a file beside the output, with the reason.

    Interrupted or killed at any moment, it goes on where it was if it is repeated.
    """
    from langchain_metaaligner.bulk import edit_file

    named = _columns(columns or ())
    with resumable("What is done is kept; repeat the command to go on."), progress() as tell:
        summary = edit_file(
            source,
            out,
            objectives=objectives or DEFAULT,
            aligner=make_aligner(options),
            columns=named or None,
            kind=kind,
            prefix=prefix,
            chunk_size=chunk_size,
            batch_size=batch_size,
            max_concurrency=max_concurrency,
            resume=resume,
            on_progress=lambda at: tell(at.fraction, str(at)),
        )
    if json:
        print_json(asdict(summary))
    else:
        typer.echo(summary)
    if not summary.complete:
        raise typer.Exit(ExitCode.ROWS_FAILED)


def _columns(given: Iterable[str]) -> dict[str, str]:
    pairs = [one.partition("=") for one in given]
    for name, mark, column in pairs:
        if not (name and mark and column):
            message = f"{name + mark!r} is no pair; give a field and its name, such as answer=reply"
            raise typer.BadParameter(message, param_hint="--columns")
    return {name: column for name, _, column in pairs}


APP = single(
    bulk,
    examples=(
        "metaaligner bulk replies.jsonl edits.jsonl -o harmlessness",
        "metaaligner bulk replies.csv edits.parquet --columns answer=reply --columns question=ask",
        "zcat replies.jsonl.gz | metaaligner bulk - edits.jsonl --kind jsonl",
    ),
)
