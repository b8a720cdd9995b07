"""Makes the examples of the later rounds: the kinds of the first, and long copies."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from cookbook.recipes.embedded import sources
from cookbook.recipes.embedded.examples import draw
from cookbook.recipes.embedded.forms import MAIN, conversation, some
from cookbook.recipes.embedded.human import good
from cookbook.recipes.embedded.sources import Pair, held_out
from cookbook.recipes.embedded.wordings import example, reworded
from langchain_metaaligner.training.data.example import TrainingExample

# After the first round the adapter dropped last sentences, as it had learned to drop unfinished
# ones, and refused odd instructions; its refusals and answers were as wanted.
COPYING = {
    "look": 0.5,
    "answer": 0.5,
    "harm": 0.7,
    "humour": 0.6,
    "keep": 0.7,
    "mend": 0.3,
    "cut": 0.3,
    "rule": 0.3,
    "short": 0.3,
    "spoilt": 0.6,
    "unseen": 0.7,
    "format": 0.7,
    "document": 0.7,
}
# After the second it copied better and let less harm pass, but refused 9 of 212 safe questions that
# sound dangerous.
BALANCE = {
    "look": 0.8,
    "answer": 0.15,
    "harm": 0.2,
    "humour": 0.3,
    "keep": 0.2,
    "mend": 0.1,
    "cut": 0.1,
    "rule": 0.1,
    "short": 0.1,
    "spoilt": 0.2,
    "unseen": 0.3,
    "format": 0.3,
    "document": 0.3,
    "long": 0.3,
    "written": 0.25,
    "formal": 0.5,
}
_LONG = 85  # words
_ROOM = 3000  # characters of a conversation and twice its reply


def _goals(rng: random.Random) -> tuple[str, ...]:
    return MAIN if rng.random() < 0.6 else some(rng)


def long_replies(pairs: Sequence[Pair], rng: random.Random, limit: int) -> list[TrainingExample]:
    """Make copies of long human-preferred replies.

    Args:
        pairs: Pairs about helpfulness.
        rng: Source of randomness.
        limit: How many.

    Returns:
        Replies that are kept.
    """
    found = [p for p in pairs if good(p, _ROOM) and len(p.chosen.split()) >= _LONG]
    rng.shuffle(found)
    return [example("long", p.context, p.chosen, _goals(rng), p.chosen) for p in found[:limit]]


def written_replies(rng: random.Random) -> list[TrainingExample]:
    """Make copies of code, outlines, tasks, prose and formal refusals.

    Args:
        rng: Source of randomness.

    Returns:
        Replies that are kept, for several sets of objectives.
    """
    made: list[TrainingExample] = []
    for row in sources.texts("replies"):
        if held_out(row["ask"]):
            continue
        context, answer = conversation(row["ask"]), row["answer"]
        sets = [_goals(rng)]
        if rng.random() < 0.6:
            sets.append(some(rng))
        made.extend(example("written", context, answer, goals, answer) for goals in sets)
    for row in sources.texts("formal"):
        turns = [row[key] for key in ("earlier_ask", "earlier_reply", "ask") if key in row]
        if held_out(turns[0]):
            continue
        context, answer = conversation(*turns), row["answer"]
        sets = [MAIN, some(rng)]
        made.extend(example("formal", context, answer, goals, answer) for goals in sets)
    return made


def build(
    harmless_pairs: Sequence[Pair],
    helpful_pairs: Sequence[Pair],
    *,
    seed: int = 8,
    shares: Mapping[str, float] = COPYING,
    copies: int = 140,
) -> list[TrainingExample]:
    """Make the examples of a later round, without held-out conversations.

    Args:
        harmless_pairs: Human pairs about harm.
        helpful_pairs: Human pairs about helpfulness.
        seed: Seed of everything random.
        shares: Share taken of each kind; the others are taken whole.
        copies: Number of long human replies to draw from.

    Returns:
        The examples in a fixed order, all of the contrastive stage.
    """
    rng = random.Random(seed)
    drawn = draw(harmless_pairs, helpful_pairs, rng)
    useful = [p for p in helpful_pairs if not held_out(p.context)]
    made = [e for e in drawn if rng.random() < shares.get(e.kind, 1.0)]
    more = [*long_replies(useful, rng, copies), *written_replies(rng)]
    made += [e for e in more if e.kind not in shares or rng.random() < shares[e.kind]]
    return [reworded(e, rng, 0.12) for e in made]
