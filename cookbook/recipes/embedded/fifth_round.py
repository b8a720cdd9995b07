"""Makes the examples of the fifth round: the default's objectives, and long harmful replies."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from cookbook.recipes.embedded import sources
from cookbook.recipes.embedded.chat_round import (
    CRISIS,
    ENDINGS,
    OFFERS,
    Rows,
    base_replies,
    beginning,
    brief,
)
from cookbook.recipes.embedded.examples import draw, variants
from cookbook.recipes.embedded.forms import (
    MAIN,
    asked,
    conversation,
    declined,
    humorous_form,
    sentences,
    some,
)
from cookbook.recipes.embedded.general_answers import general_answer, plain
from cookbook.recipes.embedded.later_rounds import long_replies, written_replies
from cookbook.recipes.embedded.refusal_styles import long_refusal
from cookbook.recipes.embedded.sources import TEXTS, Pair, held_out, refuses
from cookbook.recipes.embedded.wordings import example, reworded
from langchain_metaaligner.training.data.example import TrainingExample

# Shares of the kinds of the first rounds.
REPLAY = {
    "look": 0.0,
    "answer": 0.0,
    "harm": 0.11,
    "humour": 0.7,
    "keep": 0.1,
    "mend": 0.1,
    "cut": 0.1,
    "rule": 0.2,
    "short": 0.1,
    "spoilt": 0.1,
    "unseen": 0.3,
    "format": 0.5,
    "document": 0.2,
}
DEFAULT = MAIN[:2]
# The areas in which the fourth round let most replies of chat models pass.
WEAK = ("private", "toxic", "malicious")
_LONGEST = 260  # words


class Frames(NamedTuple):
    """What stands around the substance of a chat model's reply.

    Attributes:
        openings: First lines.
        headings: Lines between two parts.
        closings: Last lines.
    """

    openings: list[str]
    headings: list[str]
    closings: list[str]


@cache
def frames() -> Frames:
    """Read the lines.

    Returns:
        The content of `texts/chat_frames.json`.
    """
    return Frames(**json.loads((TEXTS / "chat_frames.json").read_text(encoding="utf-8")))


def framed(parts: Sequence[str], rng: random.Random) -> str:
    """Put a chat model's frame around a reply. Good and harmful ones get the same frames.

    Args:
        parts: The reply, or several to one question that become one.
        rng: Source of randomness.

    Returns:
        The parts with an opening, headings between them and mostly an ending.
    """
    made = frames()
    blocks = [rng.choice(made.openings)] if rng.random() < 0.75 else []
    for place, part in enumerate(parts):
        if place:
            blocks.append(rng.choice(made.headings))
        blocks.append(part)
    if rng.random() < 0.7 or not blocks[1:]:
        blocks.append(rng.choice(made.closings))
    return "\n\n".join(blocks)


def goals_of(rng: random.Random) -> tuple[str, ...]:
    """Draw objectives for a reply of any kind.

    Copies and harm share it. In the fourth round, examples with several objectives were mostly
    copies, and the adapter learned that several objectives mean a copy.

    Args:
        rng: Source of randomness.

    Returns:
        Objectives, harmlessness among them.
    """
    sets = ((MAIN[0],), DEFAULT, MAIN, some(rng, MAIN[0], alone=0.0))
    return rng.choices(sets, (0.32, 0.33, 0.22, 0.13))[0]


def helping(rng: random.Random) -> tuple[str, ...]:
    """Draw objectives for a refusal, right or needless.

    Args:
        rng: Source of randomness.

    Returns:
        Objectives, helpfulness among them.
    """
    sets = ((MAIN[1],), DEFAULT, MAIN, some(rng, MAIN[1]))
    return rng.choices(sets, (0.5, 0.3, 0.1, 0.1))[0]


def helpful_refusal(refusal: str, offer: str) -> str:
    """Rearrange a refusal for helpfulness alone: always in another form than for harmlessness.

    Args:
        refusal: A refusal of one or two sentences, of which the second may be an offer.
        offer: The offer if it has none.

    Returns:
        "I can ..., but I can't ...", or the offer before the refusal.
    """
    first, *rest = sentences(refusal)
    if rest and rest[-1].startswith(("I can ", "I'd ", "I'm ")):
        offer = rest[-1]
    if first.startswith(("I can't ", "I won't ")):
        return f"{offer.removesuffix('.')}, but {first}"
    return f"{offer} {first}"


def safe_questions(rng: random.Random, facts: Rows) -> list[TrainingExample]:
    """Make examples from safe questions, most of which sound dangerous.

    Args:
        rng: Source of randomness.
        facts: Questions and answers for earlier turns.

    Returns:
        Answers that stay, and needless refusals that become short and mostly general answers.
    """
    made: list[TrainingExample] = []
    for row in [*sources.texts("lookalikes"), *variants(rng), *sources.texts("safe"), *facts]:
        ask, answer = row["ask"], row["answer"]
        if held_out(ask):
            continue
        context = asked(ask, rng, facts)
        drawn = rng.random()
        if drawn < 0.42:
            reply = framed([answer], rng) if rng.random() < 0.25 else answer
            goals = goals_of(rng) if rng.random() < 0.9 else some(rng)
            made.append(example("look", context, reply, goals, reply))
        if drawn > 0.8:
            bad = long_refusal(ask, rng) if rng.random() < 0.65 else declined(ask, rng)
            known = plain(answer) if rng.random() < 0.45 else None
            edit = known or general_answer(ask, rng)
            made.append(example("answer", context, bad, helping(rng), edit))
        if 0.72 < drawn < 0.76:
            stays = general_answer(ask, rng)
            made.append(example("look", context, stays, goals_of(rng), stays))
    return made


def harmful_questions(rng: random.Random, facts: Rows) -> list[TrainingExample]:
    """Make examples from harmful requests, for the objectives that copies have too.

    Args:
        rng: Source of randomness.
        facts: Questions and answers for earlier turns.

    Returns:
        Short, long and unfinished replies that become refusals, and refusals that stay.
    """
    replies, _ = base_replies()
    made: list[TrainingExample] = []
    asks = [(row["ask"], row["edit"], row["area"]) for row in sources.texts("harmful_asks")]
    by_area: dict[str, list[str]] = {}
    for ask, _, area in asks:
        by_area.setdefault(area, []).extend(replies.get(ask, []))
    for ask, edit, area in asks:
        if held_out(ask):
            continue
        context = asked(ask, rng, facts)
        for bad in replies.get(ask, []):
            if area not in WEAK and rng.random() < 0.5:
                continue
            drawn = rng.random()
            if drawn < 0.55:
                parts = [bad]
                if rng.random() < 0.5:
                    parts.append(rng.choice(by_area[area]))
                text = framed(parts, rng)
                text = text if len(text.split()) <= _LONGEST else framed([bad], rng)
                kind = "harm"
            else:
                cut = beginning(bad, rng) if drawn < 0.85 else None
                text, kind = cut or bad, "begun" if cut else "harm"
            made.append(_refused(kind, context, text, edit, OFFERS[area], rng))
        drawn = rng.random()
        if drawn < 0.3:
            stays = long_refusal(ask, rng) if drawn < 0.22 else edit
            made.append(example("refused", context, stays, helping(rng), stays))
    for row in sources.texts("risky"):
        if held_out(row["ask"]):
            continue
        context, edit = asked(row["ask"], rng, facts), brief(row["harmless"], rng)
        if refuses(edit):
            made.append(_refused("harm", context, row["bad"], edit, ENDINGS[1], rng))
            if rng.random() < 0.4:
                made.append(example("harm", context, row["bad"], DEFAULT, edit))
    for row in sources.texts("kept_refusals"):
        if not held_out(row["ask"]) and rng.random() < 0.3:
            context, answer = asked(row["ask"], rng, facts), row["answer"]
            goals = helping(rng) if rng.random() < 0.6 else goals_of(rng)
            made.append(example("refused", context, answer, goals, answer))
    return made


def copies(pairs: Sequence[Pair], rng: random.Random, facts: Rows) -> list[TrainingExample]:
    """Make copies of long, formatted, numeric and multilingual replies, and of follow-ups.

    Args:
        pairs: Pairs about helpfulness.
        rng: Source of randomness.
        facts: Questions and answers for earlier turns.

    Returns:
        Replies that are kept.
    """
    made: list[TrainingExample] = []
    for name, twice in (("formatted_answers", 0.3), ("long_answers", 0.0), ("short_tasks", 0.7)):
        for row in sources.texts(name):
            if held_out(row["ask"]):
                continue
            context, answer = asked(row["ask"], rng, facts), row["answer"]
            sets = [goals_of(rng), MAIN][: 2 if rng.random() < twice else 1]
            kind = "task" if name == "short_tasks" else "long"
            made.extend(example(kind, context, answer, goals, answer) for goals in sets)
    for turns, answer in sources.dialogues():
        if not held_out(turns[0]):
            context = conversation(*turns)
            sets = [goals_of(rng), MAIN][: rng.choice((1, 2))]
            made.extend(example("dialogue", context, answer, goals, answer) for goals in sets)
    _, replies = base_replies()
    for ask, answers in replies.items():
        for reply in answers:
            if rng.random() < 0.3:
                text = framed([reply], rng) if rng.random() < 0.5 else reply
                made.append(example("base", asked(ask, rng, facts), text, goals_of(rng), text))
    made.extend(long_replies(pairs, rng, 40))
    made.extend(e for e in written_replies(rng) if rng.random() < 0.3)
    begun: list[TrainingExample] = []
    for whole in made:
        cut = beginning(whole.edit, rng) if rng.random() < 0.25 else None
        if cut and whole.kind != "formal":
            begun.append(example("begun", whole.context, cut, goals_of(rng), cut))
    return made + begun


def build(
    harmless_pairs: Sequence[Pair],
    helpful_pairs: Sequence[Pair],
    *,
    seed: int = 11,
    limit: int | None = None,
    documentation: int = 60,
) -> list[TrainingExample]:
    """Make the examples of the fifth round, without held-out conversations.

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
    made = [_plainer(e, rng) if e.kind == "harm" else e for e in made]
    facts = [row for row in sources.texts("facts") if not held_out(row["ask"])]
    useful = [p for p in helpful_pairs if not held_out(p.context)]
    made += safe_questions(rng, facts)
    made += harmful_questions(rng, facts)
    made += copies(useful, rng, facts)
    made = [e for e in made if e.answer == e.edit or not CRISIS.search(e.edit)]
    if limit is not None and len(made) > limit:
        made = rng.sample(made, limit)
    return [reworded(e, rng, 0.1) for e in made]


def _refused(
    kind: str, context: str, bad: str, edit: str, offer: str, rng: random.Random
) -> TrainingExample:
    """Refuse a harmful reply: for one of the three objectives in its form, or for several."""
    drawn = rng.random()
    if drawn < 0.15:
        return example(kind, context, bad, (MAIN[1],), helpful_refusal(edit, offer))
    if drawn < 0.31:
        return example(kind, context, bad, (MAIN[2],), humorous_form(edit, rng))
    return example(kind, context, bad, goals_of(rng), edit)


def _plainer(made: TrainingExample, rng: random.Random) -> TrainingExample:
    """Reduce a refusal of the first rounds to the sentence that refuses, and a fixed offer."""
    parts = sentences(made.edit)
    refusal = next((part for part in parts if refuses(part)), None)
    names = [goal.name for goal in made.objectives]
    if names == [MAIN[1]] and refusal:
        edit = helpful_refusal(refusal, rng.choice(ENDINGS))
        return dataclasses.replace(made, edit=edit)
    if names == [MAIN[2]]:
        return dataclasses.replace(made, edit=brief(made.edit, rng))
    edit = brief(made.edit, rng)
    return example("harm", made.context, made.answer, goals_of(rng), edit)
