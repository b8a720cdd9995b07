"""The command line of the training."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_metaaligner.errors import MetaAlignerError
from langchain_metaaligner.training.run.settings import TrainingSettings

_FAILED, _INTERRUPTED = 1, 130
_PREFERENCES_HELP = """\
Train an aligner on your own preference data: pairs of answers, and which of the two is better on
each objective. Rows that can't be used are reported with their place and left out. An interrupted
run resumes when the command is repeated."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The command line without the program; the process's own by default.

    Returns:
        0 on success, 1 after an error, 130 after an interruption.
    """
    given = _parser().parse_args(arguments)
    try:
        folder = given.run(given)
    except (MetaAlignerError, OSError) as error:
        _report(f"error: {' '.join(str(error).split())}")
        return _FAILED
    except KeyboardInterrupt:
        _report("interrupted; repeat the command to resume from the last checkpoint")
        return _INTERRUPTED
    print(folder)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m langchain_metaaligner.training",
        description="Train an aligner: first the warm-up, then the equal and contrastive stages.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_preferences(commands)
    _add_gguf(commands)
    return parser


def _add_gguf(commands: Any) -> None:
    parser = commands.add_parser(
        "gguf",
        help="write an aligner as a GGUF file, for llama.cpp",
        description=(
            "Write an aligner as one GGUF file, with its adapter merged and its tokenizer inside,"
            " for llama.cpp and the servers that are built on it."
        ),
    )
    parser.add_argument(
        "model", metavar="MODEL", help="hub id or folder of the aligner, or 'embedded'"
    )
    parser.add_argument("--adapter", metavar="ADAPTER", help="hub id or folder of its adapter")
    parser.add_argument("--family", help="its prompt family, if its name doesn't tell")
    parser.add_argument(
        "--dtype",
        choices=["f32", "bf16", "f16", "q8_0"],
        default="bf16",
        help="how the matrices are stored (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    parser.set_defaults(run=_gguf)


def _gguf(given: argparse.Namespace) -> Path:
    from langchain_metaaligner.training.run.gguf_export import export_gguf

    return export_gguf(
        given.model, given.out, dtype=given.dtype, adapter=given.adapter, family=given.family
    )


def _add_preferences(commands: Any) -> None:
    parser = commands.add_parser(
        "preferences",
        help="train an aligner on your own preference data",
        description=_PREFERENCES_HELP,
    )
    parser.add_argument(
        "source", metavar="FILE", help="a .jsonl, .csv or .parquet file, or a data set on the hub"
    )
    parser.add_argument(
        "--base",
        required=True,
        metavar="MODEL",
        help="hub id or folder of the model to train, or 'embedded' for the base of the embedded"
        " aligner",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder for checkpoints, edits.jsonl and the result, adapter/ or model/",
    )
    parser.add_argument(
        "--objectives",
        nargs="+",
        metavar="NAME",
        help="objectives to train on, as names or as sentences 'Name: description' (default: all"
        " in the data)",
    )
    parser.add_argument(
        "--preferred-on",
        nargs="+",
        default=(),
        metavar="NAME",
        help="objectives on which the first answer (chosen) is better where a row has no scores",
    )
    parser.add_argument(
        "--family", default="HH-RLHF", help="prompt family to train for (default: %(default)s)"
    )
    parser.add_argument(
        "--validation",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="share of the conversations to hold out for validation (default: %(default)s)",
    )
    parser.add_argument(
        "--tie-margin",
        type=float,
        default=0.0,
        metavar="X",
        help="scores that differ by no more than this are equal (default: %(default)s)",
    )
    parser.add_argument(
        "--merge", action="store_true", help="write a whole checkpoint instead of an adapter"
    )
    parser.add_argument("--licence", help="licence of the result, for its model card")
    _add_settings(parser.add_argument_group("settings"))
    parser.add_argument(
        "--trainer-options",
        type=_json_object,
        default={},
        metavar="JSON",
        help='further fields of trl.SFTConfig, such as \'{"report_to": "wandb"}\'',
    )
    parser.set_defaults(run=_preferences)


def _add_settings(group: Any) -> None:
    # transformers' HfArgumentParser takes its words from dataclass metadata, which no editor shows
    # and no reference prints, and importing it takes a second before --help can answer.
    for name, field in TrainingSettings.model_fields.items():
        words = " ".join((field.description or "").split())
        options: dict[str, Any] = {
            "default": field.default,
            "help": f"{words} (default: %(default)s)",
        }
        if field.annotation is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif isinstance(field.default, tuple):
            options |= {"nargs": "+", "metavar": "NAME"}
        else:
            options["metavar"] = "N"  # the settings themselves turn the text into a number
        group.add_argument(f"--{name.replace('_', '-')}", **options)


def _preferences(given: argparse.Namespace) -> Path:
    from langchain_metaaligner.editing.prompts import find_family
    from langchain_metaaligner.training.data.examples import build_examples, split_held_out
    from langchain_metaaligner.training.data.preferences import read_preferences
    from langchain_metaaligner.training.run.card import CardDetails
    from langchain_metaaligner.training.run.trainer import train_aligner

    settings = TrainingSettings(
        **{name: getattr(given, name) for name in TrainingSettings.model_fields}
    )
    family = find_family(given.family)
    read = read_preferences(
        given.source,
        objectives=given.objectives,
        preferred_on=given.preferred_on,
        family=family,
        seed=settings.seed,
    )
    _report(read.report())
    learned, held_out = split_held_out(read.pairs, fraction=given.validation, seed=settings.seed)
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
        for pairs in (learned, held_out)
    )
    return train_aligner(
        examples,
        base=given.base,
        out=given.out,
        settings=settings,
        # Copies and equal pairs are easy; only edits that improve tell how good the aligner is.
        validation=[one for one in validation if one.stage == "contrastive"],
        family=family,
        merge=given.merge,
        card=CardDetails(
            licence=given.licence,
            sources=(f"{len(learned)} preference pairs of {Path(given.source).name}",),
        ),
        trainer_options=given.trainer_options,
        report=_report,
    )


def _json_object(text: str) -> dict[str, Any]:
    try:
        read = json.loads(text)
    except ValueError as error:
        message = f"not valid JSON: {error}"
        raise argparse.ArgumentTypeError(message) from error
    if not isinstance(read, dict):
        message = 'expected an object, such as {"report_to": "wandb"}'
        raise argparse.ArgumentTypeError(message)
    return read


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
