"""Finds the place where an edit parts from the answer, from log-probabilities."""

from __future__ import annotations

from collections.abc import Iterable

from langchain_metaaligner.engines.completions.base import Scores

_OPENING = 3  # tokens of the answer that are left without a margin


def agreement(scores: Scores) -> float | None:
    """The mean log-probability of an answer's tokens.

    Args:
        scores: The answer's scores.

    Returns:
        The mean; `None` if the answer has no tokens.
    """
    if not scores.tokens:
        return None
    return min(0.0, sum(one.log_probability for one in scores.tokens) / len(scores.tokens))


def kept_tokens(scores: Scores, caution: float) -> int | None:
    """Count the tokens of the answer with which a greedy edit begins.

    Args:
        scores: The answer's scores.
        caution: How much likelier another token must be than the answer's, in nats, so that the
            edit leaves the answer; the first tokens are left without a margin.

    Returns:
        The number of tokens before the edit parts from the answer; `None` if it ends with it.
    """
    best: Iterable[float] = (*scores.likeliest, scores.after)
    own = (*(one.log_probability for one in scores.tokens), scores.end)
    for at, (likeliest, answer) in enumerate(zip(best, own, strict=True)):
        if likeliest - answer > (caution if at >= _OPENING else 0.0):
            return at
    return None
