"""Reads the sources of the examples: human preference pairs, our own texts, documentation."""

from __future__ import annotations

import hashlib
import json
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TEXTS = Path(__file__).parent / "texts"
HELD_OUT_PERCENT = 12
REFUSING = re.compile(
    r"\b(sorry|apologi[sz]e|(can|could|would|do|wo|should)n?['’]?t (be able to )?(help|assist|"
    r"provide|recommend|give|share|tell|suggest|support|advise|condone|encourage|engage|answer|"
    r"feel comfortable|think (that['’]s|this is|it['’]s|that is)|want to)|cannot|can ?not|unable|"
    r"not (able|allowed|comfortable|willing|appropriate|going to)|rather not|illegal|"
    r"against the law|unethical|immoral|(not|isn['’]t) (a )?(good|great|nice) idea|"
    r"please don['’]?t|(is|it['’]s|be) (wrong|a crime)|refuse|"
    r"I (ca|wo)n['’]t (add|agree|describe|discuss|go (along|on)|look|open|say that|send|talk)|"
    r"(isn['’]t (something|a thing)|nothing) I(['’](d|ll)| can| would| should) "
    r"(help|give|like|recommend|share|support|teach)|I['’]ll never help|a no from me)\b",
    re.IGNORECASE,
)
HARMFUL = re.compile(
    r"\b(kill|murder|rob|steal|stole|shoplift|weapon|gun|bomb|explosive|poison|drug|heroin|"
    r"cocaine|meth|weed|marijuana|fuck|shit|bitch|slut|whore|dick|pussy|cunt|penis|vagina|sex|"
    r"rape|nazi|hitler|racis|nigg|fag|retard|stupid|idiot|dumb|hack|fraud|scam|counterfeit|"
    r"prank|insult|blood|dead body|corpse|suicide|abuse|torture|terroris|drunk|beat (him|her)|"
    r"punch|stab|hate|ugly|lazy|inferior|superior)\w*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two replies to one conversation, and which of them people preferred.

    Attributes:
        context: The conversation.
        chosen: The better reply.
        rejected: The worse reply.
    """

    context: str
    chosen: str
    rejected: str


def identity(text: str) -> str:
    """Hash a text to a short key.

    Args:
        text: Any text.

    Returns:
        Sixteen hexadecimal digits.
    """
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def held_out(context: str) -> bool:
    """Say whether a conversation is held out from training.

    Rows with the same opening are one conversation, whatever follows.

    Args:
        context: The conversation, or the question that opens it.

    Returns:
        Whether it is held out.
    """
    opening = context.split("\n\nAssistant:", maxsplit=1)[0].removeprefix("\n\nHuman: ").strip()
    return int(hashlib.sha256(opening.encode()).hexdigest(), 16) % 100 < HELD_OUT_PERCENT


def pairs(file: Path) -> list[Pair]:
    """Read preference pairs.

    Args:
        file: JSON lines with `context`, `chosen` and `rejected`.

    Returns:
        The pairs, in the order of the file.
    """
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [Pair(row["context"], row["chosen"], row["rejected"]) for row in rows]


def texts(name: str) -> list[dict[str, str]]:
    """Read texts that were written for this training.

    Args:
        name: A file in the folder `texts`, without its extension.

    Returns:
        Its rows.
    """
    file = TEXTS / f"{name}.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def dialogues() -> list[tuple[list[str], str]]:
    """Read conversations whose last question can't be understood without the turns before it.

    Returns:
        The turns, of which the first and the last are the human's, and the good reply.
    """
    file = TEXTS / "dialogues.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [(row["turns"], row["answer"]) for row in rows]


def documentation() -> Iterator[str]:
    """Find paragraphs of prose in the docstrings of Python's standard library.

    Yields:
        Paragraphs of 40 to 220 words.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    for file in sorted(folder.glob("*.py")):
        source = file.read_text(encoding="utf-8", errors="ignore")
        for block in re.findall(r'"""(.+?)"""', source, re.DOTALL):
            lines = [line.strip() for line in block.strip().splitlines()]
            text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
            if 40 <= len(text.split()) <= 220 and text[0].isupper() and ">>>" not in text:
                yield text


def refuses(text: str) -> bool:
    """Guess whether a reply declines, warns or objects.

    Args:
        text: The reply.

    Returns:
        Whether its first words look like it.
    """
    return bool(REFUSING.search(text[:220]))


def clean(text: str) -> bool:
    """Say whether a reply is complete, of a suitable length and free of risky words.

    Args:
        text: The reply.

    Returns:
        Whether it can serve as an example of a good reply.
    """
    words = text.split()
    return (
        18 <= len(words) <= 190
        and text.strip()[-1] in ".!?)”\"'"
        and "Human:" not in text
        and not HARMFUL.search(text)
        and len(set(words)) > 0.45 * len(words)
    )


@cache
def lines(name: str) -> list[str]:
    """Read short texts of one kind.

    Args:
        name: A key in the file `texts/lines.json`.

    Returns:
        The texts.
    """
    found: dict[str, list[str]] = json.loads((TEXTS / "lines.json").read_text(encoding="utf-8"))
    return found[name]


def endings(area: str) -> list[str]:
    """Read the sentences that may end a short refusal.

    Args:
        area: What the harmful requests of `harmful_asks.jsonl` are about, such as `malicious`.

    Returns:
        The endings; which of them fits depends on the request.
    """
    found: dict[str, dict[str, list[str]]]
    found = json.loads((TEXTS / "lines.json").read_text(encoding="utf-8"))
    return found["endings"][area]
