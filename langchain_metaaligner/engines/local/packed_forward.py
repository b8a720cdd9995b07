"""Runs a model over several sequences of different lengths in one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from threading import get_ident
from typing import Any

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from langchain_metaaligner.engines.local.cpu_kernels import kernels_of
from langchain_metaaligner.engines.local.forward import (
    Forward,
    ForwardInput,
    arguments,
    base_model,
    input_device,
)
from langchain_metaaligner.engines.local.llama_layers import LlamaLayers, is_llama
from langchain_metaaligner.engines.local.native_kernels import NativeKernels
from langchain_metaaligner.engines.local.sequential_forward import (
    SequentialForward,
    changing_rotary,
)
from langchain_metaaligner.errors import EngineError

# On a CPU, attention is computed for blocks of new tokens that begin at multiples of this place in
# their sequence, over all keys up to the block's end. So a token's result depends on its place
# alone, and not on how many tokens a pass happens to begin with or to bring. Far from the beginning
# the blocks are larger, since each call of the kernel rearranges all keys.
_BLOCK = 64
_LARGE_BLOCK = 256
LARGE_FROM = 1024
"""The place in a sequence from which on attention is computed for larger blocks."""
# On a CPU, many matrix kernels treat the last 1 to 3 rows of a product differently, so there are
# never any.
_ROWS = 4


class CausalMask:
    """Lets each new token of a sequence attend to the tokens before it and to itself.

    Args:
        seen: Number of tokens that the sequence had before.
        new: Number of new tokens.
    """

    __slots__ = ("_blocks", "_made_for", "new", "seen")

    def __init__(self, seen: int, new: int) -> None:
        self.seen, self.new = seen, new
        self._made_for: tuple[int, torch.device] | None = None
        self._blocks: list[tuple[int, int, torch.Tensor]] = []

    def blocks(self, groups: int, like: torch.Tensor) -> list[tuple[int, int, torch.Tensor]]:
        """Make the biases to add to attention scores, for blocks of new tokens.

        Args:
            groups: Number of query heads for each key head.
            like: A tensor with the wanted dtype and device.

        Returns:
            For each block: the index of its first new token, the index after its last one, and the
            bias, `[rows, keys]`. It has `groups * block_tokens` rows and up to 3 more without a
            meaning, for all keys up to the end of the block's place in the sequence. It is 0, or
            minus infinity for keys that must not be attended to.
        """
        wanted = groups, like.device
        if self._made_for != wanted:
            end = self.seen + self.new
            self._blocks = []
            place = self.seen
            while place < end:
                size = _block_size(place)
                first = place - place % size
                self._blocks.append(self._block(first, size, min(end, first + size), groups, like))
                place = first + size
            self._made_for = wanted
        return self._blocks

    def whole(self, groups: int, like: torch.Tensor) -> torch.Tensor:
        """Make the bias for all new tokens, `[groups * new_tokens, tokens]`; as in `blocks`."""
        wanted = groups, like.device
        if self._made_for != wanted:
            bias = like.new_full((self.new, self.seen + self.new), -torch.inf)
            bias = bias.triu_(self.seen + 1).repeat(groups, 1)
            self._blocks = [(0, self.new, bias)]
            self._made_for = wanted
        return self._blocks[0][2]

    def _block(
        self, place: int, size: int, end: int, groups: int, like: torch.Tensor
    ) -> tuple[int, int, torch.Tensor]:
        """Make the block from a place, a multiple of its size, to before `end`."""
        start = max(place, self.seen)
        count = groups * (end - start)
        bias = like.new_zeros((-(-count // _ROWS) * _ROWS, place + size))
        own = bias[:count, place:].view(groups, end - start, size)
        own[:] = _triangle(size, like.dtype, like.device)[start - place : end - place]
        return start - self.seen, end - self.seen, bias


def _block_size(place: int) -> int:
    """Find how large the block is that a place of a sequence lies in."""
    return _BLOCK if place < LARGE_FROM else _LARGE_BLOCK


@cache
def _triangle(size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Make the bias of a block for its own keys, `[size, size]`."""
    return torch.full((size, size), -torch.inf, dtype=dtype, device=device).triu_(1)


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: CausalMask,
    scale: float | None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute the attention of a sequence's new tokens over the sequence.

    Args:
        query: `[1, heads, new_tokens, head_dim]`.
        keys: `[key_heads, room, head_dim]`, with room for whole blocks and zeros after the tokens.
        values: `[key_heads, room, head_dim]`.
        mask: The sequence's mask.
        scale: Factor for the scores; `None` is `head_dim ** -0.5`.
        out: Where to write the result, if it should not be a new tensor.

    Returns:
        `[1, new_tokens, heads, head_dim]`.
    """
    if query.device.type != "cpu":  # pragma: no cover
        made = attend_at_once(query, keys, values, mask, scale)  # not run here: needs a GPU
        return made if out is None else out.copy_(made)
    _, heads, new, size = query.shape
    kept = keys.shape[0]
    groups = heads // kept
    # Query heads that share keys are treated as more queries of one head, without a copy.
    packed = query.view(kept, groups, new, size)
    if out is None:
        out = query.new_empty((1, new, heads, values.shape[-1]))
    made = out.view(new, kept, groups, -1)
    for start, end, bias in mask.blocks(groups, query):
        rows, last = bias.shape
        count = groups * (end - start)
        part = packed[:, :, start:end].reshape(1, kept, count, size)
        if rows > count:
            part = pad(part, (0, 0, 0, rows - count))
        mixed = scaled_dot_product_attention(
            part, keys[None, :, :last], values[None, :, :last], attn_mask=bias, scale=scale
        )
        mixed = mixed[0, :, :count].view(kept, groups, end - start, -1)
        made[start:end] = mixed.permute(2, 0, 1, 3)
    return out


def attend_at_once(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: CausalMask,
    scale: float | None,
) -> torch.Tensor:
    """Compute the same as `attend` with one kernel call, as is best on an accelerator.

    Args:
        query: `[1, heads, new_tokens, head_dim]`.
        keys: `[key_heads, room, head_dim]`.
        values: `[key_heads, room, head_dim]`.
        mask: The sequence's mask.
        scale: Factor for the scores; `None` is `head_dim ** -0.5`.

    Returns:
        `[1, new_tokens, heads, head_dim]`.
    """
    heads, new, size = query.shape[1:]
    groups = heads // keys.shape[0]
    keys, values = keys[None, :, : mask.seen + new], values[None, :, : mask.seen + new]
    if new > 1 and not mask.seen:
        if groups > 1:
            keys, values = (one.repeat_interleave(groups, 1) for one in (keys, values))
        made = scaled_dot_product_attention(query, keys, values, is_causal=True, scale=scale)
        return made.transpose(1, 2)
    made = scaled_dot_product_attention(
        query.reshape(1, keys.shape[1], groups * new, size),
        keys,
        values,
        attn_mask=mask.whole(groups, query) if new > 1 else None,
        scale=scale,
    )
    return made.reshape(1, heads, new, -1).transpose(1, 2)


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
        self._ends: dict[int, int] = {}  # where what was written into each layer's buffers ends

    def update(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[Any, Any]:
        """Write keys and values after those of the first `length` tokens.

        `length` itself is not changed, since all layers are written before it grows.

        Args:
            layer: Index of the layer.
            keys: `[key_heads, new_tokens, head_dim]`.
            values: `[key_heads, new_tokens, head_dim]`.

        Returns:
            The buffers of keys and values, each `[key_heads, room, head_dim]`, with room for whole
            blocks. After all tokens they hold zeros.
        """
        end = self.length + keys.shape[1]
        held, written = self.reserve(layer, keys.shape[1], keys, values)
        held[0][:, self.length : end] = keys
        held[1][:, self.length : end] = values
        if written > end:  # dropped tokens: even hidden ones do harm if they are not finite
            held[0][:, end:written] = 0
            held[1][:, end:written] = 0
        return held

    def reserve(
        self, layer: int, new: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], int]:
        """Make room for new tokens after the first `length`; the caller writes them.

        Args:
            layer: Index of the layer.
            new: Number of tokens.
            keys: Any keys, `[key_heads, tokens, head_dim]`, of whose kind the buffers are.
            values: Any values, `[key_heads, tokens, head_dim]`.

        Returns:
            The buffers, as from `update`, and where the tokens end that were ever written; those
            after the new ones have to be set to zero.
        """
        end = self.length + new
        held = self._layers.get(layer)
        if held is None or held[0].shape[1] < end:
            held = self._layers[layer] = self._grown(held, keys, values, end)
        written = self._ends.get(layer, 0)
        self._ends[layer] = end
        return held, written

    def _grown(
        self, held: tuple[Any, Any] | None, keys: torch.Tensor, values: torch.Tensor, end: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Make larger buffers with the old content, each `[key_heads, room, head_dim]`."""
        room = max(self._room, end + max(_SPARE, end // 4))
        room += -room % _block_size(room)
        grown = tuple(new.new_zeros((new.shape[0], room, new.shape[2])) for new in (keys, values))
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

    def attend_turning(
        self,
        layer: int,
        rows: torch.Tensor,
        turn: tuple[torch.Tensor, torch.Tensor],
        heads: int,
        scale: float,
        kernels: NativeKernels,
    ) -> torch.Tensor:
        """Compute the same for places that are not yet in the rows; as for `LlamaLayers`."""
        self.layers += 1
        kept = (rows.shape[1] - heads) // 2
        like = rows[:, :kept].transpose(0, 1)
        spans: list[int] = []
        for span in self.spans:
            cache, new = span.cache, span.end - span.start
            (keys, values), written = cache.reserve(layer, new, like, like)
            spans += (
                keys.data_ptr(), values.data_ptr(), keys.shape[1], cache.length, span.start, new,
                written,
            )  # fmt: skip
        return kernels.attend(rows, turn, spans, heads, scale)

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
        self.rows = 1 if input_device(model).type != "cpu" else _ROWS
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
