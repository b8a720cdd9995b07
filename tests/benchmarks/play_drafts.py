"""How many tokens a pass gives, with no model: `python -m tests.benchmarks.play_drafts`.

Known edits are played through the drafter: real ones of a published aligner, by the model that had
answered, and the made-up ones of `cases.py`. Passes do not depend on the machine. Times are those
of the drafter's table of costs, against plain decoding.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

from langchain_metaaligner.engines.local.drafting import ACCELERATOR, CPU, Costs, Drafter
from tests.benchmarks.cases import LLAMA2, Case, conversations, real_edits

WINDOW = 2048


@dataclass(frozen=True)
class Played:
    """An edit that was played through.

    Attributes:
        rate: Tokens for each pass.
        ratio: How many times as fast as plain decoding, by the table of costs.
    """

    rate: float
    ratio: float


def play(case: Case, name: str, costs: Costs) -> Played:
    """Play a model that writes one of a case's edits.

    Args:
        case: The case.
        name: Which edit.
        costs: What passes cost.

    Returns:
        What it took.
    """
    output, prompt = case.edits[name], len(case.ids)
    drafter = Drafter([case.draft], costs, prompt, context=case.ids)
    written, passes, spent = 0, 0, 0.0
    while written < len(output):
        draft = drafter.propose(output[:written], len(output))
        right = 0
        while right < len(draft) and draft[right] == output[written + right] != output[-1]:
            right += 1
        drafter.learn(right)
        spent += 1 + costs.draft(len(draft)) if written else costs.prefill(prompt + len(draft))
        written, passes = written + right + 1, passes + 1
    return Played(len(output) / passes, (costs.prefill(prompt) + len(output) - 1) / spent)


def table(groups: Mapping[str, Sequence[Played]]) -> str:
    """Write what was played as a table in Markdown."""
    lines = ["| edits | tokens a pass | times as fast | worst | number |", "| --- " * 5 + "|"]
    for name, rows in groups.items():
        rates, ratios = [row.rate for row in rows], [row.ratio for row in rows]
        worst = f"{min(ratios):.3f} | {len(rows)}"
        lines.append(f"| {name} | {_quartiles(rates)} | {_quartiles(ratios)} | {worst} |")
    return "\n".join(lines)


def _quartiles(values: Sequence[float]) -> str:
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def codec() -> tuple[Any, int]:
    """LLaMA 2's tokenizer, and the token that ends an output."""
    from transformers import AutoTokenizer

    from langchain_metaaligner.engines.local.tokenizer import PromptTokenizer

    tokenizer = AutoTokenizer.from_pretrained(LLAMA2)
    return PromptTokenizer(tokenizer, "LLaMA 2"), tokenizer.eos_token_id


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=60, help="conversations for made-up edits")
    parser.add_argument("--accelerator", action="store_true", help="with the costs of a GPU")
    given = parser.parse_args()
    costs = ACCELERATOR if given.accelerator else CPU
    if not LLAMA2.is_dir():
        parser.error(f"LLaMA 2's tokenizer is not in {LLAMA2}")
    tokens, end = codec()
    groups: dict[str, list[Played]] = {}
    real = real_edits(tokens, end, WINDOW)
    made_up = conversations(tokens, end, given.count)
    for label, cases in [*((f"real, of {one}", rows) for one, rows in real.items()), ("", made_up)]:
        for case in cases:
            for name in case.edits:
                groups.setdefault(label or name, []).append(play(case, name, costs))
    print(table(groups))


if __name__ == "__main__":
    main()
