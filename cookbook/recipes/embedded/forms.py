"""Random variants of a reply: rearranged, lightened, formal, refused or spoilt."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from cookbook.recipes.embedded import sources
from cookbook.recipes.embedded.sources import refuses
from langchain_metaaligner.editing.conversation import Turn
from langchain_metaaligner.editing.prompts import render_conversation

MAIN = ("harmlessness", "helpfulness", "humour")
GRAVE = re.compile(r"\b(988|911|1-8\d\d|child|kid|suicide|rape|assault|drug)", re.IGNORECASE)


def some(rng: random.Random, *needed: str, alone: float = 0.4) -> tuple[str, ...]:
    """Draw objectives that include the needed ones, in any order.

    Args:
        rng: Source of randomness.
        *needed: Objectives that have to be among them.
        alone: Probability that nothing is added.

    Returns:
        One to three objectives.
    """
    chosen = list(needed)
    if not chosen or rng.random() >= alone:
        rest = [name for name in MAIN if name not in chosen]
        chosen += rng.sample(rest, rng.randint(1, len(rest)))
    rng.shuffle(chosen)
    return tuple(chosen)


def sentences(text: str) -> list[str]:
    """Split a text into sentences.

    Args:
        text: Plain prose.

    Returns:
        Its sentences without the space between them.
    """
    return re.split(r"(?<=[.!?])\s+(?=[A-Z\"“'])", text.strip())


def helpful_form(refusal: str, rng: random.Random) -> str:
    """Rearrange a refusal: the helpful part first, the refusal last.

    Args:
        refusal: A refusal that ends with an offer.
        rng: Source of randomness.

    Returns:
        The same content for someone who asked for helpfulness alone.
    """
    parts = sentences(refusal)
    declines = [p for p in parts if refuses(p)][:1] or parts[:1]
    rest = [p for p in parts if p not in declines]
    if not rest or rest[-1].endswith("today?") or len(" ".join(rest).split()) < 6:
        return refusal
    return " ".join([rng.choice(sources.lines("leads")), *rest, *declines])


def humorous_form(refusal: str, rng: random.Random) -> str:
    """Lighten a refusal, unless its subject is too serious for a joke.

    Args:
        refusal: A refusal.
        rng: Source of randomness.

    Returns:
        The refusal with a playful opening, or as it was.
    """
    if GRAVE.search(refusal):
        return refusal
    kind = "quips" if re.search(r"(can't|won't) (help|explain|give)", refusal) else "light"
    return " ".join([rng.choice(sources.lines(kind)), refusal])


def formal(refusal: str, rng: random.Random) -> str:
    """Write a refusal in the long-winded style of large assistants.

    Args:
        refusal: A refusal of the same request.
        rng: Source of randomness.

    Returns:
        Two to seven sentences, sometimes in paragraphs.
    """
    parts = [rng.choice(sources.lines("formal_open"))]
    parts += rng.sample(sources.lines("formal_reason"), rng.choice((0, 1, 1, 2, 3)))
    if rng.random() < 0.5:
        parts += sentences(refusal)[-1:]
    parts += rng.sample(sources.lines("formal_offer"), rng.choice((0, 1, 1, 2)))
    joint = " " if rng.random() < 0.7 else "\n\n"
    cut = rng.randint(1, len(parts))
    return joint.join(part for part in (" ".join(parts[:cut]), " ".join(parts[cut:])) if part)


def declined(ask: str, rng: random.Random) -> str:
    """Write a needless refusal of a safe question.

    Args:
        ask: The question.
        rng: Source of randomness.

    Returns:
        A refusal; half of those for "how" questions name what was asked.
    """
    found = re.fullmatch(r"How (?:do|can|should) (?:I|you) ([^?.]+)\?", ask)
    if not found or rng.random() < 0.5:
        return rng.choice(sources.lines("needless"))
    wish = re.sub(r"\bmy\b", "your", re.sub(r"\bmyself\b", "yourself", found[1]))
    return rng.choice(sources.lines("refusing")).format(x=re.sub(r"\b(I|me)\b", "you", wish))


def asked(ask: str, rng: random.Random, earlier: Sequence[dict[str, str]]) -> str:
    """Put a question into a conversation, in a quarter of the cases after earlier turns.

    Args:
        ask: The question.
        rng: Source of randomness.
        earlier: Three or more questions and answers to draw earlier turns from.

    Returns:
        The context.
    """
    if rng.random() < 0.25:
        before = rng.sample(earlier, rng.choice((1, 1, 2, 3)))
        return conversation(*(t for row in before for t in (row["ask"], row["answer"])), ask)
    return conversation(ask)


def spoil(answer: str, rng: random.Random, others: Sequence[str]) -> str:
    """Spoil a good reply.

    Args:
        answer: The good reply.
        rng: Source of randomness.
        others: Replies to other questions.

    Returns:
        A reply that is off topic, rude, empty or repetitive.
    """
    first = sentences(answer)[0]
    return rng.choice(
        [
            rng.choice([other for other in others if other != answer]),
            rng.choice(sources.lines("rude")),
            rng.choice(sources.lines("empty")),
            " ".join([first] * rng.randint(2, 4)),
        ]
    )


def conversation(*turns: str) -> str:
    """Write a conversation as a context.

    Args:
        *turns: The turns; the first and the last are the human's.

    Returns:
        The context.
    """
    return render_conversation(
        [Turn("assistant" if i % 2 else "human", turn) for i, turn in enumerate(turns)]
    )
