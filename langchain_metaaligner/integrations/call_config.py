"""Reads objectives and context from a call's config, and adapts the config of the policy."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig, ensure_config

from langchain_metaaligner.editing.conversation import Context
from langchain_metaaligner.editing.objectives import Objectives
from langchain_metaaligner.integrations._langchain import config_inside, graph_context


class ConfigKeys(NamedTuple):
    """The keys of a call's config that an aligner reads.

    Attributes:
        objectives: The key of the objectives, in `configurable` and in a graph's context.
        context: The key of the context, in `configurable`.
    """

    objectives: str = "objectives"
    context: str = "context"


def parse_config_keys(given: Any) -> dict[str, str] | None:
    """Check other names for the keys of a call's config.

    Args:
        given: A mapping from `objectives` or `context` to the name to use; `None` for no others.

    Returns:
        The mapping, as a new dict.

    Raises:
        ValueError: It is no such mapping, or both keys would have the same name.
    """
    if given is None:
        return None
    known = " and ".join(ConfigKeys._fields)
    if not isinstance(given, Mapping):
        found = type(given).__name__
        msg = f"config_keys must be a mapping from {known} to other names, not {found}."
        raise ValueError(msg)  # noqa: TRY004 - so that pydantic reports it as the option's error
    if unknown := [key for key in given if key not in ConfigKeys._fields]:
        msg = f"config_keys has no key {unknown[0]!r}; an aligner reads the keys {known}."
        raise ValueError(msg)
    for key, name in given.items():
        if not isinstance(name, str) or not name.strip():
            what = "an empty text" if isinstance(name, str) else type(name).__name__
            msg = f"config_keys[{key!r}] must be the name of a key in configurable, not {what}."
            raise ValueError(msg)
    keys = ConfigKeys(**given)
    if keys.objectives == keys.context:
        msg = f"config_keys gives the objectives and the context the same key, {keys.context!r}."
        raise ValueError(msg)
    return dict(given)


def asked_objectives(config: RunnableConfig, keys: ConfigKeys) -> Objectives | None:
    """The objectives that a call asks for.

    Args:
        config: The call's config. In LangGraph, the objectives in the context that the graph was
            run with (a mapping or an object) take precedence over those in the config.
        keys: The keys to read.

    Returns:
        The objectives, of any type; `None` if the call asks for none.
    """
    configurable = _configurable(config)
    if not configurable:
        return None
    context = graph_context(configurable)
    if isinstance(context, Mapping):
        asked = context.get(keys.objectives)
    else:
        asked = getattr(context, keys.objectives, None)
    # The default of a context schema, such as an empty list, asks for nothing.
    if asked is None or (isinstance(asked, Sized) and len(asked) == 0):
        asked = configurable.get(keys.objectives)
    return listed(cast("Objectives | None", asked))


def listed(asked: Objectives | None) -> Objectives | None:
    """Turn an iterator into a list, so that the trace, the edit and the record can read it.

    Args:
        asked: The objectives that a call asks for.

    Returns:
        The objectives; an iterator as a list.
    """
    # An exhausted iterator is returned as it is, because the error message then explains it.
    return (list(asked) or asked) if isinstance(asked, Iterator) else asked


def with_listed(configs: Sequence[RunnableConfig], keys: ConfigKeys) -> list[RunnableConfig]:
    """Turn the iterators of objectives in configs into lists; as `listed`.

    Args:
        configs: Configs of calls. Several of them may contain the same iterator.
        keys: The keys to read.

    Returns:
        The configs, in order.
    """
    lists: dict[int, Objectives | None] = {}
    made: list[RunnableConfig] = []
    for config in configs:
        asked = _configurable(config).get(keys.objectives)
        if isinstance(asked, Iterator):
            if id(asked) not in lists:
                lists[id(asked)] = listed(asked)
            configurable = {**_configurable(config), keys.objectives: lists[id(asked)]}
            config = {**config, "configurable": configurable}  # noqa: PLW2901
        made.append(config)
    return made


def given_context(config: RunnableConfig, keys: ConfigKeys) -> Any:
    """The context in a call's config, which replaces the messages that the policy was sent.

    Args:
        config: The call's config.
        keys: The keys to read.

    Returns:
        The context; `None` if the config has none.
    """
    context = _configurable(config).get(keys.context)
    if isinstance(context, str):
        warnings.warn(_BARE_CONTEXT, UserWarning, stacklevel=3)
    return context


def not_a_context(given: Any) -> str | None:
    """Say what an object is that can't be read as a context, without showing what is in it.

    Args:
        given: The object.

    Returns:
        The name of its type, or what of its items is wrong; `None` if it may be a context.
    """
    if isinstance(given, str | Context) or hasattr(given, "to_messages"):
        return None
    if not isinstance(given, Iterable) or isinstance(given, bytes | Mapping):
        return type(given).__name__
    if not isinstance(given, Sequence):
        return None
    wrong = (one for one in given if not _may_be_message(one))
    return next((f"{type(given).__name__} of {type(one).__name__}" for one in wrong), None)


def _may_be_message(one: Any) -> bool:
    if isinstance(one, Mapping):
        return "content" in one or "kwargs" in one
    return isinstance(one, BaseMessage | str | list | tuple)


@contextmanager
def overheard_by(handler: BaseCallbackHandler) -> Iterator[None]:
    """Let a handler receive the events of all runs inside this block.

    Args:
        handler: The handler.
    """
    config = ensure_config()
    callbacks = config.get("callbacks")
    if isinstance(callbacks, BaseCallbackManager):
        callbacks = callbacks.copy()
        callbacks.add_handler(handler, inherit=True)
    else:
        callbacks = [*(callbacks or ()), handler]
    with config_inside({**config, "callbacks": callbacks}):
        yield


def _configurable(config: RunnableConfig) -> Mapping[str, Any]:
    return config.get("configurable") or {}


_BARE_CONTEXT = (
    "LangChain copies a context that is a bare string in the config into trace metadata and"
    " checkpoints. Give Context(text) or messages instead. If the application uses this key for"
    " something else, let the aligner read another one: config_keys={'context': ...}."
)
