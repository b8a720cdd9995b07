"""The interface of forward passes over sequences of different lengths."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch


@dataclass(slots=True)
class ForwardInput:
    """The input of one sequence to a pass.

    Attributes:
        cache: The sequence's cache. Its `length` is the number of tokens that the model has
            processed; lowering it drops the last ones. It changes only if the pass succeeds.
        tokens: The next tokens of the sequence.
        keep: For how many of the last tokens to return logits.
    """

    cache: Any
    tokens: list[int]
    keep: int


class Forward(Protocol):
    """Makes forward passes of a model.

    Attributes:
        drafts: Whether tokens can be removed from a cache, so that drafts are possible.
        packs: Whether a pass processes several sequences at once. If so, caches can also begin
            with keys and values of other sequences.
    """

    drafts: bool
    packs: bool

    def new_cache(self, room: int) -> Any:
        """Make an empty cache for a sequence of about `room` tokens."""
        ...

    def run(self, inputs: Sequence[ForwardInput]) -> torch.Tensor:
        """Run the model.

        Args:
            inputs: The input of each sequence.

        Returns:
            `[kept_tokens, vocabulary]`: the logits that each input asks for, concatenated.
        """
        ...


def horizon_of(forward: Forward) -> int | None:
    """Return the length up to which sequences may be drafted; `None` if there is no limit.

    A model whose positions depend on the length computes other numbers beyond it, so that a draft
    that is too long would change the tokens before its end.
    """
    found: int | None = getattr(forward, "horizon", None)
    return found


def input_device(model: Any) -> torch.device:
    """Return the device for token ids; the CPU if the embeddings are offloaded."""
    device: torch.device = model.get_input_embeddings().weight.device
    return torch.device("cpu") if device.type == "meta" else device


def base_model(model: Any) -> Any:
    """Return the model inside an adapter's wrapper, or the model itself if it has no adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def arguments(model: Any) -> set[str]:
    """Return the names of the arguments that a model's forward accepts."""
    return set(inspect.signature(base_model(model).forward).parameters)
