"""Composes short general answers to safe questions: true whatever the subject."""

from __future__ import annotations

import json
import random
import re
from functools import cache
from typing import NamedTuple

from cookbook.recipes.embedded.forms import sentences
from cookbook.recipes.embedded.refusal_styles import HOW, YOURS
from cookbook.recipes.embedded.sources import TEXTS

_MOST_WORDS = 11  # of a question's words in an answer
_MOST_PLAIN = 30  # words
_FORMS = {
    "how": HOW,
    "where": re.compile(
        r"\bwhere (?:can|do|should|could) (?:i|you|we) ([^?.!,;:\n]+)", re.IGNORECASE
    ),
    "mean": re.compile(r"\bwhat (?:does|do) ([^?.!,;:\n]+?) means?\b", re.IGNORECASE),
    "what": re.compile(
        r"\b(?:what|who)(?:['’]s| is| are| was| were) "
        r"((?:an?|the|my|your|some) [^?.!,;:\n]+|(?-i:[A-Z\"“])[^?.!,;:\n]+)",
        re.IGNORECASE,
    ),
    "write": re.compile(
        r"\b(?:write|draft|compose|give|invent)(?: me| us)? ((?:an?|some) [^?.!,;:\n]+)",
        re.IGNORECASE,
    ),
    "may": re.compile(r"^(?:can|may|should|could|is it|do i|am i|will it) ?()", re.IGNORECASE),
}


class Answers(NamedTuple):
    """What general answers are made of.

    Attributes:
        opening: First sentences by form of question, with what was asked in place of `{topic}`.
        advice: Second sentences by subject.
        subjects: Patterns of the words that a question on a subject has; the first one counts.
    """

    opening: dict[str, list[str]]
    advice: dict[str, list[str]]
    subjects: dict[str, str]


@cache
def answers() -> Answers:
    """Read the sentences.

    Returns:
        The content of `texts/general_answers.json`.
    """
    return Answers(**json.loads((TEXTS / "general_answers.json").read_text(encoding="utf-8")))


def subject(ask: str) -> str:
    """Guess what a question is about, from its words.

    Args:
        ask: The question.

    Returns:
        A key of `Answers.advice`; "other" if it has none of the words.
    """
    for name, words in answers().subjects.items():
        if re.search(rf"(?<!\w)(?:{words})(?:s|ing|ed)?(?!\w)", ask, re.IGNORECASE):
            return name
    return "other"


def general_answer(ask: str, rng: random.Random) -> str:
    """Answer a safe question with what anybody may say about it.

    A model of this size doesn't know the answers: where it was trained on facts, it invented them.

    Args:
        ask: The question.
        rng: Source of randomness.

    Returns:
        A sentence that names what was asked where that is grammatical, and a piece of advice.
    """
    form, topic = "other", ""
    for name, pattern in _FORMS.items():
        found = pattern.search(ask)
        if found and len(found[1].split()) <= _MOST_WORDS:
            form, topic = name, found[1].strip()
            break
    turned = re.sub(
        r"\b(i|me|my|mine|myself)\b", lambda m: YOURS[m[0].lower()], topic, flags=re.IGNORECASE
    )
    opening = rng.choice(answers().opening[form]).format(topic=turned)
    about = subject(ask)
    if form == "how" and about in ("past", "science", "words"):
        about = "other"
    elif form not in ("how", "may", "write") and about in ("other", "people"):
        about = "facts"
    return f"{opening} {rng.choice(answers().advice[about])}"


def plain(answer: str) -> str | None:
    """Take the beginning of an answer if it holds nothing that a small model would invent.

    Args:
        answer: A true answer.

    Returns:
        Its first one or two sentences, without a number, a name or a quotation; or `None`.
    """
    text = " ".join(sentences(answer)[:2])
    inner = re.sub(r"(?:^|(?<=[.!?:] ))[A-Z]", "", text)
    facts = re.search(r"[0-9\"“`*\n]|(?<!\w)(?!I\b)[A-Z]", inner)
    return None if facts or len(text.split()) > _MOST_PLAIN else text
