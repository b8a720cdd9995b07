"""Runs a model once over many rows of unequal length, each with keys and values of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from langchain_metaaligner.engines.keyvalues import KeyValues
from langchain_metaaligner.engines.passes import Part, base_model, input_device
from langchain_metaaligner.errors import EngineError

_NAME = "metaaligner_packed"


class _Span:
    """The place of one row's new tokens in a pass."""

    __slots__ = ("_mask", "cache", "end", "start")

    def __init__(self, cache: KeyValues, start: int, end: int) -> None:
        self.cache, self.start, self.end = cache, start, end
        self._mask: torch.Tensor | None = None

    def mask(self, groups: int, device: torch.device) -> torch.Tensor:
        """Which of all tokens each new one may look at, once for each head of a group."""
        if self._mask is None or self._mask.device != device:
            new = self.end - self.start
            places = torch.arange(self.cache.length + new, device=device)
            self._mask = (places <= places[-new:, None]).repeat(groups, 1)
        return self._mask


class _Pass:
    """One pass, as the attention of each layer sees it."""

    def __init__(self, spans: Sequence[_Span]) -> None:
        self.spans = spans
        self.layers = 0

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: Any
    ) -> torch.Tensor:
        """Attention of each row's new tokens over that row alone."""
        self.layers += 1
        made = [
            _attention(
                span,
                query,
                *span.cache.put(
                    module.layer_idx,
                    key[0, :, span.start : span.end],
                    value[0, :, span.start : span.end],
                ),
                scale,
            )
            for span in self.spans
        ]
        return made[0] if len(made) == 1 else torch.cat(made, dim=1)


def _attention(
    span: _Span, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: Any
) -> torch.Tensor:
    query = query[:, :, span.start : span.end]
    heads, new, size = query.shape[1:]
    groups = heads // keys.shape[0]
    if new == keys.shape[1] > 1:
        keys, values = (
            one.repeat_interleave(groups, 0) if groups > 1 else one for one in (keys, values)
        )
        made = scaled_dot_product_attention(
            query, keys[None], values[None], is_causal=True, scale=scale
        )
        return made.transpose(1, 2)
    # Heads that share keys stand one behind another as so many more queries: nothing is copied.
    packed = query.reshape(1, keys.shape[0], groups * new, size)
    mask = span.mask(groups, query.device) if new > 1 else None
    made = scaled_dot_product_attention(
        packed, keys[None], values[None], attn_mask=mask, scale=scale
    )
    return made.reshape(1, heads, new, values.shape[-1]).transpose(1, 2)


def _packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    metaaligner_pass: _Pass | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    if metaaligner_pass is None:
        # Somebody else runs the model at this moment, in another thread.
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        made: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **others
        )
        return made
    for name in ("softcap", "sliding_window", "s_aux", "position_bias"):
        if others.get(name) is not None:
            message = f"Attention with {name!r} can't be packed."
            raise NotImplementedError(message)
    return metaaligner_pass.attend(module, query, key, value, scaling), None


class PackedPasses:
    """Makes passes in which all rows' new tokens stand one behind another, without padding.

    The model's attention is exchanged by its configuration, and only while a pass runs. Whoever
    else runs the model meanwhile gets the usual attention from the same function.

    Args:
        model: A causal model of transformers that `passes_for` has found fit.
    """

    drafts = True
    packs = True

    def __init__(self, model: Any) -> None:
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

        AttentionInterface.register(_NAME, _packed_attention)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
        self._model = model
        self._no_mask = torch.empty(1, 1, 0, 0)  # with four dimensions: taken as it is

    def cache(self, room: int) -> KeyValues:
        """An empty cache."""
        return KeyValues(room)

    def forward(self, parts: Sequence[Part]) -> torch.Tensor:
        """Run the model once.

        Args:
            parts: What is done for each row.

        Returns:
            Logits: for each part as many rows as it keeps, in order.
        """
        tokens: list[int] = []
        places: list[int] = []
        kept: list[int] = []
        spans = []
        for part in parts:
            start, end = len(tokens), len(tokens) + len(part.tokens)
            tokens += part.tokens
            places += range(part.cache.length, part.cache.length + end - start)
            kept += range(end - part.keep, end)
            spans.append(_Span(part.cache, start, end))
        device = input_device(self._model)
        run = _Pass(spans)
        wanted = kept or [len(tokens) - 1]
        whole = len(wanted) == len(tokens) or wanted[0] == len(tokens) - len(wanted)
        with torch.inference_mode(), self._exchanged():
            output = self._model(
                input_ids=torch.tensor([tokens], device=device),
                position_ids=torch.tensor([places], device=device),
                attention_mask=self._no_mask,
                use_cache=False,
                logits_to_keep=len(wanted) if whole else torch.tensor(wanted, device=device),
                return_dict=True,
                metaaligner_pass=run,
            )
        if not run.layers:
            message = f"{type(self._model).__name__} did not use the attention that it was given."
            raise EngineError(message)
        for part in parts:
            part.cache.length += len(part.tokens)
        logits: torch.Tensor = output.logits[0]
        return logits if kept else logits[:0]

    @contextmanager
    def _exchanged(self) -> Iterator[None]:
        config = base_model(self._model).config
        before = config._attn_implementation  # noqa: SLF001 - the public setter loads kernels
        config._attn_implementation = _NAME  # noqa: SLF001
        try:
            yield
        finally:
            config._attn_implementation = before  # noqa: SLF001
