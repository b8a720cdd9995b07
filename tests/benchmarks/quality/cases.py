"""Chooses what is edited: one list of cases for each bar, none of them from training."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cookbook.recipes.embedded import sources
from cookbook.recipes.embedded.forms import conversation
from cookbook.recipes.embedded.sources import Pair, held_out, identity
from tests.benchmarks.quality.patterns import harm_words, objects

MAIN = ("harmlessness", "helpfulness", "humour")
HERE = Path(__file__).parent
# Longer ones cost minutes on two cores, and say little else.
CONTEXT_WORDS = 260
REPLY_WORDS = 160
REPLY_TOKENS = 250


@dataclass(frozen=True)
class Case:
    """One answer to edit.

    Attributes:
        bar: What it is measured for.
        context: The conversation.
        answer: The reply to edit.
        objectives: Towards what.
        reference: A better reply where one is known: people's choice, or the answer.
        ask: The question, where the context is one question.
    """

    bar: str
    context: str
    answer: str
    objectives: tuple[str, ...]
    reference: str = ""
    ask: str = ""

    @property
    def key(self) -> str:
        """The same for the same edit, whatever it is measured for."""
        text = json.dumps([self.context, self.answer, self.objectives])
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    @property
    def group(self) -> str:
        """The conversation, for intervals."""
        return identity(self.context.split("\n\nAssistant:", maxsplit=1)[0])


def rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def human_pairs(folder: Path) -> tuple[list[Pair], list[Pair]]:
    """Human pairs about harm: those of the training split, and those held out."""
    pairs = sources.pairs(folder / "hh_harmless_pairs.jsonl")
    return (
        [pair for pair in pairs if not held_out(pair.context)],
        [pair for pair in pairs if held_out(pair.context)],
    )


def probes() -> list[dict[str, str]]:
    """Safe questions that sound dangerous, with good answers; none was trained on."""
    return [*sources.texts("probes"), *rows(HERE / "probes.jsonl")]


def needless() -> list[str]:
    """Refusals to put under safe questions; none was trained on."""
    own = json.loads((HERE / "refusals.json").read_text(encoding="utf-8"))
    return [*sources.lines("needless_probe"), *own]


def last_turn(context: str) -> str:
    """What the human said last."""
    turn = context.rsplit("\n\nHuman:", 1)[-1]
    return turn.rsplit("\n\nAssistant:", 1)[0].strip()


def _short(pairs: Sequence[Pair]) -> list[Pair]:
    return [
        pair
        for pair in pairs
        if len(pair.context.split()) <= CONTEXT_WORDS and len(pair.rejected.split()) <= REPLY_WORDS
    ]


def strong(folder: Path, tokens: Callable[[str], int]) -> Iterator[Case]:
    """One good reply of a strong model for each held-out conversation, from both files in turn."""
    rng = random.Random(11)
    lists = []
    for name, field in (
        ("hh_policy_replies", "context"),
        ("ultrafeedback_policy_replies", "query"),
    ):
        found = []
        for row in rows(folder / f"{name}.jsonl"):
            context = row[field] if field == "context" else conversation(row[field])
            fit = [text for text in row["replies"].values() if len(text.split()) > 10]
            fit = [text for text in fit if len(text) < 8 * REPLY_TOKENS]
            if not held_out(context) or len(context.split()) > CONTEXT_WORDS or not fit:
                continue
            reply = rng.choice(fit)
            if tokens(reply) <= REPLY_TOKENS:
                found.append(Case("strong", context, reply, MAIN))
        rng.shuffle(found)
        lists.append(found)
    for place in range(max(map(len, lists))):
        yield from (found[place] for found in lists if place < len(found))


def choose(folder: Path, size: int, tokens: Callable[[str], int]) -> list[Case]:
    """Choose the cases of all bars.

    Args:
        folder: Holds the human pairs and the strong models' replies.
        size: Most conversations for a bar; four times as many safe questions that sound dangerous.
        tokens: Counts the tokens of a reply.

    Returns:
        The cases; a smaller size gives a part of those of a larger one. Every draw hangs on a text
        of the case alone, so that a text added anywhere leaves the other cases as they were.
    """
    held = sorted(_short(human_pairs(folder)[1]), key=lambda pair: identity(pair.rejected))
    bad = [pair for pair in held if not objects(pair.rejected)]
    # For these conversations somebody who read them thought that a refusal was in place.
    written = {row["key"] for row in sources.texts("refusals")}
    risky = [pair for pair in bad if identity(pair.context) in written]
    harmful = [
        pair
        for pair in bad
        if harm_words(pair.rejected) or (pair in risky and harm_words(last_turn(pair.context)))
    ]
    # A bar of three in a hundred wants more cases, and copies are cheap.
    looks = sorted(probes(), key=lambda row: identity(row["ask"]))[: 4 * size]
    refusals = needless()

    def human(bar: str, pair: Pair, goal: str) -> Case:
        return Case(bar, pair.context, pair.rejected, (goal,), reference=pair.chosen)

    made = [human("harmful", pair, MAIN[0]) for pair in harmful[:size]]
    made += list(strong(folder, tokens))[:size]
    for place, row in enumerate(looks):
        draw = int(identity(row["ask"]), 16)
        goals, refusal = MAIN if draw % 2 else MAIN[:1], refusals[draw % len(refusals)]
        context, answer = conversation(row["ask"]), row["answer"]
        made.append(Case("lookalike", context, answer, goals, answer, row["ask"]))
        if place < size:
            made.append(Case("needless", context, refusal, MAIN[1:2], answer, row["ask"]))
    made += [human("risky", pair, MAIN[0]) for pair in risky[:size]]
    made += [human("objectives", pair, goal) for pair in risky[:size] for goal in MAIN]
    return made
