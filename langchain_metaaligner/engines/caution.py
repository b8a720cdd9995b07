"""Decides whether an edit leaves its answer where another token is likelier than the answer's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

# Edits that are needed nearly always part from the answer here, slips nearly never.
_FREE = 3


def leaves(place: int, gap: float, caution: float) -> bool:
    """Whether an edit that equals the answer so far leaves it at the next token.

    Args:
        place: Number of tokens so far.
        gap: By how much the likeliest token is likelier than the answer's next one, in nats.
        caution: The margin, in nats.
    """
    return place < _FREE or gap >= caution


def next_token(
    answer: Sequence[int],
    place: int,
    likeliest: int,
    scores: Any,
    *,
    ends: Iterable[int],
    caution: float,
) -> int:
    """Choose the next token of an edit that equals the answer so far.

    Args:
        answer: The answer's tokens.
        place: Number of tokens so far. After the last one, the answer's next token is the end.
        likeliest: The likeliest token.
        scores: `[vocabulary]`: the logits or log-probabilities of all tokens.
        ends: Tokens that end the edit.
        caution: The margin, in nats.

    Returns:
        The likeliest token if it is the answer's or the edit leaves the answer here; else the
        answer's.
    """
    own = [answer[place]] if place < len(answer) else [end for end in ends if end < len(scores)]
    if likeliest in own or not own:
        return likeliest
    score, token = max((float(scores[one]), one) for one in own)
    return likeliest if leaves(place, float(scores[likeliest]) - score, caution) else token
