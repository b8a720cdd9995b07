"""Runs a model over several sequences of different lengths in one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from langchain_metaaligner.engines.local.forward import (
    Forward,
    ForwardInput,
    arguments,
    base_model,
    input_device,
)
from langchain_metaaligner.engines.local.sequential_forward import SequentialForward
from langchain_metaaligner.errors import EngineError

# On a CPU in bfloat16, torch's fused attention takes 1.5 to 2.2 times as long as two matrix
# products with a softmax between them, made in blocks so that the scores fit into the CPU's
# cache. For few tokens both take the same time, and in float32 fused attention is faster.
_BLOCK = 128
_FEW = 32


class CausalMask:
    """Lets each new token of a sequence attend to the tokens before it and to itself.

    Args:
        seen: Number of tokens that the sequence had before.
        new: Number of new tokens.
    """

    __slots__ = ("_blocks", "_made_for", "new", "seen")

    def __init__(self, seen: int, new: int) -> None:
        self.seen, self.new = seen, new
        self._made_for: tuple[int, int, torch.device] | None = None
        self._blocks: list[tuple[int, int, torch.Tensor]] = []

    def blocks(
        self, size: int, groups: int, like: torch.Tensor
    ) -> list[tuple[int, int, torch.Tensor]]:
        """Make the biases to add to attention scores, for blocks of new tokens.

        Args:
            size: Maximum number of new tokens in a block.
            groups: Number of query heads for each key head.
            like: A tensor with the wanted dtype and device.

        Returns:
            For each block: the index of its first new token, the index after its last one, and the
            bias, `[groups * block_tokens, tokens]`, for all tokens of the sequence up to the
            block's last. It is 0, or minus infinity for tokens that must not be attended to.
        """
        wanted = size, groups, like.device
        if self._made_for != wanted:
            starts = range(0, self.new, size)
            ends = [min(self.new, start + size) for start in starts]
            self._blocks = [
                (start, end, self._bias(start, end, groups, like))
                for start, end in zip(starts, ends, strict=True)
            ]
            self._made_for = wanted
        return self._blocks

    def _bias(self, start: int, end: int, groups: int, like: torch.Tensor) -> torch.Tensor:
        """Make the bias of one block, `[groups * (end - start), seen + end]`."""
        places = torch.arange(self.seen + end, device=like.device)
        hidden = places > places[self.seen + start :, None]
        bias = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
        return bias.masked_fill_(hidden, -torch.inf).repeat(groups, 1)


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: CausalMask,
    scale: float | None,
) -> torch.Tensor:
    """Compute the attention of a sequence's new tokens over the sequence.

    Args:
        query: `[1, heads, new_tokens, head_dim]`.
        keys: `[key_heads, tokens, head_dim]`.
        values: `[key_heads, tokens, head_dim]`.
        mask: The sequence's mask.
        scale: Factor for the scores; `None` is `head_dim ** -0.5`.

    Returns:
        `[1, new_tokens, heads, head_dim]`.
    """
    heads, new, size = query.shape[1:]
    groups = heads // keys.shape[0]
    if query.dtype is torch.bfloat16 and query.device.type == "cpu" and new >= _FEW:
        made = _in_blocks(query, keys, values, mask, size**-0.5 if scale is None else scale)
    elif new == keys.shape[1] > 1:
        keys, values = (
            one.repeat_interleave(groups, 0) if groups > 1 else one for one in (keys, values)
        )
        made = scaled_dot_product_attention(
            query, keys[None], values[None], is_causal=True, scale=scale
        )
    else:
        # Query heads that share keys are treated as more queries of one head, without a copy.
        packed = query.reshape(1, keys.shape[0], groups * new, size)
        bias = mask.blocks(new, groups, query)[0][2] if new > 1 else None
        made = scaled_dot_product_attention(
            packed, keys[None], values[None], attn_mask=bias, scale=scale
        ).reshape(1, heads, new, values.shape[-1])
    return made.transpose(1, 2)


def _in_blocks(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: CausalMask, scale: float
) -> torch.Tensor:
    """Compute attention in blocks of new tokens; shapes as for `attend`.

    Returns:
        `[1, heads, new_tokens, head_dim]`.
    """
    heads, new, size = query.shape[1:]
    groups = heads // keys.shape[0]
    packed = query.reshape(keys.shape[0], groups, new, size)
    made = query.new_empty((keys.shape[0], groups, new, values.shape[-1]))
    for start, end, bias in mask.blocks(_BLOCK, groups, query):
        last = mask.seen + end
        part = packed[:, :, start:end].reshape(keys.shape[0], -1, size)
        scores = torch.baddbmm(bias[None], part, keys[:, :last].transpose(1, 2), alpha=scale)
        mixed = torch.bmm(scores.softmax(-1), values[:, :last])
        made[:, :, start:end] = mixed.view(keys.shape[0], groups, end - start, -1)
    return made.view(1, heads, new, -1)


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

    def update(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[Any, Any]:
        """Write keys and values after those of the first `length` tokens.

        `length` itself is not changed, since all layers are written before it grows.

        Args:
            layer: Index of the layer.
            keys: `[key_heads, new_tokens, head_dim]`.
            values: `[key_heads, new_tokens, head_dim]`.

        Returns:
            Keys and values of all tokens, each `[key_heads, length + new_tokens, head_dim]`.
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
        """Make larger buffers with the old content, each `[key_heads, room, head_dim]`."""
        room = max(self._room, end + max(_SPARE, end // 4))
        grown = tuple(new.new_empty((new.shape[0], room, new.shape[2])) for new in (keys, values))
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


_NAME = "metaaligner_packed"


@dataclass(slots=True)
class _Span:
    """The position of one sequence's new tokens in a pass."""

    cache: KeyValueCache
    start: int
    end: int
    mask: CausalMask


class _Pass:
    """The part of a forward pass that each layer's attention needs."""

    def __init__(self, spans: Sequence[_Span]) -> None:
        self.spans = spans
        self.layers = 0

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: Any
    ) -> torch.Tensor:
        """Compute the attention of each sequence's new tokens over that sequence alone.

        Args:
            module: The attention module of a layer.
            query: `[1, heads, new_tokens, head_dim]`, with the new tokens of all sequences.
            key: `[1, key_heads, new_tokens, head_dim]`.
            value: `[1, key_heads, new_tokens, head_dim]`.
            scale: As for `attend`.

        Returns:
            `[1, new_tokens, heads, head_dim]`.
        """
        self.layers += 1
        made = []
        for span in self.spans:
            new = slice(span.start, span.end)
            held = span.cache.update(module.layer_idx, key[0, :, new], value[0, :, new])
            made.append(attend(query[:, :, new], *held, span.mask, scale))
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
    """Compute attention for transformers; shapes as for `_Pass.attend`."""
    if metaaligner_pass is None:
        # Another thread is running the model outside this package at the same time.
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


class PackedForward:
    """Makes passes in which the new tokens of all sequences are concatenated, without padding.

    The model's attention is replaced through its configuration, only while a pass runs. Other
    code that runs the model at the same time still gets the usual attention.

    Args:
        model: A causal model of transformers that `choose_forward` has found suitable.
    """

    drafts = True
    packs = True

    def __init__(self, model: Any) -> None:
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

        AttentionInterface.register(_NAME, _packed_attention)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
        self._model = model
        self._no_mask = torch.empty(1, 1, 0, 0)  # transformers passes on 4D masks unchanged

    def new_cache(self, room: int) -> KeyValueCache:
        """Make an empty cache for a sequence of about `room` tokens."""
        return KeyValueCache(room)

    def run(self, inputs: Sequence[ForwardInput]) -> torch.Tensor:
        """Run the model once.

        Args:
            inputs: The input of each sequence.

        Returns:
            `[kept_tokens, vocabulary]`: the logits that each input asks for, concatenated.

        Raises:
            EngineError: The model did not use the attention of this class.
        """
        tokens: list[int] = []
        places: list[int] = []
        kept: list[int] = []
        spans = []
        for part in inputs:
            start, end = len(tokens), len(tokens) + len(part.tokens)
            tokens += part.tokens
            places += range(part.cache.length, part.cache.length + end - start)
            kept += range(end - part.keep, end)
            spans.append(_Span(part.cache, start, end, CausalMask(part.cache.length, end - start)))
        device = input_device(self._model)
        run = _Pass(spans)
        wanted = kept or [len(tokens) - 1]
        with torch.inference_mode(), self._exchanged():
            output = self._model(
                input_ids=torch.tensor([tokens], device=device),
                position_ids=torch.tensor([places], device=device),
                attention_mask=self._no_mask,
                use_cache=False,
                # Indices, because a slice is not contiguous and the head would copy its weights
                # for it: 45 of 250 ms in a pass of the embedded aligner on two cores.
                logits_to_keep=torch.tensor(wanted, device=device),
                return_dict=True,
                metaaligner_pass=run,
            )
        if not run.layers:
            message = (
                f"{type(self._model).__name__} did not use the attention that it was given. Use a"
                " model with LLaMA's architecture."
            )
            raise EngineError(message)
        for part in inputs:
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


# Models known to pass all arguments on to their attention; others are tested first.
_KNOWN = frozenset({"llama", "mistral", "qwen2", "qwen3"})


def choose_forward(model: Any) -> Forward:
    """Choose how to run a model over several sequences.

    Args:
        model: A causal model of transformers.

    Returns:
        A `PackedForward` if the model's attention can be replaced, else a `SequentialForward`.
    """
    if _can_pack(model) and (base_model(model).config.model_type in _KNOWN or _packs_well(model)):
        return PackedForward(model)
    return SequentialForward(model)


def _can_pack(model: Any) -> bool:
    inner = base_model(model)
    config = inner.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        getattr(inner, "_supports_attention_backend", False) is True
        and not getattr(config, "is_encoder_decoder", False)
        and config is inner.config
        and kinds == {"full_attention"}
        and not getattr(config, "sliding_window", None)
        and not getattr(config, "attn_logit_softcapping", None)
        and arguments(inner) >= {"position_ids", "logits_to_keep", "kwargs"}
    )


def _packs_well(model: Any) -> bool:
    """Test packed passes on two short sequences, and compare the logits with separate passes."""
    device = input_device(model)
    if any(weight.device.type == "meta" for weight in model.parameters()):
        return False  # offloaded weights make a test pass too slow
    try:
        packed = PackedForward(model)
        one, two = packed.new_cache(8), packed.new_cache(8)
        packed.run([ForwardInput(one, [1, 2, 3], 1), ForwardInput(two, [3, 2], 1)])
        made = packed.run([ForwardInput(one, [4, 5], 1), ForwardInput(two, [1], 1)])
        with torch.inference_mode():
            alone = [
                model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits[0, -1]
                for ids in ([1, 2, 3, 4, 5], [3, 2, 1])
            ]
    except Exception:  # noqa: BLE001 - any failure means that this model can't be packed
        return False
    spread = 0.05 * max(float(one.float().std()) for one in alone)
    return torch.allclose(made.float(), torch.stack(alone).float(), atol=spread, rtol=0)
