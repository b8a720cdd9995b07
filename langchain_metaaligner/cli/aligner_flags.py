"""The options of an `Aligner` as flags, made from the table in `options.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from inspect import Parameter
from typing import TYPE_CHECKING, Any

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from langchain_metaaligner.cli.flags import flag, read_value, with_flags
from langchain_metaaligner.cli.objects import needed_object
from langchain_metaaligner.options import AlignerOptions, LoadOptions, TakenBy

if TYPE_CHECKING:
    from langchain_metaaligner.editing.aligner import Aligner

_OF_STREAMS = frozenset({"eager", "token_agreement"})  # nothing here could use them
_FIRST = ("model", "family", "adapter", "engine")
_ALIGNER = "The aligner"
_PANELS = {
    "local": "Weights in this process",
    "server": "A model behind a server",
    "llama.cpp": "A GGUF file in llama.cpp",
}


def with_aligner_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of an aligner.

    Args:
        command: A command whose last argument, `**options`, gets those that were given; they are
            for `make_aligner`.

    Returns:
        The command.
    """
    return with_flags(aligner_flags())(command)


def aligner_flags() -> Iterator[Parameter]:
    """The flags, in the order in which help shows them: panel by panel, the most used ones first.

    Yields:
        Each flag.
    """
    fields = AlignerOptions.model_fields
    own = [name for name in AlignerOptions.__annotations__ if name in fields]
    order = (*_FIRST, *own, *LoadOptions.model_fields)
    names = [name for name in dict.fromkeys(order) if name not in _OF_STREAMS]
    # A secret in a command line can be read by everyone on the machine.
    shown = [(name, fields[name]) for name in names if fields[name].repr]
    panels = [_ALIGNER, *_PANELS.values()]
    for name, field in sorted(shown, key=lambda one: panels.index(_panel(*one))):
        metavar = "MODULE:OBJECT" if name == "engine" else None
        yield flag(name, field, panel=_panel(name, field), metavar=metavar)


def make_aligner(given: Mapping[str, Any]) -> Aligner:
    """Make an aligner from flags.

    Args:
        given: Those that were given.

    Returns:
        The aligner; nothing is loaded yet.

    Raises:
        typer.BadParameter: A value is wrong.
    """
    from langchain_metaaligner.editing.aligner import Aligner
    from langchain_metaaligner.integrations import chat_engine  # noqa: F401 - registers its kind

    options = {name: _value(name, value) for name, value in given.items()}
    try:
        return Aligner(**options)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = f"--{str(first['loc'][0]).replace('_', '-')}" if first["loc"] else None
        raise typer.BadParameter(first["msg"], param_hint=name) from None


def _value(name: str, given: Any) -> Any:
    if name == "engine":
        return needed_object(given, option="--engine")
    if name == "guards" and given == ["none"]:
        return ()
    return read_value(AlignerOptions.model_fields[name], given)


def _panel(name: str, field: FieldInfo) -> str:
    if name in ("adapter", *AlignerOptions.__annotations__):
        return _ALIGNER
    taken = next((one for one in field.metadata if isinstance(one, TakenBy)), TakenBy("local"))
    return _PANELS["local" if "local" in taken else min(taken)]
