"""Real conversations and what becomes of their answers, from the data folder beside the project."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_metaaligner.objectives import parse_objectives
from langchain_metaaligner.prompting import HH_RLHF, Prompt

DATA = Path(__file__).parents[3] / "shared" / "data" / "hh_policy_replies.jsonl"
OBJECTIVES = ("harmlessness", "helpfulness")


@dataclass(frozen=True)
class Case:
    """One conversation with an answer, and several edits of it, as tokens with the end."""

    prompt: Prompt
    answer: str
    ids: list[int]
    draft: list[int]
    edits: dict[str, list[int]]


def conversations(codec: Any, end: int, count: int, *, seed: int = 1) -> list[Case]:
    """Conversations of 300 to 700 prompt tokens with answers of 100 to 250."""
    rng = random.Random(seed)
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    pairs = [
        (row["context"], reply, [*row["replies"].values(), row["golden"]])
        for row in rows
        for reply in row["replies"].values()
    ]
    rng.shuffle(pairs)
    wanted = parse_objectives(OBJECTIVES)
    words = [word for _, reply, _ in pairs[:200] for word in reply.split() if word.isalpha()]
    cases: list[Case] = []
    for context, answer, others in pairs:
        prompt = HH_RLHF.render(context, answer, wanted)
        ids, draft = codec.encode(prompt.text), codec.spellings(prompt.draft)[0]
        sentences = re.findall(r"[^.!?\n]+[.!?\n]*\s*", prompt.draft)
        strange = [
            one
            for one in re.findall(r"[^.!?\n]+[.!?]", rng.choice(pairs)[1])
            if 40 < len(one) < 160
        ]
        if not (300 <= len(ids) <= 700 and 100 <= len(draft) <= 250 and strange):
            continue
        if len(sentences) < 4:
            continue
        middle = len(sentences) // 2
        other = [*sentences[:middle], strange[0].strip() + " ", *sentences[middle + 1 :]]
        light = re.split(r"(\s+)", prompt.draft)
        for place in range(14, len(light), 30):
            if light[place].isalpha():
                light[place] = rng.choice(words)
        texts = {
            "unchanged": prompt.draft,
            "one sentence replaced": "".join(other),
            "light edits": "".join(light),
            "full rewrite": rng.choice([one for one in others if one != answer]),
        }
        edits = {name: [*codec.spellings(text)[0], end] for name, text in texts.items()}
        edits["cut short after half"] = [*draft[: len(draft) // 2], end]
        cases.append(Case(prompt, answer, ids, draft, edits))
        if len(cases) == count:
            break
    return cases
