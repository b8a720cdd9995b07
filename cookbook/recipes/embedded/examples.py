"""Makes the examples of the first round: answers edited for some objectives, kept for others."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from cookbook.recipes.embedded import sources
from cookbook.recipes.embedded.damage import unfinished_list
from cookbook.recipes.embedded.forms import (
    MAIN,
    asked,
    conversation,
    declined,
    helpful_form,
    humorous_form,
    some,
    spoil,
)
from cookbook.recipes.embedded.human import harmful, kept, mended, preferences
from cookbook.recipes.embedded.sources import Pair, held_out
from cookbook.recipes.embedded.wordings import described, example, reworded
from langchain_metaaligner.training.data.example import TrainingExample

WARM_UP = 0.2  # of the plain copies


def variants(rng: random.Random) -> list[dict[str, str]]:
    """Write questions about harmless things with verbs that sound dangerous.

    Args:
        rng: Source of randomness.

    Returns:
        Two questions for each thing, with the same answer.
    """
    frames = sources.lines("frames")
    return [
        {"ask": frame.format(x=f"{verb} {row['target']}"), "answer": row["answer"]}
        for row in sources.texts("targets")
        if not held_out(row["target"])
        for verb in rng.sample(row["verbs"].split(","), 2 if "," in row["verbs"] else 1)
        for frame in [rng.choice(frames)]
    ]


def own(rng: random.Random) -> list[TrainingExample]:
    """Make examples from the texts that were written for this training.

    Args:
        rng: Source of randomness.

    Returns:
        Examples with safe questions, risky questions, spoilt replies and dry replies.
    """
    # Held-out facts are for measurements: they must not be earlier turns or wrong answers either.
    facts = [row for row in sources.texts("facts") if not held_out(row["ask"])]
    looks = sources.texts("lookalikes")
    replies = [row["answer"] for row in facts]
    made: list[TrainingExample] = []
    for row in [*looks, *variants(rng)]:
        if held_out(row["ask"]):
            continue
        context, answer = asked(row["ask"], rng, facts), row["answer"]
        sets = ((MAIN[0],), MAIN if rng.random() < 0.5 else some(rng))
        made.extend(example("look", context, answer, goals, answer) for goals in sets)
        goals = some(rng, MAIN[1], alone=0.75)
        if rng.random() < 0.75:
            made.append(example("answer", context, declined(row["ask"], rng), goals, answer))
        if rng.random() < 0.15:
            made.append(example("spoilt", context, spoil(answer, rng, replies), goals, answer))
    for row in facts:
        context, answer = asked(row["ask"], rng, facts), row["answer"]
        made.append(example("keep", context, answer, some(rng), answer))
        made.extend(
            example("answer", context, bad, some(rng, MAIN[1], alone=0.7), answer)
            for bad in (declined(row["ask"], rng), spoil(answer, rng, replies))
        )
    for row in sources.texts("playful"):
        if held_out(row["ask"]):
            continue
        context = asked(row["ask"], rng, facts)
        made.append(example("humour", context, row["dry"], (MAIN[2],), row["humour"]))
        made.append(example("humour", context, row["humour"], some(rng, MAIN[2]), row["humour"]))
        made.append(example("keep", context, row["dry"], some(rng, *MAIN[:2]), row["dry"]))
    for row in sources.texts("risky"):
        if held_out(row["ask"]):
            continue
        context = asked(row["ask"], rng, facts)
        first = row["harmless"]
        turned, lighter = helpful_form(first, rng), humorous_form(first, rng)
        forms = (first, row["helpful"].strip("-") or turned, row["humour"].strip("-") or lighter)
        for goal, edit in zip(MAIN, forms, strict=True):
            made.append(example("harm", context, row["bad"], (goal,), edit))
        goals = some(rng, MAIN[0], alone=0.0)
        made.append(example("harm", context, row["bad"], goals, row["harmless"]))
        edit = rng.choice(forms)
        made.append(example("keep", context, edit, some(rng), edit))
    return made


def unseen(rng: random.Random) -> list[TrainingExample]:
    """Make examples with objectives beyond the three, and with formatted replies.

    Args:
        rng: Source of randomness.

    Returns:
        Dense, vague, one-sided and rude replies that become better ones, better replies that are
        kept, and formatted replies that are kept or lose an unfinished item.
    """
    made: list[TrainingExample] = []
    for row in sources.texts("unseen"):
        goal, after = row["goal"], row["after"]
        if held_out(row["ask"]):
            continue
        named = goal if goal != "politeness" and rng.random() < 0.6 else described(goal, rng)
        context = conversation(row["ask"])
        made.append(example("unseen", context, row["before"], (named,), after))
        goals = some(rng) if rng.random() < 0.6 else (named,)
        made.append(example("keep", context, after, goals, after))
        if rng.random() < 0.3 and goal in ("readability", "specificity"):
            # The same reply for another objective: the description has to matter.
            made.append(example("keep", context, row["before"], (MAIN[0],), row["before"]))
    for row in sources.texts("formatted"):
        if held_out(row["ask"]):
            continue
        context, answer = conversation(row["ask"]), row["answer"]
        sets = ((MAIN[0],), (MAIN[1],), MAIN, some(rng, MAIN[2]))
        made.extend(example("format", context, answer, goals, answer) for goals in sets)
        texts = unfinished_list(answer, rng)
        if texts is not None:
            made.append(example("mend", context, texts[0], some(rng), texts[1]))
    return made


def documents(rng: random.Random, limit: int) -> list[TrainingExample]:
    """Make copies of paragraphs of documentation, as answers to questions.

    Args:
        rng: Source of randomness.
        limit: How many.

    Returns:
        Paragraphs that are kept.
    """
    found = list(sources.documentation())
    rng.shuffle(found)
    asks = [ask for ask in sources.lines("asks") if not held_out(ask)]
    return [
        example("document", conversation(rng.choice(asks)), text, some(rng), text)
        for text in found[:limit]
    ]


def build(
    harmless_pairs: Sequence[Pair],
    helpful_pairs: Sequence[Pair],
    *,
    seed: int = 7,
    **amounts: int,
) -> list[TrainingExample]:
    """Make the examples of the first round, without held-out conversations.

    Args:
        harmless_pairs: Human pairs about harm.
        helpful_pairs: Human pairs about helpfulness.
        seed: Seed of everything random.
        **amounts: How many of what, as for `draw`.

    Returns:
        The examples in a fixed order. A share of the plain copies is for the warm-up. The equal
        stage gets none: nothing here says that two replies are equally good, and the aligner is
        never used with its prompt.
    """
    rng = random.Random(seed)
    made = draw(harmless_pairs, helpful_pairs, rng, **amounts)
    return [reworded(_staged(e, rng), rng, 0.12) for e in made]


def draw(
    harmless_pairs: Sequence[Pair],
    helpful_pairs: Sequence[Pair],
    rng: random.Random,
    *,
    copies: int = 280,
    documentation: int = 60,
    repairs: int = 35,
) -> list[TrainingExample]:
    """Draw examples of all kinds.

    Args:
        harmless_pairs: Human pairs about harm.
        helpful_pairs: Human pairs about helpfulness.
        rng: Source of randomness.
        copies: Number of good human replies to keep.
        documentation: Number of paragraphs of documentation to keep.
        repairs: Number of damaged replies of each kind to repair.

    Returns:
        The examples in a fixed order, with the descriptions of the catalogue, all of one stage.
    """
    safe = [p for p in harmless_pairs if not held_out(p.context)]
    useful = [p for p in helpful_pairs if not held_out(p.context)]
    parts: list[Callable[[], list[TrainingExample]]] = [
        lambda: harmful(safe, rng),
        lambda: preferences(safe, rng),
        lambda: kept(useful, rng, copies),
        lambda: mended(useful, rng, repairs),
        lambda: own(rng),
        lambda: unseen(rng),
        lambda: documents(rng, documentation),
    ]
    made = [example for part in parts for example in part()]
    return [e for e in made if e.edit.strip() and e.answer.strip()]


def _staged(made: TrainingExample, rng: random.Random) -> TrainingExample:
    copied = made.kind in ("keep", "document", "format") and made.answer == made.edit
    if copied and rng.random() < WARM_UP:
        return dataclasses.replace(made, stage="warm_up")
    return made


def load(folder: Path) -> tuple[list[Pair], list[Pair]]:
    """Read the human pairs.

    Args:
        folder: Folder with `hh_harmless_pairs.jsonl` and `hh_helpful_pairs.jsonl`.

    Returns:
        The pairs about harm and those about helpfulness.
    """
    return (
        sources.pairs(folder / "hh_harmless_pairs.jsonl"),
        sources.pairs(folder / "hh_helpful_pairs.jsonl"),
    )


def counts(examples: Iterable[TrainingExample]) -> dict[str, int]:
    """Count the examples of each kind.

    Args:
        examples: The examples.

    Returns:
        Kinds and their numbers.
    """
    return dict(sorted(Counter(e.kind for e in examples).items()))
