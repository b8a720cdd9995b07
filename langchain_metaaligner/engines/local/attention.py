"""Attention of a sequence's new tokens over the sequence, with results that no pass changes."""

from __future__ import annotations

from functools import cache

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

# On a CPU, attention is computed for blocks of new tokens that begin at multiples of this place in
# their sequence, over all keys up to the block's end. So a token's result depends on its place
# alone, and not on how many tokens a pass happens to begin with or to bring. Far from the beginning
# the blocks are larger, since each call of the kernel rearranges all keys.
_BLOCK = 64
_LARGE_BLOCK = 256
LARGE_FROM = 1024
"""The place in a sequence from which on attention is computed for larger blocks."""
ROWS = 4
"""On a CPU, many matrix kernels treat the last 1 to 3 rows of a product differently, so there are
never any."""


class CausalMask:
    """Lets each new token of a sequence attend to the tokens before it and to itself.

    Args:
        seen: Number of tokens that the sequence had before.
        new: Number of new tokens.
    """

    __slots__ = ("_blocks", "_made_for", "new", "seen")

    def __init__(self, seen: int, new: int) -> None:
        self.seen, self.new = seen, new
        self._made_for: tuple[int, torch.device] | None = None
        self._blocks: list[tuple[int, int, torch.Tensor]] = []

    def blocks(self, groups: int, like: torch.Tensor) -> list[tuple[int, int, torch.Tensor]]:
        """Make the biases to add to attention scores, for blocks of new tokens.

        Args:
            groups: Number of query heads for each key head.
            like: A tensor with the wanted dtype and device.

        Returns:
            For each block: the index of its first new token, the index after its last one, and the
            bias, `[rows, keys]`. It has `groups * block_tokens` rows and up to 3 more without a
            meaning, for all keys up to the end of the block's place in the sequence. It is 0, or
            minus infinity for keys that must not be attended to.
        """
        wanted = groups, like.device
        if self._made_for != wanted:
            end = self.seen + self.new
            self._blocks = []
            place = self.seen
            while place < end:
                size = block_size(place)
                first = place - place % size
                self._blocks.append(self._block(first, size, min(end, first + size), groups, like))
                place = first + size
            self._made_for = wanted
        return self._blocks

    def whole(self, groups: int, like: torch.Tensor) -> torch.Tensor:
        """Make the bias for all new tokens, `[groups * new_tokens, tokens]`; as in `blocks`."""
        wanted = groups, like.device
        if self._made_for != wanted:
            bias = like.new_full((self.new, self.seen + self.new), -torch.inf)
            bias = bias.triu_(self.seen + 1).repeat(groups, 1)
            self._blocks = [(0, self.new, bias)]
            self._made_for = wanted
        return self._blocks[0][2]

    def _block(
        self, place: int, size: int, end: int, groups: int, like: torch.Tensor
    ) -> tuple[int, int, torch.Tensor]:
        """Make the block from a place, a multiple of its size, to before `end`."""
        start = max(place, self.seen)
        count = groups * (end - start)
        bias = like.new_zeros((-(-count // ROWS) * ROWS, place + size))
        own = bias[:count, place:].view(groups, end - start, size)
        own[:] = _triangle(size, like.dtype, like.device)[start - place : end - place]
        return start - self.seen, end - self.seen, bias


def block_size(place: int) -> int:
    """Find how large the block is that a place of a sequence lies in."""
    return _BLOCK if place < LARGE_FROM else _LARGE_BLOCK


@cache
def _triangle(size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Make the bias of a block for its own keys, `[size, size]`."""
    return torch.full((size, size), -torch.inf, dtype=dtype, device=device).triu_(1)


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: CausalMask,
    scale: float | None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute the attention of a sequence's new tokens over the sequence.

    Args:
        query: `[1, heads, new_tokens, head_dim]`.
        keys: `[key_heads, room, head_dim]`, with room for whole blocks and zeros after the tokens.
        values: `[key_heads, room, head_dim]`.
        mask: The sequence's mask.
        scale: Factor for the scores; `None` is `head_dim ** -0.5`.
        out: Where to write the result, if it should not be a new tensor.

    Returns:
        `[1, new_tokens, heads, head_dim]`.
    """
    if query.device.type != "cpu":  # pragma: no cover
        made = attend_at_once(query, keys, values, mask, scale)  # not run here: needs a GPU
        return made if out is None else out.copy_(made)
    _, heads, new, size = query.shape
    kept = keys.shape[0]
    groups = heads // kept
    # Query heads that share keys are treated as more queries of one head, without a copy.
    packed = query.view(kept, groups, new, size)
    if out is None:
        out = query.new_empty((1, new, heads, values.shape[-1]))
    made = out.view(new, kept, groups, -1)
    for start, end, bias in mask.blocks(groups, query):
        rows, last = bias.shape
        count = groups * (end - start)
        part = packed[:, :, start:end].reshape(1, kept, count, size)
        if rows > count:
            part = pad(part, (0, 0, 0, rows - count))
        mixed = scaled_dot_product_attention(
            part, keys[None, :, :last], values[None, :, :last], attn_mask=bias, scale=scale
        )
        mixed = mixed[0, :, :count].view(kept, groups, end - start, -1)
        made[start:end] = mixed.permute(2, 0, 1, 3)
    return out


def attend_at_once(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: CausalMask,
    scale: float | None,
) -> torch.Tensor:
    """Compute the same as `attend` with one kernel call, as is best on an accelerator.

    Args:
        query: `[1, heads, new_tokens, head_dim]`.
        keys: `[key_heads, room, head_dim]`.
        values: `[key_heads, room, head_dim]`.
        mask: The sequence's mask.
        scale: Factor for the scores; `None` is `head_dim ** -0.5`.

    Returns:
        `[1, new_tokens, heads, head_dim]`.
    """
    heads, new, size = query.shape[1:]
    groups = heads // keys.shape[0]
    keys, values = keys[None, :, : mask.seen + new], values[None, :, : mask.seen + new]
    if new > 1 and not mask.seen:
        if groups > 1:
            keys, values = (one.repeat_interleave(groups, 1) for one in (keys, values))
        made = scaled_dot_product_attention(query, keys, values, is_causal=True, scale=scale)
        return made.transpose(1, 2)
    made = scaled_dot_product_attention(
        query.reshape(1, keys.shape[1], groups * new, size),
        keys,
        values,
        attn_mask=mask.whole(groups, query) if new > 1 else None,
        scale=scale,
    )
    return made.reshape(1, heads, new, -1).transpose(1, 2)
