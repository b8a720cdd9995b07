"""What a call asks of an aligner through its config, and the config that its policy runs under."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.runnables import RunnableConfig, ensure_config

from langchain_metaaligner.editing.objectives import Objectives
from langchain_metaaligner.integrations._langchain import config_inside, graph_context
from langchain_metaaligner.integrations.hushing import NOSTREAM, STEP


def asked_objectives(config: RunnableConfig) -> Objectives | None:
    """The objectives that a call asks for.

    Args:
        config: The call's config. In a LangGraph graph the context that the graph was run with,
            a mapping or an object, may have `objectives`; they go before those of the config.

    Returns:
        The objectives; `None` where the call asks for none.
    """
    configurable = _configurable(config)
    if not configurable:
        return None
    context = graph_context(configurable)
    if isinstance(context, Mapping):
        asked = context.get("objectives")
    else:
        asked = getattr(context, "objectives", None)
    # A schema's default, such as an empty list, asks for nothing.
    return listed(asked or cast("Objectives | None", configurable.get("objectives")))


def listed(asked: Objectives | None) -> Objectives | None:
    """Objectives that can be read more than once: for the trace, the edit and the record.

    Args:
        asked: What a call asks for; an iterator is read to its end.
    """
    # One that has been read before stays what it is: the error then says so.
    return (list(asked) or asked) if isinstance(asked, Iterator) else asked


def with_listed(configs: Sequence[RunnableConfig]) -> list[RunnableConfig]:
    """The configs with objectives that can be read more than once.

    Args:
        configs: Configs of calls; an iterator that several of them hold serves them all.
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
    """The context that a call gives, instead of the messages that the policy was sent.

    Args:
        config: The call's config.

    Returns:
        The context; `None` where the call gives none.
    """
    context = _configurable(config).get("context")
    if isinstance(context, str):
        warnings.warn(_BARE_CONTEXT, UserWarning, stacklevel=3)
    return context


@contextmanager
def hushed_step() -> Iterator[None]:
    """Keep what the models called inside say from consumers of streams.

    The tags go into the config and into its callback manager: a config of a model's own takes the
    place of the first, never of the second.
    """
    config = ensure_config()
    callbacks = config.get("callbacks")
    if isinstance(callbacks, BaseCallbackManager):
        callbacks = callbacks.copy()
        callbacks.add_tags([NOSTREAM, STEP])
    tags = [*(config.get("tags") or ())]
    tags += [tag for tag in (NOSTREAM, STEP) if tag not in tags]
    with config_inside({**config, "callbacks": callbacks, "tags": tags}):
        yield


@contextmanager
def overheard_by(handler: BaseCallbackHandler) -> Iterator[None]:
    """Let a handler hear what goes on inside.

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
    "A context given by config as a bare string is copied into trace metadata and checkpoints by"
    " LangChain. Give Context(text) or messages instead."
)
