"""`metaaligner evaluate`: how much better edits are than their originals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langchain_metaaligner.cli import judges
from langchain_metaaligner.cli.aligner_flags import make_aligner, with_aligner_flags
from langchain_metaaligner.cli.help import single
from langchain_metaaligner.cli.judges import find_judge
from langchain_metaaligner.cli.objectives import DEFAULT, ObjectivesFlag
from langchain_metaaligner.cli.progress import progress
from langchain_metaaligner.cli.running import Debug, Json, resumable
from langchain_metaaligner.cli.terminal import console, print_json
from langchain_metaaligner.errors import GateError

if TYPE_CHECKING:
    from langchain_metaaligner.evaluation.results import EvaluationResult


@with_aligner_flags
def evaluate(
    rows: Annotated[
        str,
        typer.Argument(
            metavar="ROWS",
            help="A .jsonl, .csv or .parquet file, or a data set on the hub. A row has a context"
            " and an answer, and may have edited, reference and policy.",
        ),
    ],
    judge: Annotated[str, typer.Option(metavar="JUDGE", help=judges.WORDS)],
    objectives: ObjectivesFlag = None,
    format: Annotated[
        str | None,
        typer.Option(
            metavar="rows|pairs|completions|authors|langsmith",
            help="What the rows are, if they were made for something else: preference pairs, rated"
            " completions, the authors' files, LangSmith's exports.",
        ),
    ] = None,
    second_judge: Annotated[
        str | None,
        typer.Option(metavar="JUDGE", help="Another one, with which the judge is compared."),
    ] = None,
    human_pairs: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Pairs that people have judged, to check the judge on."),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Earlier results, which these must not be worse than."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where results are kept, and resumed from."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A page with the report, as HTML.")
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The demands as test cases, in JUnit's XML."),
    ] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=X",
            help="A value that must be reached, or the exit code is 3: harmlessness=0.6 is a win"
            " rate, unchanged=0.5 a share, 'over_refusal<=0.02' the most that may be. Repeat it for"
            " several.",
        ),
    ] = None,
    check_judge: Annotated[
        bool,
        typer.Option(
            "--check-judge/--no-check-judge",
            help="Ask the judge about pairs whose outcome is known, too.",
        ),
    ] = True,
    max_concurrency: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Calls of the judge at the same time.")
    ] = None,
    judge_timeout: Annotated[
        float, typer.Option(metavar="X", min=0, help="Seconds for each call of the judge.")
    ] = 120.0,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Do rows without an edit or a verdict in --out again."),
    ] = False,
    json: Json = False,
    _debug: Debug = False,
    **options: Any,
) -> None:
    """Measure how much better edits are than their originals.

    A judge compares each edit with its original, in both orders. Rows without an edit are edited by
    the aligner that the options below name; --model embedded is the one that comes along.

    Interrupted, it goes on where it was if it is repeated with the same --out.
    """
    demands = _demands(fail_under or ())
    from langchain_metaaligner.evaluation import evaluate as measure
    from langchain_metaaligner.evaluation import read_evaluation_rows

    given: Any = rows
    if format is not None:
        given = read_evaluation_rows(rows, format)  # type: ignore[arg-type]  # it checks
        typer.echo(given.report(), err=True)
    advice = "Repeat the command to go on." if out else "With --out, nothing would be lost."
    show = partial(_show, as_json=json, junit=junit, demands=demands, baseline=baseline)
    try:
        with resumable(advice), progress() as tell:
            result = measure(
                given,
                objectives=objectives or DEFAULT,
                judge=find_judge(judge, option="--judge"),
                aligner=make_aligner(options) if options else None,
                second_judge=second_judge and find_judge(second_judge, option="--second-judge"),
                human_pairs=human_pairs,
                baseline=baseline,
                out=out,
                report=report,
                fail_under=demands or None,
                check_judge=check_judge,
                max_concurrency=max_concurrency,
                judge_timeout=judge_timeout,
                retry_failed=retry_failed,
                progress=lambda done, of: tell(done / max(of, 1), f"{done:,} of {of:,} rows"),
            )
    except GateError as error:
        if error.result is not None:
            show(error.result)
        raise
    show(result)


def _demands(given: Iterable[str]) -> dict[str, float]:
    demands = {}
    for text in given:
        name, _, value = text.rpartition("=")
        try:
            demands[name.strip()] = float(value)
        except ValueError:
            name = ""
        if not name:
            message = f"{text!r} is no demand; give a name and a number, such as harmlessness=0.6"
            raise typer.BadParameter(message, param_hint="--fail-under")
    return demands


def _show(
    result: EvaluationResult,
    *,
    as_json: bool,
    junit: Path | None,
    demands: Mapping[str, float],
    baseline: Path | None,
) -> None:
    if junit is not None:
        from langchain_metaaligner.evaluation import gate

        before = None if baseline is None else type(result).from_jsonl(baseline)
        gate.junit(junit, result, demands, before)
    if not as_json:
        out = console()
        out.print(result if out.is_terminal else str(result), soft_wrap=not out.is_terminal)
        return
    for objective in result.objectives:
        for policy in result.policies:
            rates = asdict(result.rates(objective.name, policy))
            print_json({"objective": objective.name, "policy": policy, **rates})


APP = single(
    evaluate,
    examples=(
        "metaaligner evaluate edits.jsonl -o harmlessness --judge openai:gpt-5-mini",
        "metaaligner evaluate rows.jsonl --model embedded --judge reward:MODEL --out results.jsonl",
        "metaaligner evaluate edits.jsonl --judge my_judge:judge --fail-under harmlessness=0.6",
    ),
)
