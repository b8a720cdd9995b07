"""The figures in README and docs, written from the raw values that the benchmarks have saved."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.edits_table import others, played, real
from tests.benchmarks.figures import Pairs, overhead_said, pairs_of, said, short
from tests.benchmarks.labels import (
    AUTHORS,
    BATCH,
    BELOW_ZERO,
    DEFAULT,
    FORMATS,
    LLAMA,
    LOOKUP,
    MOST,
    NO_CACHE,
    OPTIONS,
    REWRITTEN,
    SYSTEM,
    THREADS,
    TOGETHER,
    UNCHANGED,
)

RESULTS = Path(__file__).with_name("results")
CPU, LOSSLESS, SAME, GPU = (
    RESULTS / f"{name}.json" for name in ("cpu", "lossless", "same_edit", "gpu")
)

_MISSING = "No figures yet: `make bench` measures them and writes them here."
_BY_DEFAULT = ("options of calls", "options of engines", "memory", "best case", "chats")
"""Pieces that are measured in the default format alone."""
_NOT_RUN = "not run"
_NOTHING = "–"
Found = Mapping[str, Any]


def table() -> str:
    """All figures, for docs/performance.md."""
    if not CPU.is_file():
        return _MISSING
    parts = [cpu_table(json.loads(CPU.read_text(encoding="utf-8"))), _gpu(), _lossless(), _same()]
    return "\n\n".join(part for part in parts if part)


def headline() -> str:
    """What a user sees first, for the README."""
    if not CPU.is_file():
        return _MISSING
    found = json.loads(CPU.read_text(encoding="utf-8"))
    about, pieces = found["about"], found["pieces"]
    formats = _formats(_used(pieces))
    parts = [_about(about, pieces), real(pieces, formats), _free(about, pieces, formats, _CASES)]
    return "\n\n".join(part for part in parts if part)


def cpu_table(found: Found) -> str:
    """What was measured on a CPU.

    Args:
        found: The saved file: `about` and `pieces`.
    """
    about, pieces = found["about"], found["pieces"]
    used = _used(pieces)
    formats = _formats(used)
    parts = [_about(about, pieces)]
    parts += [real(pieces, formats), others(pieces), played(pieces)]
    parts += [
        _free(about, pieces, formats, (*_CASES, _CALLERS)),
        _options(pieces, used),
        _best(pieces, used),
    ]
    parts += [_memory(pieces), _overhead(pieces)]
    return "\n\n".join(part for part in parts if part)


def _used(pieces: Found) -> str | None:
    """The format of weights that is the default on the machine."""
    return next((pieces[name]["format"] for name in _BY_DEFAULT if name in pieces), None)


def _formats(used: str | None) -> str:
    """The heads of the columns for each format."""
    return " | ".join(f"{one} (the default here)" if one == used else one for one in FORMATS)


def _about(about: Found, pieces: Found) -> str:
    commits = list(dict.fromkeys(held["commit"] for held in pieces.values()))
    others = max((held["others"] for held in pieces.values()), default=0)
    noisy = f" Other programs used up to {others:.0%} of the processors." if others > 0.1 else ""
    return (
        f"{about['cpu']}, {about['threads']} threads, torch {about['torch']}, transformers"
        f" {about['transformers']}, commit {', '.join(commits)}; embedded aligner.{noisy}"
        " Medians of the ratios of pairs, with quartiles and the number of pairs in brackets."
    )


_CASES = (
    (UNCHANGED, AUTHORS, "single"),
    (REWRITTEN, AUTHORS, "single"),
    (TOGETHER, AUTHORS, "together"),
)
_CALLERS = (f"{THREADS}, against one batch of the same", BATCH, "together")


def _free(about: Found, pieces: Found, formats: str, cases: Sequence[tuple[str, str, str]]) -> str:
    head = (
        "**Free edits** with `caution=0`, times as fast as the authors' procedure (`generate`,"
        f" left-padded, greedy, cache on): {about['replies']}, 40 to 100 tokens each, at most"
        f" {MOST} tokens of an edit. An answer is rewritten where fewer than half of its"
        " words stay; edits in between are left out."
    )
    rows = []
    for case, against, piece in cases:
        name = case.split(", against", maxsplit=1)[0]
        every = [
            pairs_of(pieces.get(f"{piece}, {one}", {}).get("figures", {}), name, against)
            for one in FORMATS
        ]
        if any(every):
            cells = (_ratio(one) for one in every)
            seconds = _seconds(every) if against == AUTHORS else _NOTHING
            rows.append(f"| {case} | {' | '.join(cells)} | {seconds} |")
    if not rows:
        return ""
    lines = [
        f"| answer | {formats} | seconds, `generate` and here |",
        "| --- | --- | --- | --- |",
        *rows,
    ]
    same = [
        (one, held["same"]) for one in FORMATS for held in _held(pieces, f"single, {one}", AUTHORS)
    ]
    counts = {
        one: [flag for name, flags in same if name == one for flag in flags] for one in FORMATS
    }
    words = "; ".join(f"{one} {sum(got)} of {len(got)}" for one, got in counts.items() if got)
    return "\n\n".join((head, "\n".join(lines), f"Single edits that are `generate`'s: {words}."))


def _held(pieces: Found, piece: str, against: str) -> Iterator[Found]:
    for held in pieces.get(piece, {}).get("figures", {}).values():
        if against in held:
            yield held[against]


def _ratio(pairs: Pairs | None) -> str:
    return said(pairs.ratios) if pairs else _NOT_RUN


def _seconds(every: list[Pairs | None]) -> str:
    """Median times of the first format that was measured."""
    pairs = next(one for one in every if one)
    return f"{short(median(pairs.theirs))}, {short(median(pairs.ours))}"


def _options(pieces: Found, used: str | None) -> str:
    figures = {
        **pieces.get("options of calls", {}).get("figures", {}),
        **pieces.get("options of engines", {}).get("figures", {}),
    }
    rows = []
    for option in OPTIONS:
        every = [pairs_of(figures, f"{option}, {one}", DEFAULT) for one in (UNCHANGED, REWRITTEN)]
        if any(every):
            rows.append(f"| {_as_code(option)} | {' | '.join(map(_cost, every))} |")
    if not rows:
        return ""
    head = (
        f"**What options cost** ({used}): times as long as without them, on the same"
        " edits; below 1 is faster. Pairs whose texts differ are left out."
    )
    lines = ["| option | unchanged | rewritten |", "| --- | --- | --- |", *rows]
    return head + "\n\n" + "\n".join(lines)


def _as_code(option: str) -> str:
    name, comma, rest = option.partition(", ")
    return f"`{name}`{comma}{rest}" if "=" in name else option


def _cost(pairs: Pairs | None) -> str:
    if pairs is None:
        return _NOT_RUN
    ratios = [ratio for ratio, same in zip(pairs.ratios, pairs.same, strict=True) if same]
    other = len(pairs.same) - len(ratios)
    return f"{said(ratios)}{f'; {other} with another text' if other else ''}"


def _best(pieces: Found, used: str | None) -> str:
    piece, chats = pieces.get("best case", {}), pieces.get("chats", {})
    figures = {**piece.get("figures", {}), **chats.get("figures", {})}
    if not figures:
        return ""
    allocator = (piece or chats)["allocator"]
    preloaded = "" if allocator == SYSTEM else f", {allocator} preloaded"
    head = (
        f"**The best case** ({used}{preloaded}): made-up edits that copy most of an answer of 100"
        " to 250 tokens after a prompt of 300 to 700. Outputs are forced, so all write the same"
        " tokens."
    )
    lines = [
        "| edit | passes | tokens a pass | times as fast as `generate` |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {case} | {_passes(pairs)} | {_ratio(pairs)} |"
        for case in figures
        if (pairs := pairs_of(figures, case, AUTHORS))
    ]
    what = {
        LOOKUP: "`generate` with `prompt_lookup_num_tokens=10`",
        NO_CACHE: "`generate` with `use_cache=False`, estimated from 6 passes",
        LLAMA: "llama.cpp, same weights, no draft",
    }
    others = []
    for against, words in what.items():
        every = {case: pairs_of(figures, case, against) for case in figures}
        ratios = [f"{case} {_ratio(pairs)}" for case, pairs in every.items() if pairs]
        others.append(f"{words}: {'; '.join(ratios) or _NOT_RUN}")
    return head + "\n\n" + "\n".join(lines) + f"\n\nAgainst {'. Against '.join(others)}."


def _passes(pairs: Pairs) -> str:
    """Median passes, and the tokens that each gave."""
    if not pairs.passes:
        return f"{_NOTHING} | {_NOTHING}"
    most = max(pairs.passes)
    more = f" (most {most})" if most != median(pairs.passes) else ""
    return f"{median(pairs.passes):.0f}{more} | {median(pairs.rates):.1f}"


def _memory(pieces: Found) -> str:
    held = pieces.get("memory", {})
    pairs = pairs_of(held.get("figures", {}), TOGETHER, AUTHORS)
    if pairs is None:
        return ""
    ours, theirs = (said([one / 2**20 for one in held]) for held in (pairs.ours, pairs.theirs))
    return (
        f"Memory over the weights, 16 edits at once ({held['format']}, largest resident set of the"
        f" process less what it was before), in MiB: {ours}; the authors' procedure {theirs}."
    )


def _overhead(pieces: Found) -> str:
    overhead = pieces.get("overhead", {}).get("microseconds", {})
    if not overhead:
        return ""
    words = [
        f"{name} {overhead_said(values, BELOW_ZERO.get(name, ''))}"
        for name, values in overhead.items()
    ]
    return f"What the package costs without a model, CPU time: {'; '.join(words)}."


def _gpu() -> str:
    if not GPU.is_file():
        return ""
    found = json.loads(GPU.read_text(encoding="utf-8"))
    lines = [
        f"| a model of 7B's shape on {found['gpu']}, outputs forced | times as fast |",
        "| --- | --- |",
    ]
    for case in found["edits"]:
        pairs = pairs_of(found["edits"], case, AUTHORS)
        lines += [f"| {case} | {_ratio(pairs)} |"] if pairs else []
    return "\n".join(lines)


def _lossless() -> str:
    if not LOSSLESS.is_file():
        return ""
    held = json.loads(LOSSLESS.read_text(encoding="utf-8"))["float32"]
    counts = {name: held["differ"][name] for name in ("single", "batched", "threads")}
    text = ", ".join(f"{name} {count}" for name, count in counts.items())
    gap = f"; largest gap of logits there {held['largest gap']:.1g}" if any(counts.values()) else ""
    return (
        "Free edits in float32 that differ from `generate`, token by token, of"
        f" {held['rows']}: {text}{gap}."
    )


def _same() -> str:
    """Say how many edits depend on more than their request."""
    if not SAME.is_file():
        return ""
    said = []
    for dtype, held in json.loads(SAME.read_text(encoding="utf-8")).items():
        differ = ", ".join(f"{way} {count}" for way, count in held["differ"].items())
        rows, unchanged = held["conversations"], held["left unchanged"]
        said.append(
            f"Free edits in {dtype} that differ, token by token, from the same request's edit"
            f" alone and cold, of {rows} held-out conversations ({rows - unchanged} of them"
            f" edited): {differ}."
        )
    return " ".join(said)


TABLES = {"speed": table, "speed_headline": headline}
"""Each table in README and docs that has figures, by its name there."""
