"""Runs a model over one sequence at a time, with the model's own attention and cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from langchain_metaaligner.engines.local.forward import ForwardInput, arguments, input_device
from langchain_metaaligner.errors import EngineError


class _OwnCache:
    """The cache that the model makes itself; tokens after `length` are cropped before a pass."""

    def __init__(self) -> None:
        self.length = 0
        self.made: Any = None
        self.held = 0


class SequentialForward:
    """Makes passes of one sequence at a time, with the model's own attention and cache.

    Args:
        model: Any causal model of transformers.
    """

    packs = False

    def __init__(self, model: Any) -> None:
        self._model = model
        self._takes = arguments(model)
        # transformers 5.24 renamed it, in both arguments and outputs.
        self._cache_name = "cache" if "cache" in self._takes else "past_key_values"
        config = getattr(model, "config", None)
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        self.drafts = kinds == {"full_attention"} and not getattr(config, "sliding_window", None)

    def new_cache(self, room: int) -> _OwnCache:
        """Make an empty cache."""
        return _OwnCache()

    def run(self, inputs: Sequence[ForwardInput]) -> torch.Tensor:
        """Run the model once for each sequence.

        Args:
            inputs: The input of each sequence.

        Returns:
            `[kept_tokens, vocabulary]`: the logits that each input asks for, concatenated.

        Raises:
            EngineError: The model returns no cache.
        """
        return torch.cat([self._one(part) for part in inputs])

    def _one(self, part: ForwardInput) -> torch.Tensor:
        """Run the model for one sequence, and return `[kept_tokens, vocabulary]`."""
        cache = part.cache
        if cache.held > cache.length:
            cache.made.crop(cache.length - cache.held)
            cache.held = cache.length
        device = input_device(self._model)
        given: dict[str, Any] = {
            "input_ids": torch.tensor([part.tokens], device=device),
            "use_cache": True,
            self._cache_name: cache.made,
            "return_dict": True,
        }
        end = cache.length + len(part.tokens)
        if "position_ids" in self._takes:
            given["position_ids"] = torch.arange(cache.length, end, device=device)[None]
        if "logits_to_keep" in self._takes:
            given["logits_to_keep"] = max(1, part.keep)
        with torch.inference_mode():
            output = self._model(**given)
        cache.made = getattr(output, self._cache_name, None)
        if cache.made is None:
            message = (
                f"{type(self._model).__name__} returns no key-value cache that this engine knows."
                " Use a model with LLaMA's architecture."
            )
            raise EngineError(message)
        cache.length = cache.held = end
        logits: torch.Tensor = output.logits[0]
        return logits[logits.shape[0] - part.keep :]
