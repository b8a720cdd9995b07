"""Options that are declared as fields of a model elsewhere, as flags of a command."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import wraps
from inspect import Parameter, Signature, signature
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from langchain_metaaligner.cli.running import as_flags

_METAVARS = {bool: None, int: "N", float: "X", str: "TEXT"}


def with_flags(flags: Iterable[Parameter]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command further flags.

    Args:
        flags: The flags, as `flag` makes them.

    Returns:
        A decorator for a command whose last argument, `**options`, gets those of the flags that
        differ from their defaults.
    """
    flags = list(flags)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            one
            for one in signature(command, eval_str=True).parameters.values()
            if one.kind is not Parameter.VAR_KEYWORD
        ]

        @wraps(command)
        def run(**given: Any) -> None:
            for one in flags:
                if given[one.name] in (one.default, None, []):
                    del given[one.name]
            command(**given)

        every = [one.replace(kind=Parameter.KEYWORD_ONLY) for one in (*own, *flags)]
        run.__signature__ = Signature(every)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in every}
        return run

    return decorate


def flag(name: str, field: FieldInfo, *, panel: str, metavar: str | None = None) -> Parameter:
    """Make a flag from a field.

    Args:
        name: The field's name.
        field: Its type, default and words.
        panel: The title above the flag in the help.
        metavar: What stands for its value in the help.

    Returns:
        The flag, as an argument of a command.
    """
    base, title = _base(field.annotation), f"--{name.replace('_', '-')}"
    # Whatever has no form of its own on a command line is text.
    kind: Any = list[str] if is_list(field) else base if _is_plain(base) else str
    default = field.get_default(call_default_factory=True)
    default = default if kind is base or isinstance(default, str) else None
    option = typer.Option(
        f"{title}/--no-{title[2:]}" if kind is bool else title,
        help=_words(field),
        rich_help_panel=panel,
        metavar=metavar or _metavar(kind, base),
        show_default=default is not None and default is not False,
    )
    taken: Any = kind | None if default is None else kind
    annotation: Any = Annotated[taken, option]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def is_list(field: FieldInfo) -> bool:
    """Whether a field takes several values."""
    return get_origin(_base(field.annotation)) in (list, tuple)


def read_value(field: FieldInfo, given: Any) -> Any:
    """Read a flag's value as its field takes it.

    Args:
        field: The field.
        given: The value.

    Returns:
        The value; read as JSON, where it is JSON and the field takes more than text.
    """
    if is_list(field) or _is_plain(_base(field.annotation)):
        return given
    try:
        return json.loads(given)
    except ValueError:
        return given


def json_object(text: str) -> dict[str, Any]:
    """Read the value of a flag that takes a JSON object.

    Args:
        text: The value.

    Returns:
        The object.

    Raises:
        typer.BadParameter: It is something else.
    """
    try:
        read = json.loads(text)
    except ValueError as error:
        message = f"not valid JSON: {error}"
        raise typer.BadParameter(message) from error
    if not isinstance(read, dict):
        message = 'expected an object, such as {"report_to": "wandb"}'
        raise typer.BadParameter(message)
    return read


def _base(annotation: Any) -> Any:
    """A type without what is said of it, and without `None`."""
    if get_origin(annotation) is Annotated:
        return _base(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        kinds = [one for one in get_args(annotation) if one is not NoneType]
        return _base(kinds[0]) if len(kinds) == 1 else annotation
    return annotation


def _is_plain(base: Any) -> bool:
    return base in _METAVARS or get_origin(base) is Literal


def _metavar(kind: Any, base: Any) -> str | None:
    if get_origin(base) is Literal:
        return "|".join(get_args(base))
    return _METAVARS[base] if kind is base else "TEXT|JSON" if kind is str else "NAME"


def _words(field: FieldInfo) -> str:
    words = " ".join((field.description or "").split())
    words = re.sub(r"(?<=[;:,] )`?None`?", "left out, it", words)
    words = re.sub(r"`?\bNone\b`?", "Left out, it", words).replace("`()`", "`none`")
    words += " Repeat it for several." if is_list(field) else ""
    return as_flags(words.replace("`", ""))
