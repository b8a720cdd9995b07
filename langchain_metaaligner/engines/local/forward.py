"""What a forward pass over sequences of unequal length is told, and what it needs of a model."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch


@dataclass(slots=True)
class ForwardInput:
    """What one pass does for one sequence.

    Attributes:
        cache: The sequence's cache. Its `length` is the number of tokens that the model has seen;
            making it smaller forgets the last ones. It stays as it is until the pass has gone well.
        tokens: What comes next in the sequence.
        keep: At how many of the last tokens the logits are wanted.
    """

    cache: Any
    tokens: list[int]
    keep: int


class Forward(Protocol):
    """Makes forward passes of a model.

    Attributes:
        drafts: Whether tokens can be taken back, so that drafts can be tried.
        packs: Whether several sequences go through the model at once. Such sequences' caches can
            begin with each other's keys and values, too.
    """

    drafts: bool
    packs: bool

    def new_cache(self, room: int) -> Any:
        """An empty cache for a sequence that will hold about so many tokens."""
        ...

    def run(self, inputs: Sequence[ForwardInput]) -> torch.Tensor:
        """Run the model.

        Args:
            inputs: What is done for each sequence.

        Returns:
            Logits, `[kept_tokens, vocabulary]`: those that each input keeps, one after another.
        """
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
