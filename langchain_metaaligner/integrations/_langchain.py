"""Every seam of LangChain and LangGraph that is not public, each with the versions it was seen in.

Whoever moves to new versions reads this module first. Everything here was seen in langchain-core
1.6.0, 1.7.2 and 1.8.3 and in langgraph 1.2.11, 1.2.22 and 1.2.24, and is run by the tests on the
lowest and the newest versions that the project supports.
"""

# ruff: noqa: SLF001 - that is what this module is for

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig, RunnableSequence
from langchain_core.runnables.config import (
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
    get_config_list,
    merge_configs,
    set_config_context,
    var_child_runnable_config,
)
from langchain_core.runnables.configurable import DynamicRunnable
from langchain_core.tracers.context import register_configure_hook

__all__ = [
    "DynamicRunnable",
    "child_config",
    "config_inside",
    "get_async_callback_manager_for_config",
    "get_callback_manager_for_config",
    "get_config_list",
    "merge_configs",
    "register_configure_hook",
    "set_config_context",
    "streams",
    "streams_messages",
    "takes_events",
]

# Where LangGraph keeps a run's runtime in `configurable`; its own `get_runtime()` looks in one
# config only. langgraph._internal._constants.CONFIG_KEY_RUNTIME
_RUNTIME = "__pregel_runtime"
# langchain_core.tracers._streaming
_TAKES_EVENTS = "_V2StreamingCallbackHandler"
# langgraph.pregel._messages
_STREAMS_MESSAGES = "StreamMessagesHandler"


# -- configs ----------------------------------------------------------------------------------

# Holds the config that what is called inherits; `None` is outside of all runs.
child_config = var_child_runnable_config


@contextmanager
def config_inside(config: RunnableConfig) -> Iterator[None]:
    """Have what is called inside inherit a config.

    Args:
        config: The config.
    """
    token = var_child_runnable_config.set(config)
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)


def graph_context(configurable: Mapping[str, Any]) -> Any:
    """The context that a LangGraph graph was run with.

    Args:
        configurable: The config's keys.

    Returns:
        An object or a mapping; `None` outside of graphs.
    """
    return getattr(configurable.get(_RUNTIME), "context", None)


# -- handlers ---------------------------------------------------------------------------------


def streams(handlers: Iterable[Any]) -> bool:
    """Whether any of a run's handlers streams what is under way to a consumer.

    Args:
        handlers: The run's handlers.
    """
    # Both kinds are private: the first is a protocol, the second a class.
    return any(hasattr(one, "tap_output_iter") or _is(one, _TAKES_EVENTS) for one in handlers)


def takes_events(handlers: Iterable[Any]) -> bool:
    """Whether any of a run's handlers takes LangChain's protocol of stream events.

    Args:
        handlers: The run's handlers.
    """
    return any(_is(one, _TAKES_EVENTS) for one in handlers)


def streams_messages(handlers: Iterable[Any]) -> bool:
    """Whether any of a run's handlers serves a LangGraph consumer of `stream_mode="messages"`.

    Args:
        handlers: The run's handlers.
    """
    # By name: langgraph need not be installed.
    return any(_is(one, _STREAMS_MESSAGES) for one in handlers)


def _is(handler: BaseCallbackHandler, name: str) -> bool:
    return any(kind.__name__ == name for kind in type(handler).__mro__)


# -- pipes ------------------------------------------------------------------------------------


def after_composing(done: Callable[[RunnableSequence[Any, Any]], None]) -> None:
    """Have a function see every pipe right after it was composed.

    This changes LangChain, for the whole process: no public seam hands a pipe's steps over.

    Args:
        done: Called with each new pipe.
    """
    compose = RunnableSequence.__init__

    @functools.wraps(compose)
    def compose_and_tell(self: Any, *args: Any, **kwargs: Any) -> None:
        compose(self, *args, **kwargs)
        done(self)

    RunnableSequence.__init__ = compose_and_tell  # type: ignore[method-assign]


def set_steps(sequence: Any, first: Any, middle: list[Any]) -> None:
    """Exchange a pipe's steps but for the last.

    Args:
        sequence: The pipe.
        first: Its first step.
        middle: The steps between the first and the last.
    """
    sequence.first, sequence.middle = first, middle


# -- models -----------------------------------------------------------------------------------


def generate(
    model: BaseChatModel,
    messages: list[BaseMessage],
    stop: list[str] | None,
    kwargs: Mapping[str, Any],
) -> ChatResult:
    """A chat model's replies, without a run of its own.

    Args:
        model: The model.
        messages: What it is asked.
        stop: Texts at which it stops.
        kwargs: Its further options.
    """
    made: ChatResult = model._generate_with_cache(messages, stop=stop, **kwargs)
    return made


async def agenerate(
    model: BaseChatModel,
    messages: list[BaseMessage],
    stop: list[str] | None,
    kwargs: Mapping[str, Any],
) -> ChatResult:
    """A chat model's replies, without blocking the event loop; as `generate`."""
    made: ChatResult = await model._agenerate_with_cache(messages, stop=stop, **kwargs)
    return made


def stream(
    model: BaseChatModel,
    messages: list[BaseMessage],
    stop: list[str] | None,
    kwargs: Mapping[str, Any],
    whole: Callable[[ChatGeneration], ChatGenerationChunk],
) -> Iterator[ChatGenerationChunk]:
    """A chat model's reply as it streams, without a run of its own.

    Args:
        model: The model.
        messages: What it is asked.
        stop: Texts at which it stops.
        kwargs: Its further options.
        whole: Makes one chunk of a reply, for models that don't stream.
    """
    if model._should_stream(async_api=False, **{**kwargs, "stream": True}):
        if model.rate_limiter is not None:
            model.rate_limiter.acquire(blocking=True)
        chunks: Any = model._stream(messages, stop=stop, **kwargs)
        with closing(chunks):
            yield from chunks
    else:
        made = generate(model, messages, stop, kwargs)
        yield whole(made.generations[0])


async def astream(
    model: BaseChatModel,
    messages: list[BaseMessage],
    stop: list[str] | None,
    kwargs: Mapping[str, Any],
    whole: Callable[[ChatGeneration], ChatGenerationChunk],
) -> AsyncIterator[ChatGenerationChunk]:
    """A chat model's reply as it streams, without blocking the event loop; as `stream`."""
    if model._should_stream(async_api=True, **{**kwargs, "stream": True}):
        if model.rate_limiter is not None:
            await model.rate_limiter.aacquire(blocking=True)
        chunks: Any = model._astream(messages, stop=stop, **kwargs)
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk
    else:
        made = await agenerate(model, messages, stop, kwargs)
        yield whole(made.generations[0])


# A model's replies through its cache, as LangChain asks for them inside a run of the model.
generate_with_cache = BaseChatModel._generate_with_cache
agenerate_with_cache = BaseChatModel._agenerate_with_cache


def describe(model: BaseChatModel) -> tuple[str, Mapping[str, Any]]:
    """A chat model's kind and what identifies it.

    Args:
        model: The model.
    """
    return model._llm_type, model._identifying_params


def cache_string(model: BaseChatModel, stop: list[str] | None, options: Mapping[str, Any]) -> str:
    """What tells a chat model and its options apart in LangChain's caches.

    Args:
        model: The model.
        stop: Texts at which it stops.
        options: Its further options.
    """
    said: str = model._get_llm_string(stop=stop, **options)
    return said


def tracing_params(model: BaseChatModel, stop: list[str] | None, options: Mapping[str, Any]) -> Any:
    """What LangSmith is told of a chat model.

    Args:
        model: The model.
        stop: Texts at which it stops.
        options: Its further options.
    """
    return model._get_ls_params(stop=stop, **options)


def combine_outputs(
    model: BaseChatModel, outputs: Sequence[dict[str, Any] | None]
) -> dict[str, Any]:
    """What a chat model says of several outputs together.

    Args:
        model: The model.
        outputs: What it said of each.
    """
    return model._combine_llm_outputs(list(outputs))
