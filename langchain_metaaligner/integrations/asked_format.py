"""Whether a model was asked for structured data, which must not be edited as prose.

Providers name the wish differently and put it in different places: an option of the call, a field
of the model, or a mapping inside either. What counts is the format that is asked for. An option
that asks for plain text, or that sets something else (an effort, the format of audio), is no such
wish.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

# Options whose value is a format or a description of one.
_FORMATS = (
    "format", "output_format", "response_format", "text_format", "response_mime_type",
)  # fmt: skip
# Options that are a wish for data whatever their value is. The last two rows are those of servers.
_CONSTRAINTS = (
    "json_schema", "response_schema", "response_json_schema", "json_mode",
    "guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs",
    "grammar", "grammar_path", "ebnf", "regex", "structural_tag",
)  # fmt: skip
# What the description of a format says besides.
_DESCRIPTIONS = ("schema", "mime_type")
# Mappings that are no part of what is asked of the model, or that describe other outputs.
_ELSEWHERE = re.compile(
    r"(?i)\w*(?:header|label|metadata|query|client|http|transport|tool|function|profile|audio|image"
    r"|video|speech)\w*|messages|prompt|prediction|logit_bias|_serialized"
)
# The mapping that providers merge with the model's own; all others replace it.
_MERGED = "output_config"
# LangChain's own description of structured output, and its method that asks for a tool call.
BY_LANGCHAIN = "ls_structured_output_format"
_BY_TOOL = "function_calling"

_DATA = re.compile(r"(?i)json|xml|yaml|csv|enum|schema|grammar|regex|structur|object|array")
_PLAIN_TYPES = ("text/plain", "text/markdown")
_SCHEMA_KEYS = frozenset(
    "$ref $defs properties items anyOf oneOf allOf enum const additionalProperties".split()
)
_NESTED = (dict, BaseModel)
_DEPTH = 6


def _spellings(names: tuple[str, ...]) -> frozenset[str]:
    """The names as they are, and in camel case."""
    camel = (re.sub(r"_(.)", lambda found: found[1].upper(), name) for name in names)
    return frozenset((*names, *camel))


_FORMAT_NAMES, _CONSTRAINT_NAMES = _spellings(_FORMATS), _spellings(_CONSTRAINTS)
_NAMES = _FORMAT_NAMES | _CONSTRAINT_NAMES
_SAYING = _NAMES | _spellings(_DESCRIPTIONS)


def wants_data(
    model: Mapping[str, Any], params: Mapping[str, Any], call: Mapping[str, Any]
) -> bool:
    """Whether a model is asked for structured data instead of prose.

    Args:
        model: The model's fields, or the model as LangChain serialises it.
        params: The parameters of the call that the model tells LangChain. Many models don't tell
            all that they send.
        call: The options of the call.

    Returns:
        Whether what the model is sent asks for data.
    """
    fields = _fields(model)
    layers = (fields, params, call)
    if not any(
        one and (name in _NAMES or (isinstance(one, _NESTED) and _may_hold(name, one)))
        for layer in layers
        for name, one in layer.items()
    ):
        return False
    asked = _mapping(call.get(BY_LANGCHAIN))
    if asked and _mapping(asked.get("kwargs")).get("method") != _BY_TOOL:
        return True
    sent: dict[str, Any] = {}
    merged: dict[str, Any] = {}
    for layer in layers:
        for given in (_mapping(layer.get("model_kwargs")), layer):
            merged.update(_mapping(given.get(_MERGED)))
            # A field that is not set is `None`; a call's `None` takes back what was set.
            sent.update(
                {name: one for name, one in given.items() if one is not None or layer is not fields}
            )
    sent["model_kwargs"], sent[_MERGED] = None, merged
    return any(_is_wish(name, one) for name, one in _options(sent, _DEPTH))


def _may_hold(name: str, given: Any) -> bool:
    """Whether a mapping can hold a wish for data; most can't."""
    if name == BY_LANGCHAIN:
        return True
    secret = isinstance(given, dict) and given.get("type") == "secret"
    return not secret and not _is_elsewhere(name)


@functools.lru_cache(maxsize=512)
def _is_elsewhere(name: Any) -> bool:
    """Whether what a mapping of this name holds is no part of what is asked."""
    return not isinstance(name, str) or _ELSEWHERE.fullmatch(name) is not None


def _fields(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options in a model that LangChain has serialised; other mappings are returned as is."""
    if "lc" not in options:
        return options
    if isinstance(said := options.get("repr"), str):
        return _read_repr(said)
    return _mapping(options.get("kwargs"))


@functools.lru_cache(maxsize=64)
def _read_repr(said: str) -> Mapping[str, Any]:
    """The fields that the `repr` of a pydantic model shows, as far as they are plain values.

    This is all that LangChain tells of a model that it can't serialise.
    """
    if not any(name in said for name in _FORMATS):
        return {}
    try:
        call = ast.parse(re.sub(r"<[^<>]*>", "None", said[:100_000]), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return {}
    found: dict[str, Any] = {}
    for field in call.keywords if isinstance(call, ast.Call) else ():
        if field.arg is not None:
            try:
                found[field.arg] = ast.literal_eval(field.value)
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                continue
    return found


def _mapping(given: Any) -> Mapping[str, Any]:
    if isinstance(given, dict):
        return given
    return vars(given) if isinstance(given, BaseModel) else {}


def _options(sent: Mapping[str, Any], depth: int) -> Iterator[tuple[str, Any]]:
    """The options in a mapping, and in the mappings inside it, that can be a wish for data."""
    for name, one in sent.items():
        if not one or name == BY_LANGCHAIN:
            continue
        if name in _NAMES:
            yield name, one
        elif depth and isinstance(one, _NESTED) and not _is_elsewhere(name):
            inner = _mapping(one)
            yield from _options(_fields(inner) if "lc" in inner else inner, depth - 1)


def _is_wish(name: str, given: Any) -> bool:
    """Whether the value of an option asks for data."""
    if not given:
        return False
    if isinstance(given, str):
        if name in _CONSTRAINT_NAMES:
            return True
        if "/" in given:
            return given.partition(";")[0].strip().lower() not in _PLAIN_TYPES
        return _DATA.search(given) is not None
    if isinstance(given, list | tuple):
        return name in _CONSTRAINT_NAMES or any(_is_wish(name, one) for one in given)
    if isinstance(given, Mapping):
        return name in _CONSTRAINT_NAMES or _describes_data(given)
    # A class, a schema object, or a flag.
    return True


def _describes_data(asked: Mapping[str, Any]) -> bool:
    """Whether the description of a format is one of data."""
    if any(key in _SAYING and _is_wish(key, one) for key, one in asked.items()):
        return True
    kind = asked.get("type")
    if isinstance(kind, str):
        return kind != "text"
    return kind is not None or not _SCHEMA_KEYS.isdisjoint(asked)
