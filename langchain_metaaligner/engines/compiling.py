"""Compiles the parts of a model that see nothing but a pass's tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_metaaligner.errors import CheckpointError


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
