"""The typed keyword arguments of `Aligner`.

Made from `options.py` by `make format`; `make lint` compares the two.
"""

from __future__ import annotations

import os
from typing import Any, Literal, TypedDict

from pydantic import SecretStr

from langchain_metaaligner.editing.guards import Guards
from langchain_metaaligner.engines.base import Engine, EngineLike

__all__ = ["AlignerArguments"]


class AlignerArguments(TypedDict, total=False):
    """Options of an aligner."""

    adapter: str | os.PathLike[str] | None
    """Folder or hub id of a PEFT adapter, merged into the weights where possible. For a GGUF model,
    the adapter's GGUF file, or `hub_id:file.gguf`."""

    adapter_revision: str | None
    """Branch, tag or commit of the adapter on the hub."""

    dtype: Any
    """Format of the weights: a name such as `bfloat16`, a `torch.dtype`, or `auto`. `auto` is
    bfloat16 if the device has instructions for it (AVX-512 BF16 or AMX on a CPU), else float16 on
    an accelerator and float32 on a CPU. Only float32 gives the same tokens as plain greedy
    decoding, with `caution=0` and except where two tokens are exactly tied."""

    device_map: Any
    """Device of the weights; `auto` spreads them over the devices that accelerate finds."""

    tp_plan: dict[str, str] | Literal["auto"] | None
    """Split the weights over the GPUs of several processes, which `torchrun` starts and of which
    each makes the same edits: `auto`, or a plan of transformers. `device_map` stays `auto`."""

    revision: str | None
    """Branch, tag or commit of the checkpoint on the hub."""

    token: SecretStr | str | bool | None
    """Token for the hub. By default, huggingface_hub uses the token that it finds itself. The
    token is never pickled."""

    cache_dir: str | os.PathLike[str] | None
    """Folder for downloads."""

    local_files_only: bool
    """Use only files that are already on this machine."""

    attn_implementation: str | None
    """Attention implementation, such as `sdpa`, `eager` or `flash_attention_2`, for models that
    can't process several edits in one forward pass. Models that can (LLaMA and its relatives)
    always use torch's `scaled_dot_product_attention`."""

    quantization_config: Any
    """A quantisation config of transformers, such as `BitsAndBytesConfig`, applied while
    loading."""

    torch_compile: bool | dict[str, Any]
    """Compile the feed-forward part of each layer: `True`, or arguments for `torch.compile`. The
    first edits wait for the compiler."""

    prepack_weights: bool | None
    """On a CPU, keep a second copy of the linear layers' weights in the order in which its kernels
    read them, which makes edits faster. `None` does so if the copies take at most 1 GiB, or a
    quarter of the free memory. With `torch_compile` no copies are made."""

    native_kernels: bool | None
    """On a CPU with AVX-512, prepacked weights are used by kernels of this package, which makes
    edits faster still. They are compiled once for a machine, in seconds, if it has a C++ compiler.
    `None` uses them where they can be had, `True` insists on them, `False` uses torch's."""

    max_memory: dict[Any, Any] | None
    """Memory to use on each device, in accelerate's format."""

    offload_folder: str | os.PathLike[str] | None
    """Folder for layers that fit on no device."""

    prefix_cache_bytes: int | None
    """Limit in bytes for keys and values of earlier prompts, which later edits reuse. 0 keeps none;
    `None` chooses a limit that suits the device."""

    max_queue: int
    """How many edits may wait; further ones are refused with `OverloadedError`."""

    served_model: str | None
    """The name of the model at a server that serves several; of one, it is found out."""

    api_key: SecretStr | str | None
    """Key for a server. `None` uses the environment variable `METAALIGNER_API_KEY`, if it is set.
    The key is never pickled."""

    max_connections: int
    """How many requests a server gets at the same time; further ones wait."""

    tokenizer: str | os.PathLike[str] | None
    """Folder or hub id with the `tokenizer.json` of a server's model. It counts the tokens of
    prompts if the server can't, which are estimated otherwise."""

    n_ctx: int | None
    """How many tokens the prompt and the edit may have together in llama.cpp, whose memory for them
    is taken at once. `None` is what the model was trained for, at most 4096."""

    n_parallel: int | None
    """How many edits llama.cpp works on at the same time; each takes memory for `n_ctx` tokens.
    `None` is up to 4, as far as their keys and values take no more than 2 GiB."""

    n_gpu_layers: int | None
    """How many layers llama.cpp keeps on the GPU, if it was built for one. `None` is as many as
    fit."""

    n_threads: int | None
    """Threads of llama.cpp on the CPU. `None` is one for each processor that this process may
    use."""

    spec_type: Literal["ngram-simple", "ngram-mod", "none"]
    """How llama.cpp drafts tokens: from what the prompt and the output contain already, by one of
    its two ways, or not at all."""

    model_kwargs: dict[str, Any]
    """Further arguments for transformers' `from_pretrained`. Secrets among them are shown
    nowhere."""

    family: str | None
    """Prompt family, if it can't be told from the checkpoint's name and files."""

    engine: Engine | EngineLike | None
    """An engine object to use instead of loading a model."""

    max_new_tokens: int
    """Maximum length of an edit, in tokens."""

    temperature: float
    """Sampling temperature; 0 decodes greedily."""

    timeout: float | None
    """Seconds after which an edit is stopped with `EditTimeout`, counted from the call. Time spent
    waiting and loading counts too."""

    system: Literal["first_turn"] | None
    """What to do with system messages: `None` leaves them out of the context, `first_turn` puts
    them in front of the first human turn."""

    keep_above: float | None
    """Keep the answer as it is, without decoding, if its agreement is at least this value.
    Agreement is the mean log-probability of the answer's tokens under the aligner, at most 0.
    Engines that don't report agreement ignore this option."""

    caution: float | None
    """By how much another token must be likelier than the answer's next one for the edit to leave
    the answer after its first three tokens, in nats; after that, decoding is plain. 0 is plain
    greedy decoding. `None` is 2 where the engine sees log-probabilities, else 0. Other engines
    refuse a value above 0, and so does sampling."""

    guards: Guards
    """What an edit that keeps most of the answer must keep, too: names of guards, functions of
    yours, or both; `"all"` stands for all names, and `()` for none. See docs/failures.md."""

    token_agreement: bool
    """Record the agreement of each token of the answer, for diffs. It is never part of a message.
    The first forward pass then covers the whole answer: it is larger, but no pass is added."""

    eager: bool | None
    """Prefill the context and the answer while the policy is still generating. `None` does so in
    streams, unless tools are bound."""
