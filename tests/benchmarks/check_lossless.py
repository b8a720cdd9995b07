"""Counts the edits that shortcuts change: `python -m tests.benchmarks.check_lossless`.

The embedded aligner edits real answers freely, nothing is forced: once by `generate` of
transformers (one row, greedy, cache on) and then by the engine in several ways. Outputs are
compared token by token. A row whose output differs is noted with how far apart the two tokens were
at the first place that differs. It takes long, so what `generate` writes and what was found out
about each group of rows go to files as soon as they are there, and a run that was stopped goes on
from there. `--only-generate` makes the first part alone, which no change of the engine undoes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from langchain_metaaligner import checkpoints
from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.engines.registry import load_engine
from tests.benchmarks import cases
from tests.benchmarks.procedures import plain

GROUP = 16
RESULTS = Path(__file__).with_name("results") / "lossless.json"
WAYS = {
    "plain": "the engine's loop, no draft",
    "single": "one request after another, with drafts",
    "kept": "so, with prompts' beginnings kept",
    "batched": f"{GROUP} in one call",
    "threads": f"from {GROUP} threads",
}


@contextmanager
def outputs_of(engine: Any) -> Iterator[dict[tuple[int, ...], Any]]:
    """The rows that an engine has worked on, by their prompts' tokens."""
    decoder, seen = engine.scheduler.decoder, {}
    step = decoder.step

    def noted(rows: Sequence[Any], *given: Any) -> None:
        seen.update((tuple(row.prompt), row) for row in rows)
        step(rows, *given)

    decoder.step = noted
    try:
        yield seen
    finally:
        del decoder.step


class Comparison:
    """Edits rows in every way there is and compares."""

    def __init__(self, engine: Any, most: int, written: Path, about: dict[str, Any]) -> None:
        self.engine, self.most, self._written, self._about = engine, most, written, about
        self._known: dict[tuple[int, ...], list[int]] = {}
        for made in lines(written, about):
            self._known[tuple(made["prompt"])] = made["output"]
        self.codec = engine.prompt_tokenizer
        model = engine.model
        self.ends = self.codec.end_ids(
            getattr(model.config, "eos_token_id", None), model.generation_config.eos_token_id
        )

    def generated(self, ids: list[int]) -> list[int]:
        """What `generate` writes, without the end token."""
        known = self._known.get(tuple(ids))
        if known is not None:
            return known
        given = torch.tensor([ids])
        with plain(self.engine.model):
            made = self.engine.model.generate(
                input_ids=given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=self.most,
                do_sample=False,
                use_cache=True,
                pad_token_id=min(self.ends),
                eos_token_id=sorted(self.ends),
            )[0, len(ids) :].tolist()
        output = made[:-1] if made and made[-1] in self.ends else made
        noted = {**self._about, "prompt": ids, "output": output}
        with self._written.open("a", encoding="utf-8") as out:
            out.write(json.dumps(noted) + "\n")
        return output

    def edited(self, prompts: Sequence[Any], way: str) -> list[list[int]]:
        """What the engine writes in one of the ways."""
        requests = [
            Request(one.text, draft="" if way == "plain" else one.draft, max_new_tokens=self.most)
            for one in prompts
        ]
        prefixes = self.engine.scheduler.prefixes
        with outputs_of(self.engine) as seen:
            if way in ("batched", "threads"):
                prefixes.clear()
            if way == "batched":
                self.engine.edit(requests)
            elif way == "threads":
                with ThreadPoolExecutor(len(requests)) as pool:
                    list(pool.map(lambda one: self.engine.edit([one]), requests))
            else:
                for request in requests:
                    if way == "kept":  # else each finds nothing that it begins with
                        self.engine.edit([request])
                    else:
                        prefixes.clear()
                    self.engine.edit([request])
            return [list(seen[tuple(self.codec.encode(one.text))].output.ids) for one in prompts]

    def gap(self, ids: list[int], one: list[int], other: list[int]) -> float:
        """How far apart two outputs' tokens are where they part, as the model has it plainly."""
        end = min(self.ends)
        one, other = [*one, end], [*other, end]
        at = next((n for n, pair in enumerate(zip(one, other, strict=False)) if len(set(pair)) > 1))
        with torch.inference_mode(), plain(self.engine.model):
            logits = self.engine.model(torch.tensor([ids + one[:at]])).logits[0, -1].float()
        return abs(float(logits[one[at]] - logits[other[at]]))

    def group(self, prompts: Sequence[Any], ways: Sequence[str]) -> list[dict[str, Any]]:
        """Edit rows in all ways; what was found out about each."""
        every = [self.codec.encode(one.text) for one in prompts]
        made = {"generate": [self.generated(ids) for ids in every]}
        made |= {way: self.edited(prompts, way) for way in ways}
        against = dict.fromkeys(ways, "generate")
        if "plain" in ways:
            against |= {"single": "plain"}
        against |= dict.fromkeys(("kept", "batched", "threads"), "single")
        rows = []
        for place, ids in enumerate(every):
            reference = made["generate"][place]
            row: dict[str, Any] = {
                "prompt": len(ids),
                "tokens": len(reference),
                "unchanged": reference == self.codec.spellings(prompts[place].draft)[0],
                "gaps": {},
            }
            for way in ways:
                mine, than = made[way][place], made[against[way]][place]
                row[way] = mine == reference
                row[f"{way} as {against[way]}"] = mine == than
                if mine != reference:
                    row["gaps"][way] = self.gap(ids, reference, mine)
            rows.append(row)
        return rows


def lines(path: Path, about: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a file has of the same weights, format and length; others' would say nothing here."""
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            noted = json.loads(line)
            if {key: noted[key] for key in about} == about:
                yield noted


def chosen(codec: Any, count: int) -> list[Any]:
    """Prompts of as many conversations, an answer of each."""
    found: dict[str, Any] = {}
    for one in cases.told(seed=7):
        prompt = cases.rendered(one.context, one.answer)
        fits = len(codec.encode(prompt.text)) <= 700 and prompt.draft
        if one.context not in found and fits and len(codec.spellings(prompt.draft)[0]) <= 220:
            found[one.context] = prompt
        if len(found) == count:
            break
    return list(found.values())


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Count the rows that differ."""
    told: dict[str, Any] = {
        "rows": len(rows),
        "left unchanged": sum(row["unchanged"] for row in rows),
        "differ": {},
        "largest gap": max((gap for row in rows for gap in row["gaps"].values()), default=0.0),
    }
    for row in rows:
        for name, same in row.items():
            if name in WAYS or " as " in name:
                told["differ"][name] = told["differ"].get(name, 0) + (not same)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="conversations")
    parser.add_argument("--out", type=Path, required=True, help="what was found so far, as JSONL")
    parser.add_argument("--only-generate", action="store_true", help="what all is compared with")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--most", type=int, default=256, help="tokens of an edit")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--write", action="store_true", help=f"sum up into {RESULTS.name}")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    weights = checkpoints.embedded_adapter() / "adapter_model.safetensors"
    about = {
        "dtype": given.dtype,
        "most": given.most,
        "adapter": hashlib.sha256(weights.read_bytes()).hexdigest()[:12],
    }
    ways = [way for way in WAYS if way != "plain" or given.dtype != "float32"]
    rows = [row for group in lines(given.out, about) for row in group["rows"]]
    written = given.out.with_suffix(".generated.jsonl")
    with load_engine("embedded", dtype=given.dtype) as engine:
        engine.load()
        comparison = Comparison(engine, given.most, written, about)
        prompts = chosen(comparison.codec, given.count)
        if given.only_generate:
            for number, one in enumerate(prompts, 1):
                comparison.generated(comparison.codec.encode(one.text))
                print(f"{number} of {len(prompts)}", flush=True)
            return
        for start in range(len(rows), len(prompts), GROUP):
            began = time.monotonic()
            found = comparison.group(prompts[start : start + GROUP], ways)
            rows += found
            with given.out.open("a", encoding="utf-8") as out:
                out.write(json.dumps({**about, "rows": found}) + "\n")
            said = json.dumps(summary(rows))
            print(f"{given.dtype} {time.monotonic() - began:.0f} s {said}", flush=True)
    rows = rows[: given.count]
    print(json.dumps(summary(rows), indent=1))
    if given.write:
        before = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        before[given.dtype] = {**about, **summary(rows)}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(before, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
