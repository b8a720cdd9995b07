"""The keyword arguments of `Aligner`, typed.

Made from `options.py` by `make format`; `make lint` compares the two.
"""

from __future__ import annotations

import os
from typing import Any, Literal, TypedDict

from pydantic import SecretStr

from langchain_metaaligner.engines.base import Engine, EngineLike

__all__ = ["AlignerArguments"]


class AlignerArguments(TypedDict, total=False):
    """Options of an aligner."""

    adapter: str | os.PathLike[str] | None
    """Folder or hub id of a PEFT adapter, merged into the weights where possible."""

    dtype: Any
    """Format of the weights: a name such as `bfloat16`, a `torch.dtype`, or `auto`: bfloat16 where
    the device has instructions for it (AVX-512 BF16 or AMX on a CPU), else float16 on an
    accelerator and float32 on a CPU. Only in float32 are edits those of plain greedy decoding,
    token for token, up to exact ties."""

    device_map: Any
    """Where the weights go; `auto` spreads them over what accelerate finds."""

    revision: str | None
    """Branch, tag or commit of the checkpoint on the hub."""

    token: SecretStr | str | bool | None
    """Token for the hub, if the one that huggingface_hub finds by itself is the wrong one. It is
    not pickled."""

    cache_dir: str | os.PathLike[str] | None
    """Folder for downloads."""

    local_files_only: bool
    """Use only what is on this machine."""

    attn_implementation: str | None
    """Attention of models whose rows can't share a pass: `sdpa`, `eager`, `flash_attention_2`, ...
    Where rows share passes (models of the LLaMA kind), each row's attention is computed by torch's
    `scaled_dot_product_attention`."""

    quantization_config: Any
    """A quantisation of transformers, such as a `BitsAndBytesConfig`, applied while loading."""

    torch_compile: bool | dict[str, Any]
    """Compile the feed-forward part of each layer: `True`, or arguments of `torch.compile`. The
    first edits wait for the compiler."""

    prepack_weights: bool | None
    """On a CPU, keep a second copy of the linear layers' weights in the order that its kernels
    read, which makes edits faster. `None` does so if the copies take 1 GiB at most. With
    `torch_compile` there are none."""

    max_memory: dict[Any, Any] | None
    """Memory to use on each device, as accelerate takes it."""

    offload_folder: str | os.PathLike[str] | None
    """Where layers go that fit nowhere else."""

    prefix_cache_bytes: int | None
    """Most bytes of keys and values that are kept of prompts' beginnings. 0 keeps none, `None`
    suits the device."""

    max_queue: int
    """Edits that may wait before others are refused with `OverloadedError`."""

    model_kwargs: dict[str, Any]
    """Further arguments for transformers' `from_pretrained`."""

    family: str | None
    """Prompt family, if the checkpoint's name and files don't tell it."""

    engine: Engine | EngineLike | None
    """An engine object to use instead of loading a model."""

    max_new_tokens: int
    """Most tokens of an edit."""

    temperature: float
    """0 decodes greedily."""

    timeout: float | None
    """Seconds after which an edit is stopped with `EditTimeout`. They count from the call, waiting
    and loading included."""

    system: Literal["first_turn"] | None
    """What becomes of system messages: `None` leaves them out of the context, `first_turn` joins
    them to the first human turn."""

    keep_above: float | None
    """Agreement (mean log-probability of the answer's tokens under the aligner, at most 0) from
    which the answer stays as it is, without decoding. Engines that don't report agreement ignore
    it."""

    token_agreement: bool
    """Record the agreement of each token of the answer, for diffs. Messages never carry it. The
    whole answer is then tried together with the prompt: a larger first pass, but no further one."""

    eager: bool | None
    """Prefill context and answer while the policy works. `None` does so in streams, unless tools
    are bound."""
