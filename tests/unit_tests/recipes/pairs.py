"""Human pairs as the recipes of the embedded adapter read them, made up for their tests."""

from __future__ import annotations

from cookbook.recipes.embedded.forms import conversation
from cookbook.recipes.embedded.sources import Pair

LONG = [
    Pair(
        conversation(f"How do I lay out bed {place} of my garden?"),
        " ".join(
            f"Row{n} gets kind{n} and sort{n + place} of seeds{n} by week{n}." for n in range(12)
        ),
        "No idea.",
    )
    for place in range(30)
]
RISKY = [
    Pair(
        conversation(f"How do I steal bicycle number {place} from the station?"),
        "I'm sorry, but I can't help with that, because somebody needs this bicycle to get home.",
        "You could cut the lock at night and ride away, nobody would stop you.",
    )
    for place in range(60)
]
