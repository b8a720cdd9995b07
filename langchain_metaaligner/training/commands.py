"""Reads the command line of the training, and runs what it asks for."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_metaaligner.errors import MetaAlignerError
from langchain_metaaligner.training.run.settings import TrainingSettings

_FAILED, _STOPPED = 1, 130
_EMBEDDED_HELP = """\
Make the embedded aligner's adapter from human preference pairs and the texts of this package, in
the three rounds of training/embedded/recipe.py, about three hours on two cores with 5 GiB of
memory. A run that was stopped, however, goes on when the command is given again.

glibc's malloc lets a training with batches of many lengths grow: on Linux, put
LD_PRELOAD=libjemalloc.so.2 in front (Debian: libjemalloc2)."""
_PREFERENCES_HELP = """\
Train an aligner on your own preference data: pairs of answers and how they compare on each
objective. Rows that can't be used are reported with their place and left out. A run that was
stopped goes on when the command is given again."""

_SETTINGS: dict[str, tuple[type, str]] = {
    "rank": (int, "rank of the adapter; 0 trains the full weights"),
    "learning_rate": (float, "the highest learning rate"),
    "epochs": (float, "passes over the examples of a stage"),
    "batch_size": (int, "examples of a step on each device"),
    "gradient_accumulation_steps": (int, "batches of one step"),
    "max_length": (int, "tokens of prompt and edit; longer examples are left out"),
    "averaging": (float, "share of the weights' average that a step keeps; 0 doesn't average"),
    "seed": (int, "decides the order and the first weights"),
    "save_steps": (int, "steps between two checkpoints"),
    "eval_steps": (int, "steps between two looks at the validation examples"),
    "bf16": (bool, "compute in bfloat16"),
    "gradient_checkpointing": (bool, "save memory for a third more time; wanted from 7B on"),
}


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
        help="make the embedded aligner's adapter",
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
    _add_preferences(commands)
    return parser


def _add_preferences(commands: Any) -> None:
    """The options of `preferences`; those of the settings have the settings' own defaults."""
    parser = commands.add_parser(
        "preferences",
        help="train an aligner on your own preference data",
        description=_PREFERENCES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", metavar="FILE", help="a .jsonl, .csv or .parquet file, or a data set on the hub"
    )
    parser.add_argument(
        "--base",
        required=True,
        metavar="MODEL",
        help="hub id or folder of the model to train, or 'embedded' for the embedded one's base",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="for checkpoints, edits.jsonl and, in the end, adapter/ or model/",
    )
    parser.add_argument(
        "--objectives",
        nargs="+",
        metavar="NAME",
        help="the objectives to use, by name or as a sentence 'Name: description'; all in the data",
    )
    parser.add_argument(
        "--preferred-on",
        nargs="+",
        default=(),
        metavar="NAME",
        help="objectives on which the first answer (chosen) is better where a row has no scores",
    )
    parser.add_argument(
        "--family", default="HH-RLHF", help="the prompts to train for (default: %(default)s)"
    )
    parser.add_argument(
        "--validation",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="share of the conversations that only validates (default: %(default)s)",
    )
    parser.add_argument(
        "--tie-margin",
        type=float,
        default=0.0,
        metavar="X",
        help="scores no further apart than this are equal (default: %(default)s)",
    )
    parser.add_argument("--merge", action="store_true", help="write a whole checkpoint")
    parser.add_argument("--licence", help="the result's licence, for its card")
    settings = parser.add_argument_group("settings")
    for name, (kind, words) in _SETTINGS.items():
        default = getattr(TrainingSettings(), name)
        flag = f"--{name.replace('_', '-')}"
        described = f"{words} (default: {default})"
        if kind is bool:
            settings.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=default, help=described
            )
        else:
            settings.add_argument(flag, type=kind, default=default, metavar="N", help=described)
    settings.add_argument(
        "--trainer-options",
        type=_options,
        default={},
        metavar="JSON",
        help='further fields of trl.SFTConfig, such as \'{"report_to": "wandb"}\'',
    )
    parser.set_defaults(run=_preferences)


def _embedded(given: argparse.Namespace) -> Path:
    from langchain_metaaligner.training.embedded import recipe

    return recipe.train(given.data, given.out, report=_say)


def _preferences(given: argparse.Namespace) -> Path:
    from langchain_metaaligner.editing.prompts import find_family
    from langchain_metaaligner.training.data.examples import build_examples, split_held_out
    from langchain_metaaligner.training.data.preferences import read_preferences
    from langchain_metaaligner.training.run.card import CardDetails
    from langchain_metaaligner.training.run.trainer import train_aligner

    settings = TrainingSettings(**{name: getattr(given, name) for name in _SETTINGS})
    family = find_family(given.family)
    read = read_preferences(
        given.source,
        objectives=given.objectives,
        preferred_on=given.preferred_on,
        family=family,
        seed=settings.seed,
    )
    _say(read.report())
    learned, apart = split_held_out(read.pairs, fraction=given.validation, seed=settings.seed)
    examples, validation = (
        build_examples(
            pairs,
            objectives=given.objectives,
            family=family,
            seed=settings.seed,
            tie_margin=given.tie_margin,
        )
        if pairs
        else []
        for pairs in (learned, apart)
    )
    return train_aligner(
        examples,
        base=given.base,
        out=given.out,
        settings=settings,
        # Copies and equal pairs are easy: what is wanted is measured on edits that improve.
        validation=[one for one in validation if one.stage == "contrastive"],
        family=family,
        merge=given.merge,
        card=CardDetails(
            licence=given.licence,
            sources=(f"{len(learned)} preference pairs of {Path(given.source).name}",),
        ),
        trainer_options=given.trainer_options,
        report=_say,
    )


def _options(text: str) -> dict[str, Any]:
    try:
        read = json.loads(text)
    except ValueError as error:
        message = f"no JSON: {error}"
        raise argparse.ArgumentTypeError(message) from error
    if not isinstance(read, dict):
        message = 'expected an object, such as {"report_to": "wandb"}'
        raise argparse.ArgumentTypeError(message)
    return read


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
