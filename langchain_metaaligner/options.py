"""The options of an aligner, the same for every face of it."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from langchain_metaaligner.errors import CheckpointError

_Name = Annotated[
    str, BeforeValidator(lambda one: os.fspath(one) if isinstance(one, os.PathLike) else one)
]


class AlignerSettings(BaseModel):
    """The options of an aligner, the same for every face of it."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    model: _Name | None = Field(
        default=None,
        description=(
            "Hub id or folder of the aligner; None is METAALIGNER_MODEL, else the embedded one."
        ),
    )
    family: str | None = Field(
        default=None, description="Prompt family, where the checkpoint does not tell it."
    )
    adapter: _Name | None = Field(default=None, description="PEFT adapter to put on the model.")
    engine: Any = Field(default=None, description="An engine object to use instead of a model.")
    max_new_tokens: int = Field(default=1024, gt=0, description="Most tokens of an edit.")
    temperature: float = Field(default=0.0, ge=0.0, description="0 decodes greedily.")
    timeout: float | None = Field(
        default=None, gt=0, description="Seconds after which an edit is stopped."
    )
    system: Literal["first_turn"] | None = Field(
        default=None, description="Whether system messages join the first human turn."
    )
    keep_above: float | None = Field(
        default=None,
        le=0.0,
        description=(
            "Agreement (mean log-probability of the answer's tokens) from which on the answer stays"
            " as it is, with no decoding."
        ),
    )
    token_agreement: bool = Field(
        default=False,
        description="Whether records tell the agreement of each token of the answer.",
    )
    eager: bool | None = Field(
        default=None,
        description=(
            "Whether context and answer are prefilled while the policy works; None is in streams,"
            " unless tools are bound."
        ),
    )
    dtype: Any = Field(
        default=None, description="Format of the weights; None is what the device is fast in."
    )
    device_map: Any = Field(default=None, description="Where the weights go.")
    revision: str | None = Field(default=None, description="Branch, tag or commit on the hub.")
    token: Any = Field(default=None, repr=False, description="Token for the hub.")
    cache_dir: str | None = Field(default=None, description="Where downloads are kept.")
    local_files_only: bool = Field(default=False, description="Never ask the hub.")
    attn_implementation: str | None = Field(default=None, description="Attention of the model.")
    quantization_config: Any = Field(default=None, description="How to quantise the weights.")
    torch_compile: bool | dict[str, Any] = Field(
        default=False,
        description="Compile the feed-forward parts: True, or arguments for torch.compile.",
    )
    max_memory: dict[Any, Any] | None = Field(default=None, description="Memory by device.")
    offload_folder: str | None = Field(default=None, description="Where to offload weights.")
    prefix_cache_bytes: int | None = Field(
        default=None,
        ge=0,
        description="Most bytes of what is kept of prompts' beginnings; None suits the device.",
    )
    max_queue: int | None = Field(
        default=None,
        gt=0,
        description="Edits that may wait before others get OverloadedError; None is 256.",
    )
    model_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Further arguments for `from_pretrained`."
    )

    def load_options(self) -> dict[str, Any]:
        """The options that say which weights to load and how, without those left alone."""
        ours = {
            "eager",
            "engine",
            "family",
            "keep_above",
            "max_new_tokens",
            "model",
            "system",
            "temperature",
            "timeout",
            "token_agreement",
        }
        given = {name: getattr(self, name) for name in AlignerSettings.model_fields}
        return {
            name: value
            for name, value in given.items()
            # Not `in`: 0 bytes of cache are an option, and 0 is equal to False.
            if name not in ours and value is not None and value is not False and value != {}
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How a checkpoint is found and loaded; the names are those of transformers.

    Attributes:
        dtype: Type of the weights: a name such as `bfloat16`, a `torch.dtype`, or `auto`:
            bfloat16 where the device has instructions for it (AVX-512 BF16 or AMX on a CPU), else
            float16 on an accelerator and float32 on a CPU. In float32 edits are those of plain
            greedy decoding token for token, up to exact ties.
        device_map: Where the weights go; `auto` spreads them over what accelerate finds.
        revision: Branch, tag or commit of a hub repository.
        token: Hub token, where the one that huggingface_hub finds by itself won't do.
        cache_dir: Folder for downloads.
        local_files_only: Use only what is on this machine.
        attn_implementation: `sdpa`, `eager`, `flash_attention_2`, ... It is the attention of models
            whose rows can't share a pass. Where they can (the LLaMA kind) each row's attention is
            computed by torch's `scaled_dot_product_attention`, which has flash kernels itself.
        quantization_config: A quantisation of transformers, such as a `BitsAndBytesConfig`, applied
            while loading. It changes the linear layers alone, so rows share passes as ever.
        torch_compile: Compile the feed-forward part of each layer, for any length: `True`,
            or arguments of `torch.compile`. Attention is left as it is, since each row has its own
            keys and values. The first edits wait for the compiler.
        prepack_weights: On a CPU, hold a second copy of the linear layers' weights, in the order
            that its kernels read: edits are a good deal faster in float32 and bfloat16. `None` does
            so where the copies take 1 GiB at most. With `torch_compile` there are none.
        max_memory: Memory to use on each device, as accelerate takes it.
        offload_folder: Where layers that fit nowhere else go.
        adapter: Folder or hub id of a PEFT adapter, merged into the weights where possible.
        prefix_cache_bytes: Most bytes of keys and values that are kept of what prompts begin with;
            0 keeps none, `None` suits the device.
        max_queue: Edits that may wait for their first pass before others are turned away with
            `OverloadedError`.
        model_kwargs: More arguments for transformers' `from_pretrained`.
    """

    dtype: Any = "auto"
    device_map: Any = "auto"
    revision: str | None = None
    token: Any = field(default=None, repr=False)
    cache_dir: str | None = None
    local_files_only: bool = False
    attn_implementation: str | None = None
    quantization_config: Any = None
    torch_compile: bool | Mapping[str, Any] = False
    prepack_weights: bool | None = None
    max_memory: Mapping[Any, Any] | None = None
    offload_folder: str | None = None
    adapter: str | None = None
    prefix_cache_bytes: int | None = None
    max_queue: int = 256
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> LoadOptions:
        """Check options given by a user.

        Args:
            options: Name and value of each; `None` means the default.

        Returns:
            All options.

        Raises:
            CheckpointError: One would run code that comes with a checkpoint, or can't be had
                together with passes for many rows.
            TypeError: One is unknown.
        """
        given = {name: value for name, value in options.items() if value is not None}
        model_kwargs = dict(given.get("model_kwargs", {}))
        if given.pop("trust_remote_code", False) or model_kwargs.pop("trust_remote_code", False):
            message = (
                "trust_remote_code is refused: code that comes with a checkpoint is never run."
                " Use a checkpoint whose architecture is part of transformers."
            )
            raise CheckpointError(message)
        if model_kwargs.get("weights_only", True) is not True:
            message = (
                "weights_only=False is refused: unpickling a checkpoint can run any code."
                " Use a checkpoint with safetensors, or one that loads with weights_only."
            )
            raise CheckpointError(message)
        _refuse_what_fails(given | model_kwargs)
        known = {option.name for option in fields(cls)}
        for name in [name for name in model_kwargs if name in known]:
            # The same thing by its own name, so that it is checked and keyed like the others.
            given.setdefault(name, model_kwargs.pop(name))
        if "torch_dtype" in model_kwargs:
            given.setdefault("dtype", model_kwargs.pop("torch_dtype"))
        if unknown := sorted(given.keys() - known):
            message = (
                f"The local engine has no option {', '.join(map(repr, unknown))};"
                f" it has {', '.join(sorted(known))}."
            )
            raise TypeError(message)
        given["model_kwargs"] = model_kwargs
        for name in ("cache_dir", "offload_folder", "adapter"):
            if name in given:
                given[name] = normal_name(str(given[name]))
        if "dtype" in given:
            given["dtype"] = str(given["dtype"]).removeprefix("torch.")
        return cls(**given)

    def key(self) -> Hashable:
        """Tell settings apart: equal keys load the same thing.

        Returns:
            Something hashable. It holds the hub token, so it is for looking up, not for showing.
        """
        return tuple((option.name, _key(getattr(self, option.name))) for option in fields(self))


def _refuse_what_fails(given: Mapping[str, Any]) -> None:
    """Refuse what transformers has, but what can't be had together with passes for many rows."""
    if given.get("cache_implementation") is not None:
        message = (
            f"cache_implementation={given['cache_implementation']!r} is refused: rows of unequal"
            " length share passes here, and each one's keys and values grow and are taken back with"
            " its drafts, which a static cache allows neither of. Leave it out;"
            " prefix_cache_bytes=... bounds what is kept between edits."
        )
        raise CheckpointError(message)
    if str(given.get("attn_implementation")).startswith("paged"):
        message = (
            f"attn_implementation={given['attn_implementation']!r} is refused: it belongs to the"
            " continuous batching of transformers, and edits have a queue of their own. Leave it"
            " out, or give 'sdpa' or 'flash_attention_2'."
        )
        raise CheckpointError(message)
    for name in ("load_in_4bit", "load_in_8bit"):
        if given.get(name):
            message = (
                f"{name}=True is no option of transformers 5 any more. Give"
                f" quantization_config=BitsAndBytesConfig({name}=True), from transformers."
            )
            raise CheckpointError(message)


def normal_name(model: str) -> str:
    """Write a checkpoint's name so that two spellings of one folder are the same.

    Args:
        model: A hub id or a folder.

    Returns:
        The absolute path where there is such a folder, else the name as it is.
    """
    path = Path(model).expanduser()
    return str(path.resolve()) if path.is_dir() else model


def _key(value: Any) -> str:
    """Write a value so that equal ones are written alike, whatever object holds them."""
    return json.dumps(value, default=_plain, sort_keys=True)


def _plain(value: Any) -> Any:
    """Stand-in for something that JSON doesn't know: a quantisation, a dtype, a device."""
    to_dict = getattr(value, "to_dict", None)
    if callable(to_dict):
        return [type(value).__qualname__, to_dict()]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    # With an address in it, this tells objects apart that may well be equal: too little shared
    # costs memory, too much would hand an owner another's settings.
    return repr(value)
