"""Runs a model over several sequences of different lengths in one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from langchain_metaaligner.engines.local.attention import ROWS, CausalMask, attend
from langchain_metaaligner.engines.local.cpu_kernels import kernels_of
from langchain_metaaligner.engines.local.forward import (
    Forward,
    ForwardInput,
    arguments,
    base_model,
    input_device,
)
from langchain_metaaligner.engines.local.key_values import KeyValueCache
from langchain_metaaligner.engines.local.llama_layers import LlamaLayers, is_llama
from langchain_metaaligner.engines.local.sequential_forward import (
    SequentialForward,
    changing_rotary,
)
from langchain_metaaligner.errors import EngineError

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

    def __init__(self, spans: Sequence[_Span], rows: int) -> None:
        self.spans = spans
        self.layers = 0
        self._part: torch.Tensor | None = None  # one token's queries, and rows without a meaning
        self._end = spans[-1].end
        self._more = -self._end % rows

    def fill(self, ids: torch.Tensor) -> torch.Tensor:
        """Append tokens without a meaning, or their places, to those of the pass, `[1, tokens]`."""
        return pad(ids, (0, self._more)) if self._more else ids

    def attend_rows(self, layer: int, rows: torch.Tensor, heads: int, scale: float) -> torch.Tensor:
        """Compute the same as `attend` for `LlamaLayers`, which says what the arguments are."""
        self.layers += 1
        count, all_heads, size = rows.shape
        kept = (all_heads - heads) // 2
        made = rows.new_empty((count, heads, size))
        for span in self.spans:
            start, end = span.start, span.end
            written = rows[start:end, heads:].transpose(0, 1)
            held = span.cache.update(layer, written[:kept], written[kept:])
            if end - start == 1:
                self._attend_one(span, rows[start, :heads], held, made[start], scale)
            else:
                query = rows[None, start:end, :heads].transpose(1, 2)
                attend(query, *held, span.mask, scale, made[None, start:end])
        if count > self._end:
            made[self._end :] = 0
        return made.view(count, heads * size)

    @property
    def longest(self) -> int:
        """How many tokens the longest sequence will have after the pass."""
        return max(span.cache.length + span.end - span.start for span in self.spans)

    def reserve(self, layers: int, like: torch.Tensor) -> list[int]:
        """Make room for new keys and values, and say where, as `NativeLlama.run` takes it."""
        self.layers += layers
        made: list[int] = []
        for layer in range(layers):
            for span in self.spans:
                cache, new = span.cache, span.end - span.start
                (keys, values), written = cache.reserve(layer, new, like, like)
                made += (
                    keys.data_ptr(), values.data_ptr(), keys.shape[1], cache.length, span.start,
                    new, written,
                )  # fmt: skip
        return made

    def _attend_one(
        self,
        span: _Span,
        query: torch.Tensor,
        held: tuple[torch.Tensor, torch.Tensor],
        out: torch.Tensor,
        scale: float,
    ) -> None:
        """Compute the same as `attend` for one token, with fewer operators.

        Args:
            span: Its sequence.
            query: `[heads, head_dim]`.
            held: The keys and the values, each `[key_heads, room, head_dim]`.
            out: Where to write the result, `[heads, head_dim]`.
            scale: Factor for the scores.
        """
        keys, values = held
        kept, size = keys.shape[0], keys.shape[2]
        groups = query.shape[0] // kept
        _, _, bias = span.mask.blocks(groups, query)[0]
        count, last = bias.shape
        part = self._part
        if part is None:
            part = self._part = query.new_zeros((1, kept, count, size))
        part[0, :, :groups] = query.view(kept, groups, size)
        mixed = scaled_dot_product_attention(
            part, keys[None, :, :last], values[None, :, :last], attn_mask=bias, scale=scale
        )
        out.view(kept, groups, size).copy_(mixed[0, :, :groups])

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: Any
    ) -> torch.Tensor:
        """Compute the attention of each sequence's new tokens over that sequence alone.

        Args:
            module: The attention module of a layer.
            query: `[1, heads, new_tokens, head_dim]`, with the new tokens of all sequences, and
                after them any number without a meaning.
            key: `[1, key_heads, new_tokens, head_dim]`.
            value: `[1, key_heads, new_tokens, head_dim]`.
            scale: As for `attend`.

        Returns:
            `[1, new_tokens, heads, head_dim]`.
        """
        self.layers += 1
        _, heads, rows, _ = query.shape
        made = query.new_empty((1, rows, heads, value.shape[-1]))
        for span in self.spans:
            new = slice(span.start, span.end)
            held = span.cache.update(module.layer_idx, key[0, :, new], value[0, :, new])
            attend(query[:, :, new], *held, span.mask, scale, made[:, new])
        if rows > self._end:
            made[:, self._end :] = 0
        return made


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


def _fill(
    _: Any, args: tuple[Any, ...], given: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Give a pass of this package as many rows as its kernels need; a hook of torch."""
    run = given.get("metaaligner_pass")
    if run is not None and given.get("input_ids") is not None:
        given |= {name: run.fill(given[name]) for name in ("input_ids", "position_ids")}
    return args, given


class PackedForward:
    """Makes passes in which the new tokens of all sequences are concatenated, without padding.

    The model's attention is replaced through its configuration, only while a pass runs. Other
    code that runs the model at the same time still gets the usual attention.

    Args:
        model: A causal model of transformers that `choose_forward` has found suitable.

    Attributes:
        rows: The number of tokens in a pass is made a multiple of this, with tokens of no meaning,
            where the model's matrix kernels round differently for other numbers of rows.
        model: The model.
        native: Whether this package's kernels run the layers and the head.
    """

    drafts = True
    packs = True

    def __init__(self, model: Any) -> None:
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

        AttentionInterface.register(_NAME, _packed_attention)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
        self.rows = 1 if input_device(model).type != "cpu" else ROWS
        inner = base_model(model).base_model
        self._layers = LlamaLayers(inner) if is_llama(inner) else None
        head = base_model(model).get_output_embeddings()
        self.native = (
            self._layers is not None
            and self._layers.native
            and head is not None
            and kernels_of(head) is not None
        )
        self.model = model
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
        device = input_device(self.model)
        run = _Pass(spans, self.rows)
        wanted = kept or [len(tokens) - 1]
        with torch.inference_mode(), self._exchanged(len(wanted)):
            output = self.model(
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
                f"{type(self.model).__name__} did not use the attention that it was given. Use a"
                " model with LLaMA's architecture."
            )
            raise EngineError(message)
        for part in inputs:
            part.cache.length += len(part.tokens)
        logits: torch.Tensor = output.logits[0]
        return logits if kept else logits[:0]

    @contextmanager
    def _exchanged(self, kept: int) -> Iterator[None]:
        """Exchange the attention, and fill up the rows, those of the head as well, for a pass."""
        outer = base_model(self.model)
        config = outer.config
        before = config._attn_implementation  # noqa: SLF001 - the public setter loads kernels
        config._attn_implementation = _NAME  # noqa: SLF001
        # Whoever watches the model or its head sees the real tokens and logits alone.
        inner = outer.base_model
        hooks = [inner.register_forward_pre_hook(_fill, with_kwargs=True)]
        held, quick = vars(inner), self._layers
        if quick is not None and "forward" not in held and quick.as_made:
            held["forward"] = quick
        head, more, thread = outer.get_output_embeddings(), -kept % self.rows, get_ident()
        if head is not None and more:

            def fill(_: Any, rows: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
                return (pad(rows[0], (0, 0, 0, more)),) if get_ident() == thread else rows

            def cut(_: Any, __: Any, made: torch.Tensor) -> torch.Tensor:
                return made[:, :kept] if get_ident() == thread else made

            hooks += [
                head.register_forward_pre_hook(fill),
                head.register_forward_hook(cut, prepend=True),
            ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            if held.get("forward") is quick:
                held.pop("forward", None)
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
        and not changing_rotary(model)
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
