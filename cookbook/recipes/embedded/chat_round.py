"""Makes the examples of the fourth round: replies and refusals as chat models write them."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Sequence

from cookbook.recipes.embedded import sources
from cookbook.recipes.embedded.examples import draw, variants
from cookbook.recipes.embedded.forms import (
    MAIN,
    asked,
    declined,
    humorous_form,
    sentences,
    some,
)
from cookbook.recipes.embedded.later_rounds import long_replies, written_replies
from cookbook.recipes.embedded.refusal_styles import long_refusal
from cookbook.recipes.embedded.sources import Pair, held_out, refuses
from cookbook.recipes.embedded.wordings import example, reworded
from langchain_metaaligner.training.data.example import TrainingExample

Rows = list[dict[str, str]]

# Shares of the kinds of the earlier rounds. Most of this round is new.
REPLAY = {
    "look": 0.0,
    "answer": 0.12,
    "harm": 0.2,
    "humour": 0.35,
    "keep": 0.2,
    "mend": 0.15,
    "cut": 0.15,
    "rule": 0.3,
    "short": 0.15,
    "spoilt": 0.25,
    "unseen": 0.35,
    "format": 0.5,
    "document": 0.3,
}
# True whatever the subject. Most nonsense of the earlier rounds stood in a second sentence.
ENDINGS = (
    "I'm happy to help with something else.",
    "I'd be glad to help in a way that harms nobody.",
)
# What a refusal offers for helpfulness if it offers nothing else.
OFFERS = {
    "malicious": "I can explain in general what the law says about it.",
    "toxic": "I'd be glad to write something kind or neutral instead.",
    "private": "I can explain how to keep personal data safe.",
    "misinformation": "I can sum up what reliable sources say about it.",
    "unsafe": "I can help you think it through, but the decision should be yours.",
    "discrimination": "I can explain how equal treatment works in such a case.",
}
CRISIS = re.compile(r"\b(988|911|741741|1-8\d\d-\d)")
_DANGLING = re.compile(r"\s*\n\s*(\d+[.)]|[-*•]|\*\*[^*\n]*)\s*$")
_END = re.compile(r"(?<=[.!?:])(\s+)(?=[A-Z0-9\"“'*#-])")
_SHORTEST = 4  # words


def _goals(rng: random.Random) -> tuple[str, ...]:
    """What good replies are edited for: above all the objectives that people choose."""
    drawn = rng.random()
    return (MAIN[0],) if drawn < 0.4 else MAIN if drawn < 0.75 else some(rng)


def _helping(rng: random.Random) -> tuple[str, ...]:
    """What refusals are edited for. Needless and right ones share it: only the question differs."""
    drawn = rng.random()
    return (MAIN[1],) if drawn < 0.55 else MAIN if drawn < 0.85 else some(rng, MAIN[1])


def beginning(reply: str, rng: random.Random) -> str | None:
    """Cut a reply behind one of its sentences or lines, as it stands while it is being written.

    Args:
        reply: A whole reply.
        rng: Source of randomness.

    Returns:
        Its beginning, mostly the first one or two sentences; `None` if there is no place to cut.
    """
    places = [
        m.start() for m in _END.finditer(reply) if len(reply[: m.start()].split()) > _SHORTEST
    ]
    places = [place for place in places if not _DANGLING.search("\n" + reply[:place])]
    if not places:
        return None
    place = rng.choice(places[:2]) if rng.random() < 0.65 else rng.choice(places)
    return _DANGLING.sub("", reply[:place]).rstrip() or None


def brief(refusal: str, rng: random.Random) -> str:
    """Reduce a refusal to the sentence that refuses, with or without a fixed ending.

    Args:
        refusal: A refusal.
        rng: Source of randomness.

    Returns:
        The refusal as it was if its first sentence doesn't refuse.
    """
    first, *rest = sentences(refusal)
    if not rest or not refuses(first):
        return refusal
    return f"{first} {rng.choice(ENDINGS)}" if rng.random() < 0.5 else first


def offering(refusal: str, offer: str) -> str:
    """Rearrange a refusal for someone who asked for helpfulness alone: the offer comes first.

    Args:
        refusal: A refusal of one or two sentences, of which the second is an offer.
        offer: The offer if it has none.

    Returns:
        "I can ..., but I can't ..." where that is grammatical.
    """
    first, *rest = sentences(refusal)
    offer = rest[-1] if rest else offer
    if offer.startswith(("I can ", "I'd ", "I'm ")) and re.match(r"I (can't|won't) ", first):
        return f"{offer[:-1]}, but {first}"
    return " ".join([first, *rest]) if rest else f"{first} {offer}"


def base_replies() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Read what the base model replied, see `base_replies.py`.

    Returns:
        Replies to harmful and to safe questions, by question.
    """
    harmful = {row["ask"] for name in ("harmful_asks", "risky") for row in sources.texts(name)}
    found: tuple[dict[str, list[str]], dict[str, list[str]]] = ({}, {})
    for row in sources.texts("base_replies"):
        found[row["ask"] not in harmful].setdefault(row["ask"], []).append(row["reply"])
    return found


def safe_questions(rng: random.Random, facts: Rows) -> list[TrainingExample]:
    """Make examples from safe questions that sound dangerous.

    Args:
        rng: Source of randomness.
        facts: Questions and answers for earlier turns.

    Returns:
        Answers that stay, and needless refusals in all styles that become answers.
    """
    made: list[TrainingExample] = []
    for row in [*sources.texts("lookalikes"), *variants(rng), *sources.texts("safe")]:
        if held_out(row["ask"]):
            continue
        context, answer = asked(row["ask"], rng, facts), row["answer"]
        sets: list[tuple[str, ...]] = [(MAIN[0],) if rng.random() < 0.6 else _goals(rng)]
        if rng.random() < 0.3:
            sets.append(MAIN)
        made.extend(example("look", context, answer, goals, answer) for goals in sets)
        if rng.random() < 0.8:
            long = rng.random() < 0.7
            bad = long_refusal(row["ask"], rng) if long else declined(row["ask"], rng)
            made.append(example("answer", context, bad, _helping(rng), answer))
    for row in facts:
        if rng.random() < 0.5:
            context, bad = asked(row["ask"], rng, facts), long_refusal(row["ask"], rng)
            made.append(example("answer", context, bad, _helping(rng), row["answer"]))
    return made


def harmful_questions(rng: random.Random, facts: Rows) -> list[TrainingExample]:
    """Make examples from harmful requests, and from what the base model replied to them.

    Args:
        rng: Source of randomness.
        facts: Questions and answers for earlier turns.

    Returns:
        Replies and beginnings of replies that become refusals, and refusals that stay.
    """
    replies, _ = base_replies()
    rows = [
        *((row["ask"], row["edit"], OFFERS[row["area"]]) for row in sources.texts("harmful_asks")),
        *((r["ask"], brief(r["harmless"], rng), ENDINGS[1]) for r in sources.texts("risky")),
    ]
    made: list[TrainingExample] = []
    for ask, edit, offer in rows:
        if held_out(ask):
            continue
        context = asked(ask, rng, facts)
        for bad in replies.get(ask, []):
            cut = beginning(bad, rng) if rng.random() < 0.7 else None
            forms = [
                ((MAIN[0],), edit),
                ((MAIN[1],), offering(edit, offer)),
                ((MAIN[2],), humorous_form(edit, rng)),
                (some(rng, MAIN[0], alone=0.0), edit),
            ]
            goals, wanted = rng.choices(forms, (0.5, 0.17, 0.18, 0.15))[0]
            made.append(example("harm", context, bad, goals, wanted))
            if cut:
                goals, wanted = rng.choices(forms, (0.5, 0.1, 0.1, 0.3))[0]
                made.append(example("begun", context, cut, goals, wanted))
        if rng.random() < 0.45:
            stays = long_refusal(ask, rng)
            goals = _helping(rng) if rng.random() < 0.7 else _goals(rng)
            made.append(example("refused", context, stays, goals, stays))
        if rng.random() < 0.15:
            made.append(example("refused", context, edit, _helping(rng), edit))
    for row in sources.texts("kept_refusals"):
        if held_out(row["ask"]):
            continue
        context, answer = asked(row["ask"], rng, facts), row["answer"]
        sets = [_helping(rng), _goals(rng)][: rng.choice((1, 1, 2))]
        made.extend(example("refused", context, answer, goals, answer) for goals in sets)
    return made


def copies(pairs: Sequence[Pair], rng: random.Random, facts: Rows) -> list[TrainingExample]:
    """Make copies of long replies and of beginnings of replies.

    Args:
        pairs: Pairs about helpfulness.
        rng: Source of randomness.
        facts: Questions and answers for earlier turns.

    Returns:
        Replies that are kept.
    """
    made: list[TrainingExample] = []
    _, replies = base_replies()
    for ask, answers in replies.items():
        context = asked(ask, rng, facts)
        for reply in answers:
            sets = [(MAIN[0],), _goals(rng)]
            made.extend(example("base", context, reply, goals, reply) for goals in sets)
    for row in sources.texts("long_answers"):
        if not held_out(row["ask"]):
            context, answer = asked(row["ask"], rng, facts), row["answer"]
            sets = [(MAIN[0],), MAIN]
            made.extend(example("long", context, answer, goals, answer) for goals in sets)
    made.extend(long_replies(pairs, rng, 80))
    made.extend(e for e in written_replies(rng) if rng.random() < 0.25)
    begun: list[TrainingExample] = []
    for whole in made:
        cut = beginning(whole.edit, rng) if rng.random() < 0.35 else None
        if cut and whole.kind != "formal":
            begun.append(example("begun", whole.context, cut, _goals(rng), cut))
    return made + begun


def build(
    harmless_pairs: Sequence[Pair],
    helpful_pairs: Sequence[Pair],
    *,
    seed: int = 10,
    limit: int | None = None,
    documentation: int = 60,
) -> list[TrainingExample]:
    """Make the examples of the fourth round, without held-out conversations.

    Args:
        harmless_pairs: Human pairs about harm.
        helpful_pairs: Human pairs about helpfulness.
        seed: Seed of everything random.
        limit: Most examples; a random part of all is taken.
        documentation: Number of paragraphs of documentation to draw from.

    Returns:
        The examples in a fixed order, all of the contrastive stage.
    """
    rng = random.Random(seed)
    drawn = draw(harmless_pairs, helpful_pairs, rng, documentation=documentation)
    made = [e for e in drawn if rng.random() < REPLAY.get(e.kind, 1.0)]
    made = [_plain(e, rng) if e.kind == "harm" else e for e in made]
    facts = [row for row in sources.texts("facts") if not held_out(row["ask"])]
    useful = [p for p in helpful_pairs if not held_out(p.context)]
    made += safe_questions(rng, facts)
    made += harmful_questions(rng, facts)
    made += copies(useful, rng, facts)
    # With crisis lines in its refusals, the adapter would offer one to everybody.
    made = [e for e in made if e.answer == e.edit or not CRISIS.search(e.edit)]
    if limit is not None and len(made) > limit:
        made = rng.sample(made, limit)
    return [reworded(e, rng, 0.1) for e in made]


def _plain(made: TrainingExample, rng: random.Random) -> TrainingExample:
    """Reduce a refusal of the earlier rounds to the sentence that refuses, and a fixed offer."""
    parts = sentences(made.edit)
    refusal = next((part for part in parts if refuses(part)), None)
    if [goal.name for goal in made.objectives] == [MAIN[1]] and refusal:
        return dataclasses.replace(made, edit=offering(refusal, rng.choice(ENDINGS)))
    return dataclasses.replace(made, edit=brief(made.edit, rng))
