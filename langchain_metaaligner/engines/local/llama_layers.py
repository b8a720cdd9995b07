"""Runs the layers of a LLaMA with fewer operators, or with this package's own kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.functional import silu
from transformers.modeling_outputs import BaseModelOutputWithPast

from langchain_metaaligner.engines.local.cpu_kernels import Product, kernels_of, product
from langchain_metaaligner.engines.local.native_kernels import (
    Layer,
    LlamaShape,
    NativeKernels,
    NativeLlama,
)

# Functions like SiLU are computed for so many numbers at a time, the rest of a row in another way.
_VECTOR = 64


class Attention(Protocol):
    """Computes the attention of the sequences of a pass."""

    def attend_rows(self, layer: int, rows: torch.Tensor, heads: int, scale: float) -> torch.Tensor:
        """Compute the attention of a layer.

        Args:
            layer: The layer's index.
            rows: `[tokens, heads + 2 * key_heads, head_dim]`: queries, keys and values.
            heads: Number of query heads.
            scale: Factor for the scores.

        Returns:
            `[tokens, heads * head_dim]`.
        """
        ...

    @property
    def longest(self) -> int:
        """How many tokens the longest sequence will have after the pass."""
        ...

    def reserve(self, layers: int, like: torch.Tensor) -> Sequence[int]:
        """Make room for the new tokens' keys and values.

        Args:
            layers: Number of layers.
            like: Any keys, `[key_heads, tokens, head_dim]`, of whose kind theirs are.

        Returns:
            Where they go, as `NativeLlama.run` takes it.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Norm:
    """A norm over the numbers of each token."""

    weights: Mapping[str, Any]
    epsilon: float

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Normalise rows, `[tokens, hidden_size]`."""
        long = rows.float()
        scale = long.square().mean(-1, True).add_(self.epsilon).rsqrt_()
        made: torch.Tensor = self.weights["weight"] * (long * scale).to(rows.dtype)
        return made


@dataclass(frozen=True, slots=True)
class _Layer:
    """What one layer computes with."""

    index: int
    before: _Norm
    inputs: Product
    outputs: Product
    between: _Norm
    gates: Product
    down: Product


class LlamaLayers:
    """Runs the layers of a LLaMA model in place of transformers' modules.

    In a pass of one token through the embedded aligner, half of the time went into small operators
    and the Python around them: 7,200 operators, those that others call included. Here it is 5,000,
    and a fifth of the time less. The order of the roundings is the same, and so are the results.

    Args:
        inner: A model without its head for which `is_llama` holds.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        # Where each part is held, what it is made of, and what was exchanged in it by then.
        self._parts = [
            (parent._modules, name, part, vars(part), vars(part).get("forward"))  # noqa: SLF001
            for parent in inner.modules()
            for name, part in parent.named_children()
        ]
        config = inner.config
        first = inner.layers[0].self_attn
        self._size, self._scale = first.head_dim, first.scaling
        self._heads, self._kept = (
            config.num_attention_heads,
            config.num_key_value_heads,
        )
        self._width = config.intermediate_size
        self._last = _norm(inner.norm)
        self._layers = [_layer(layer) for layer in inner.layers]
        self._products = [
            one
            for layer in self._layers
            for one in (layer.inputs, layer.outputs, layer.gates, layer.down)
        ]
        self._shape = LlamaShape(
            config.hidden_size, self._width, self._heads, self._kept, self._size
        )
        self._kernels = self._suitable_kernels()
        self._compiled: NativeLlama | None = None
        self._known: list[Any] = []  # what it was made of

    def _suitable_kernels(self) -> NativeKernels | None:
        """Find the kernels that all layers use, if they can run the layers as a whole."""
        kernels = {kernels_of(layer) for one in self._products for layer in one.layers}
        epsilons = {norm.epsilon for norm in self._all_norms()}
        one, *others = kernels
        return one if not others and len(epsilons) == 1 and self._shape.fits else None

    def _all_norms(self) -> list[_Norm]:
        return [*(norm for one in self._layers for norm in (one.before, one.between)), self._last]

    @property
    def native(self) -> bool:
        """Whether this package's kernels run the layers."""
        return self._kernels is not None

    @property
    def as_made(self) -> bool:
        """Whether nobody has exchanged a part of the model since, or watches one with a hook."""
        for parts, name, part, held, own in self._parts:  # directly, since this is each pass's
            if (
                parts.get(name) is not part
                or held["_forward_hooks"]
                or held["_forward_pre_hooks"]
                or held.get("forward") is not own
                or held.get("_compiled_call_impl") is not None
            ):
                return False
        return not self._inner.training

    def __call__(self, *args: Any, metaaligner_pass: Attention | None = None, **given: Any) -> Any:
        """Stand in for the model's `forward`; only passes of this package are run otherwise.

        Args:
            *args: As for the model.
            metaaligner_pass: Computes the attention; `None` in passes of others.
            **given: As for the model; `input_ids` and `position_ids` are `[1, tokens]`.

        Returns:
            What the model returns.
        """
        if metaaligner_pass is None:
            return type(self._inner).forward(self._inner, *args, **given)
        compiled, inner = self._checked(), self._inner
        hidden = inner.embed_tokens(given["input_ids"])[0]
        turn = inner.rotary_emb(hidden, given["position_ids"])
        turn = turn[0][0].contiguous(), turn[1][0].contiguous()
        if compiled is not None and compiled.takes(hidden, turn):
            made = self._run_natively(compiled, hidden, turn, metaaligner_pass)
        else:
            made = self._run(hidden, turn, metaaligner_pass)
        return BaseModelOutputWithPast(last_hidden_state=made[None])

    def _checked(self) -> NativeLlama | None:
        """Take over changed weights, and return the layers for this package's kernels."""
        for one in self._products:
            one.check()
        if self._kernels is None:
            return None
        norms = [norm.weights["weight"] for norm in self._all_norms()]
        known: list[Any] = [one.packed for one in self._products]
        known += [(norm.data_ptr(), norm.dtype) for norm in norms]
        if known != self._known:
            self._compiled = self._for_kernels(self._kernels)
            self._known = known
        return self._compiled

    def _for_kernels(self, kernels: NativeKernels) -> NativeLlama | None:
        """Collect what the kernels compute with; `None` if weights have changed their kind."""
        shape, layers = self._shape, []
        mixed, all_heads = shape.heads * shape.size, shape.heads + 2 * shape.kept
        shapes = [
            (all_heads * shape.size, shape.width),
            (shape.width, mixed),
            (2 * shape.inner, shape.width),
            (shape.width, shape.inner),
        ]
        norms = [norm.weights["weight"] for norm in self._all_norms()]
        if not all(kernels.takes_norm(norm, shape.width) for norm in norms):
            return None
        for one in self._layers:
            made = [two.packed for two in (one.inputs, one.outputs, one.gates, one.down)]
            parts = [two.native for two in made if two is not None]
            if [two.shape for two in made if two is not None] != shapes:
                return None
            inputs, outputs, gates, down = parts
            if inputs is None or outputs is None or gates is None or down is None:
                return None
            before, between = one.before.weights["weight"], one.between.weights["weight"]
            layers.append(Layer(before, *inputs, *outputs, between, *gates, *down))
        return NativeLlama(
            kernels, shape, layers, norms[-1], epsilon=self._last.epsilon, scale=self._scale
        )

    def _run(
        self,
        hidden: torch.Tensor,
        turn: tuple[torch.Tensor, torch.Tensor],
        attention: Attention,
    ) -> torch.Tensor:
        """Run all layers by torch's operators.

        Args:
            hidden: The tokens' embeddings, `[tokens, hidden_size]`; changed in place.
            turn: Cosines and sines of their places, each `[tokens, head_dim]`.
            attention: Computes the attention.

        Returns:
            `[tokens, hidden_size]`.
        """
        half, count = self._size // 2, len(hidden)
        cos, sin = turn[0][:, None], turn[1][:, None].clone()
        sin[..., :half].neg_()  # instead of the other half of each query and key
        heads, size = self._heads, self._size
        turned = heads + self._kept
        for layer in self._layers[: self._inner.config.num_hidden_layers]:
            rows = layer.inputs(layer.before(hidden)).view(count, -1, size)
            both = rows[:, :turned]
            swapped = both.view(count, turned, 2, half).flip(2).view(count, turned, size)
            torch.add(both * cos, swapped.mul_(sin), out=both)
            hidden += layer.outputs(attention.attend_rows(layer.index, rows, heads, self._scale))
            gate, up = layer.gates(layer.between(hidden)).chunk(2, 1)
            if self._width % _VECTOR:
                gate = gate.contiguous()
            hidden += layer.down(silu(gate).mul_(up))
        return self._last(hidden)

    def _run_natively(
        self,
        compiled: NativeLlama,
        hidden: torch.Tensor,
        turn: tuple[torch.Tensor, torch.Tensor],
        attention: Attention,
    ) -> torch.Tensor:
        """Do the same as `_run`, up to rounding, by this package's kernels."""
        count = min(self._inner.config.num_hidden_layers, len(self._layers))
        # Before keys and values are touched, since memory may run out.
        space = compiled.space(hidden, attention.longest)
        spans = attention.reserve(count, hidden.new_empty(self._kept, 1, self._size))
        return compiled.run(hidden, turn, spans, space, count)


def is_llama(inner: Any) -> bool:
    """Whether a model is a LLaMA made of transformers' own modules, whole, in one format on a CPU.

    Args:
        inner: A model without its head.
    """
    from transformers.activations import ACT2FN
    from transformers.models.llama import modeling_llama as llama

    if type(inner) is not llama.LlamaModel or inner.config.model_type != "llama":
        return False
    kinds = {
        "rotary_emb": llama.LlamaRotaryEmbedding,
        "embed_tokens": nn.Embedding,
        "norm": llama.LlamaRMSNorm,
        "layers": nn.ModuleList,
        "self_attn": llama.LlamaAttention,
        "mlp": llama.LlamaMLP,
        "act_fn": type(ACT2FN["silu"]),
        "input_layernorm": llama.LlamaRMSNorm,
        "post_attention_layernorm": llama.LlamaRMSNorm,
    }
    weights = list(inner.parameters())
    return (
        all(
            type(part) is kinds.get(name, nn.Linear if "_proj" in name else llama.LlamaDecoderLayer)
            for name, part in ((path.rpartition(".")[2], part) for path, part in _below(inner))
        )
        and len({weight.dtype for weight in weights}) == 1
        and {weight.device.type for weight in weights} == {"cpu"}
        and {type(weight.data) for weight in weights} == {torch.Tensor}  # no shares of a whole
    )


def _below(inner: Any) -> Iterator[tuple[str, Any]]:
    return ((path, part) for path, part in inner.named_modules() if path)


def _layer(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return _Layer(
        attention.layer_idx,
        _norm(layer.input_layernorm),
        product([attention.q_proj, attention.k_proj, attention.v_proj]),
        product([attention.o_proj]),
        _norm(layer.post_attention_layernorm),
        product([mlp.gate_proj, mlp.up_proj]),
        product([mlp.down_proj]),
    )


def _norm(norm: Any) -> _Norm:
    return _Norm(norm._parameters, norm.variance_epsilon)  # noqa: SLF001 - much faster
