"""Damages good replies in ways that have one correct repair, and shortens long ones."""

from __future__ import annotations

import random
import re

from cookbook.recipes.embedded.forms import sentences

ITEM = re.compile(r"^\s*(\d+[.)]|[-*•])\s")


def _cut(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    return " ".join(words[: rng.randint(2, max(2, len(words) - 2))]).rstrip(".,;:!?")


def unfinished_list(reply: str, rng: random.Random) -> tuple[str, str] | None:
    """Cut a list off within one of its items.

    Args:
        reply: A whole reply.
        rng: Source of randomness.

    Returns:
        The reply as it was cut, and without the item that isn't whole; `None` if it has no
        list of four items whose last ones are long enough to cut.
    """
    lines = reply.split("\n")
    places = [i for i, line in enumerate(lines) if ITEM.match(line)]
    long = [i for i in places[2:] if len(lines[i].split()) >= 5]
    if len(places) < 4 or not long:
        return None
    place = rng.choice(long)
    whole = "\n".join(lines[:place]).rstrip()
    return f"{whole}\n{_cut(lines[place], rng)}", whole


def unfinished_quote(reply: str, rng: random.Random) -> tuple[str, str] | None:
    """Cut a reply off within a quotation.

    Args:
        reply: A whole reply.
        rng: Source of randomness.

    Returns:
        The reply as it was cut, and without the sentence that isn't whole; `None` if no
        sentence after the first holds a quotation of four words.
    """
    parts = sentences(reply)
    for place, part in enumerate(parts[1:], start=1):
        found = re.search(r'["“]([^"”]{15,})["”]', part)
        before = " ".join(parts[:place])
        if found is None or before.count('"') % 2 or len(found[1].split()) < 4:
            continue
        head = part[: found.start(1)]
        whole = reply[: reply.index(part)].rstrip()
        return f"{whole} {head}{_cut(found[1], rng)}", whole
    return None


def repeated(reply: str, rng: random.Random) -> tuple[str, str] | None:
    """Repeat a sentence or a list item, as a looping model does.

    Args:
        reply: A whole reply.
        rng: Source of randomness.

    Returns:
        The reply with its repeats, half of the time cut off within the last, and the reply as
        it was; `None` if it is too short, or too long to grow.
    """
    lines = reply.split("\n")
    if len(reply.split()) > 110:
        return None
    if len(lines) > 3 and ITEM.match(lines[-1]) and len(lines[-1].split()) >= 3:
        tail, joint = lines[-1], "\n"
    else:
        parts = sentences(reply)
        if len(parts) < 2 or "\n" in reply or len(parts[-1].split()) < 4:
            return None
        tail, joint = parts[-1], " "
    again = [tail] * rng.randint(1, 4)
    if rng.random() < 0.5:
        again.append(_cut(tail, rng))
    return joint.join([reply, *again]), reply


def shortened(reply: str) -> str | None:
    """Shorten a long reply to the sentences at its beginning.

    Args:
        reply: A whole reply of one paragraph.

    Returns:
        Its first two sentences, or three when they are short; `None` if less than two fifths
        would go, or if the rest depends on what went.
    """
    parts = sentences(reply)
    kept = " ".join(parts[:2])
    if len(kept.split()) < 22:
        kept = " ".join(parts[:3])
    words = len(kept.split())
    leans = re.search(r"(:|\b(following|below|these|first|firstly))[^.]*[.:]?$", kept.lower())
    if "\n" in reply or leans or not 12 <= words <= 0.6 * len(reply.split()):
        return None
    return kept if kept.endswith((".", "!")) else None
