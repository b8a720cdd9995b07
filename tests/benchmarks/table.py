"""The README's figures, written from the results that the benchmarks have saved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
CPU, LOSSLESS, GPU = (RESULTS / f"{name}.json" for name in ("cpu", "lossless", "gpu"))

FORMATS = ("bfloat16", "float32")
AUTHORS, NO_CACHE, LOOKUP, LLAMA, BATCH = (
    "the authors' procedure",
    "use_cache=False",
    "prompt lookup",
    "llama.cpp",
    "one batch",
)
_NOT_RUN = "not run: no GPU at hand"
_NOTHING = "–"


def table() -> str:
    """All that the README's section says in figures."""
    if not CPU.is_file():
        return "No figures yet: `make bench` measures them and writes them here."
    found = json.loads(CPU.read_text(encoding="utf-8"))
    parts = [_about(found["machine"]), _against_authors(found["edits"]), _against_others(found)]
    parts += [_memory(found.get("memory") or {}), _overhead(found["overhead"]), _lossless()]
    return "\n\n".join(part for part in parts if part)


def _about(machine: Mapping[str, Any]) -> str:
    return (
        f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}, transformers"
        f" {machine['transformers']}{_preloaded(machine)}; embedded aligner;"
        f" {machine['conversations']}, 300 to 700 tokens of prompt, answers of 100 to 250; outputs"
        " forced, so all write the same tokens."
        " Times as fast as the authors' procedure (`generate`, left-padded, greedy, cache on):"
        " ratio of medians, quartiles of the single ratios in brackets, *n* pairs."
    )


def _preloaded(machine: Mapping[str, Any]) -> str:
    return f", {machine['preloaded']} preloaded" if machine.get("preloaded") else ""


def _ratio(figure: Mapping[str, Any] | None, *, worst: bool = False) -> str:
    if figure is None:
        return _NOTHING
    low, high = figure["quartiles"]
    more = f", worst {figure['worst']:.2f}" if worst else ""
    return f"{_short(figure['ratio'])} ({_short(low)}–{_short(high)}{more}; {figure['n']})"


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 20 else f"{number:.1f}" if number >= 5 else f"{number:.2f}"


def _against_authors(edits: Mapping[str, Any]) -> str:
    lines = [
        "| case | passes | tokens a pass | bfloat16 | float32 | a 7B on a GPU |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    gpu = json.loads(GPU.read_text(encoding="utf-8"))["edits"] if GPU.is_file() else {}
    for case in _cases(edits, AUTHORS):
        cells = [edits.get(one, {}).get(case, {}).get(AUTHORS) for one in FORMATS]
        counts = next((one for one in cells if one and "passes" in one), None)
        ratios = [_ratio(one, worst=case == "full rewrite") for one in cells]
        on_gpu = _ratio(gpu[case][AUTHORS]) if case in gpu else _NOT_RUN
        lines.append(f"| {case} | {_passes(counts)} | {' | '.join(ratios)} | {on_gpu} |")
    return "\n".join(lines)


def _passes(figure: Mapping[str, Any] | None) -> str:
    """Passes and tokens a pass: those of the first format, the others' are near them."""
    if figure is None:
        return f"{_NOTHING} | {_NOTHING}"
    most = figure["most passes"]
    more = f" (most {most})" if most != figure["passes"] else ""
    return f"{figure['passes']:.0f}{more} | {figure['tokens a pass']:.1f}"


def _cases(edits: Mapping[str, Any], against: str) -> list[str]:
    names = [
        name for one in FORMATS for name, held in edits.get(one, {}).items() if against in held
    ]
    return list(dict.fromkeys(names))


def _against_others(found: Mapping[str, Any]) -> str:
    edits, machine = found["edits"], found["machine"]
    what = {
        NO_CACHE: "`generate` with the repository's `use_cache: false`, estimated from 6 passes",
        LOOKUP: "`generate` with `prompt_lookup_num_tokens=10`",
        LLAMA: f"llama.cpp ({machine.get('llama_cpp') or 'not installed'}), same weights, no draft",
        BATCH: "one batch of the same 16",
    }
    lines = ["| against | case | bfloat16 | float32 |", "| --- | --- | --- | --- |"]
    for against, said in what.items():
        cases = _cases(edits, against)
        for case in cases:
            cells = [edits.get(one, {}).get(case, {}).get(against) for one in FORMATS]
            lines.append(f"| {said} | {case} | {' | '.join(map(_ratio, cells))} |")
        if not cases:
            lines.append(f"| {said} | {_NOTHING} | not run | not run |")
    return "\n".join(lines)


def _memory(memory: Mapping[str, Any]) -> str:
    if not any(memory.values()):
        return ""
    said = [
        f"{dtype} {held['ours'] / 2**20:.0f} MiB (the authors' procedure:"
        f" {held['authors'] / 2**20:.0f})"
        for dtype, held in memory.items()
        if held
    ]
    return (
        "Memory over the weights, 16 mixed edits at once (largest resident set of the process"
        f" less what it was before): {'; '.join(said)}."
    )


def _overhead(overhead: Mapping[str, Any]) -> str:
    said = [
        f"{name} {mid:.0f} µs ({low:.0f}–{high:.0f})" for name, (low, mid, high) in overhead.items()
    ]
    return f"Without a model, CPU time, median and quartiles: {'; '.join(said)}."


def _lossless() -> str:
    if not LOSSLESS.is_file():
        return ""
    said = []
    for dtype, held in json.loads(LOSSLESS.read_text(encoding="utf-8")).items():
        differ, rows = held["differ"], held["rows"]
        if dtype == "float32":
            counts = {name: differ[name] for name in ("single", "batched", "threads")}
            text = ", ".join(f"{name} {count}" for name, count in counts.items())
            gap = (
                f"; largest gap of logits there {held['largest gap']:.1g}"
                if any(counts.values())
                else ""
            )
            said.append(
                f"Free edits in float32 that differ from `generate`, token by token, of {rows}:"
                f" {text}{gap}."
            )
        else:
            names = {
                "single as plain": "drafts",
                "batched as single": "packing",
                "kept as single": "kept prefixes",
            }
            shares = (f"{names[one]} {differ[one] / rows:.1%}" for one in names)
            said.append(f"In {dtype}, of {rows}, edits changed by {', by '.join(shares)}.")
    return " ".join(said)
