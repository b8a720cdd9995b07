"""What a forward pass over rows of unequal length is told, and what it needs to know of a model."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch


class RowCache(Protocol):
    """What a row keeps of the tokens that the model has seen.

    Attributes:
        length: How many those are. Making it smaller forgets the last ones.
    """

    length: int


@dataclass(slots=True)
class Part:
    """What one pass does for one row.

    Attributes:
        cache: The row's cache; it is as long as before until the pass has gone well.
        tokens: What comes next in the row.
        keep: At how many of the last tokens the logits are wanted.
    """

    cache: Any
    tokens: list[int]
    keep: int


class Passes(Protocol):
    """Makes forward passes.

    Attributes:
        drafts: Whether tokens can be taken back, so that drafts can be tried.
        packs: Whether several rows go through the model at once. Such rows' caches can begin
            with each other's keys and values, too.
    """

    drafts: bool
    packs: bool

    def cache(self, room: int) -> Any:
        """An empty cache for a row that will hold about so many tokens."""
        ...

    def forward(self, parts: Sequence[Part]) -> torch.Tensor:
        """Run the model; the logits that the parts want, one after another."""
        ...


def input_device(model: Any) -> torch.device:
    """Where token ids go; offloaded embeddings are nowhere until accelerate brings them."""
    device: torch.device = model.get_input_embeddings().weight.device
    return torch.device("cpu") if device.type == "meta" else device


def base_model(model: Any) -> Any:
    """The model inside an adapter's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def arguments(model: Any) -> set[str]:
    """What a model can be called with, by name."""
    return set(inspect.signature(base_model(model).forward).parameters)
