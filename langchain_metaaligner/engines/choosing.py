"""Chooses how a model is run over rows: all in one pass, or each in its own."""

from __future__ import annotations

from typing import Any

import torch

from langchain_metaaligner.engines.packing import PackedPasses
from langchain_metaaligner.engines.passes import Part, Passes, arguments, base_model, input_device
from langchain_metaaligner.engines.single import SinglePasses

# Known to hand everything on to their attention as it is needed; others are tried out first.
_KNOWN = frozenset({"llama", "mistral", "qwen2", "qwen3"})


def passes_for(model: Any) -> Passes:
    """Choose how to run a model over rows.

    Args:
        model: A causal model of transformers.

    Returns:
        One pass for all rows where its attention can be replaced, else one for each row.
    """
    if _can_pack(model) and (base_model(model).config.model_type in _KNOWN or _packs_well(model)):
        return PackedPasses(model)
    return SinglePasses(model)


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
