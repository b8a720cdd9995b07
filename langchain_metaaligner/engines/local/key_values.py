"""Keeps keys and values of a sequence's tokens in buffers that grow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from langchain_metaaligner.engines.local.attention import block_size

_SPARE = 64  # tokens of additional room when a buffer grows

Layers = dict[int, tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer, each `[key_heads, tokens, head_dim]`."""


class KeyValueCache:
    """Keys and values of one sequence, in buffers that grow.

    Args:
        room: Roughly how many tokens the sequence will have.

    Attributes:
        length: Number of tokens in the cache. Anything in the buffers after them is overwritten.
    """

    def __init__(self, room: int = 0) -> None:
        self.length = 0
        self._room = room
        self._layers: Layers = {}
        self._ends: dict[int, int] = {}  # where what was written into each layer's buffers ends

    def update(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[Any, Any]:
        """Write keys and values after those of the first `length` tokens.

        `length` itself is not changed, since all layers are written before it grows.

        Args:
            layer: Index of the layer.
            keys: `[key_heads, new_tokens, head_dim]`.
            values: `[key_heads, new_tokens, head_dim]`.

        Returns:
            The buffers of keys and values, each `[key_heads, room, head_dim]`, with room for whole
            blocks. After all tokens they hold zeros.
        """
        end = self.length + keys.shape[1]
        held, written = self.reserve(layer, keys.shape[1], keys, values)
        held[0][:, self.length : end] = keys
        held[1][:, self.length : end] = values
        if written > end:  # dropped tokens: even hidden ones do harm if they are not finite
            held[0][:, end:written] = 0
            held[1][:, end:written] = 0
        return held

    def reserve(
        self, layer: int, new: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], int]:
        """Make room for new tokens after the first `length`; the caller writes them.

        Args:
            layer: Index of the layer.
            new: Number of tokens.
            keys: Any keys, `[key_heads, tokens, head_dim]`, of whose kind the buffers are.
            values: Any values, `[key_heads, tokens, head_dim]`.

        Returns:
            The buffers, as from `update`, and where the tokens end that were ever written; those
            after the new ones have to be set to zero.
        """
        end = self.length + new
        held = self._layers.get(layer)
        if held is None or held[0].shape[1] < end:
            held = self._layers[layer] = self._grown(held, keys, values, end)
        written = self._ends.get(layer, 0)
        self._ends[layer] = end
        return held, written

    def _grown(
        self, held: tuple[Any, Any] | None, keys: torch.Tensor, values: torch.Tensor, end: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Make larger buffers with the old content, each `[key_heads, room, head_dim]`."""
        room = max(self._room, end + max(_SPARE, end // 4))
        room += -room % block_size(room)
        grown = tuple(new.new_zeros((new.shape[0], room, new.shape[2])) for new in (keys, values))
        if held is not None:
            for old, new in zip(held, grown, strict=True):
                new[:, : self.length] = old[:, : self.length]
        return grown[0], grown[1]

    def begin_with(self, stretches: Sequence[tuple[Layers, int]]) -> None:
        """Copy keys and values of the tokens that this sequence begins with.

        Args:
            stretches: Consecutive stretches: keys and values, each
                `[key_heads, tokens, head_dim]`, and how many of their tokens to copy.
        """
        for layers, count in stretches:
            for layer, (keys, values) in layers.items():
                self.update(layer, keys[:, :count], values[:, :count])
            self.length += count

    def copy(self, start: int, end: int) -> Layers:
        """Copy a stretch.

        Args:
            start: Index of its first token.
            end: Index after its last token.

        Returns:
            Copies of its keys and values, each `[key_heads, end - start, head_dim]`.
        """
        return {
            layer: (keys[:, start:end].clone(), values[:, start:end].clone())
            for layer, (keys, values) in self._layers.items()
        }
