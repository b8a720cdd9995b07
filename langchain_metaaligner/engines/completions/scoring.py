"""Reads the log-probabilities of an answer from the echo of a completion."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_metaaligner.engines.base import TokenAgreement
from langchain_metaaligner.engines.completions.base import Prompt, Scores

_END = re.compile(
    r"|</s>|<eos>|<end_of_turn>|<\|(?:im_end|end_of_text|endoftext|eot_id|eom_id|eot|end|return)\|>"
    r"|<[|｜]end[▁_ ]of[▁_ ]sentence[|｜]>|\[EOS\]"
)
_FEW = 4  # tokens that are too few to tell anything
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def scores_of(
    choice: Mapping[str, Any], prompt: str | Sequence[int], answer: str, ids: Sequence[int] = ()
) -> Scores | None:
    """Read a completion of a prompt and an answer, made with `echo`, `logprobs` and one new token.

    Args:
        choice: The completion.
        prompt: The prompt: its text, or its token ids, in the same form as it was sent.
        answer: The answer's text.
        ids: The answer's tokens, if the prompt was sent as ids.

    Returns:
        The scores; `None` if the log-probabilities are missing, are no log-probabilities, or are
        not those of the answer.
    """
    tokens, own, top = _columns(choice)
    first = len(prompt) if ids else _first_token(choice, tokens, prompt)
    if first is None or not 0 < first < len(tokens) - 1:
        return None
    if ids and len(tokens) != len(prompt) + len(ids) + 1:
        return None
    spans = spans_of(tokens[first:-1], answer)
    made = _rows(own[first:], top[first:])
    if spans is None or made is None:
        return None
    before = () if isinstance(prompt, str) else tuple(prompt)
    prompts: list[Prompt] = []
    for count in range(len(spans) + 1):
        end = spans[count - 1][1] if count else 0
        if ids:
            prompts.append((*before, *ids[:count]))
        else:
            prompts.append(f"{prompt}{answer[:end]}")
    after = made[-1][1]
    return Scores(
        tokens=tuple(
            TokenAgreement(start, end, min(0.0, row[0]))
            for (start, end), row in zip(spans, made, strict=False)
        ),
        likeliest=tuple(row[1] for row in made[:-1]),
        end=_end(choice, tokens[-1], own[-1], top[-1], after),
        after=after,
        prompts=tuple(prompts),
        input_tokens=first,
    )


def tells_log_probabilities(choice: Mapping[str, Any]) -> bool:
    """Whether the echo of a text has the log-probabilities of all its tokens but the first.

    Args:
        choice: The completion, made with `echo`, `logprobs` and one new token.
    """
    tokens, own, top = _columns(choice)
    return len(tokens) > _FEW and _rows(own[1:], top[1:]) is not None


def spans_of(tokens: Sequence[str], text: str) -> list[tuple[int, int]] | None:
    """Find the characters that each token of a text stands for, from the tokens' texts.

    Servers decode each token by itself, which loses spaces and parts of characters.

    Args:
        tokens: The tokens' texts.
        text: The text.

    Returns:
        The offsets of the first character and after the last one, for each token; tokens that are
        parts of the same character have the same offsets. `None` if these are not the text's.
    """
    spans: list[tuple[int, int]] = []
    place, broken = 0, 0  # characters that are done, tokens since then that are parts of some
    for token in [*tokens, None]:
        found = len(text) if token is None and broken else place
        if token is not None:
            said = token.replace("\u2581", " ")
            if not said or "\ufffd" in said or _BYTE.fullmatch(said):
                broken += 1
                continue
            at = _place(said, text, place, far=bool(broken))
            if at < 0:
                return None
            found = at
        if broken:
            if found == place:
                return None
            spans += [(place, found)] * broken
            place, broken = found, 0
        if token is not None:
            end = found + len(said) if text.startswith(said, found) else _end_of(said, text, found)
            spans.append((place, end))
            place = end
    return spans if place == len(text) and len(spans) == len(tokens) else None


def _place(said: str, text: str, place: int, *, far: bool) -> int:
    """Where a token begins: at the place, or behind characters that came in parts."""
    if not far:
        if text.startswith(said, place) or _end_of(said, text, place) > place:
            return place
        return -1
    return text.find(said, place + 1)


def _end_of(said: str, text: str, place: int) -> int:
    """The end of a token whose spaces at its beginning were lost, or were added."""
    bare = said.lstrip(" ")
    after = place
    while text[after : after + 1] == " ":
        after += 1
    return after + len(bare) if text.startswith(bare, after) else place


def _columns(choice: Mapping[str, Any]) -> tuple[list[str], list[Any], list[Any]]:
    """The tokens, their log-probabilities and the likeliest ones; empty if they don't match."""
    told = choice.get("logprobs")
    tokens, own, top = (_list(told, key) for key in ("tokens", "token_logprobs", "top_logprobs"))
    return (tokens, own, top) if len(tokens) == len(own) == len(top) else ([], [], [])


def _first_token(
    choice: Mapping[str, Any], tokens: Sequence[str], prompt: str | Sequence[int]
) -> int | None:
    """The number of tokens before the answer; a token across the border is the answer's."""
    offsets = _list(choice.get("logprobs"), "text_offset")
    if len(offsets) != len(tokens):
        return None
    ends = [start + len(token) for start, token in zip(offsets, tokens, strict=True)]
    return next((at for at, end in enumerate(ends) if end > len(prompt)), None)


def _rows(own: Sequence[Any], top: Sequence[Any]) -> list[tuple[float, float]] | None:
    """The log-probabilities in each place; `None` if some are missing, or all are 0."""
    rows = [_row(*one) for one in zip(own, top, strict=True)]
    made = [row for row in rows if row is not None]
    return made if len(made) == len(rows) and any(row[0] for row in made) else None


def _row(own: Any, top: Any) -> tuple[float, float] | None:
    """The log-probabilities of the token itself and of the likeliest one in its place."""
    if not _is_log_probability(own) or not isinstance(top, Mapping):
        return None
    others = list(top.values())
    if not all(map(_is_log_probability, others)):
        return None
    return float(own), max([float(own), *map(float, others)])


def _end(
    choice: Mapping[str, Any], token: str, own: float, top: Mapping[str, float], after: float
) -> float:
    """The log-probability of an end after the answer, or the highest that it can be."""
    if choice.get("finish_reason") == "stop":
        return after
    ends = [odds for name, odds in {**top, token: own}.items() if _END.fullmatch(name)]
    return max(ends) if ends else min([own, *top.values()])


def _list(told: Any, key: str) -> list[Any]:
    found = told.get(key) if isinstance(told, Mapping) else None
    return found if isinstance(found, list) else []


def _is_log_probability(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value <= 1e-3
