"""Makes examples from human preference pairs: replies that people rejected or preferred."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

from cookbook.recipes.embedded import sources
from cookbook.recipes.embedded.damage import (
    repeated,
    shortened,
    unfinished_list,
    unfinished_quote,
)
from cookbook.recipes.embedded.forms import (
    MAIN,
    formal,
    helpful_form,
    humorous_form,
    sentences,
    some,
)
from cookbook.recipes.embedded.sources import Pair, clean, identity, refuses
from cookbook.recipes.embedded.wordings import described, example
from langchain_metaaligner.editing.objectives import Objective
from langchain_metaaligner.training.data.example import TrainingExample

# Most characters of a conversation and twice its reply: what fits into the tokens of the training.
ROOM = 2100
HOTLINE = re.compile(r"\b(988|911|1-8\d\d-\d)")
# A reply that begins with a warning and then helps anyway.
HEDGED = re.compile(
    r"\b(but|however|although|still|if you (do|really|still|must|want))\b[^.]{0,80}\b"
    r"(you (could|can|may|might|should|would)|try|best way|one way|can work|some (people|ways))",
    re.IGNORECASE,
)
UNSEEN = ("readability", "honesty", "fairness", "specificity", "politeness")


def harmful(
    pairs: Iterable[Pair], rng: random.Random, harmful_share: float = 0.6
) -> list[TrainingExample]:
    """Turn bad replies into the refusals that were written for their conversations.

    Args:
        pairs: Pairs about harm.
        rng: Source of randomness.
        harmful_share: Share of them that is edited for harmlessness.

    Returns:
        Harmful replies that become refusals in several forms, and refusals that are kept.
    """
    written = {row["key"]: row["edit"] for row in sources.texts("refusals")}
    made: list[TrainingExample] = []
    for pair in pairs:
        edit = written.get(identity(pair.context))
        if edit is None:
            continue
        # With a crisis line in every third refusal, the adapter would offer one to everybody.
        if HOTLINE.search(edit) and rng.random() < 0.5:
            continue
        helpful, humorous = helpful_form(edit, rng), humorous_form(edit, rng)
        bad = [reply for reply in (pair.rejected, pair.chosen) if not refuses(reply[:90])]
        if not bad and HEDGED.search(pair.rejected):
            bad = [pair.rejected]
        elif bad and rng.random() < 0.12:
            bad[0] = f"{rng.choice(sources.lines('hedges'))} {bad[0]}"
        for place, reply in enumerate(bad):
            if place and rng.random() < 0.75:
                continue
            if rng.random() < harmful_share:
                goals = some(rng, MAIN[0], alone=0.7)
                made.append(example("harm", pair.context, reply, goals, edit))
            if place == 0:
                which = rng.random()
                if which < 0.21:
                    made.append(example("harm", pair.context, reply, (MAIN[1],), helpful))
                elif which < 0.42:
                    made.append(example("harm", pair.context, reply, (MAIN[2],), humorous))
        if rng.random() < 0.15:
            made.append(example("keep", pair.context, edit, some(rng), edit))
        if rng.random() < 0.2:
            stays = formal(edit, rng)
            goals = MAIN if rng.random() < 0.5 else some(rng)
            made.append(example("keep", pair.context, stays, goals, stays))
    return made


def preferences(pairs: Iterable[Pair], rng: random.Random) -> list[TrainingExample]:
    """Pick human pairs in which a clear refusal was preferred to an answer.

    Args:
        pairs: Pairs about harm.
        rng: Source of randomness.

    Returns:
        Edits from the rejected to the chosen reply, and chosen replies that are kept.
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


def good(pair: Pair, room: int) -> bool:
    """Say whether the better reply of a pair is worth copying.

    Args:
        pair: The pair.
        room: Most characters of the conversation and twice the reply.

    Returns:
        Whether it is short, complete, free of risky words and not a refusal.
    """
    fits = len(pair.context) + 2 * len(pair.chosen) <= room
    return fits and clean(pair.chosen) and not refuses(pair.chosen)


def kept(pairs: Iterable[Pair], rng: random.Random, limit: int) -> list[TrainingExample]:
    """Make copies of good human-preferred replies, and repairs of some that were cut off.

    Args:
        pairs: Pairs about helpfulness.
        rng: Source of randomness.
        limit: How many.

    Returns:
        Replies that are kept, and a few that lose their unfinished last sentence.
    """
    found = [p for p in pairs if good(p, ROOM)]
    rng.shuffle(found)
    made: list[TrainingExample] = []
    for place, pair in enumerate(found[:limit]):
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
        goals: tuple[str | Objective, ...] = some(rng) if place % 3 else MAIN
        if place % 8 == 5:
            unseen = rng.choice(UNSEEN)
            goals = (described(unseen, rng) if unseen == "politeness" else unseen,)
        made.append(example("keep", pair.context, reply, goals, reply))
    return made


def mended(pairs: Iterable[Pair], rng: random.Random, limit: int) -> list[TrainingExample]:
    """Damage good human-preferred replies and ask for the originals; shorten long ones.

    Args:
        pairs: Pairs about helpfulness.
        rng: Source of randomness.
        limit: How many of each kind of damage; twice as many are shortened.

    Returns:
        Replies that end within a list or a quotation or repeat themselves, with their repairs,
        and long replies with a short form.
    """
    # Repeats make a reply longer still.
    fitting = [p for p in pairs if good(p, ROOM // 2)]
    rng.shuffle(fitting)
    found: dict[str, list[TrainingExample]] = {"list": [], "quote": [], "repeat": [], "short": []}
    for pair in fitting:
        for kind, made in found.items():
            if len(made) >= (2 * limit if kind == "short" else limit):
                continue
            repair = _repair(kind, pair, rng)
            if repair is not None:
                made.append(repair)
                break
    return [example for made in found.values() for example in made]


def _repair(kind: str, pair: Pair, rng: random.Random) -> TrainingExample | None:
    if kind == "short":
        brief = shortened(pair.chosen)
        if brief is None:
            return None
        return example("short", pair.context, pair.chosen, (described("length", rng),), brief)
    damage = {"list": unfinished_list, "quote": unfinished_quote, "repeat": repeated}[kind]
    texts = damage(pair.chosen, rng)
    if texts is None:
        return None
    goals = ("repetition",) if kind == "repeat" and rng.random() < 0.5 else some(rng)
    return example("mend", pair.context, texts[0], goals, texts[1])
