"""Attention of a row's new tokens over that row alone."""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

# Torch's fused attention takes 1.5 to 2.2 times as long in bfloat16 on a CPU as two products with
# a softmax between them, block by block so that the scores stay in the cache; for few tokens they
# are alike, and in float32 it is the faster one.
_BLOCK = 128
_FEW = 32


class Sight:
    """What a row's new tokens may look at: the tokens before them, and themselves.

    Args:
        seen: Tokens that the row had before.
        new: Tokens that come on.
    """

    __slots__ = ("_blocks", "_made_for", "new", "seen")

    def __init__(self, seen: int, new: int) -> None:
        self.seen, self.new = seen, new
        self._made_for: tuple[int, int, torch.device] | None = None
        self._blocks: list[tuple[int, int, torch.Tensor]] = []

    def blocks(
        self, size: int, groups: int, like: torch.Tensor
    ) -> list[tuple[int, int, torch.Tensor]]:
        """What is added to the scores of so many new tokens at a time.

        Args:
            size: Most new tokens of a block.
            groups: Heads of queries for each head of keys.
            like: Has the type and the device.

        Returns:
            For each block the first of its new tokens, the one behind its last, and 0 or minus
            infinity for groups times new tokens by all tokens up to its last.
        """
        wanted = size, groups, like.device
        if self._made_for != wanted:
            starts = range(0, self.new, size)
            ends = [min(self.new, start + size) for start in starts]
            self._blocks = [
                (start, end, self._bias(start, end, groups, like))
                for start, end in zip(starts, ends, strict=True)
            ]
            self._made_for = wanted
        return self._blocks

    def _bias(self, start: int, end: int, groups: int, like: torch.Tensor) -> torch.Tensor:
        places = torch.arange(self.seen + end, device=like.device)
        hidden = places > places[self.seen + start :, None]
        bias = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
        return bias.masked_fill_(hidden, -torch.inf).repeat(groups, 1)


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    sight: Sight,
    scale: float | None,
) -> torch.Tensor:
    """Let a row's new tokens look at the row.

    Args:
        query: 1, heads, new tokens, size of a head.
        keys: Heads of keys, all tokens, size of a head.
        values: The same.
        sight: Belongs to the row.
        scale: What scores are multiplied with; `None` is one over the root of a head's size.

    Returns:
        1, new tokens, heads, size of a head.
    """
    heads, new, size = query.shape[1:]
    groups = heads // keys.shape[0]
    if query.dtype is torch.bfloat16 and query.device.type == "cpu" and new >= _FEW:
        made = _in_blocks(query, keys, values, sight, size**-0.5 if scale is None else scale)
    elif new == keys.shape[1] > 1:
        keys, values = (
            one.repeat_interleave(groups, 0) if groups > 1 else one for one in (keys, values)
        )
        made = scaled_dot_product_attention(
            query, keys[None], values[None], is_causal=True, scale=scale
        )
    else:
        # Heads that share keys stand one behind another as more queries: nothing is copied.
        packed = query.reshape(1, keys.shape[0], groups * new, size)
        bias = sight.blocks(new, groups, query)[0][2] if new > 1 else None
        made = scaled_dot_product_attention(
            packed, keys[None], values[None], attn_mask=bias, scale=scale
        ).reshape(1, heads, new, values.shape[-1])
    return made.transpose(1, 2)


def _in_blocks(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, sight: Sight, scale: float
) -> torch.Tensor:
    heads, new, size = query.shape[1:]
    groups = heads // keys.shape[0]
    packed = query.reshape(keys.shape[0], groups, new, size)
    made = query.new_empty((keys.shape[0], groups, new, values.shape[-1]))
    for start, end, bias in sight.blocks(_BLOCK, groups, query):
        last = sight.seen + end
        part = packed[:, :, start:end].reshape(keys.shape[0], -1, size)
        scores = torch.baddbmm(bias[None], part, keys[:, :last].transpose(1, 2), alpha=scale)
        mixed = torch.bmm(scores.softmax(-1), values[:, :last])
        made[:, :, start:end] = mixed.view(keys.shape[0], groups, end - start, -1)
    return made.view(1, heads, new, -1)
