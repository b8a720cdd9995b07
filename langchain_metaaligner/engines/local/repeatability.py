"""Finds out whether a token gets the same numbers in whatever pass a model processes it."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch

from langchain_metaaligner.engines.local.attention import LARGE_FROM, CausalMask, attend
from langchain_metaaligner.engines.local.cpu_kernels import kernels_of
from langchain_metaaligner.engines.local.forward import (
    Forward,
    ForwardInput,
    base_model,
)
from langchain_metaaligner.engines.local.packed_forward import PackedForward

logger = logging.getLogger(__name__)

_TOKENS = 208
_CUTS = (128, 1, 1, 2, 3, 1, 4, 5, 7, 9, 16, 31)  # of these tokens into passes
_BESIDE = (0, 1, 0, 2, 1, 3, 0, 4, 1, 20, 0, 7)  # another sequence's tokens in the same passes
_ROWS = (4, 8, 16)
# Functions like SiLU are computed for so many numbers at a time, the rest of them in another way.
# That differs in too few numbers to be found by trying.
_VECTOR = 64
_known: dict[Hashable, int | None] = {}


def make_repeatable(name: str, forward: Forward) -> bool:
    """Make a model's passes give each token the same numbers, if this machine's kernels can.

    A matrix product may round differently for another number of rows, mostly for few. So a
    sequence of tokens is processed in one pass and then in several, with another sequence beside
    it, by the model's first layer and its head. The number of rows of each pass is made a multiple
    of the smallest number with which the results are the same bit for bit. Where there is none,
    the log says so.

    Fewer rows than 4 are not tried. Single rows and the last 1 to 3 of a product are special in
    many kernels, in bfloat16 too, where rounding mostly hides it: 41 of 294,912 numbers differed
    for single rows of a layer of the embedded aligner, enough to change edits. A pass of 4 rows
    took no longer than one of a single row. This package's own kernels treat every row alike.

    Args:
        name: The model's name, for the log.
        forward: Makes the model's passes. The model must not be in use.

    Returns:
        Whether an edit depends on its request alone, whatever else the model is doing, has kept
        or was given as a draft.
    """
    if not isinstance(forward, PackedForward):
        return True  # one sequence at a time, and nothing is kept: always the same passes
    model = forward.model
    devices = {weight.device.type for weight in model.parameters()}
    if devices == {"cpu"}:
        kind = _kind(model)
        if kind not in _known:
            _known[kind] = _smallest_rows(forward)
        rows = _known[kind]
        if rows is not None:
            forward.rows = rows
            return True
    logger.log(
        logging.WARNING if devices == {"cpu"} else logging.INFO,
        "On this processor (%s), %s may edit the same reply in slightly different ways: the"
        " numbers are rounded differently depending on what else is in a forward pass, on kept"
        " prefixes and on drafts. In another dtype, or on another processor, the edit may depend"
        " on the request alone.",
        ", ".join(sorted(devices)),
        name,
    )
    return False


def _kind(model: Any) -> Hashable:
    """What the choice of kernels depends on."""
    config = base_model(model).config
    layers = frozenset(
        (
            type(one).__qualname__,
            *one.weight.shape,
            one.weight.dtype,
            "forward" in vars(one),
            kernels_of(one) is not None,
        )
        for one in model.modules()
        if isinstance(getattr(one, "weight", None), torch.Tensor)
    )
    names = ("model_type", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act")
    about = tuple(getattr(config, name, None) for name in names)
    return layers, about, torch.get_num_threads()


def _smallest_rows(forward: PackedForward) -> int | None:
    """Find the smallest number of rows that works; `None` if none does."""
    usual = forward.rows
    width = getattr(base_model(forward.model).config, "intermediate_size", None) or 0
    few = (1, *_ROWS) if forward.native else _ROWS
    fitting = [rows for rows in few if not rows * width % _VECTOR]
    if not forward.native and not _same_far_on(forward.model):
        return None
    with _first_layer_only(forward.model):
        for rows in fitting:
            forward.rows = rows
            if _same_in_pieces(forward):
                return rows
    forward.rows = usual
    return None


def _same_in_pieces(forward: PackedForward) -> bool:
    """Whether the last tokens get the same logits in one pass and in several."""
    config = base_model(forward.model).config
    most = min(_TOKENS, getattr(config, "max_position_embeddings", None) or _TOKENS)
    tokens = [number * 7919 % config.vocab_size for number in range(_TOKENS)][-most:]
    cuts = [max(0, sum(_CUTS[:count]) - _TOKENS + most) for count in range(len(_CUTS) + 1)]
    kept = most - cuts[1]
    whole = forward.run([ForwardInput(forward.new_cache(0), tokens, kept)])
    cache, other, pieces = forward.new_cache(0), forward.new_cache(0), []
    for (start, end), beside in zip(pairwise(cuts), _BESIDE, strict=True):
        if start == end:
            continue
        parts = [ForwardInput(cache, tokens[start:end], end - start if end > cuts[1] else 0)]
        if beside:
            parts.insert(0, ForwardInput(other, tokens[:beside], 0))
        pieces.append(forward.run(parts))
    made = torch.cat(pieces)[-kept:]
    return torch.allclose(made, whole, rtol=0.0, atol=0.0, equal_nan=True)


def _same_far_on(model: Any) -> bool:
    """Whether attention over long sequences has the same results in one pass and in several."""
    config = base_model(model).config
    heads = config.num_attention_heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    like = next(model.parameters())
    numbers = torch.arange(2 * LARGE_FROM * kept * size, dtype=torch.float32).sin()
    keys = numbers.view(kept, 2 * LARGE_FROM, size).to(like.dtype)
    query = numbers[: heads * _TOKENS * size].view(1, heads, _TOKENS, size).to(like.dtype)
    with torch.inference_mode():
        whole = attend(query, keys, keys, CausalMask(LARGE_FROM, _TOKENS), None)
        pieces, start = [], 0
        for count in _CUTS:
            part = query[:, :, start : start + count]
            pieces.append(attend(part, keys, keys, CausalMask(LARGE_FROM + start, count), None))
            start += count
    return torch.equal(torch.cat(pieces, dim=1), whole)


@contextmanager
def _first_layer_only(model: Any) -> Iterator[None]:
    """Let a model skip all layers but the first; the others have the same shapes."""
    config = base_model(model).config
    layers, config.num_hidden_layers = config.num_hidden_layers, 1
    try:
        yield
    finally:
        config.num_hidden_layers = layers
