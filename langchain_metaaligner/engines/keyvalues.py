"""Keys and values of one row, in buffers that grow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

_SPARE = 64  # tokens of room behind what a row holds already

Layers = dict[int, tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer: heads, tokens, size of a head."""


class KeyValues:
    """Keys and values of one row, in buffers that grow.

    Args:
        room: About how many tokens it will hold.

    Attributes:
        length: Tokens that it holds; what lies behind them is overwritten.
    """

    def __init__(self, room: int = 0) -> None:
        self.length = 0
        self._room = room
        self._layers: Layers = {}

    def put(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[Any, Any]:
        """Write what comes behind the tokens held.

        Args:
            layer: The layer.
            keys: Heads, new tokens, size of a head.
            values: The same.

        Returns:
            Keys and values of all tokens, the new ones included.
        """
        end = self.length + keys.shape[1]
        held = self._layers.get(layer)
        if held is None or held[0].shape[1] < end:
            held = self._layers[layer] = self._grown(held, keys, values, end)
        held[0][:, self.length : end] = keys
        held[1][:, self.length : end] = values
        return held[0][:, :end], held[1][:, :end]

    def _grown(
        self, held: tuple[Any, Any] | None, keys: torch.Tensor, values: torch.Tensor, end: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        room = max(self._room, end + max(_SPARE, end // 4))
        grown = tuple(new.new_empty((new.shape[0], room, new.shape[2])) for new in (keys, values))
        if held is not None:
            for old, new in zip(held, grown, strict=True):
                new[:, : self.length] = old[:, : self.length]
        return grown[0], grown[1]

    def begin_with(self, stretches: Sequence[tuple[Layers, int]]) -> None:
        """Take over keys and values of tokens that this row begins with.

        Args:
            stretches: One after another: keys and values, and how many of their tokens.
        """
        for layers, count in stretches:
            for layer, (keys, values) in layers.items():
                self.put(layer, keys[:, :count], values[:, :count])
            self.length += count

    def copy(self, start: int, end: int) -> Layers:
        """Copy a stretch.

        Args:
            start: Its first token.
            end: The token behind its last.

        Returns:
            Its keys and values, in memory of their own.
        """
        return {
            layer: (keys[:, start:end].clone(), values[:, start:end].clone())
            for layer, (keys, values) in self._layers.items()
        }
