"""Gives linear layers on a CPU a second copy of their weights, in the order that oneDNN reads."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from langchain_metaaligner.engines.local.memory import free_memory
from langchain_metaaligner.errors import CheckpointError

logger = logging.getLogger(__name__)

MOST_BYTES = 1 << 30
"""Copies up to this size are made unless they are refused; larger ones where they are asked for."""
_TOKENS = 16  # what the order is chosen for; on two AVX-512 cores it was good from 1 to 512 tokens


def prepack(model: Any, wanted: bool | None = None) -> int:
    """Let a model's linear layers multiply prepacked weights, in place.

    Torch brings weights into the order that its kernels read anew with every call, or takes others
    that need no order and are slower. Measured with torch 2.13 on two AVX-512 cores for the
    layers of the embedded aligner: 1.5 to 3 times as fast for up to 16 tokens, 1.0 to 1.4 times
    for 64 to 512, in float32 and in bfloat16. Results differ from torch's own by rounding alone.

    Layers that hold anything but float32 or bfloat16 on a CPU stay as they are, and so do those
    whose call was replaced by somebody else. The weights themselves stay too: models are saved,
    moved and trained as before.

    Args:
        model: A model of transformers.
        wanted: Whether to do it; `None` does it where the copies take `MOST_BYTES` at most and a
            tenth more than that is free.

    Returns:
        Bytes of all copies; 0 where none were made.
    """
    if wanted is False or not _there():
        return 0
    layers = [layer for layer in model.modules() if _fits(layer)]
    size = sum(int(layer.weight.nbytes) for layer in layers)
    if wanted is None and size > min(MOST_BYTES, free_memory() / 1.1):
        logger.info(
            "Weights stay as they are: prepacked copies would take %.1f GiB. With"
            " prepack_weights=True they are made all the same.",
            size / (1 << 30),
        )
        return 0
    for layer in layers:
        vars(layer)["forward"] = quick = _Prepacked(layer)
        quick.pack()
    return size


class _Prepacked:
    """A linear layer's call."""

    __slots__ = ("_known", "_layer", "_packed")

    def __init__(self, layer: nn.Linear) -> None:
        self._layer = layer
        self._known = 0, -1  # address and version of the weights that were packed
        self._packed: torch.Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Prepacked:
        return _Prepacked(memo.get(id(self._layer), self._layer))

    def pack(self) -> None:
        """Copy the weights as they are now."""
        weight = self._layer.weight
        with torch.inference_mode():
            self._packed = _prepacked(weight) if _takes(weight) else None
        self._known = weight.data_ptr(), weight._version  # noqa: SLF001 - no other tells

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        weight, bias = self._layer.weight, self._layer.bias
        if (weight.data_ptr(), weight._version) != self._known:  # noqa: SLF001
            self.pack()
        packed = self._packed
        if packed is None or torch.is_grad_enabled() or rows.dtype is not weight.dtype:
            return linear(rows, weight, bias)
        if rows.dim() < 2 or not rows.numel():
            return linear(rows, weight, bias)
        return _multiply(rows, packed, bias)


def _fits(layer: nn.Module) -> bool:
    if type(layer) is not nn.Linear or "forward" in vars(layer):
        return False
    return _takes(layer.weight)


def _takes(weight: torch.Tensor) -> bool:
    if weight.device.type != "cpu" or not weight.numel():
        return False
    if weight.dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001
    return weight.dtype is torch.float32


def _prepacked(weight: torch.Tensor) -> torch.Tensor:
    made: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _TOKENS)  # noqa: SLF001
    return made


def _multiply(rows: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    made: torch.Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001
        rows, packed, bias, "none", [], ""
    )
    return made


def _there() -> bool:
    """Whether this build of torch has the operators, which `torch.compile` uses, too."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        with torch.inference_mode():
            weight, rows = torch.ones(16, 16), torch.ones(2, 16)
            made = _multiply(rows, _prepacked(weight), None)
            _takes(torch.ones(1, dtype=torch.bfloat16))
    except (AttributeError, RuntimeError) as error:
        logger.info("Weights stay as they are: this torch has no prepacked ones (%s).", error)
        return False
    return bool((made == 16).all())


def compile_feed_forward(model: Any, options: bool | Mapping[str, Any]) -> None:
    """Compile each layer's feed-forward part in place; it is compiled with the first pass.

    Passes have as many tokens as their rows want, so shapes are dynamic unless said otherwise.

    Args:
        model: A model of transformers.
        options: `True`, or arguments for `torch.nn.Module.compile`.

    Raises:
        CheckpointError: The model's layers have no part of that kind, or the arguments are wrong.
    """
    parts = [part for name, part in model.named_modules() if name.endswith(".mlp")]
    if not parts:
        message = (
            f"torch_compile is for models whose layers have a feed-forward part named mlp, as the"
            f" LLaMA kind has; {type(model).__name__} has none. Leave torch_compile out."
        )
        raise CheckpointError(message)
    given = {"dynamic": True, **(options if isinstance(options, Mapping) else {})}
    for part in parts:
        try:
            part.compile(**given)
        except (TypeError, RuntimeError) as error:
            message = (
                f"torch.compile does not take {given}: {error} Give torch_compile=True, or the"
                " arguments that torch.compile documents."
            )
            raise CheckpointError(message) from error
