"""What edits cost against the authors' procedure: `python -m tests.benchmarks.bench_edits`.

All ways to make an edit take turns in one process, on the embedded aligner, and write the same
tokens, which are forced: the best case, since copies are what drafts are good at. Passes are
counted by a hook on the model and do not depend on the machine.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.engines.registry import load_engine
from tests.benchmarks import llamacpp
from tests.benchmarks.cases import (
    CASES,
    LIGHT,
    LLAMA2,
    REWRITE,
    SENTENCE,
    UNCHANGED,
    Case,
    chats,
    conversations,
    real_edits,
)
from tests.benchmarks.delays import forced_stream
from tests.benchmarks.figures import Figures
from tests.benchmarks.labels import (
    AUTHORS,
    BATCH,
    CHAT,
    DELAY,
    HALF,
    LLAMA,
    LOOKUP,
    MIXED,
    MIXED_THREADS,
    NO_CACHE,
    REAL_EDIT,
    TOGETHER_FORCED,
    TURNS,
)
from tests.benchmarks.pieces import finish, worker_parser
from tests.benchmarks.procedures import (
    MOST,
    Ours,
    apart,
    generate,
    prompt_lookup,
    timed,
    without_cache,
)
from tests.benchmarks.shapes import SHAPES, write

PARTS = ("single", "real", "chat", "many")
WORDS = range(100, 321)
"""How many words the real edits that are measured have."""
SHORTER = range(100, 161)
"""The same with a larger model: longer ones would take minutes each."""
WINDOW = 2048


def measure_single(
    figures: Figures,
    ours: Ours,
    cases: Sequence[Case],
    other: llamacpp.LlamaCpp | None,
    names: Sequence[str] = CASES,
    *,
    delays: bool = False,
    lookup: bool = True,
) -> None:
    """One request after another, each way in turn; in streams too, if `delays` says so."""
    for case in cases:
        for name in names:
            row = case.ids, case.edits[name]
            tokens = len(row[1])
            theirs = generate(ours.model, [row])
            seconds, passes = ours.one(case, name)
            figures.add(name, AUTHORS, theirs, seconds, passes=passes, tokens=tokens)
            if delays and name in (UNCHANGED, SENTENCE):
                # What is left to wait for when the policy has ended.
                made = forced_stream(ours, case, name)
                figures.add(f"{DELAY}, {name}", AUTHORS, theirs, made.wait)
            if lookup:
                figures.add(name, LOOKUP, prompt_lookup(ours.model, row), seconds)
            if name == UNCHANGED:
                kept, passes = ours.one(case, name, turns=True)
                figures.add(TURNS, AUTHORS, theirs, kept, passes=passes, tokens=tokens)
                figures.add(name, NO_CACHE, without_cache(ours.model, row), seconds)
            if other and name in (UNCHANGED, SENTENCE, REWRITE, REAL_EDIT):
                figures.add(name, LLAMA, other.write(row), seconds)


def real(
    codec: Any, end: int, count: int, words: range = WORDS, *, seed: int = 1
) -> dict[str, list[Case]]:
    """Real edits of middle length, `count` for each model that had answered, by that model."""
    rng = random.Random(seed)
    found: dict[str, list[Case]] = {}
    for policy, cases in real_edits(codec, end, WINDOW, words).items():
        fitting = [case for case in cases if len(case.edits[REAL_EDIT]) <= MOST]
        found[policy] = rng.sample(fitting, min(count, len(fitting)))
    return found


def measure_chats(figures: Figures, ours: Ours, count: int) -> None:
    """The prompts of a chat's six edits; of each edit no more than its first token."""
    codec, end = ours.engine.prompt_tokenizer, ours.engine.tokenizer.eos_token_id
    for prompts in chats(codec, count):
        ours.forget()
        theirs = mine = 0.0
        for prompt in prompts:
            ids = codec.encode(prompt.text)
            theirs += generate(ours.model, [(ids, [end])], most=1)
            first = Request(prompt.text, draft=prompt.draft, max_new_tokens=1)
            mine += timed(lambda first=first: ours.engine.edit([first]))
        figures.add(CHAT, AUTHORS, theirs, mine)


def measure_many(figures: Figures, ours: Ours, cases: Sequence[Case], times: int) -> None:
    """All at once: of one caller, and of a thread each."""
    half = (UNCHANGED, SENTENCE, UNCHANGED, LIGHT)
    for _ in range(times):
        for label, mix in ((MIXED, CASES), (HALF, half)):
            names = [mix[place % len(mix)] for place in range(len(cases))]
            rows = [(case.ids, case.edits[name]) for case, name in zip(cases, names, strict=True)]
            tokens = sum(len(output) for _, output in rows)
            theirs = generate(ours.model, rows)
            together, passes = ours.many(cases, names, threads=False)
            figures.add(label, AUTHORS, theirs, together, passes=passes, tokens=tokens)
            if label == MIXED:
                apart, passes = ours.many(cases, names, threads=True)
                figures.add(MIXED_THREADS, AUTHORS, theirs, apart, passes=passes, tokens=tokens)
                figures.add(TOGETHER_FORCED, BATCH, together, apart)


@contextmanager
def aligner(dtype: str | None, shape: str | None = None) -> Iterator[Ours]:
    """The embedded aligner, or a model of a shape with random weights, loaded."""
    with tempfile.TemporaryDirectory() as folder:
        if shape:
            write(Path(folder), shape)
        with load_engine(folder if shape else "embedded", dtype=dtype) as engine:  # type: ignore[attr-defined]
            engine.load()
            yield Ours(engine)


def measure(
    dtype: str | None,
    count: int,
    parts: Sequence[str],
    names: Sequence[str],
    tell: Callable[[str], None],
    shape: str | None = None,
) -> dict[str, Any]:
    """Measure in one format.

    Args:
        dtype: The format.
        count: Conversations for each case.
        parts: What to measure.
        names: What becomes of the single answers.
        tell: Takes a line when a part is done.
        shape: Of a model with random weights; `None` is the embedded one.

    Returns:
        The format, pairs by case and by what the package is compared with, and which model had
        given the answer of each real edit.
    """
    figures = Figures()
    policies: list[str] = []
    with aligner(dtype, shape) as ours, tempfile.TemporaryDirectory() as folder:
        end = ours.engine.tokenizer.eos_token_id
        used = str(ours.model.dtype).removeprefix("torch.")
        cases = conversations(ours.engine.prompt_tokenizer, end, max(count, 16))
        few, first = cases[:count], cases[-1]
        other = None
        if llamacpp.there() and not shape and {"single", "real"} & set(parts):
            other = llamacpp.LlamaCpp(ours.model, Path(folder), torch.get_num_threads())
            check(ours, other, few)
        generate(ours.model, [(first.ids, first.edits[UNCHANGED])], most=8)
        ours.one(first, UNCHANGED)
        if "single" in parts:
            measure_single(figures, ours, few, other, names, delays=True)
            tell(f"{used}: single edits done")
        if "real" in parts:
            words = SHORTER if shape else WORDS
            edits = real(ours.engine.prompt_tokenizer, end, count, words)
            for policy, some in edits.items():
                measure_single(figures, ours, some, other, (REAL_EDIT,), lookup=not shape)
                policies += [policy] * len(some)
            tell(f"{used}: real edits done")
        if "chat" in parts:
            measure_chats(figures, ours, count)
            tell(f"{used}: chats done")
        if "many" in parts:
            measure_many(figures, ours, cases[:16], count)
            tell(f"{used}: many at once done")
        if other:
            other.close()
    return {"format": used, "figures": figures.raw(), "policies": policies}


def check(ours: Ours, other: llamacpp.LlamaCpp, cases: Sequence[Case]) -> None:
    """Make sure that llama.cpp has the same weights: it must go on as the model does."""
    texts = [case.ids + case.draft[:place] for case in cases for place in (5, 20, 40)]
    same = 0
    for ids in texts:
        same += other.next_token(ids) == apart(partial(_next_token, ours.model, ids))
    if same < 0.8 * len(texts):  # in bfloat16 two likely tokens may change places
        message = f"llama.cpp goes on as the model in {same} of {len(texts)} cases."
        raise RuntimeError(message)


def _next_token(model: Any, ids: list[int]) -> int:
    with torch.inference_mode():
        return int(model(torch.tensor([ids]), logits_to_keep=1).logits[0, -1].argmax())


def main() -> None:
    parser = worker_parser(__doc__)
    parser.add_argument("--only", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--edits", nargs="*", default=CASES, choices=CASES)
    parser.add_argument("--shape", choices=SHAPES, help="random weights, LLaMA 2's tokenizer")
    given = parser.parse_args()
    if given.shape and not LLAMA2.is_dir():
        finish(given, {"format": given.dtype, "figures": {}, "policies": []})
        return
    tell = partial(print, file=sys.stderr, flush=True)
    found = measure(given.dtype, given.count, given.only, given.edits, tell, given.shape)
    finish(given, found)


if __name__ == "__main__":
    main()
