"""Runs a model once over many rows of unequal length, each with keys and values of its own."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention

from langchain_metaaligner.errors import EngineError

_NAME = "metaaligner_packed"
# Known to hand everything on to their attention as it is needed; others are tried out first.
_KNOWN = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_SPARE = 64  # tokens of room behind what a row holds already

Layers = dict[int, tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer: heads, tokens, size of a head."""


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


def passes_for(model: Any) -> Passes:
    """Choose how to run a model over rows.

    Args:
        model: A causal model of transformers.

    Returns:
        One pass for all rows where its attention can be replaced, else one for each row.
    """
    if _can_pack(model) and (_base(model).config.model_type in _KNOWN or _packs_well(model)):
        return PackedPasses(model)
    return SinglePasses(model)


def _can_pack(model: Any) -> bool:
    inner = _base(model)
    config = inner.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        getattr(inner, "_supports_attention_backend", False) is True
        and not getattr(config, "is_encoder_decoder", False)
        and config is inner.config
        and kinds == {"full_attention"}
        and not getattr(config, "sliding_window", None)
        and not getattr(config, "attn_logit_softcapping", None)
        and _arguments(inner) >= {"position_ids", "logits_to_keep", "kwargs"}
    )


def _packs_well(model: Any) -> bool:
    """Try it: two short rows, one of them in two passes, against each by itself."""
    device = input_device(model)
    if any(weight.device.type == "meta" for weight in model.parameters()):
        return False  # offloaded: a pass takes too long for trying
    try:
        passes = PackedPasses(model)
        one, two = passes.cache(8), passes.cache(8)
        passes.forward([Part(one, [1, 2, 3], 1), Part(two, [3, 2], 1)])
        made = passes.forward([Part(one, [4, 5], 1), Part(two, [1], 1)])
        with torch.inference_mode():
            alone = [
                model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits[0, -1]
                for ids in ([1, 2, 3, 4, 5], [3, 2, 1])
            ]
    except Exception:  # noqa: BLE001 - whatever it is, this model can't
        return False
    spread = 0.05 * max(float(one.float().std()) for one in alone)
    return torch.allclose(made.float(), torch.stack(alone).float(), atol=spread, rtol=0)


def _base(model: Any) -> Any:
    """The model inside an adapter's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _arguments(model: Any) -> set[str]:
    return set(inspect.signature(_base(model).forward).parameters)


# -- all rows in one pass -------------------------------------------------------------------


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
        config = _base(self._model).config
        before = config._attn_implementation  # noqa: SLF001 - the public setter loads kernels
        config._attn_implementation = _NAME  # noqa: SLF001
        try:
            yield
        finally:
            config._attn_implementation = before  # noqa: SLF001


# -- a pass for each row --------------------------------------------------------------------


class _OwnCache:
    """The cache that the model makes for itself, cut to what counts."""

    def __init__(self) -> None:
        self.length = 0
        self.made: Any = None
        self.held = 0


class SinglePasses:
    """Makes passes of one row at a time, with the model's own attention and cache.

    Args:
        model: Any causal model of transformers.
    """

    packs = False

    def __init__(self, model: Any) -> None:
        self._model = model
        self._takes = _arguments(model)
        config = getattr(model, "config", None)
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        self.drafts = kinds == {"full_attention"} and not getattr(config, "sliding_window", None)

    def cache(self, room: int) -> _OwnCache:
        """An empty cache."""
        return _OwnCache()

    def forward(self, parts: Sequence[Part]) -> torch.Tensor:
        """Run the model once for each part; as `PackedPasses.forward`."""
        return torch.cat([self._one(part) for part in parts])

    def _one(self, part: Part) -> torch.Tensor:
        cache = part.cache
        if cache.held > cache.length:
            cache.made.crop(cache.length - cache.held)
            cache.held = cache.length
        device = input_device(self._model)
        given: dict[str, Any] = {
            "input_ids": torch.tensor([part.tokens], device=device),
            "use_cache": True,
            "past_key_values": cache.made,
            "return_dict": True,
        }
        end = cache.length + len(part.tokens)
        if "position_ids" in self._takes:
            given["position_ids"] = torch.arange(cache.length, end, device=device)[None]
        if "logits_to_keep" in self._takes:
            given["logits_to_keep"] = max(1, part.keep)
        with torch.inference_mode():
            output = self._model(**given)
        cache.made = getattr(output, "past_key_values", None)
        if cache.made is None:
            message = (
                f"{type(self._model).__name__} keeps no key-value cache that this engine knows."
                " Use a model of the LLaMA kind."
            )
            raise EngineError(message)
        cache.length = cache.held = end
        logits: torch.Tensor = output.logits[0]
        return logits[logits.shape[0] - part.keep :]


def input_device(model: Any) -> torch.device:
    """Where token ids go; offloaded embeddings are nowhere until accelerate brings them."""
    device: torch.device = model.get_input_embeddings().weight.device
    return torch.device("cpu") if device.type == "meta" else device
