"""Conversations and what becomes of their answers: real ones, or made up where none are here."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_metaaligner.editing.objectives import parse_objectives
from langchain_metaaligner.editing.prompts import HH_RLHF, Prompt
from tests.benchmarks.labels import REAL_EDIT

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "hh_policy_replies.jsonl"
"""Rows with `context`, `golden` and `replies` {model: text}."""
REAL = DATA.with_name("aligner_edits.jsonl")
"""Rows with `query`, `policy`, `answer` and the `edit` that a published aligner made of it."""
LLAMA2 = DATA.with_name("llama2_tokenizer")
OBJECTIVES = ("harmlessness", "helpfulness")
HUMAN, ASSISTANT = "\n\nHuman:", " \n\nAssistant:"
TURNS = 6

UNCHANGED = "unchanged"
SENTENCE = "one sentence replaced"
CUT = "cut short after half"
LIGHT = "light edits"
REWRITE = "full rewrite"
CASES = (UNCHANGED, SENTENCE, CUT, LIGHT, REWRITE)


@dataclass(frozen=True)
class Told:
    """A context and an answer to it, with what others answered."""

    context: str
    answer: str
    others: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """One conversation with an answer, and several edits of it, as tokens with the end."""

    prompt: Prompt
    context: str
    answer: str
    ids: list[int]
    draft: list[int]
    edits: dict[str, list[int]]


def source() -> str:
    """Say where the conversations come from."""
    return "HH-RLHF contexts, replies of three models" if DATA.is_file() else "made up"


def told(*, seed: int = 1) -> list[Told]:
    """All answers there are, in random order."""
    rng = random.Random(seed)
    found = list(_real() if DATA.is_file() else _made_up(rng))
    rng.shuffle(found)
    return found


def conversations(codec: Any, end: int, count: int, *, seed: int = 1) -> list[Case]:
    """Conversations of 300 to 700 prompt tokens with answers of 100 to 250."""
    rng = random.Random(seed)
    pool = told(seed=seed)
    words = [word for one in pool[:200] for word in one.answer.split() if word.isalpha()]
    cases: list[Case] = []
    for one in pool:
        prompt = rendered(one.context, one.answer)
        ids, draft = codec.encode(prompt.text), codec.spellings(prompt.draft)[0]
        if not (300 <= len(ids) <= 700 and 100 <= len(draft) <= 250):
            continue
        texts = edited(prompt.draft, rng.choice(pool).answer, words, rng)
        rewrites = [other for other in one.others if other not in ("", one.answer)]
        if not texts or not rewrites:
            continue
        texts[REWRITE] = rng.choice(rewrites)
        edits = {name: [*codec.spellings(text)[0], end] for name, text in texts.items()}
        edits[CUT] = [*draft[: len(draft) // 2], end]
        cases.append(Case(prompt, one.context, one.answer, ids, draft, edits))
        if len(cases) == count:
            break
    return cases


def real_edits(
    codec: Any, end: int, window: int, words: range = range(1, 10_000)
) -> dict[str, list[Case]]:
    """Real edits of a published aligner, most of them rewrites, by the model that answered.

    Args:
        codec: Tokenises prompts and outputs.
        end: The token that ends an output.
        window: How many tokens a prompt and its output may have together.
        words: How many words an edit may have.

    Returns:
        Cases with one edit each, named `REAL_EDIT`; empty where the file is not here.
    """
    found: dict[str, list[Case]] = {}
    if not REAL.is_file():
        return found
    for line in REAL.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if len(row["edit"].split()) not in words:
            continue
        context = f"{HUMAN} {row['query']}{ASSISTANT}"
        prompt = rendered(context, row["answer"])
        ids, draft = codec.encode(prompt.text), codec.spellings(prompt.draft)[0]
        edit = [*codec.spellings(row["edit"])[0], end]
        if len(ids) + len(edit) <= window:
            case = Case(prompt, context, row["answer"], ids, draft, {REAL_EDIT: edit})
            found.setdefault(row["policy"], []).append(case)
    return found


def edited(
    answer: str, stranger: str, words: list[str], rng: random.Random
) -> dict[str, str] | None:
    """Edits of an answer: none, a sentence of a stranger's in its middle, a word in fifteen."""
    sentences = re.findall(r"[^.!?\n]+[.!?\n]*\s*", answer)
    strange = [one for one in re.findall(r"[^.!?\n]+[.!?]", stranger) if 40 < len(one) < 160]
    if len(sentences) < 4 or not strange:
        return None
    middle = len(sentences) // 2
    other = [*sentences[:middle], strange[0].strip() + " ", *sentences[middle + 1 :]]
    light = re.split(r"(\s+)", answer)
    for place in range(14, len(light), 30):
        if light[place].isalpha():
            light[place] = rng.choice(words)
    return {UNCHANGED: answer, SENTENCE: "".join(other), LIGHT: "".join(light)}


def chats(codec: Any, count: int, *, seed: int = 1) -> list[list[Prompt]]:
    """Chats of six turns, each as the prompts of its six edits, up to 300 to 700 tokens long."""
    made: list[list[Prompt]] = []
    seen: set[str] = set()
    for one in told(seed=seed):
        turns = one.context.split(HUMAN)[1:]
        if len(turns) < TURNS or one.context in seen:
            continue
        seen.add(one.context)
        prompts = []
        for turn in range(TURNS):
            before = HUMAN + HUMAN.join(turns[:turn])
            asked, _, said = turns[turn].partition(ASSISTANT.strip())
            context = (before if turn else "") + HUMAN + asked.rstrip() + ASSISTANT
            prompts.append(rendered(context, said.strip() or one.answer))
        if 300 <= len(codec.encode(prompts[-1].text)) <= 700:
            made.append(prompts)
        if len(made) == count:
            break
    return made


def rendered(context: str, answer: str) -> Prompt:
    """The prompt of an edit."""
    return HH_RLHF.render(context, answer, parse_objectives(OBJECTIVES))


def _real() -> Iterator[Told]:
    for line in DATA.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        answers = (*row["replies"].values(), row["golden"])
        for reply in row["replies"].values():
            yield Told(row["context"], reply, answers)


def _made_up(rng: random.Random, count: int = 300) -> Iterator[Told]:
    """Talk made of the sentences of this project's own documents."""
    text = "\n".join(file.read_text(encoding="utf-8") for file in sorted(ROOT.glob("*.md")))
    prose = re.sub(r"(?ms)^```.*?^```$|^\|.*?$|<!--.*?-->", "", text)
    flat = (re.sub(r"\s+", " ", one).strip() for one in re.findall(r"[A-Z][^.!?|]+[.!?]", prose))
    sentences = sorted({one for one in flat if 40 < len(one) < 160})

    def some(few: int, many: int) -> str:
        return " ".join(rng.sample(sentences, rng.randint(few, many)))

    for number in range(count):
        turns = TURNS if number % 10 == 0 else 2
        context = HUMAN + f"{HUMAN} ".join(
            f" {some(1, 2)}{ASSISTANT} {some(2, 3)}" for _ in range(turns - 1)
        )
        answers = tuple(some(5, 8) for _ in range(3))
        yield Told(f"{context}{HUMAN} {some(1, 2)}{ASSISTANT}", answers[0], answers)
