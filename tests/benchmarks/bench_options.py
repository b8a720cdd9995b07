"""What options cost, against default settings: `python -m tests.benchmarks.bench_options`.

The same free edits of the same replies are made with an option and without. Only pairs that wrote
the same text are compared; how many did is noted. The default against itself says how much of a
ratio is noise.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from tests.benchmarks.bench_free import Bench, chosen
from tests.benchmarks.delays import stream
from tests.benchmarks.figures import Figures
from tests.benchmarks.labels import AGAIN, DEFAULT, FORGETFUL, PLAIN, TOKENS, WAIT
from tests.benchmarks.pieces import finish, worker_parser
from tests.benchmarks.replies import Reply

CALLS: dict[str, dict[str, Any]] = {
    AGAIN: {},
    TOKENS: {"token_agreement": True},
}
"""Options of an aligner: they need no other engine."""
ENGINES: dict[str, dict[str, Any]] = {
    PLAIN: {"prepack_weights": False},
    FORGETFUL: {"prefix_cache_bytes": 0},
}
PARTS = ("calls", "engines")
Edits = Sequence[tuple[Reply, str, float, Any]]


def add(figures: Figures, option: str, became: str, pair: tuple[float, float], same: bool) -> None:
    """Note a pair: seconds with the option, and without."""
    figures.add(f"{option}, {became}", DEFAULT, *pair, same=same)


def measure_calls(figures: Figures, bench: Bench, edits: Edits) -> None:
    """Options of aligners, and `eager`, which is one of streams."""
    aligners = {option: bench.with_options(**given) for option, given in CALLS.items()}
    waiting = bench.with_options(eager=False)
    for reply, became, seconds, first in edits:
        for option, aligner in aligners.items():
            taken, made = bench.edit(reply, aligner)
            add(figures, option, became, (taken, seconds), made.text == first.text)
        waits = []
        for aligner in (bench.aligner, waiting):
            bench.ready()
            waits.append(stream(aligner, reply.context, reply.answer))
        at_once, late = waits
        add(figures, WAIT, became, (late.wait, at_once.wait), late.text == at_once.text)


def measure_engine(figures: Figures, dtype: str | None, option: str, edits: Edits) -> None:
    """An option of an engine, which takes an engine of its own."""
    bench = Bench(dtype, **ENGINES[option])
    bench.edit(bench.replies[-1])
    for reply, became, seconds, first in edits:
        taken, made = bench.edit(reply)
        add(figures, option, became, (taken, seconds), made.text == first.text)
    bench.close()


def main() -> None:
    parser = worker_parser(__doc__)
    parser.add_argument("--only", choices=PARTS, required=True)
    given = parser.parse_args()
    figures, bench = Figures(), Bench(given.dtype)
    bench.edit(bench.replies[-1])
    edits, used = chosen(bench, given.count), bench.format
    if given.only == "calls":
        measure_calls(figures, bench, edits)
    bench.close()  # the threads of two loaded models would slow each other down
    if given.only == "engines":
        for option in ENGINES:
            measure_engine(figures, given.dtype, option, edits)
            print(f"{option} done", file=sys.stderr, flush=True)
    finish(given, {"format": used, "figures": figures.raw()})


if __name__ == "__main__":
    main()
