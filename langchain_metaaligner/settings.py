"""The options of an aligner, the same for every face of it."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

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
