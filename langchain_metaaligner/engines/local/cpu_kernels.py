"""Makes linear layers faster on a CPU, with weights in the order in which kernels read them."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from langchain_metaaligner.engines.free_memory import free_memory
from langchain_metaaligner.engines.local.native_kernels import NativeKernels, native_kernels
from langchain_metaaligner.errors import CheckpointError

logger = logging.getLogger(__name__)

MOST_BYTES = 1 << 30
"""Up to this size copies are made by default, as far as they fit."""
_SHARE = 4  # larger ones are made by default if free memory is as many times as large
_TOKENS = 16  # the order is chosen for this many; on two AVX-512 cores it suited 1 to 512 tokens


def prepack(model: Any, wanted: bool | None = None, native: bool | None = None) -> int:
    """Make a model's linear layers use prepacked copies of their weights, in place.

    With this package's own kernels, a product with up to 6 rows takes little longer than reading
    the weights does, and one with many rows as long as oneDNN's. A row's result does not depend on
    the others.

    Without them, oneDNN's kernels are used. In each call, torch either reorders the weights for
    them or uses slower kernels that need no reordering. Measured with torch 2.13 on two AVX-512
    cores for the layers of the embedded aligner, prepacked weights are 1.5 to 3 times as fast for
    up to 16 tokens and 1.0 to 1.4 times for 64 to 512, in float32 and in bfloat16, and this
    package's kernels 1.3 to 1.5 times as fast again for up to 6. The results differ only by
    rounding.

    Layers whose weights are not float32 or bfloat16 on a CPU are left alone, and so are layers
    whose `forward` was already replaced. The original weights are kept, so models can be saved,
    moved and trained as before.

    Args:
        model: A model of transformers.
        wanted: Whether to make copies; `None` makes them if they take at most `MOST_BYTES` and
            1.1 times their size is free, or four times their size is free.
        native: Whether to use this package's kernels; `None` does so where they can be had.

    Returns:
        Size of all copies in bytes; 0 if none were made.

    Raises:
        CheckpointError: This package's kernels are wanted, but can't be had.
    """
    able = wanted is not False and _there()
    layers = [layer for layer in model.modules() if _fits(layer)] if able else []
    if native and not layers:
        message = (
            "native_kernels=True was given, but there are no prepacked weights that this package's"
            " kernels could use: these are float32 or bfloat16 weights on a CPU, without"
            " prepack_weights=False. Change that, or leave native_kernels out."
        )
        raise CheckpointError(message)
    size = sum(int(layer.weight.nbytes) for layer in layers)
    free = free_memory()
    most = max(min(MOST_BYTES, free / 1.1), free / _SHARE)
    if wanted is None and size > most and not native:
        logger.info(
            "Prepacked copies of the weights would take %.1f GiB where %.1f are free, so none are"
            " made. Use prepack_weights=True to make them anyway.",
            size / (1 << 30),
            free / (1 << 30),
        )
        return 0
    kernels = {one: native_kernels(one, native) for one in {x.weight.dtype for x in layers}}
    for layer in layers:
        vars(layer)["forward"] = quick = _Prepacked(layer, kernels[layer.weight.dtype])
        quick.pack()
    return size


class PackedWeights:
    """A copy of weights for one of the two sets of kernels.

    Args:
        weight: `[out_features, in_features]`.
        bias: `[out_features]`.
        kernels: This package's kernels, if there are any.
    """

    __slots__ = ("_bias", "_inputs", "_kernels", "_outputs", "_packed")

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, kernels: NativeKernels | None
    ) -> None:
        takes = kernels is not None and kernels.takes(weight, bias)
        self._kernels = kernels if takes else None
        self._outputs, self._inputs = weight.shape
        with torch.inference_mode():
            if self._kernels is None:
                self._packed, self._bias = _reordered(weight), bias
            else:
                self._packed = self._kernels.pack(weight)
                self._bias = None if bias is None else self._kernels.pack_bias(bias)

    @property
    def native(self) -> tuple[torch.Tensor, torch.Tensor | None] | None:
        """Weights and bias in the order of this package's kernels, if they are for these."""
        return None if self._kernels is None else (self._packed, self._bias)

    @property
    def shape(self) -> tuple[int, int]:
        """The number of outputs and of inputs."""
        return self._outputs, self._inputs

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Multiply rows, `[..., in_features]`, and return `[..., out_features]`."""
        if self._kernels is None:
            return _linear_pointwise(rows, self._packed, self._bias, "none", [], "")
        if rows.dim() == 2 and rows.is_contiguous():
            return self._kernels.product(rows, self._packed, self._bias, self._outputs)
        flat = rows.reshape(-1, rows.shape[-1]).contiguous()
        made = self._kernels.product(flat, self._packed, self._bias, self._outputs)
        return made.view(*rows.shape[:-1], self._outputs)


class _Prepacked:
    """Replaces the `forward` of a linear layer."""

    __slots__ = ("_known", "_layer", "_packed", "kernels", "product")

    def __init__(self, layer: nn.Linear, kernels: NativeKernels | None) -> None:
        self._layer = layer
        self._known: Hashable = None  # what tells which weights were packed
        self._packed: PackedWeights | None = None
        self.kernels = kernels
        self.product: Product | None = None  # that begins with this layer

    def __deepcopy__(self, memo: dict[int, Any]) -> _Prepacked:
        return _Prepacked(memo.get(id(self._layer), self._layer), self.kernels)

    def __reduce__(self) -> tuple[Any, ...]:
        return _prepacked_again, (self._layer, self.kernels and self.kernels.dtype)

    def pack(self) -> None:
        """Copy the current weights."""
        layer = self._layer
        fits = _takes(layer.weight)
        self._packed = PackedWeights(layer.weight, layer.bias, self.kernels) if fits else None
        self._known = _state(layer)

    def unpack(self) -> None:
        """Forget the copy until it is needed again."""
        self._known, self._packed = None, None

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Multiply rows, `[..., in_features]`, and return `[..., out_features]`."""
        weight, bias = self._layer.weight, self._layer.bias
        if _state(self._layer) != self._known:
            self.pack()
        packed = self._packed
        if (
            packed is None
            or torch.is_grad_enabled()
            or rows.dtype is not weight.dtype
            or rows.device != weight.device
            or rows.dim() < 2
            or rows.shape[-1] != weight.shape[1]
            or not rows.numel()
            or torch.compiler.is_compiling()  # which sees no kernels of ours, nor does a trace
            or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        ):
            return linear(rows, weight, bias)
        return packed(rows)


def _prepacked_again(layer: nn.Linear, dtype: torch.dtype | None) -> _Prepacked:
    """Make what a pickle held; the copy of the weights is made with the first call."""
    return _Prepacked(layer, None if dtype is None else native_kernels(dtype))


class Product:
    """Multiplies rows by the weights of layers; their results stand side by side.

    Args:
        layers: Layers with as many inputs.
    """

    __slots__ = ("_known", "_packed", "layers")

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self.layers = layers
        self._known: list[Hashable] = []
        self._packed: PackedWeights | None = None

    @property
    def packed(self) -> PackedWeights | None:
        """The copy of the weights; another one after each change."""
        return self._packed

    def check(self) -> None:
        """Copy the weights again if they were changed; called before each pass."""
        known = [_state(layer) for layer in self.layers]
        if known != self._known:
            self._pack()
            self._known = known

    def _pack(self) -> None:
        weights: list[torch.Tensor] = [layer.weight for layer in self.layers]
        biases: list[torch.Tensor] = [layer.bias for layer in self.layers if layer.bias is not None]
        same = len(biases) in (0, len(weights)) and len({one.dtype for one in weights}) == 1
        quick = [vars(layer).get("forward") for layer in self.layers]
        first = quick[0]
        self._packed = None
        fits = same and all(isinstance(one, _Prepacked) for one in quick)
        if fits and isinstance(first, _Prepacked) and all(_takes(one) for one in weights):
            bias = torch.cat(biases) if biases else None
            self._packed = PackedWeights(torch.cat(weights), bias, first.kernels)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Multiply rows, `[tokens, in_features]`, in inference mode.

        Returns:
            `[tokens, all_out_features]`.
        """
        if self._packed is not None:
            return self._packed(rows)
        made = [linear(rows, one.weight, one.bias) for one in self.layers]
        return made[0] if len(made) == 1 else torch.cat(made, dim=-1)


def product(layers: Sequence[nn.Linear]) -> Product:
    """Make the product with several layers: the same numbers in fewer calls.

    If all layers are prepacked, their own copies of the weights are given up for a common one.
    They make new ones should somebody call the layers themselves.

    Args:
        layers: Layers with as many inputs.

    Returns:
        Takes rows, `[tokens, in_features]`, and returns the layers' results side by side.
    """
    quick = [vars(layer).get("forward") for layer in layers]
    first = quick[0]
    if not isinstance(first, _Prepacked):
        return Product(layers)
    if first.product is None or first.product.layers != layers:
        first.product = Product(layers)
        for one in quick:
            if isinstance(one, _Prepacked):
                one.unpack()
    return first.product


def kernels_of(layer: Any) -> NativeKernels | None:
    """Return the kernels of this package that a prepacked layer uses, if it does."""
    quick = vars(layer).get("forward")
    return quick.kernels if isinstance(quick, _Prepacked) else None


def _state(layer: nn.Linear) -> Hashable:
    """Return what tells whether a layer's weights were exchanged or changed."""
    weight: Any = layer._parameters["weight"]  # noqa: SLF001 - much faster than the attribute
    bias: Any = layer._parameters["bias"]  # noqa: SLF001
    if bias is None:
        return weight.data_ptr(), _version(weight)
    return weight.data_ptr(), _version(weight), bias.data_ptr(), _version(bias)


def _version(tensor: Any) -> int:
    """Return how often a tensor was changed; nobody counts that in inference mode."""
    version: int = 0 if tensor.is_inference() else tensor._version  # noqa: SLF001 - not public
    return version


def _fits(layer: nn.Module) -> bool:
    if type(layer) is not nn.Linear or "forward" in vars(layer):
        return False
    return _takes(layer.weight)


def _takes(weight: torch.Tensor) -> bool:
    if weight.device.type != "cpu" or not weight.numel() or type(weight.data) is not torch.Tensor:
        return False
    if weight.dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001
    return weight.dtype is torch.float32


def _reordered(weight: torch.Tensor) -> torch.Tensor:
    """Copy weights, `[out_features, in_features]`, into oneDNN's own layout."""
    made: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _TOKENS)  # noqa: SLF001
    return made


def _linear_pointwise(*given: Any) -> torch.Tensor:
    made: torch.Tensor = torch.ops.mkldnn._linear_pointwise.default(*given)  # noqa: SLF001
    return made


def _there() -> bool:
    """Whether this build of torch has the operators, which `torch.compile` uses as well."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        with torch.inference_mode():
            weight, rows = torch.ones(16, 16), torch.ones(2, 16)
            made = PackedWeights(weight, None, None)(rows)
            _takes(torch.ones(1, dtype=torch.bfloat16))
    except (AttributeError, RuntimeError) as error:
        logger.info("This build of torch can't prepack weights (%s), so none are copied.", error)
        return False
    return bool((made == 16).all())


def compile_feed_forward(model: Any, options: bool | Mapping[str, Any]) -> None:
    """Compile the feed-forward part of each layer in place; the first pass runs the compiler.

    The number of tokens differs from pass to pass, so shapes are dynamic by default.

    Args:
        model: A model of transformers.
        options: `True`, or arguments for `torch.nn.Module.compile`.

    Raises:
        CheckpointError: The model's layers have no feed-forward part, or the arguments are wrong.
    """
    parts = [part for name, part in model.named_modules() if name.endswith(".mlp")]
    if not parts:
        message = (
            f"torch_compile is for models whose layers have a feed-forward part named mlp, like"
            f" LLaMA's; {type(model).__name__} has none. Leave torch_compile out."
        )
        raise CheckpointError(message)
    given = {"dynamic": True, **(options if isinstance(options, Mapping) else {})}
    for part in parts:
        try:
            part.compile(**given)
        except (TypeError, RuntimeError) as error:
            message = (
                f"torch.compile does not take {given}: {error} Use torch_compile=True, or the"
                " arguments that torch.compile documents."
            )
            raise CheckpointError(message) from error
