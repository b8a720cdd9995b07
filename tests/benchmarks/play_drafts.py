"""How many tokens a pass gives, with no model: `python -m tests.benchmarks.play_drafts`.

Known edits are played through the drafter: real ones of a published aligner, by the model that had
answered, and the made-up ones of `cases.py`. Passes do not depend on the machine. Times are those
of the drafter's table of costs, against plain decoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_metaaligner.engines.local.drafting import ACCELERATOR, NATIVE, Costs, Drafter
from tests.benchmarks.cases import CASES, LLAMA2, Case, conversations, real_edits
from tests.benchmarks.edits_table import played_table
from tests.benchmarks.labels import REAL_EDIT
from tests.benchmarks.pieces import finish, worker_parser

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


def play_all(tokens: Any, end: int, count: int, costs: Costs) -> dict[str, dict[str, list[Played]]]:
    """Play all real edits, and made-up ones.

    Args:
        tokens: Tokenises prompts and outputs.
        end: The token that ends an output.
        count: Conversations for made-up edits.
        costs: What passes cost.

    Returns:
        What each took: of real ones, by the model that had answered; of made-up ones, by what
        became of the answer.
    """
    real = {
        policy: [play(case, REAL_EDIT, costs) for case in cases]
        for policy, cases in real_edits(tokens, end, WINDOW).items()
    }
    cases = conversations(tokens, end, count)
    made_up = {name: [play(case, name, costs) for case in cases] for name in CASES if cases}
    return {"real": real, "made up": made_up}


def codec() -> tuple[Any, int]:
    """LLaMA 2's tokenizer, and the token that ends an output."""
    from transformers import AutoTokenizer

    from langchain_metaaligner.engines.local.tokenizer import PromptTokenizer

    tokenizer = AutoTokenizer.from_pretrained(LLAMA2)
    return PromptTokenizer(tokenizer, "LLaMA 2"), tokenizer.eos_token_id


def raw(groups: Mapping[str, Sequence[Played]]) -> dict[str, dict[str, list[float]]]:
    """All values, for a file, by group."""
    return {
        name: {"rates": [row.rate for row in rows], "ratios": [row.ratio for row in rows]}
        for name, rows in groups.items()
    }


def main() -> None:
    parser = worker_parser(__doc__)
    parser.add_argument("--made-up", type=int, default=60, help="conversations for made-up edits")
    parser.add_argument("--accelerator", action="store_true", help="with the costs of a GPU")
    given = parser.parse_args()
    if LLAMA2.is_dir():
        costs = ACCELERATOR if given.accelerator else NATIVE
        groups = play_all(*codec(), given.made_up, costs)
    else:
        groups = {}
    found = {"played": {kind: raw(some) for kind, some in groups.items()}}
    if given.out:
        finish(given, found)
    else:
        print(played_table(found["played"]))


if __name__ == "__main__":
    main()
