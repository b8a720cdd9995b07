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
        self.tokens: list[int] = []  # those that `made` has been computed from


class SequentialForward:
    """Makes passes of one sequence at a time, with the model's own attention and cache.

    Some models scale their positions by the length of the sequence: `longrope` (Phi-3) has other
    factors for sequences longer than the original window, and `dynamic` grows with each token.
    For these a pass is computed as if the model had run for this sequence alone, and when a
    sequence with `longrope` outgrows the window, all its tokens are computed again.

    Args:
        model: Any causal model of transformers.

    Attributes:
        horizon: The original window of such a model, `None` for all others.
    """

    packs = False

    def __init__(self, model: Any) -> None:
        self._model = model
        self._takes = arguments(model)
        # transformers 5.24 renamed it, in both arguments and outputs.
        self._cache_name = "cache" if "cache" in self._takes else "past_key_values"
        config = getattr(model, "config", None)
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        self._rotary = changing_rotary(model)
        windows = [_original_window(one) for one in self._rotary]
        self.horizon = min(windows, default=None)
        self._recomputes = any(one.rope_type == "longrope" for one in self._rotary)
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
        cache, tokens = part.cache, part.tokens
        end = cache.length + len(tokens)
        if self.horizon is not None:
            self._forget_lengths()
            if self._recomputes and 0 < cache.length <= self.horizon < end:
                tokens = cache.tokens[: cache.length] + tokens
                cache.length, cache.made, cache.tokens = 0, None, []
        if len(cache.tokens) > cache.length:
            cache.made.crop(cache.length - len(cache.tokens))
            del cache.tokens[cache.length :]
        device = input_device(self._model)
        given: dict[str, Any] = {
            "input_ids": torch.tensor([tokens], device=device),
            "use_cache": True,
            self._cache_name: cache.made,
            "return_dict": True,
        }
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
        cache.tokens += tokens
        cache.length = end
        logits: torch.Tensor = output.logits[0]
        return logits[logits.shape[0] - part.keep :]

    def _forget_lengths(self) -> None:
        """Undo what longer sequences have left behind in the model."""
        for one in self._rotary:
            if "dynamic" in one.rope_type:
                one.max_seq_len_cached = one.original_max_seq_len
                one.inv_freq = one.original_inv_freq


def changing_rotary(model: Any) -> list[Any]:
    """Find the parts of a model whose rotary positions depend on the sequence's length."""
    return [one for one in model.modules() if _changes(getattr(one, "rope_type", None))]


def _changes(kind: object) -> bool:
    return isinstance(kind, str) and (kind == "longrope" or "dynamic" in kind)


def _original_window(rotary: Any) -> int:
    """The length up to which nothing is scaled."""
    told = getattr(rotary.config, "rope_parameters", None) or {}
    return int(told.get("original_max_position_embeddings") or rotary.original_max_seq_len)
