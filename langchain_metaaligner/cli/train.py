"""`metaaligner train`: trains an aligner on preference data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from langchain_metaaligner.cli.flags import flag, json_object, with_flags
from langchain_metaaligner.cli.help import single
from langchain_metaaligner.cli.running import Debug, Json, resumable
from langchain_metaaligner.cli.terminal import print_json
from langchain_metaaligner.training.run.settings import TrainingSettings

_SETTINGS = [
    flag(name, field, panel="Settings") for name, field in TrainingSettings.model_fields.items()
]


@with_flags(_SETTINGS)
def train(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A .jsonl, .csv or .parquet file, or a data set on the hub."
        ),
    ],
    base: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="Hub id or folder of the model to train, or 'embedded' for the base of the"
            " embedded aligner.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Folder for checkpoints, edits.jsonl and the result, adapter/ or model/.",
        ),
    ],
    objectives: Annotated[
        list[str] | None,
        typer.Option(
            "--objectives",
            "-o",
            metavar="NAME",
            help="An objective to train on, as a name or a sentence 'Name: description'; repeat it"
            " for several. By default all in the data.",
        ),
    ] = None,
    preferred_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="An objective on which the first answer (chosen) is better where a row has no"
            " scores; repeat it for several.",
        ),
    ] = None,
    family: Annotated[
        str, typer.Option(metavar="NAME", help="Prompt family to train for.")
    ] = "HH-RLHF",
    validation: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Share of the conversations to hold out."),
    ] = 0.05,
    tie_margin: Annotated[
        float,
        typer.Option(metavar="X", help="Scores that differ by no more than this are equal."),
    ] = 0.0,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write a whole checkpoint instead of an adapter.")
    ] = False,
    licence: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Licence of the result, for its model card."),
    ] = None,
    trainer_options: Annotated[
        str,
        typer.Option(
            metavar="JSON",
            help='Further fields of trl.SFTConfig, such as {"report_to": "wandb"}.',
        ),
    ] = "{}",
    json: Json = False,
    _debug: Debug = False,
    **settings: Any,
) -> None:
    """Train an aligner on your own preference data.

    The data are pairs of answers, and which of the two is better on each objective. Rows that
    can't be used are reported with their place and left out. The last line is the folder of the
    result. Interrupted, it resumes when the command is repeated.
    """
    further = json_object(trainer_options)
    from langchain_metaaligner.editing.prompts import find_family
    from langchain_metaaligner.training.data.examples import build_examples, split_held_out
    from langchain_metaaligner.training.data.preferences import read_preferences
    from langchain_metaaligner.training.run.card import CardDetails
    from langchain_metaaligner.training.run.trainer import train_aligner

    chosen = TrainingSettings(**settings)
    prompts = find_family(family)
    read = read_preferences(
        source,
        objectives=objectives,
        preferred_on=preferred_on or (),
        family=prompts,
        seed=chosen.seed,
    )
    _tell(read.report())
    learned, held_out = split_held_out(read.pairs, fraction=validation, seed=chosen.seed)
    examples, held_out_examples = (
        build_examples(
            pairs,
            objectives=objectives,
            family=prompts,
            seed=chosen.seed,
            tie_margin=tie_margin,
        )
        if pairs
        else []
        for pairs in (learned, held_out)
    )
    with resumable("Repeat the command to resume from the last checkpoint."):
        result = train_aligner(
            examples,
            base=base,
            out=out,
            settings=chosen,
            # Copies and equal pairs are easy; only edits that improve tell how good the aligner is.
            validation=[one for one in held_out_examples if one.stage == "contrastive"],
            family=prompts,
            merge=merge,
            card=CardDetails(
                licence=licence,
                sources=(f"{len(learned)} preference pairs of {Path(source).name}",),
            ),
            trainer_options=further,
            report=_tell,
        )
    if json:
        print_json({"result": str(result), "pairs": len(learned), "examples": len(examples)})
    else:
        typer.echo(result)


def _tell(line: str) -> None:
    typer.echo(line, err=True)


APP = single(
    train,
    examples=(
        "metaaligner train preferences.jsonl --base embedded --out my-aligner",
        "metaaligner train preferences.csv --base MODEL --out my-aligner -o humour --rank 16",
    ),
)
