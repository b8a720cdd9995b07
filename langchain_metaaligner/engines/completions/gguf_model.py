"""Finds a GGUF file, here or on the hub, and what llama.cpp needs to run its model."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_metaaligner import checkpoints
from langchain_metaaligner.engines.free_memory import free_memory
from langchain_metaaligner.engines.gguf_header import GgufHeader, read_header
from langchain_metaaligner.errors import CheckpointError
from langchain_metaaligner.options import LoadOptions, hub_token

logger = logging.getLogger(__name__)

_ON_HUB = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*):(?P<file>[^:]+\.gguf)", re.IGNORECASE)
_PART = re.compile(r"(?P<start>.*-)(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_GIB = 1 << 30
_WINDOW = 4096  # tokens, of models that were trained for more
_SLOTS = 4
_SLOTS_BYTES = 2 * _GIB
_FLOAT32 = 0  # the file type of weights that are not rounded
_MARGIN = 1.05


@dataclass(frozen=True, slots=True)
class GgufModel:
    """A GGUF file and how its model is run.

    Attributes:
        file: The file; the first one of several parts.
        bytes: The size of all its parts.
        title: The name that the file gives its model; empty if it has none.
        family: The prompt family that it names, if it does.
        window: How many tokens the prompt and the edit may have together.
        slots: How many edits are worked on at the same time.
        cache_bytes: What the keys and values of all slots take.
        exact: Whether the weights are in float32, so that keys and values are kept in it too.
        leads_with_space: Whether its tokenizer writes a space before an output's first word.
        chats: Whether it has a chat template.
    """

    file: Path
    bytes: int
    title: str
    family: str | None
    window: int
    slots: int
    cache_bytes: int
    exact: bool
    leads_with_space: bool
    chats: bool


def check_name(name: str) -> None:
    """Check that a model's name can be one of a GGUF file, without a network.

    Args:
        name: A path, or `hub_id:file.gguf`.

    Raises:
        CheckpointError: There is no such file, and it names none on the hub.
    """
    if not Path(name).expanduser().is_file() and not _ON_HUB.fullmatch(name):
        message = (
            f"There is no file {name!r}. Check the path, or name a file on the hub as"
            " owner/name:file.gguf."
        )
        raise CheckpointError(message)


def find_file(name: str, options: LoadOptions, revision: str | None) -> Path:
    """Find a GGUF file, and download it if need be.

    Args:
        name: A path, or `hub_id:file.gguf`.
        options: Tell the token and the folder for downloads.
        revision: Branch, tag or commit on the hub.

    Returns:
        The file, next to all other parts of it.

    Raises:
        CheckpointError: It can't be found or downloaded, or parts of it are missing.
    """
    check_name(name)
    path = Path(name).expanduser()
    if path.is_file():
        missing = [part for part in _parts(path.name) if not path.with_name(part).is_file()]
        if missing:
            message = (
                f"{name} lacks {len(missing)} of its parts in {path.parent}, such as {missing[0]}."
                " Download them into the same folder."
            )
            raise CheckpointError(message)
        return path.with_name(_parts(path.name)[0])
    found = _ON_HUB.fullmatch(name)
    if found is None:  # `check_name` has told
        raise CheckpointError(name)
    folder, slash, last = found["file"].rpartition("/")
    files = [
        _downloaded(name, found["repo"], f"{folder}{slash}{part}", options, revision)
        for part in _parts(last)
    ]
    return files[0]


def _downloaded(
    name: str, repo: str, file: str, options: LoadOptions, revision: str | None
) -> Path:
    from huggingface_hub import hf_hub_download

    from langchain_metaaligner.engines.local.hub import cause_of, remedy_for
    from langchain_metaaligner.engines.local.progress import bars_of_hub

    try:
        return Path(
            hf_hub_download(
                repo,
                file,
                revision=revision,
                cache_dir=options.cache_dir,
                token=hub_token(options),
                local_files_only=options.local_files_only,
                tqdm_class=bars_of_hub(),
            )
        )
    except Exception as error:
        message = (
            f"{name} can't be downloaded from the hub ({cause_of(error)}). {remedy_for(error)}"
        )
        raise CheckpointError(message) from error


def _parts(file: str) -> list[str]:
    """The names of all parts of a file, in order; only its own if it is whole."""
    part = _PART.fullmatch(file)
    if part is None:
        return [file]
    count = int(part["count"])
    return [f"{part['start']}{one:05d}-of-{count:05d}.gguf" for one in range(1, count + 1)]


def describe(file: Path, options: LoadOptions) -> GgufModel:
    """Read what a file says of its model, and choose what the options leave open.

    Args:
        file: The file.
        options: Tell the window and the number of slots, if they were given.

    Returns:
        The description.

    Raises:
        CheckpointError: It is no GGUF file of a model that writes text.
    """
    header = read_header(file)
    if header.metadata.get("general.type", "model") != "model" or not header.said("block_count"):
        message = (
            f"{file} contains no language model. Give a model's GGUF file; an adapter belongs in"
            " adapter=..."
        )
        raise CheckpointError(message)
    trained = int(header.said("context_length", _WINDOW))
    window = options.n_ctx or min(trained, _WINDOW)
    exact = header.metadata.get("general.file_type") == _FLOAT32
    for_slot = window * _bytes_per_token(header) * (2 if exact else 1)
    slots = options.n_parallel or max(1, min(_SLOTS, _SLOTS_BYTES // max(1, for_slot)))
    family = header.metadata.get(checkpoints.GGUF_FAMILY)
    words = header.metadata.get("tokenizer.ggml.model") == "llama"
    return GgufModel(
        file=file,
        bytes=sum(file.with_name(part).stat().st_size for part in _parts(file.name)),
        title=str(header.metadata.get("general.name") or ""),
        family=str(family) if family else None,
        window=window,
        slots=slots,
        cache_bytes=for_slot * slots,
        exact=exact,
        leads_with_space=words
        and bool(header.metadata.get("tokenizer.ggml.add_space_prefix", True)),
        chats=bool(header.metadata.get("tokenizer.chat_template")),
    )


def _bytes_per_token(header: GgufHeader) -> int:
    """What the keys and values of a token take in float16."""
    layers = int(header.said("block_count"))
    heads = _most(header.said("attention.head_count", 1))
    shared = _most(header.said("attention.head_count_kv", heads))
    head = int(header.said("embedding_length", 0)) // max(1, heads)
    keys = int(header.said("attention.key_length", head))
    values = int(header.said("attention.value_length", head))
    return layers * shared * (keys + values) * 2


def _most(said: Any) -> int:
    """A number of heads; models with another number in each layer list them, unread here."""
    return said if isinstance(said, int) else 1


def check_memory(model: GgufModel) -> None:
    """Refuse a model that does not fit into this machine's memory.

    Args:
        model: The model.

    Raises:
        CheckpointError: It needs more memory than is free.
    """
    needed, free = (model.bytes + model.cache_bytes) * _MARGIN, free_memory()
    logger.debug("%s needs %.2f GiB, %.2f are free.", model.file, needed / _GIB, free / _GIB)
    if needed > free:
        message = (
            f"{model.file} needs about {needed / _GIB:.1f} GiB of memory"
            f" ({model.cache_bytes / _GIB:.1f} of it for {model.slots} edits of {model.window}"
            f" tokens), but only {free / _GIB:.1f} GiB are free. Nothing was loaded. Use a file"
            " with fewer bits per weight, or give a smaller n_ctx=... or n_parallel=..."
        )
        raise CheckpointError(message)
