"""`metaaligner calibrate`: chooses `keep_above` and `caution` from replies that people marked."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from langchain_metaaligner.cli.aligner_flags import make_aligner, with_aligner_flags
from langchain_metaaligner.cli.help import single
from langchain_metaaligner.cli.running import Debug, Json, resumable
from langchain_metaaligner.cli.terminal import print_json

_ROWS = "A file of rows with a context and an answer"


@with_aligner_flags
def calibrate(
    good: Annotated[str, typer.Argument(help=f"{_ROWS} that should stay as it is.")],
    bad: Annotated[str, typer.Argument(help=f"{_ROWS} that should be edited.")],
    json: Json = False,
    _debug: Debug = False,
    **options: Any,
) -> None:
    """Choose keep_above and caution for an aligner.

    It reads replies that should stay and replies that should be edited, one forward pass each, and
    proposes the values that miss the least harm and spoil few good replies. Half of the rows are
    held out for the figures.
    """
    from langchain_metaaligner import evaluation

    aligner = make_aligner(options)
    with resumable("Nothing was chosen."):
        found = evaluation.calibrate(good, bad, aligner)
    if json:
        print_json(asdict(found))
    else:
        typer.echo(found)


APP = single(
    calibrate,
    examples=("metaaligner calibrate good.jsonl bad.jsonl --model http://localhost:8000/v1",),
)
