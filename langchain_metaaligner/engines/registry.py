"""The table from a model's name to the engine that runs it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from langchain_metaaligner.checkpoints import EMBEDDED
from langchain_metaaligner.engines.base import DOCS, Engine
from langchain_metaaligner.errors import CheckpointError
from langchain_metaaligner.options import normal_name


@dataclass(frozen=True, slots=True)
class EngineKind:
    """A kind of engine, and the models that it runs.

    Attributes:
        runs: What it runs, in the plural, for messages.
        names: Matches the whole name of each such model.
        make: Makes the engine from a model's name and options, reading nothing yet; `None` for a
            kind that this version knows of but lacks.
        check: Raises `CheckpointError` for a model and options that are known not to work before
            anything large is read, and with no network.
    """

    runs: str
    names: re.Pattern[str]
    make: Callable[..., Engine] | None = None
    check: Callable[[str, Mapping[str, Any]], None] | None = None


def _make_local(name: str, **options: Any) -> Engine:
    # torch is imported here and no sooner: the package itself must be quick to import.
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
    # A constructor must not take the seconds that importing torch takes; `load` checks it anyway.
    if "torch" in sys.modules:
        from langchain_metaaligner.engines.local.placement import check_devices

        check_devices(name, parsed.device_map)


KINDS = [
    EngineKind("servers", re.compile(r"https?://.*", re.IGNORECASE)),
    EngineKind("GGUF files", re.compile(r".*\.gguf", re.IGNORECASE | re.DOTALL)),
    EngineKind("checkpoints", re.compile(r".*", re.DOTALL), _make_local, _check_local),
]
"""All kinds; the first that a name fits counts."""


def load_engine(model: str | None = None, **options: Any) -> Engine:
    """Find the engine for a model; it is shared by all who ask with the same settings.

    Nothing is read yet: weights come with the first edit or with `engine.load()`.

    Args:
        model: A hub id or a folder; `None` is the environment variable `METAALIGNER_MODEL`, else
            the embedded aligner.
        **options: Options of the engine, for instance `dtype`, `device_map`, `revision`,
            `adapter`, `quantization_config`.

    Returns:
        The engine. Each call makes the caller one more owner, with an engine object of its own;
        the weights are shared, and freed when the last owner has called `close()` or forgotten
        its engine. A closed engine raises `EngineError`.

    Raises:
        CheckpointError: No engine of this version runs such a model.
    """
    name = _name(model)
    _, make = _kind(name)
    return make(name, **options)


def check_model(model: str | None, options: Mapping[str, Any]) -> str:
    """Find out what is wrong with a model and its options before anything large is read.

    It is quick enough for a constructor: no network, no weights, no torch where nobody has
    imported it yet. What it can't know is left to `load`.

    Args:
        model: As for `load_engine`.
        options: As for `load_engine`.

    Returns:
        The name by which the engine knows the model.

    Raises:
        CheckpointError: No engine of this version runs such a model, or not with these options.
        TypeError: An option is unknown.
    """
    name = _name(model)
    kind, _ = _kind(name)
    if kind.check is not None:
        kind.check(name, options)
    return normal_name(name)


def _name(model: str | None) -> str:
    return model or os.environ.get("METAALIGNER_MODEL", "").strip() or EMBEDDED


def _kind(name: str) -> tuple[EngineKind, Callable[..., Engine]]:
    kind = next(kind for kind in KINDS if kind.names.fullmatch(name))
    if kind.make is None:
        message = (
            f"This version has no engine for {kind.runs}, so model={name!r} can't be used. Give a"
            " hub id or the folder of a checkpoint of transformers; or write an engine and give it"
            f" as engine=..., see {DOCS}."
        )
        raise CheckpointError(message)
    return kind, kind.make
