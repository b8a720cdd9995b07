"""The table of engines, by the names of the models that they run."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

from langchain_metaaligner.checkpoints import EMBEDDED
from langchain_metaaligner.engines.base import DOCS, Engine
from langchain_metaaligner.errors import CheckpointError
from langchain_metaaligner.options import normal_name, without_secrets


@dataclass(frozen=True, slots=True)
class EngineKind:
    """A kind of engine and the models that it runs.

    Attributes:
        runs: What it runs, in the plural, for messages.
        names: A pattern that matches the whole name of each such model.
        make: Makes the engine from a model's name and options, without reading any files.
        check: Raises `CheckpointError` if a model and its options can't work, as far as this is
            known without a network and without reading large files.
        takes: Whether an object that is no name is such a model; `None` if models are names alone.
        name_of: Finds the name of such an object.
        lacks: Options of an aligner that such models can't have, and why.
    """

    runs: str
    names: re.Pattern[str]
    make: Callable[..., Engine]
    check: Callable[[Any, Mapping[str, Any]], None] | None = None
    takes: Callable[[object], bool] | None = None
    name_of: Callable[[Any], str] = normal_name
    lacks: Mapping[str, str] = field(default_factory=dict)


def _make_local(name: str, **options: Any) -> Engine:
    # torch is imported only here, so that the package itself is quick to import.
    from langchain_metaaligner.engines.local.engine import LocalEngine

    return LocalEngine(name, **options)


def _check_local(name: str, options: Mapping[str, Any]) -> None:
    from langchain_metaaligner.engines.local.hub import find_folder
    from langchain_metaaligner.options import parse_load_options

    parsed = parse_load_options(options)
    if name != EMBEDDED:
        find_folder(name)
    if parsed.adapter is not None:
        find_folder(parsed.adapter)
    # Importing torch takes seconds, too long for a constructor; `load` checks the devices anyway.
    if "torch" in sys.modules:
        from langchain_metaaligner.engines.local.placement import check_devices, check_split

        check_devices(name, parsed.device_map)
        check_split(name, parsed)


def _make_server(name: str, **options: Any) -> Engine:
    from langchain_metaaligner.engines.completions.engine import CompletionsEngine
    from langchain_metaaligner.engines.completions.http_transport import HttpTransport
    from langchain_metaaligner.options import load_key, parse_load_options

    parsed = parse_load_options(options, "server")
    key = "server", name, load_key(parsed)
    make = partial(HttpTransport, name, parsed)
    return CompletionsEngine(without_secrets(name), key, make, max_queue=parsed.max_queue)


def _check_server(name: str, options: Mapping[str, Any]) -> None:
    from langchain_metaaligner.engines.completions.http_transport import check_address
    from langchain_metaaligner.options import parse_load_options

    parse_load_options(options, "server")
    check_address(name)


def _make_llamacpp(name: str, **options: Any) -> Engine:
    from langchain_metaaligner.engines.completions.engine import CompletionsEngine
    from langchain_metaaligner.engines.completions.llamacpp_transport import LlamaCppTransport
    from langchain_metaaligner.options import load_key, parse_load_options

    parsed, name = parse_load_options(options, "llama.cpp"), normal_name(name)
    key = "llama.cpp", name, load_key(parsed)
    make = partial(LlamaCppTransport, name, parsed)
    return CompletionsEngine(name, key, make, max_queue=parsed.max_queue)


def _check_llamacpp(name: str, options: Mapping[str, Any]) -> None:
    from langchain_metaaligner.engines.completions.gguf_model import check_name
    from langchain_metaaligner.engines.completions.llamacpp_transport import check_installed
    from langchain_metaaligner.options import parse_load_options

    parsed = parse_load_options(options, "llama.cpp")
    check_installed()
    check_name(name)
    if parsed.adapter is not None:
        check_name(parsed.adapter)


KINDS = [
    EngineKind("servers", re.compile(r"https?://.*", re.IGNORECASE), _make_server, _check_server),
    EngineKind(
        "GGUF files",
        re.compile(r".*\.gguf", re.IGNORECASE | re.DOTALL),
        _make_llamacpp,
        _check_llamacpp,
    ),
    EngineKind("checkpoints", re.compile(r".*", re.DOTALL), _make_local, _check_local),
]
"""All kinds, in order; the first one that matches a name is used."""


def register(kind: EngineKind) -> None:
    """Add a kind of engine, before the one for checkpoints, which matches every name.

    Args:
        kind: The kind.
    """
    KINDS.insert(-1, kind)


def load_engine(model: Any = None, **options: Any) -> Engine:
    """Find the engine for a model; calls with the same settings share its weights.

    No files are read yet: the weights are loaded by the first edit or by `engine.load()`.

    Args:
        model: A hub id, a folder, a GGUF file, a server's address up to and with `/v1`, or a
            LangChain chat model or its name. `None` uses the environment variable
            `METAALIGNER_MODEL`, or the embedded aligner if it is not set.
        **options: Options of the engine, such as `dtype`, `device_map`, `revision`, `adapter` or
            `quantization_config`.

    Returns:
        The engine. Each call returns a new engine object, and its caller becomes one more owner
        of the shared weights. They are freed when every owner has called `close()` or dropped its
        engine. A closed engine raises `EngineError`.

    Raises:
        CheckpointError: This version has no engine for such a model.
    """
    name = _name(model)
    return _kind(name).make(name, **options)


def check_model(model: Any, options: Mapping[str, Any], asked: Iterable[str] = ()) -> str:
    """Check a model and its options without reading large files.

    This is quick enough for a constructor: it uses no network, reads no weights, and does not
    import torch if nothing else has. `load` checks the rest.

    Args:
        model: As for `load_engine`.
        options: As for `load_engine`.
        asked: The names of the aligner's options that were given.

    Returns:
        The engine's name for the model.

    Raises:
        CheckpointError: This version has no engine for such a model, or not with these options.
        TypeError: An option is unknown.
    """
    name = _name(model)
    kind = _kind(name)
    for option in asked:
        if option in kind.lacks:
            message = f"{option}= can't be used with {kind.runs}: it {kind.lacks[option]}."
            raise CheckpointError(message)
    if kind.check is not None:
        kind.check(name, options)
    return kind.name_of(name)


def _name(model: Any) -> Any:
    return model or os.environ.get("METAALIGNER_MODEL", "").strip() or EMBEDDED


def _kind(name: Any) -> EngineKind:
    if isinstance(name, str):
        kind = next(kind for kind in KINDS if kind.names.fullmatch(name))
    else:
        found = (kind for kind in KINDS if kind.takes is not None and kind.takes(name))
        kind = next(found, None) or _refuse(name)
    return kind


def _refuse(model: object) -> NoReturn:
    message = (
        f"model= is {type(model).__name__}, which is no model of a known kind. Give the hub id or"
        " the folder of a checkpoint, a GGUF file, a server's address, or a LangChain chat model,"
        f" or write an engine and pass it as engine=...; see {DOCS}."
    )
    raise CheckpointError(message)
