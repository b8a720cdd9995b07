"""Counts the requests whose edit depends on more than the request: `tests.benchmarks.same_edit`.

The embedded aligner edits held-out conversations freely, each alone and cold, and then in every
other way in which a user's edit may come about. Outputs are compared token by token. Results are
saved after each group, and a run that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import torch

from langchain_metaaligner import checkpoints
from langchain_metaaligner.editing.prompts import Prompt
from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.engines.registry import load_engine
from langchain_metaaligner.options import CAUTION
from tests.benchmarks.cases import ASSISTANT, DATA, HUMAN, rendered
from tests.benchmarks.check_lossless import lines, outputs_of

GROUP = 16
RESULTS = Path(__file__).with_name("results") / "same_edit.json"
GROWING = (0.25, 0.5, 0.8, 1.0)
"""Shares of the answer at which its prompt is prefilled ahead, as a policy's stream grows."""
WAYS = {
    "kept": "alone, with the prompt's beginning kept",
    "ahead": "alone, prefilled while the policy was writing",
    "batch": f"{GROUP} in one call, nothing kept",
    "threads": f"from {GROUP} threads, with what is kept by then",
    "no draft": "alone, without a draft",
    "scored": "alone, with the agreement of each token",
}


def conversations(count: int, *, seed: int = 16) -> list[Prompt]:
    """Choose conversations of all files in turn, one answer of each.

    Args:
        count: How many.
        seed: Another one gives others.

    Returns:
        The prompts of their edits.
    """
    rng = random.Random(seed)
    pools = [list(one) for one in _files()]
    for pool in pools:
        rng.shuffle(pool)
    found: dict[str, Prompt] = {}
    for pair in chain.from_iterable(zip_longest(*pools)):
        if pair and pair[0] not in found and pair[1].strip() and len("".join(pair)) < 2500:
            found[pair[0]] = rendered(pair[0], pair[1].strip())
        if len(found) == count:
            break
    return list(found.values())


def _files() -> Iterator[Iterator[tuple[str, str]]]:
    """Contexts with an answer, by file."""
    folder = DATA.parent
    for name in ("xstest", "do_not_answer", "ultrafeedback_policy_replies", "hh_policy_replies"):
        yield _answers(folder / f"{name}.jsonl", "replies")
    for name in ("hh_harmless_pairs", "hh_helpful_pairs"):
        yield _answers(folder / f"{name}.jsonl", "rejected")


def _answers(file: Path, field: str) -> Iterator[tuple[str, str]]:
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        asked = row.get("prompt") or row.get("query") or ""
        context = row.get("context") or f"{HUMAN} {asked.strip()}{ASSISTANT}"
        given = row[field]
        for one in given.values() if isinstance(given, dict) else [given]:
            yield context, one["text"] if isinstance(one, dict) else one


class Comparison:
    """Edits conversations in every way.

    Args:
        engine: The engine.
        most: Maximum number of tokens of an edit.
    """

    def __init__(self, engine: Any, most: int) -> None:
        self._engine, self._most = engine, most
        self._codec = engine.prompt_tokenizer

    def group(self, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
        """Edit conversations in all ways, and note which edits differ from the cold ones."""
        requests = [
            Request(one.text, draft=one.draft, max_new_tokens=self._most, caution=CAUTION)
            for one in prompts
        ]
        outputs: dict[str, list[list[int]]] = {name: [] for name in ("cold", *WAYS)}
        for prompt, request in zip(prompts, requests, strict=True):
            self._forget()
            outputs["cold"] += self._outputs([request])
            outputs["kept"] += self._outputs([request])
            self._forget()
            self._warm(prompt)
            outputs["ahead"] += self._outputs([request])
            self._forget()
            outputs["no draft"] += self._undrafted(request)
            self._forget()
            outputs["scored"] += self._outputs([replace(request, token_agreement=True)])
        self._forget()
        outputs["batch"] = self._outputs(requests)
        outputs["threads"] = self._outputs(requests, self._in_threads)
        return [
            {
                "tokens": len(output),
                "unchanged": output == self._codec.spellings(prompts[place].draft)[0],
                **{way: outputs[way][place] == output for way in WAYS},
            }
            for place, output in enumerate(outputs["cold"])
        ]

    def _forget(self) -> None:
        self._engine.scheduler.prefixes.clear()

    def _warm(self, prompt: Prompt) -> None:
        head, _, tail = prompt.text.rpartition(prompt.draft)
        self._engine.warm(head)
        for share in GROWING:
            self._engine.warm(head + prompt.draft[: int(share * len(prompt.draft))])
        self._engine.warm(head + prompt.draft + tail[:-1])

    def _undrafted(self, request: Request) -> list[list[int]]:
        # Without the answer itself, the request would be another one: nothing holds the edit to it.
        forward = self._engine.scheduler.decoder.forward
        forward.drafts = False
        try:
            return self._outputs([request])
        finally:
            forward.drafts = True

    def _in_threads(self, requests: Sequence[Request]) -> None:
        with ThreadPoolExecutor(len(requests)) as pool:
            list(pool.map(lambda one: self._engine.edit([one]), requests))

    def _outputs(
        self, requests: Sequence[Request], edit: Callable[[Sequence[Request]], Any] | None = None
    ) -> list[list[int]]:
        with outputs_of(self._engine) as seen:
            (edit or self._engine.edit)(requests)
        return [list(seen[tuple(self._codec.encode(one.prompt))].output.ids) for one in requests]


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Count the conversations, and those whose edit differs from the cold one."""
    return {
        "conversations": len(rows),
        "left unchanged": sum(row["unchanged"] for row in rows),
        "differ": {way: sum(not row[way] for row in rows) for way in WAYS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="conversations")
    parser.add_argument("--out", type=Path, required=True, help="what was found so far, as JSONL")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--most", type=int, default=192, help="tokens of an edit")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--write", action="store_true", help=f"sum up into {RESULTS.name}")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    weights = checkpoints.embedded_adapter() / "adapter_model.safetensors"
    with load_engine("embedded", dtype=given.dtype) as engine:  # type: ignore[attr-defined]
        dtype = str(engine.model.dtype).removeprefix("torch.")
        about = {
            "dtype": dtype,
            "most": given.most,
            "threads": given.threads,
            "caution": CAUTION,
            "adapter": hashlib.sha256(weights.read_bytes()).hexdigest()[:12],
        }
        rows = [row for group in lines(given.out, about) for row in group["rows"]]
        prompts, comparison = conversations(given.count), Comparison(engine, given.most)
        for start in range(len(rows), len(prompts), GROUP):
            began = time.monotonic()
            found = comparison.group(prompts[start : start + GROUP])
            rows += found
            with given.out.open("a", encoding="utf-8") as out:
                out.write(json.dumps({**about, "rows": found}) + "\n")
            said = json.dumps(summary(rows))
            print(f"{dtype} {time.monotonic() - began:.0f} s {said}", flush=True)
    if given.write:
        before = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        before[dtype] = {**about, **summary(rows[: given.count])}
        RESULTS.write_text(json.dumps(before, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
