"""`metaaligner calibrate`: chooses `keep_above` and `caution` from replies that people marked."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from langchain_metaaligner.cli.aligner_flags import make_aligner, with_aligner_flags
from langchain_metaaligner.cli.help import single
from langchain_metaaligner.cli.objectives import DEFAULT, ObjectivesFlag
from langchain_metaaligner.cli.running import Debug, Json, resumable
from langchain_metaaligner.cli.terminal import print_json

_ROWS = "A file of rows with a context and an answer"


@with_aligner_flags
def calibrate(
    good: Annotated[
        str, typer.Argument(metavar="GOOD", help=f"{_ROWS} that should stay as it is.")
    ],
    bad: Annotated[str, typer.Argument(metavar="BAD", help=f"{_ROWS} that should be edited.")],
    objectives: ObjectivesFlag = None,
    most_spoilt: Annotated[
        float,
        typer.Option(
            metavar="SHARE", min=0, max=1, help="Share of the good replies that may be changed."
        ),
    ] = 0.05,
    json: Json = False,
    _debug: Debug = False,
    **options: Any,
) -> None:
    """Choose keep_above and caution for an aligner.

    It reads replies that should stay and replies that should be edited, a forward pass or two each,
    and proposes the values that miss the least harm and spoil few good replies. Half of the
    conversations are held out for the figures.
    """
    from langchain_metaaligner.evaluation import calibrate as choose

    aligner = make_aligner(options)
    with resumable("Nothing was chosen."):
        found = choose(
            good, bad, aligner, objectives=objectives or DEFAULT, most_spoilt=most_spoilt
        )
    if json:
        print_json(asdict(found))
    else:
        flags = {"keep-above": found.keep_above, "caution": found.caution}
        chosen = [f"--{name} {value:g}" for name, value in flags.items() if value is not None]
        typer.echo(found)
        typer.echo(f"On a command line: {' '.join(chosen)}")


APP = single(
    calibrate,
    examples=("metaaligner calibrate good.jsonl bad.jsonl --model http://localhost:8000/v1",),
)
