"""Reads objectives and context from a call's config, and adapts the config of the policy."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.runnables import RunnableConfig, ensure_config

from langchain_metaaligner.editing.objectives import Objectives
from langchain_metaaligner.integrations._langchain import child_config, config_inside, graph_context


def asked_objectives(config: RunnableConfig) -> Objectives | None:
    """The objectives that a call asks for.

    Args:
        config: The call's config. In LangGraph, `objectives` in the context that the graph was run
            with (a mapping or an object) take precedence over those in the config.

    Returns:
        The objectives; `None` if the call asks for none.
    """
    configurable = _configurable(config)
    if not configurable:
        return None
    context = graph_context(configurable)
    if isinstance(context, Mapping):
        asked = context.get("objectives")
    else:
        asked = getattr(context, "objectives", None)
    # The default of a context schema, such as an empty list, asks for nothing.
    return listed(asked or cast("Objectives | None", configurable.get("objectives")))


def listed(asked: Objectives | None) -> Objectives | None:
    """Turn an iterator into a list, so that the trace, the edit and the record can read it.

    Args:
        asked: The objectives that a call asks for.

    Returns:
        The objectives; an iterator as a list.
    """
    # An exhausted iterator is returned as it is, because the error message then explains it.
    return (list(asked) or asked) if isinstance(asked, Iterator) else asked


def with_listed(configs: Sequence[RunnableConfig]) -> list[RunnableConfig]:
    """Turn the iterators of objectives in configs into lists; as `listed`.

    Args:
        configs: Configs of calls. Several of them may contain the same iterator.

    Returns:
        The configs, in order.
    """
    lists: dict[int, Objectives | None] = {}
    made: list[RunnableConfig] = []
    for config in configs:
        asked = _configurable(config).get("objectives")
        if isinstance(asked, Iterator):
            if id(asked) not in lists:
                lists[id(asked)] = listed(asked)
            configurable = {**_configurable(config), "objectives": lists[id(asked)]}
            config = {**config, "configurable": configurable}  # noqa: PLW2901
        made.append(config)
    return made


def given_context(config: RunnableConfig) -> Any:
    """The context in a call's config, which replaces the messages that the policy was sent.

    Args:
        config: The call's config.

    Returns:
        The context; `None` if the config has none.
    """
    context = _configurable(config).get("context")
    if isinstance(context, str):
        warnings.warn(_BARE_CONTEXT, UserWarning, stacklevel=3)
    return context


def attached(config: RunnableConfig) -> RunnableConfig:
    """Keep a call inside the run around it, where its config has callbacks of its own.

    LangChain would start a run outside of all others. There would be no context, and no consumer
    to be told of a leak.

    Args:
        config: The call's config.

    Returns:
        The config, with its own callbacks added to those of the run around it.
    """
    own = config.get("callbacks")
    managed = isinstance(own, BaseCallbackManager)
    if own is None or (managed and own.parent_run_id is not None):
        return config
    around = (child_config.get() or {}).get("callbacks")
    if not isinstance(around, BaseCallbackManager) or around is own:
        return config
    callbacks = around.copy()
    for handler in own.handlers if isinstance(own, BaseCallbackManager) else own:
        callbacks.add_handler(handler, inherit=True)
    return {**config, "callbacks": callbacks}


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
    " checkpoints. Give Context(text) or messages instead."
)
