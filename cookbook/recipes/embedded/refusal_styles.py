"""Composes long refusals in the styles that chat models have."""

from __future__ import annotations

import json
import random
import re
from functools import cache
from typing import NamedTuple

from cookbook.recipes.embedded.sources import TEXTS

LEAST_WORDS = 30
HOW = re.compile(
    r"\bhow (?:to|(?:do|can|could|should|would) (?:i|you|we|one)) ([^?.!,;:\n]+)", re.IGNORECASE
)
THING = re.compile(
    r"(?:write|give|tell|describe|draft)(?: me| us)? ((?:an?|the) [^?.!,;:\n]+)", re.IGNORECASE
)
YOURS = {"i": "you", "me": "you", "my": "your", "mine": "yours", "myself": "yourself"}


class Styles(NamedTuple):
    """What refusals are made of.

    Attributes:
        slots: What stands for each name in braces.
        openings: First sentences by register.
        reasons: Why not, by register.
        appeals: What the reader should do or think.
        offers: What there is instead; a sentence each, or an item of a list.
        headings: Lines before a list.
        closings: Last sentences.
    """

    slots: dict[str, str]
    openings: dict[str, list[str]]
    reasons: dict[str, list[str]]
    appeals: list[str]
    offers: list[str]
    headings: list[str]
    closings: list[str]


@cache
def styles() -> Styles:
    """Read the sentences.

    Returns:
        The content of `texts/refusal_styles.json`.
    """
    return Styles(**json.loads((TEXTS / "refusal_styles.json").read_text(encoding="utf-8")))


def topic(ask: str, rng: random.Random) -> str:
    """Name what was asked, as a refusal would.

    Args:
        ask: The question.
        rng: Source of randomness.

    Returns:
        "how to ..." or "a ..." in words of the question, or a general phrase.
    """
    how, thing = HOW.search(ask), THING.match(ask)
    named = f"how to {how[1]}" if how else thing[1] if thing else ""
    if not 2 < len(named.split()) < 14 or rng.random() < 0.15:
        return rng.choice(("this subject", "this topic", "this", "that"))
    return re.sub(
        r"\b(i|me|my|mine|myself)\b", lambda m: YOURS[m[0].lower()], named, flags=re.IGNORECASE
    )


def long_refusal(ask: str, rng: random.Random) -> str:
    """Refuse a question at length, whether it is harmful or not.

    Args:
        ask: The question.
        rng: Source of randomness.

    Returns:
        One to six paragraphs of 30 to 220 words in all, some with a list.
    """
    made = styles()
    register = rng.choice(sorted(made.openings))
    other = register if rng.random() < 0.7 else rng.choice(sorted(made.reasons))
    sentences = [
        rng.choice(made.openings[register]),
        *rng.sample(made.reasons[other], rng.choice((1, 1, 2, 2, 3))),
        *rng.sample(made.appeals, rng.choice((0, 0, 1, 1, 2, 3))),
    ]
    offers = rng.sample(made.offers, rng.choice((0, 1, 1, 2, 3, 4, 5)))
    spare = [appeal for appeal in made.appeals if appeal not in sentences]
    while len(" ".join([*sentences, *offers]).split()) < LEAST_WORDS:
        sentences.append(spare.pop(rng.randrange(len(spare))))
    blocks = _paragraphs(sentences, rng)
    if len(offers) >= 3 and rng.random() < 0.75:
        mark = rng.choice(("- ", "* ", "{}. "))
        items = [f"{mark.format(place)}{offer}" for place, offer in enumerate(offers, 1)]
        blocks.append("\n".join([rng.choice(made.headings), "", *items]))
    elif offers:
        blocks.append(" ".join(offers))
    if rng.random() < 0.6:
        blocks.append(rng.choice(made.closings))
    loose = [block for block in blocks if "\n" not in block]
    if len(loose) == len(blocks) and rng.random() < 0.35:
        blocks = [" ".join(blocks)]
    return "\n\n".join(blocks).replace("{topic}", topic(ask, rng))


def _paragraphs(sentences: list[str], rng: random.Random) -> list[str]:
    """Spread sentences over at most three paragraphs."""
    cuts = sorted(
        rng.sample(range(1, len(sentences)), min(rng.choice((0, 0, 1, 2)), len(sentences) - 1))
    )
    bounds = zip([0, *cuts], [*cuts, len(sentences)], strict=True)
    return [" ".join(sentences[start:end]) for start, end in bounds]
