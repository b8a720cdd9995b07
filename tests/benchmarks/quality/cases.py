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
from tests.benchmarks.quality import chat_replies
from tests.benchmarks.quality.chat_replies import ChatReply
from tests.benchmarks.quality.patterns import harm_words, objects

MAIN = ("harmlessness", "helpfulness", "humour")
USUAL = MAIN[:2]
HERE = Path(__file__).parent
# Longer ones cost minutes on two cores, and say little else.
CONTEXT_WORDS = 260
REPLY_WORDS = 160
REPLY_TOKENS = 250
# Chat models refuse and comply at length: here long replies are what is measured.
CHAT_TOKENS = 450

# Conversations of each bar, for the size 1. Bars of a few in a hundred want more cases, and copies
# are cheap; what was measured on replies like those of the training is there to compare.
SHARES = {
    "strong": 2.0,
    "safe": 5 / 3,
    "cut": 1 / 4,
    "needless": 1.0,
    "chat": 1.0,
    "other": 1 / 4,
    "unsafe": 1 / 2,
    "refusal": 1 / 2,
    "harmful": 1.0,
    "risky": 1 / 2,
    "objectives": 1 / 2,
    "lookalike": 2 / 3,
    "home": 1 / 4,
}


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
        model: Who wrote the answer, where that is known.
        area: What the question is about, where somebody sorted the questions.
    """

    bar: str
    context: str
    answer: str
    objectives: tuple[str, ...]
    reference: str = ""
    ask: str = ""
    model: str = ""
    area: str = ""

    @property
    def length(self) -> str:
        """`short`, `middle` or `long`."""
        words = len(self.answer.split())
        return "short" if words <= 40 else "middle" if words <= 120 else "long"

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


def chats(folder: Path, size: int, tokens: Callable[[str], int]) -> Iterator[Case]:
    """Replies of chat models that people judged; see `SHARES` for how many."""
    replies = [reply for reply in chat_replies.read(folder) if tokens(reply.text) <= CHAT_TOKENS]
    answers = {
        reply.prompt: reply.text for reply in replies if reply.safe and reply.verdict == "complies"
    }

    def case(bar: str, reply: ChatReply, goals: tuple[str, ...]) -> Case:
        context = conversation(reply.prompt)
        reference = answers.get(reply.prompt, "") if reply.safe else ""
        ask, text = reply.prompt, reply.text
        return Case(bar, context, text, goals, reference, ask, reply.model, reply.area)

    parts: dict[str, list[Case]] = {bar: [] for bar in SHARES}
    for reply in replies:
        draw = int(reply.order, 16)
        if reply.safe and reply.verdict == "complies":
            # To leave out the last half sentence spoils no good answer.
            bar = "cut" if reply.cut else "safe"
            parts[bar].append(case(bar, reply, (MAIN, USUAL, MAIN[:1])[draw % 3]))
        elif reply.safe and reply.verdict == "declines":
            parts["needless"].append(case("needless", reply, MAIN[1:2]))
        elif reply.harmful and reply.area in chat_replies.CLEAR.values():
            parts["chat"].append(case("chat", reply, MAIN[:1]))
        elif reply.harmful and reply.area in chat_replies.OTHER.values():
            parts["other"].append(case("other", reply, MAIN[:1]))
        elif reply.harmful:
            parts["unsafe"].append(case("unsafe", reply, MAIN[:1]))
        elif not reply.safe and reply.verdict == "declines":
            parts["refusal"].append(case("refusal", reply, (USUAL, MAIN[1:2])[draw % 2]))
    for bar, found in parts.items():
        yield from found[: count(bar, size)]


def count(bar: str, size: int) -> int:
    """How many conversations a bar has at most."""
    return round(size * SHARES[bar])


def choose(folder: Path, size: int, tokens: Callable[[str], int]) -> list[Case]:
    """Choose the cases of all bars.

    Args:
        folder: Holds the human pairs, the strong models' replies, and those of chat models.
        size: Most conversations for a bar, times its number in `SHARES`.
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
    looks = sorted(probes(), key=lambda row: identity(row["ask"]))[: count("lookalike", size)]
    refusals = needless()

    def human(bar: str, pair: Pair, goal: str) -> Case:
        return Case(bar, pair.context, pair.rejected, (goal,), reference=pair.chosen)

    made = [human("harmful", pair, MAIN[0]) for pair in harmful[: count("harmful", size)]]
    made += list(strong(folder, tokens))[: count("strong", size)]
    made += chats(folder, size, tokens)
    for place, row in enumerate(looks):
        draw = int(identity(row["ask"]), 16)
        goals, refusal = MAIN if draw % 2 else MAIN[:1], refusals[draw % len(refusals)]
        context, answer = conversation(row["ask"]), row["answer"]
        made.append(Case("lookalike", context, answer, goals, answer, row["ask"]))
        if place < count("home", size):
            made.append(Case("home", context, refusal, MAIN[1:2], answer, row["ask"]))
    made += [human("risky", pair, MAIN[0]) for pair in risky[: count("risky", size)]]
    few = risky[: count("objectives", size)]
    return made + [human("objectives", pair, goal) for pair in few for goal in MAIN]
