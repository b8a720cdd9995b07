"""Runs a model once over many rows of unequal length, each with keys and values of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from langchain_metaaligner.engines.attention import Sight, attend
from langchain_metaaligner.engines.keyvalues import KeyValues
from langchain_metaaligner.engines.passes import Part, base_model, input_device
from langchain_metaaligner.errors import EngineError

_NAME = "metaaligner_packed"


@dataclass(slots=True)
class _Span:
    """The place of one row's new tokens in a pass."""

    cache: KeyValues
    start: int
    end: int
    sight: Sight


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
        made = []
        for span in self.spans:
            new = slice(span.start, span.end)
            held = span.cache.put(module.layer_idx, key[0, :, new], value[0, :, new])
            made.append(attend(query[:, :, new], *held, span.sight, scale))
        return made[0] if len(made) == 1 else torch.cat(made, dim=1)


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
            spans.append(_Span(part.cache, start, end, Sight(part.cache.length, end - start)))
        device = input_device(self._model)
        run = _Pass(spans)
        wanted = kept or [len(tokens) - 1]
        with torch.inference_mode(), self._exchanged():
            output = self._model(
                input_ids=torch.tensor([tokens], device=device),
                position_ids=torch.tensor([places], device=device),
                attention_mask=self._no_mask,
                use_cache=False,
                # A slice would not be contiguous, and the head would copy its weights for it:
                # 45 of 250 ms for a pass of the embedded aligner's on two cores.
                logits_to_keep=torch.tensor(wanted, device=device),
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
