"""Makes training examples: the same answer edited for some objectives, kept for others."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from langchain_metaaligner.objectives import parse_objectives
from langchain_metaaligner.training.embedded import sources
from langchain_metaaligner.training.embedded.forms import (
    MAIN,
    asked,
    conversation,
    declined,
    formal,
    helpful_form,
    humorous_form,
    sentences,
    some,
    spoil,
)
from langchain_metaaligner.training.embedded.sources import Pair, clean, held_out, identity, refuses
from langchain_metaaligner.training.example import TrainingExample

HOTLINE = re.compile(r"\b(988|911|1-8\d\d-\d)")


UNSEEN = ("length", "repetition", "readability", "honesty", "fairness")


def example(
    kind: str, context: str, answer: str, objectives: Sequence[str], edit: str
) -> TrainingExample:
    """Make an example of the objectives' names.

    Args:
        kind: Where it comes from, for counting.
        context: The conversation.
        answer: The reply to edit.
        objectives: Names of the catalogue, in the order of the prompt.
        edit: The wanted reply.

    Returns:
        The example.
    """
    return TrainingExample(context, answer, parse_objectives(objectives), edit, kind=kind)


def harmful(
    pairs: Iterable[Pair], rng: random.Random, harmful_share: float = 0.8
) -> list[TrainingExample]:
    """Turn people's bad replies into the refusals written for their conversations.

    Args:
        pairs: Pairs about harm.
        rng: The source of chance.
        harmful_share: How many of them are edited for harmlessness.

    Returns:
        Harmful replies that become refusals in several forms, and refusals that stay.
    """
    written = {row["key"]: row["edit"] for row in sources.texts("refusals")}
    made: list[TrainingExample] = []
    for pair in pairs:
        edit = written.get(identity(pair.context))
        if edit is None:
            continue
        # A crisis line in every third refusal would be offered to everybody.
        if HOTLINE.search(edit) and rng.random() < 0.5:
            continue
        helpful, humorous = helpful_form(edit, rng), humorous_form(edit, rng)
        bad = [reply for reply in (pair.rejected, pair.chosen) if not refuses(reply[:90])]
        for place, reply in enumerate(bad):
            if place and rng.random() < 0.75:
                continue
            if rng.random() < harmful_share:
                goals = some(rng, MAIN[0], alone=0.7)
                made.append(example("harm", pair.context, reply, goals, edit))
            if place == 0:
                which = rng.random()
                if which < 0.2:
                    made.append(example("harm", pair.context, reply, (MAIN[1],), helpful))
                elif which < 0.4:
                    made.append(example("harm", pair.context, reply, (MAIN[2],), humorous))
        if rng.random() < 0.15:
            made.append(example("keep", pair.context, edit, some(rng), edit))
        if rng.random() < 0.35:
            stays = formal(edit, rng)
            goals = MAIN if rng.random() < 0.5 else some(rng)
            made.append(example("keep", pair.context, stays, goals, stays))
    return made


def preferences(pairs: Iterable[Pair], rng: random.Random) -> list[TrainingExample]:
    """Pick human pairs in which a clear refusal was preferred to an answer.

    Args:
        pairs: Pairs about harm.
        rng: The source of chance.

    Returns:
        Edits from the rejected to the chosen reply, and chosen ones that stay.
    """
    written = {row["key"] for row in sources.texts("refusals")}
    made: list[TrainingExample] = []
    for pair in pairs:
        words = len(pair.chosen.split())
        whole = pair.chosen.strip()[-1:] in (".", "!", "?") and "Human:" not in pair.chosen
        if not (12 <= words <= 120 and whole and refuses(pair.chosen)):
            continue
        bad = sources.HARMFUL.search(pair.rejected) and not refuses(pair.rejected)
        if bad and identity(pair.context) not in written:
            goals = some(rng, MAIN[0], alone=0.7)
            made.append(example("human", pair.context, pair.rejected, goals, pair.chosen))
        elif words >= 20:
            made.append(example("keep", pair.context, pair.chosen, some(rng), pair.chosen))
    return made


def kept(pairs: Iterable[Pair], rng: random.Random, limit: int) -> list[TrainingExample]:
    """Copy good human-preferred replies, and mend some that were cut off.

    Args:
        pairs: Pairs about helpfulness.
        rng: The source of chance.
        limit: How many.

    Returns:
        Replies that stay, and a few that lose their unfinished last sentence.
    """
    good = [p for p in pairs if clean(p.chosen) and not refuses(p.chosen)]
    rng.shuffle(good)
    made: list[TrainingExample] = []
    for place, pair in enumerate(good[:limit]):
        reply = pair.chosen
        parts = sentences(reply)
        if place % 12 == 0 and len(parts) > 2 and len(parts[-1].split()) > 5:
            cut = " ".join(parts[-1].split()[: rng.randint(2, 4)])
            whole = reply[: reply.rindex(parts[-1])].rstrip()
            made.append(example("cut", pair.context, f"{whole} {cut}", some(rng), whole))
            continue
        if place % 12 == 1 and 3 <= len(parts) <= 9:
            doubled = " ".join([*parts[:2], parts[rng.randrange(2)], *parts[2:]])
            made.append(example("rule", pair.context, doubled, ("repetition",), " ".join(parts)))
            continue
        if place % 24 == 2 and len(parts) >= 4:
            made.append(example("rule", pair.context, reply, ("length",), " ".join(parts[:2])))
            continue
        goals = some(rng) if place % 3 else MAIN
        if place % 8 == 5:
            goals = (rng.choice(UNSEEN[2:]),)
        made.append(example("keep", pair.context, reply, goals, reply))
    return made


def variants(rng: random.Random) -> list[dict[str, str]]:
    """Ask about harmless things with verbs that sound dangerous.

    Args:
        rng: The source of chance.

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
    """Make examples of the texts that were written for this training.

    Args:
        rng: The source of chance.

    Returns:
        Examples of safe questions, risky ones, spoilt replies and dry ones.
    """
    facts, looks = sources.texts("facts"), sources.texts("lookalikes")
    replies = [row["answer"] for row in facts]
    made: list[TrainingExample] = []
    for row in [*looks, *variants(rng)]:
        if held_out(row["ask"]):
            continue
        context, answer = asked(row["ask"], rng, facts), row["answer"]
        sets = ((MAIN[0],), MAIN, some(rng, MAIN[0]))
        made.extend(example("look", context, answer, goals, answer) for goals in sets)
        goals = some(rng, MAIN[1], alone=0.75)
        made.append(example("answer", context, declined(row["ask"], rng), goals, answer))
        if rng.random() < 0.15:
            made.append(example("spoilt", context, spoil(answer, rng, replies), goals, answer))
    for row in facts:
        if held_out(row["ask"]):
            continue
        context, answer = asked(row["ask"], rng, facts), row["answer"]
        made.append(example("keep", context, answer, some(rng), answer))
        made.extend(
            example("answer", context, bad, some(rng, MAIN[1], alone=0.7), answer)
            for bad in (declined(row["ask"], rng), spoil(answer, rng, replies))
        )
    for row in sources.texts("playful"):
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


def documents(rng: random.Random, limit: int) -> list[TrainingExample]:
    """Copy paragraphs of documentation as if they answered a question.

    Args:
        rng: The source of chance.
        limit: How many.

    Returns:
        Paragraphs that stay.
    """
    found = list(sources.documentation())
    rng.shuffle(found)
    asks = sources.lines("asks")
    return [
        example("document", conversation(rng.choice(asks)), text, some(rng), text)
        for text in found[:limit]
    ]


def build(
    harmless_pairs: Sequence[Pair],
    helpful_pairs: Sequence[Pair],
    *,
    seed: int = 7,
    copies: int = 300,
    documentation: int = 60,
) -> list[TrainingExample]:
    """Make all training examples; held-out conversations never take part.

    Args:
        harmless_pairs: Human pairs about harm.
        helpful_pairs: Human pairs about helpfulness.
        seed: Decides every draw.
        copies: Good human replies to keep.
        documentation: Paragraphs of documentation to keep.

    Returns:
        The examples in a fixed order.
    """
    rng = random.Random(seed)
    safe = [p for p in harmless_pairs if not held_out(p.context)]
    useful = [p for p in helpful_pairs if not held_out(p.context)]
    parts: list[Callable[[], list[TrainingExample]]] = [
        lambda: harmful(safe, rng),
        lambda: preferences(safe, rng),
        lambda: kept(useful, rng, copies),
        lambda: own(rng),
        lambda: documents(rng, documentation),
    ]
    made = [example for part in parts for example in part()]
    return [e for e in made if e.edit.strip() and e.answer.strip()]


def load(folder: Path) -> tuple[list[Pair], list[Pair]]:
    """Read the human pairs.

    Args:
        folder: Holds `hh_harmless_pairs.jsonl` and `hh_helpful_pairs.jsonl`.

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
