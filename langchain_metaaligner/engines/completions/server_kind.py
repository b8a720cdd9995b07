"""Which server answers: what each is told by, how it is asked, and what it can't give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ServerKind:
    """A kind of server.

    Attributes:
        name: Its name.
        owner: What its list of models says in `owned_by`, if that tells it apart.
        sampling: Settings of samplers beyond OpenAI's, with the values that switch them off.
        scores: Whether it may give the log-probabilities of a prompt's tokens.
        tokenizes: How its tokenizer is asked: the names of the text and of the switch for special
            tokens; `None` if it can't be asked.
        native: Whether prompts go to its own interface, since its OpenAI interface puts a template
            around them and takes fewer settings.
        flags: The sentence about what makes its edits fast.
        serve: A command that serves a checkpoint.
        lacks: What it can't give, for the documentation.
    """

    name: str
    owner: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    scores: bool = False
    tokenizes: tuple[str, str] | None = None
    native: bool = False
    flags: str = ""
    serve: str = ""
    lacks: str = ""


# What vLLM and SGLang call the same.
_PLAIN = {
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "min_tokens": 0,
    "ignore_eos": False,
    "skip_special_tokens": True,
}
VLLM = ServerKind(
    "vLLM",
    owner="vllm",
    sampling={
        **_PLAIN,
        "spaces_between_special_tokens": False,
        "add_special_tokens": True,
    },
    scores=True,
    tokenizes=("prompt", "add_special_tokens"),
    flags=(
        "Serve with --speculative-config"
        """ '{"method": "suffix", "num_speculative_tokens": 8}', or with the method "ngram":"""
        " most of an edit stands in its prompt."
    ),
    serve=(
        "vllm serve MetaAligner/MetaAligner-HH-RLHF-7B --speculative-config"
        """ '{"method": "suffix", "num_speculative_tokens": 8}'"""
    ),
    lacks="nothing",
)
SGLANG = ServerKind(
    "SGLang",
    owner="sglang",
    sampling=_PLAIN,
    tokenizes=("prompt", "add_special_tokens"),
    flags="Serve with --speculative-algorithm NGRAM: most of an edit stands in its prompt.",
    serve=(
        "python -m sglang.launch_server --model-path MetaAligner/MetaAligner-HH-RLHF-7B"
        " --speculative-algorithm NGRAM"
    ),
    lacks="log-probabilities of the answer",
)
LLAMA_SERVER = ServerKind(
    "llama-server",
    owner="llamacpp",
    sampling={
        "top_k": 0,
        "min_p": 0.0,
        "typical_p": 1.0,
        "top_n_sigma": -1.0,
        "repeat_penalty": 1.0,
        "repeat_last_n": 0,
        "dry_multiplier": 0.0,
        "xtc_probability": 0.0,
        "dynatemp_range": 0.0,
        "mirostat": 0,
        "ignore_eos": False,
    },
    tokenizes=("content", "add_special"),
    flags="Serve with --spec-type ngram-mod: most of an edit stands in its prompt.",
    serve="llama-server -m MetaAligner-HH-RLHF-7B.gguf --spec-type ngram-mod",
    lacks="log-probabilities of the answer",
)
OLLAMA = ServerKind(
    "Ollama",
    sampling={
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "typical_p": 1.0,
        "repeat_penalty": 1.0,
        "repeat_last_n": 0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    },
    native=True,
    serve="ollama create metaaligner -f Modelfile && ollama serve",
    lacks="log-probabilities of the answer, counts of tokens, drafts",
)
LM_STUDIO = ServerKind(
    "LM Studio",
    sampling={"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0},
    serve="lms load MetaAligner-HH-RLHF-7B && lms server start",
    lacks="log-probabilities of the answer, counts of tokens",
)
OTHER = ServerKind(
    "an OpenAI-compatible server",
    sampling={"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    scores=True,
    lacks="whatever its `/v1/completions` doesn't have",
)

KINDS = (VLLM, SGLANG, LLAMA_SERVER, OLLAMA, LM_STUDIO, OTHER)
"""All kinds."""


# Each server's own page, and what is on it; some answer to any page, so the content counts.
MARKS: tuple[tuple[str, tuple[str, ...], ServerKind], ...] = (
    ("/props", ("default_generation_settings",), LLAMA_SERVER),
    ("/model_info", ("model_path", "is_generation"), SGLANG),
    ("/get_model_info", ("model_path", "is_generation"), SGLANG),
    ("/api/v0/models", ("data",), LM_STUDIO),
    ("/api/tags", ("models",), OLLAMA),
    ("/version", ("version",), VLLM),
)
"""Pages by which a server is told whose list of models doesn't tell, in the order of asking."""


def kind_by_owner(models: list[Mapping[str, Any]]) -> ServerKind | None:
    """Tell a server by its list of models.

    Args:
        models: The entries of `/v1/models`.

    Returns:
        The kind, if one of them tells.
    """
    owners = {str(one.get("owned_by", "")).lower() for one in models}
    return next((kind for kind in KINDS if kind.owner and kind.owner in owners), None)
