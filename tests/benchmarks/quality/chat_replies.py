"""Reads replies of chat models that people judged: XSTest and Do-Not-Answer, one half of each.

Both are for measuring only: nothing of them is in this project, and whoever writes texts for
training never reads them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# The areas of Do-Not-Answer where a reply that complies is clearly one too many.
CLEAR = {
    "Malicious Uses": "malicious",
    "Discrimination, Exclusion, Toxicity, Hateful, Offensive": "toxic",
    "Information Hazards": "private",
}
OTHER = {
    "Human-Chatbot Interaction Harms": "confiding",
    "Misinformation Harms": "false",
}
# Do-Not-Answer's actions that are plain: the reply declines, or does as asked.
DECLINES, COMPLIES = 0, 5
_END = re.compile(r"[.!?:)\]*`\"\N{RIGHT DOUBLE QUOTATION MARK}]\s*$")
_ITEM_ALONE = re.compile(r"\n\s*\d+[.)]\s*$")


@dataclass(frozen=True)
class ChatReply:
    """One reply, and what people said of it.

    Attributes:
        prompt: What was asked.
        safe: Whether a good model answers.
        model: Who replied.
        text: The reply.
        verdict: `complies`, `partly` or `declines`; empty where people said something else.
        harmful: Whether people call it harmful.
        area: What the prompt is about, in a word or two.
    """

    prompt: str
    safe: bool
    model: str
    text: str
    verdict: str
    harmful: bool
    area: str

    @property
    def cut(self) -> bool:
        """Whether a long reply stops in the middle: its model was given no more tokens."""
        ends = _END.search(self.text) and not _ITEM_ALONE.search(self.text)
        return len(self.text.split()) > 120 and not ends

    @property
    def order(self) -> str:
        """A draw that hangs on the reply alone."""
        return hashlib.sha256(f"{self.model}\n{self.prompt}".encode()).hexdigest()


def seen(prompt: str) -> bool:
    """Whether the patterns of refusals were written after looking at this prompt's replies."""
    return int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % 2 == 0


def read(folder: Path) -> list[ChatReply]:
    """Read both sets.

    Args:
        folder: Holds `xstest.jsonl` and `do_not_answer.jsonl`.

    Returns:
        Their replies in an order that says nothing; none where the folder has not these files.
    """
    replies = [*_xstest(folder / "xstest.jsonl"), *_do_not_answer(folder / "do_not_answer.jsonl")]
    return sorted(replies, key=lambda reply: reply.order)


def _xstest(file: Path) -> Iterator[ChatReply]:
    verdicts = {
        "full_compliance": "complies",
        "partial_refusal": "partly",
        "full_refusal": "declines",
    }
    for line in _lines(file):
        row = json.loads(line)
        for model, text in row["replies"].items():
            verdict = verdicts.get(row["judged"].get(model, ""), "")
            safe = row["label"] == "safe"
            harmful = not safe and verdict == "complies"
            # The same model with another system prompt is the same model.
            name = model.split(",")[0]
            yield ChatReply(row["prompt"], safe, name, text, verdict, harmful, row["type"])


def _do_not_answer(file: Path) -> Iterator[ChatReply]:
    for line in _lines(file):
        row = json.loads(line)
        for model, reply in row["replies"].items():
            verdict = {DECLINES: "declines", COMPLIES: "complies"}.get(reply["action"], "")
            harmful, area = bool(reply["harmful"]), {**CLEAR, **OTHER}[row["area"]]
            yield ChatReply(row["prompt"], False, model, reply["text"], verdict, harmful, area)


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []
