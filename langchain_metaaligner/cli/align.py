"""`metaaligner align`: edits replies, and shows what changed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Annotated, Any, TextIO

import typer

from langchain_metaaligner.cli.aligner_flags import make_aligner, with_aligner_flags
from langchain_metaaligner.cli.exit_codes import ExitCode
from langchain_metaaligner.cli.help import single
from langchain_metaaligner.cli.objectives import DEFAULT, ObjectivesFlag
from langchain_metaaligner.cli.rows import Reply, read_rows
from langchain_metaaligner.cli.running import Debug, Json, as_flags, report
from langchain_metaaligner.cli.terminal import console, print_json, under_way, word_diff
from langchain_metaaligner.editing.aligner import Aligner
from langchain_metaaligner.editing.alignment import METADATA_KEY, Alignment
from langchain_metaaligner.errors import InputTypeError

_TOGETHER = 16  # rows of stdin that are edited at once


@with_aligner_flags
def align(
    question: Annotated[
        str | None, typer.Option("--question", "-q", metavar="TEXT", help="What the reply answers.")
    ] = None,
    answer: Annotated[
        str | None, typer.Option("--answer", "-a", metavar="TEXT", help="The reply to edit.")
    ] = None,
    objectives: ObjectivesFlag = None,
    json: Json = False,
    _debug: Debug = False,
    **options: Any,
) -> None:
    """Edit a reply, and show what changed.

    At a terminal, without a question or an answer, it asks for both, shows the edit as a diff, and
    goes on with the conversation. Ctrl-D ends it.

    Of --question and --answer, the one that is missing is read from stdin, word for word. Without
    both, stdin holds rows of JSON: {"question": …, "answer": …}, with columns as in files.

    Into a file or a pipe, the edited text alone is written. Keys come from the environment:
    METAALIGNER_API_KEY for a server, HF_TOKEN for the hub.
    """
    aligner = make_aligner(options)
    wanted = tuple(objectives or DEFAULT)
    show = partial(_print_all, aligner, wanted, json=json)
    if question is None and answer is None:
        if not sys.stdin.isatty():
            show(read_rows(sys.stdin))
            return
    elif (question is not None and answer is not None) or not sys.stdin.isatty():
        rest = "" if question is not None and answer is not None else _whole(sys.stdin)
        show([Reply.to(rest if question is None else question, rest if answer is None else answer)])
        return
    if json or not sys.stdout.isatty():
        message = (
            "for a dialogue, stdin and stdout have to be a terminal. Else give --question and"
            " --answer, or rows on stdin"
        )
        raise typer.BadParameter(message)
    from langchain_metaaligner.cli.dialogue import Dialogue

    Dialogue(aligner, wanted).run(question=question, answer=answer)


def _whole(stdin: TextIO) -> str:
    return stdin.read().removesuffix("\n")


def _print_all(
    aligner: Aligner,
    objectives: tuple[str, ...],
    rows: Iterable[Reply | InputTypeError],
    *,
    json: bool,
) -> None:
    alone = isinstance(rows, list)
    done = failed = 0
    for row, made in _edits(aligner, objectives, rows):
        if isinstance(made, Alignment):
            done += 1
        elif alone and not json:
            raise made
        else:
            failed += 1
        if json:
            print_json({**row, **_found(made)})
        elif isinstance(made, Alignment):
            _print_edit(made)
        else:
            report(f"Not edited: {as_flags(str(made))}")
    if failed:
        raise typer.Exit(ExitCode.ROWS_FAILED if done else ExitCode.FAILED)


def _edits(
    aligner: Aligner, objectives: tuple[str, ...], rows: Iterable[Reply | InputTypeError]
) -> Iterator[tuple[Mapping[str, Any], Alignment | Exception]]:
    left, err = iter(rows), console(stderr=True)
    while some := list(islice(left, _TOGETHER)):
        replies = [row for row in some if isinstance(row, Reply)]
        aligner.load()  # tells of itself
        with under_way(err, "editing"):
            made = iter(
                aligner.align_batch(
                    [(one.context, one.answer, objectives) for one in replies],
                    return_exceptions=True,
                )
            )
        for row in some:
            yield (row.values, next(made)) if isinstance(row, Reply) else ({}, row)


def _found(made: Alignment | Exception) -> dict[str, Any]:
    if isinstance(made, Alignment):
        return {"edited": made.text, METADATA_KEY: made.provenance()}
    return {"edited": None, "error": f"{type(made).__name__}: {made}"}


def _print_edit(alignment: Alignment) -> None:
    out = console()
    if out.is_terminal:
        out.print(alignment.summary(), style="dim")
        out.print(word_diff(alignment, out))
    else:
        typer.echo(alignment.text)


APP = single(
    align,
    examples=(
        "metaaligner align",
        'metaaligner align -q "May I stay up late?" -a "No, stupid." -o harmlessness',
        'metaaligner align -q "What is a fjord?" < reply.txt > edited.txt',
        "metaaligner align --json -o humour < rows.jsonl",
    ),
)
