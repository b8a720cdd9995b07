"""What a user sees first, against the authors' procedure: `python -m tests.benchmarks.bench_free`.

The embedded aligner edits replies that it has never seen, plainly (`caution=0`), and writes what it
wants to; so does `generate` of transformers, on the same model. Both have made an edit before, so
what all prompts begin with is kept, as it is for everybody's second edit.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from langchain_metaaligner import Aligner, Alignment, EngineError
from langchain_metaaligner.engines.registry import load_engine
from tests.benchmarks.cases import OBJECTIVES
from tests.benchmarks.figures import Figures
from tests.benchmarks.labels import AUTHORS, BATCH, MOST, REWRITTEN, THREADS, TOGETHER, UNCHANGED
from tests.benchmarks.pieces import finish, worker_parser
from tests.benchmarks.procedures import Ours, generate_freely
from tests.benchmarks.replies import Reply, held_out, kind

PARTS = ("single", "together")
SIZE = 16
TRIED = 200  # replies edited at most to find enough of each kind
"""Replies that are edited in search of enough that are rewritten."""


class Bench:
    """The embedded aligner, and the same model under `generate`.

    Args:
        dtype: The format; `None` is the aligner's default.
        most: Most tokens of an edit.
        **options: More options of the engine.
    """

    def __init__(self, dtype: str | None = None, *, most: int = MOST, **options: Any) -> None:
        self._most = most
        self.engine: Any = load_engine("embedded", dtype=dtype, **options)
        self.aligner = self.with_options()
        self.aligner.load()
        self._ours = Ours(self.engine)
        self.replies = list(held_out(self.engine.count_tokens))

    @property
    def format(self) -> str:
        """The format of the weights."""
        return str(self.engine.model.dtype).removeprefix("torch.")

    def with_options(self, **options: Any) -> Aligner:
        """An aligner over the same engine, which writes what `generate` writes."""
        given: dict[str, Any] = {"caution": 0.0, **options}
        return Aligner(engine=self.engine, max_new_tokens=self._most, **given)

    def ready(self) -> None:
        """Forget all prompts but what every one of them begins with."""
        self._ours.forget()
        self.aligner.align("\n\nHuman: Hi! \n\nAssistant:", "Hello!", OBJECTIVES)

    def edit(self, reply: Reply, aligner: Aligner | None = None) -> tuple[float, Alignment]:
        """Make one edit; the seconds that it took."""
        self.ready()
        start = time.perf_counter()
        made = (aligner or self.aligner).align(reply.context, reply.answer, OBJECTIVES)
        return time.perf_counter() - start, made

    def edit_all(
        self, replies: Sequence[Reply], *, threads: bool = False
    ) -> tuple[float, list[str | None]]:
        """Make edits at once.

        Args:
            replies: What to edit.
            threads: Whether each has a caller in a thread of its own.

        Returns:
            The seconds that all took, and the edits; `None` where one ran out of tokens, as one
            in hundreds does by repeating itself.
        """
        self.ready()
        items = [(one.context, one.answer, OBJECTIVES) for one in replies]
        parts = [[item] for item in items] if threads else [items]

        def work(part: Any) -> list[Any]:
            return self.aligner.align_batch(part, return_exceptions=True)

        with ThreadPoolExecutor(len(parts)) as pool:
            start = time.perf_counter()
            made = [one for part in pool.map(work, parts) for one in part]
            seconds = time.perf_counter() - start
        return seconds, [_text(one) for one in made]

    def generate(self, replies: Sequence[Reply]) -> tuple[float, list[str]]:
        """Have `generate` make edits, one row for each; the seconds that all took."""
        texts = [self.aligner.prompt(one.context, one.answer, OBJECTIVES) for one in replies]
        prompts = [self.engine.tokenizer(text).input_ids for text in texts]
        end = self.engine.tokenizer.eos_token_id
        seconds, made = generate_freely(self.engine.model, prompts, end, most=self._most)
        return seconds, [self.engine.tokenizer.decode(one).strip() for one in made]

    def close(self) -> None:
        """Free the weights."""
        self.aligner.close()
        self.engine.close()


def chosen(bench: Bench, count: int) -> list[tuple[Reply, str, float, Alignment]]:
    """Edit replies until there are enough that stay and enough that are rewritten.

    Args:
        bench: Makes the edits.
        count: How many of each.

    Returns:
        Replies, what became of them, seconds and edits.
    """
    found: list[tuple[Reply, str, float, Alignment]] = []
    wanted = Counter({UNCHANGED: count, REWRITTEN: count})
    for reply in bench.replies[:TRIED]:
        if not wanted.total():
            break
        try:
            seconds, made = bench.edit(reply)
        except EngineError:  # it ran out of tokens
            continue
        became = kind(reply.answer, made.text)
        if wanted[became]:
            wanted[became] -= 1
            found.append((reply, became, seconds, made))
    return found


def measure_single(figures: Figures, bench: Bench, count: int) -> None:
    """One edit after another."""
    for reply, became, seconds, made in chosen(bench, count):
        theirs, (text,) = bench.generate([reply])
        figures.add(
            became,
            AUTHORS,
            theirs,
            seconds,
            passes=made.passes,
            tokens=(made.usage or {}).get("output_tokens"),
            same=text == made.text.strip(),
        )


def measure_together(figures: Figures, bench: Bench, count: int) -> None:
    """Sixteen at once, other ones each time."""
    pool = list(islice(bench.replies, count * SIZE))
    for place in range(count):
        replies = pool[place::count]
        ours, made = bench.edit_all(replies)
        apart, _ = bench.edit_all(replies, threads=True)
        theirs, texts = bench.generate(replies)
        figures.add(TOGETHER, AUTHORS, theirs, ours, same=made == texts)
        figures.add(THREADS, BATCH, ours, apart)


def _text(made: Alignment | Exception) -> str | None:
    if isinstance(made, Alignment):
        return made.text.strip()
    if isinstance(made, EngineError):
        return None
    raise made


def main() -> None:
    parser = worker_parser(__doc__)
    parser.add_argument("--only", choices=PARTS, required=True)
    given = parser.parse_args()
    figures, bench = Figures(), Bench(given.dtype)
    bench.generate(bench.replies[-1:])
    measure = measure_single if given.only == "single" else measure_together
    measure(figures, bench, given.count)
    print(f"{bench.format}: {given.only} done", file=sys.stderr, flush=True)
    finish(given, {"format": bench.format, "figures": figures.raw()})
    bench.close()


if __name__ == "__main__":
    main()
