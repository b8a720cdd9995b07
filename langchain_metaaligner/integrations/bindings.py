"""A binding that shows none of the secrets that are bound to a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from langchain_core.runnables import RunnableBinding
from pydantic import field_serializer

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
            yield name, masked(value)


def _shown(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value if name in _SCHEMAS else masked({name: value})[name]
        for name, value in given.items()
    }
