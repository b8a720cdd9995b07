"""The tables on real edits, and on edits that were played through without a model."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from tests.benchmarks.figures import FEW, Pairs, pairs_of, said, short
from tests.benchmarks.labels import AUTHORS, FORMATS, LARGE, LLAMA, LOOKUP, PLAYED, REAL, REAL_EDIT

_NOT_MEASURED = "not measured"
_ALL = "all"
Found = Mapping[str, Any]


def real(pieces: Found, formats: str) -> str:
    """Real edits, by the model that had answered, and all of them.

    Args:
        pieces: What was measured, by its name.
        formats: The heads of the columns for each format.
    """
    played = pieces.get(PLAYED, {}).get("played", {}).get("real", {})
    measured = {one: _by_policy(pieces.get(f"{REAL}, {one}", {})) for one in FORMATS}
    policies = list(
        dict.fromkeys((*played, *(name for held in measured.values() for name in held)))
    )
    rows = []
    for policy in policies:
        rates = played.get(policy, {}).get("rates", [])
        cells = (_each(measured[one].get(policy, Pairs()).ratios) for one in FORMATS)
        rows.append(f"| {policy} | {said(rates)} | {' | '.join(cells)} |")
    if not rows:
        return ""
    rates = [rate for held in played.values() for rate in held["rates"]]
    cells = (_all(_figures(pieces, f"{REAL}, {one}"), AUTHORS) for one in FORMATS)
    rows.append(f"| {_ALL} | {said(rates)} | {' | '.join(cells)} |")
    head = (
        "**Real edits**: what Aligner-2B made of three strong models' answers in AlpacaEval, 8 %"
        " unchanged. Tokens a pass of all of them, played through without a model; times as fast as"
        " `generate` (greedy, cache on) for single edits of 100 to 320 words, forced on the"
        " embedded aligner."
    )
    lines = [f"| answers of | tokens a pass | {formats} |", "| --- " * 4 + "|", *rows]
    return head + "\n\n" + "\n".join(lines)


def _figures(pieces: Found, name: str) -> Found:
    return pieces.get(name, {}).get("figures", {})


def _by_policy(piece: Found) -> dict[str, Pairs]:
    """Real edits against the authors' procedure, by the model that had answered."""
    found: dict[str, Pairs] = {}
    every = pairs_of(piece.get("figures", {}), REAL_EDIT, AUTHORS) or Pairs()
    for place, policy in enumerate(piece.get("policies", [])):
        pairs = found.setdefault(policy, Pairs())
        pairs.theirs.append(every.theirs[place])
        pairs.ours.append(every.ours[place])
        pairs.passes.append(every.passes[place])
        pairs.tokens.append(every.tokens[place])
    return found


def _all(figures: Found, against: str) -> str:
    pairs = pairs_of(figures, REAL_EDIT, against)
    return _with_worst(pairs.ratios if pairs else [])


def _each(values: list[float]) -> str:
    """All values, or the middle and the worst where they are many."""
    return ", ".join(map(short, values)) if 0 < len(values) < FEW else _with_worst(values)


def _with_worst(values: list[float]) -> str:
    if not values:
        return _NOT_MEASURED
    return f"{short(median(values))} (worst {short(min(values))}; {len(values)})"


def others(pieces: Found) -> str:
    """What else real edits were measured against, and on a larger model.

    Args:
        pieces: What was measured, by its name.
    """
    sentences = [
        f"In {one}, times as fast as prompt lookup of transformers with 10 tokens:"
        f" {_all(figures, LOOKUP)}; as llama.cpp with the same weights and no draft:"
        f" {_all(figures, LLAMA)}. Tokens a pass of these edits: {_with_worst(pairs.rates)}."
        for one in FORMATS
        if (pairs := pairs_of(figures := _figures(pieces, f"{REAL}, {one}"), REAL_EDIT, AUTHORS))
    ]
    each = "; ".join(
        f"{policy} {_each(pairs.ratios)} at {_each(pairs.rates)} tokens a pass"
        for policy, pairs in _by_policy(pieces.get(LARGE, {})).items()
    )
    if each:
        sentences.append(
            "With a model of TinyLlama 1.1B's shape (random weights, LLaMA 2's tokenizer,"
            f" {pieces[LARGE]['format']}), times as fast as `generate`, edits of 100 to 160"
            f" words, of answers of {each}."
        )
    return " ".join(sentences)


def played(pieces: Found) -> str:
    """What was played through, with its introduction.

    Args:
        pieces: What was measured, by its name.
    """
    groups = pieces.get(PLAYED, {}).get("played", {})
    if not any(groups.values()):
        return ""
    head = (
        "**Played through without a model**: tokens a pass, and times as fast as plain decoding"
        " by the drafter's table of costs on a CPU, prompt included (LLaMA 2's tokenizer; medians"
        " with quartiles and the number of edits). The made-up edits are those of the best case."
    )
    return head + "\n\n" + played_table(groups)


def played_table(groups: Mapping[str, Mapping[str, Mapping[str, list[float]]]]) -> str:
    """What was played through, as a table.

    Args:
        groups: Real and made-up edits: `rates` and `ratios` by name.
    """
    lines = ["| edits | tokens a pass | times as fast | worst |", "| --- " * 4 + "|"]
    for kind, some in groups.items():
        for name, held in some.items():
            label = f"real, of {name}" if kind == "real" else name
            rates, ratios = said(held["rates"]), said(held["ratios"])
            lines.append(f"| {label} | {rates} | {ratios} | {min(held['ratios']):.3f} |")
    return "\n".join(lines)
