"""A binding that shows none of the secrets that are bound to a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from langchain_core.runnables import RunnableBinding
from pydantic import BaseModel, field_serializer

from langchain_metaaligner.integrations._langchain import Input, Output
from langchain_metaaligner.options import masked

# They describe arguments and fields, some of which may be called as secrets are.
_SCHEMAS = frozenset({"tools", "functions", "tool_choice", "response_format"})


class SecretiveBinding(RunnableBinding[Input, Output]):
    """A binding that masks secrets where it is printed or dumped.

    It is serialised as LangChain's own class.
    """

    @classmethod
    def lc_id(cls) -> list[str]:
        """The id of LangChain's own class."""
        return RunnableBinding.lc_id()

    def to_json(self) -> Any:
        """As for any binding."""
        made: Any = super().to_json()
        made["kwargs"] = {
            name: _shown(value) if name in ("kwargs", "config") else value
            for name, value in made["kwargs"].items()
        }
        return made

    @field_serializer("kwargs", "config")
    def _dumped(self, value: Any) -> Any:
        return _shown(value)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, _printed(name, value)


class _Printed:
    """A runnable that is printed without secrets, but with what else it tells of itself.

    Args:
        model: The runnable.
    """

    def __init__(self, model: BaseModel) -> None:
        self._model = model

    def __repr__(self) -> str:
        model = self._model
        if masked(model) is model:
            return repr(model)
        if type(model).__repr__ is not BaseModel.__repr__:
            return str(masked(model))
        told = [(name, _printed(name, value)) for name, value in model.__repr_args__()]
        fields = [repr(one) if name is None else f"{name}={one!r}" for name, one in told]
        return f"{type(model).__name__}({', '.join(fields)})"


def _printed(name: str | None, value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _Printed(value)
    return masked(value) if name is None else masked({name: value})[name]


def _shown(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value if name in _SCHEMAS else masked({name: value})[name]
        for name, value in given.items()
    }
