"""All uses of LangChain's and LangGraph's private API.

Read this module first when you move to new versions. Everything here was checked in langchain-core
1.6.0, 1.7.2 and 1.8.3 and in langgraph 1.2.11, 1.2.22 and 1.2.24. The tests run it on the lowest
and the newest versions that the project supports.
"""

# ruff: noqa: SLF001 - private access is the purpose of this module

from __future__ import annotations

import copy
import functools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, cast

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models._compat_bridge import message_to_events
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableBinding, RunnableConfig, RunnableSequence
from langchain_core.runnables.config import (
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
    get_config_list,
    merge_configs,
    set_config_context,
    var_child_runnable_config,
)
from langchain_core.runnables.configurable import (
    RunnableConfigurableAlternatives,
    RunnableConfigurableFields,
)
from langchain_core.runnables.retry import RunnableRetry

# Not variables of this package: pydantic would take a parametrised class for another one.
from langchain_core.runnables.utils import Input, Output
from langchain_core.tracers.context import _configure_hooks, register_configure_hook

__all__ = [
    "Input",
    "Output",
    "RunnableConfigurableAlternatives",
    "RunnableConfigurableFields",
    "RunnableRetry",
    "child_config",
    "config_inside",
    "get_async_callback_manager_for_config",
    "get_callback_manager_for_config",
    "get_config_list",
    "merge_configs",
    "message_events",
    "register_handlers",
    "set_config_context",
    "streams",
    "streams_messages",
    "takes_events",
    "unseen",
]

# The key in `configurable` under which LangGraph keeps a run's runtime; its own `get_runtime()`
# reads only the current config. langgraph._internal._constants.CONFIG_KEY_RUNTIME
_RUNTIME = "__pregel_runtime"
# langchain_core.tracers._streaming
_TAKES_EVENTS = "_V2StreamingCallbackHandler"
# langgraph.pregel._messages
_STREAMS_MESSAGES = "StreamMessagesHandler"
# langgraph.pregel.protocol
_GRAPH = "PregelProtocol"
# langchain_core.language_models.chat_models
_MODEL_BINDING = "_ChatModelBinding"
# langgraph.prebuilt.tool_node
_TOOL_RUNTIME = "ToolRuntime"


# -- configs ----------------------------------------------------------------------------------

# The config that nested calls inherit; `None` outside of all runs.
child_config = var_child_runnable_config


@contextmanager
def config_inside(config: RunnableConfig) -> Iterator[None]:
    """Let the calls inside this block inherit a config.

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
        configurable: The config's `configurable`.

    Returns:
        An object or a mapping; `None` outside of graphs.
    """
    return getattr(configurable.get(_RUNTIME), "context", None)


# -- handlers ---------------------------------------------------------------------------------


def handlers_around() -> Sequence[Any]:
    """The handlers that a call inherits here; none outside of all runs."""
    callbacks = (child_config.get() or {}).get("callbacks")
    return callbacks.handlers if isinstance(callbacks, BaseCallbackManager) else ()


class _Handlers(Protocol):
    """Makes handlers."""

    def get(self) -> BaseCallbackHandler:
        """A new handler."""


def register_handlers(handlers: _Handlers, kind: type[BaseCallbackHandler]) -> None:
    """Give every outermost run from now on a handler of its own, which the runs inside it inherit.

    Args:
        handlers: Makes the handlers. LangChain asks a context variable for the handler of a run;
            this stands in for one.
        kind: The class of the handlers. A run that inherits one gets no other.
    """
    register_configure_hook(cast("Any", handlers), inheritable=True, handle_class=kind)


@contextmanager
def unseen() -> Iterator[None]:
    """Let a run that begins here inherit no config, and no handler from a context variable.

    Such handlers count usage or collect runs, for instance. Tracers still see the run.
    """
    hooks: list[ContextVar[Any]] = [
        variable for variable, *_ in _configure_hooks if isinstance(variable, ContextVar)
    ]
    tokens = [(variable, variable.set(None)) for variable in (child_config, *hooks)]
    try:
        yield
    finally:
        for variable, token in reversed(tokens):
            variable.reset(token)


def streams(handlers: Iterable[Any]) -> bool:
    """Whether any of a run's handlers streams to a consumer.

    Args:
        handlers: The run's handlers.
    """
    # Both types are private: the first is a protocol, the second a class.
    return any(
        hasattr(handler, "tap_output_iter") or _is(handler, _TAKES_EVENTS) for handler in handlers
    )


def takes_events(handlers: Iterable[Any]) -> bool:
    """Whether any of a run's handlers uses LangChain's stream event protocol.

    Args:
        handlers: The run's handlers.
    """
    return any(_is(handler, _TAKES_EVENTS) for handler in handlers)


def streams_messages(handlers: Iterable[Any]) -> bool:
    """Whether any of a run's handlers serves a LangGraph consumer of `stream_mode="messages"`.

    Args:
        handlers: The run's handlers.
    """
    return any(_is(handler, _STREAMS_MESSAGES) for handler in handlers)


def has_streamed(handlers: Iterable[Any], message_ids: Iterable[str | None]) -> bool:
    """Whether a consumer of `stream_mode="messages"` has seen one of the messages.

    Args:
        handlers: The run's handlers.
        message_ids: The messages' ids.
    """
    return any(
        message_id in handler.seen
        for handler in handlers
        if _is(handler, _STREAMS_MESSAGES)
        for message_id in message_ids
        if message_id is not None
    )


def showing_only(tag: str, callbacks: Any) -> Any:
    """Let consumers of `stream_mode="messages"` see only tagged models of the runs below.

    The tag `nostream` keeps a model's tokens back, but not the messages that the nodes of a graph
    below return. No tag does that without hiding the runs from traces, too.

    Args:
        tag: The tag.
        callbacks: The callbacks in the config of the runs below.

    Returns:
        The callbacks; a changed copy if there is such a consumer.
    """
    if not isinstance(callbacks, BaseCallbackManager) or not streams_messages(callbacks.handlers):
        return callbacks
    quiet = callbacks.copy()
    quiet.handlers = [_showing_only(tag, one) for one in quiet.handlers]
    quiet.inheritable_handlers = [_showing_only(tag, one) for one in quiet.inheritable_handlers]
    return quiet


def _showing_only(tag: str, handler: Any) -> Any:
    if not _is(handler, _STREAMS_MESSAGES) or hasattr(handler, "only_tag"):
        return handler
    # The copy and the original share what has been seen and what is being streamed.
    quiet, kind = copy.copy(handler), cast("Any", type(handler))
    quiet.__class__ = _quiet_handler(kind)
    quiet.original, quiet.only_tag = handler, tag
    return quiet


@functools.cache
def _quiet_handler(kind: Any) -> Any:
    # A subclass, because LangChain and LangGraph look for these handlers by their class.
    class QuietHandler(kind):  # type: ignore[misc]
        # Two copies in one manager would send everything twice.
        def __eq__(self, other: object) -> bool:
            return type(other) is type(self) and other.original is self.original

        def __hash__(self) -> int:
            return hash(self.original)

        def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
            pass

        def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
            if self.only_tag in (kwargs.get("tags") or ()):
                super().on_chat_model_start(*args, **kwargs)

    return QuietHandler


def message_events(message: BaseMessage) -> list[dict[str, Any]]:
    """A whole message as the events of LangChain's stream event protocol.

    Args:
        message: The message.

    Returns:
        The start of the message, the events of its blocks, and its end.
    """
    return [dict(event) for event in message_to_events(message)]


def _is(one: Any, name: str) -> bool:
    kind: Any = type(one)
    return _named(kind, name)


@functools.lru_cache(maxsize=256)
def _named(kind: Any, name: str) -> bool:
    # Compared by name, because langgraph may not be installed.
    return any(one.__name__ == name for one in kind.__mro__)


# -- graphs -----------------------------------------------------------------------------------


def is_graph(one: Any) -> bool:
    """Whether an object is a LangGraph graph, local or remote.

    Args:
        one: Any object.
    """
    return _is(one, _GRAPH)


def with_inherited(graph: Any, change: Callable[[RunnableConfig], RunnableConfig]) -> Any:
    """Change the config that a graph inherits whenever it is called.

    Args:
        graph: A graph that belongs to the caller, such as a copy by `with_config`.
        change: Makes the config.

    Returns:
        The graph.
    """
    if not hasattr(graph, "_change"):
        # Not a binding: LangGraph does not find graphs inside of those, and would not show the
        # state of this one as part of the state of the graph around it.
        kind: Any = type(graph)
        graph.__class__ = _changing_graph(kind, change)
    return graph


@functools.cache
def _changing_graph(kind: Any, change: Callable[[RunnableConfig], RunnableConfig]) -> Any:
    @contextmanager
    def changed() -> Iterator[None]:
        # A graph adds the config that it is given to the one that it inherits.
        with config_inside(change(child_config.get() or {})):
            yield

    class ChangingGraph(kind):  # type: ignore[misc]
        # All other calls of a graph come through these two.
        _change = staticmethod(change)

        def stream(
            self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
        ) -> Iterator[Any]:
            with closing(super().stream(input, change(config or {}), **kwargs)) as parts:
                while True:
                    with changed():
                        part = next(parts, _END)
                    if part is _END:
                        return
                    yield part

        async def astream(
            self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
        ) -> AsyncIterator[Any]:
            async with aclosing(super().astream(input, change(config or {}), **kwargs)) as parts:
                while True:
                    with changed():
                        part = await anext(parts, _END)
                    if part is _END:
                        return
                    yield part

    ChangingGraph.__name__, ChangingGraph.__qualname__ = kind.__name__, kind.__qualname__
    return ChangingGraph


_END = object()


def with_calls(tool: Any, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Any:
    """Change the methods by which LangChain calls a tool.

    Args:
        tool: A tool of any class.
        change: Makes a function of such a method.

    Returns:
        A changed copy of the tool.
    """
    made = tool.model_copy()
    vars(made).update({name: change(getattr(tool, name)) for name in ("_run", "_arun")})
    return made


def with_tool_config(value: Any, change: Callable[[RunnableConfig], RunnableConfig]) -> Any:
    """Change the config in the runtime of a LangGraph tool.

    Args:
        value: An argument of a function.
        change: Makes the config.

    Returns:
        A changed copy of the runtime; any other argument as it is.
    """
    if not _is(value, _TOOL_RUNTIME):
        return value
    runtime = copy.copy(value)
    runtime.config = change(value.config)
    return runtime


def is_plain_binding(one: Any) -> bool:
    """Whether a runnable is a binding of LangChain's own that does no more than bind.

    Args:
        one: Any object.
    """
    # The second is a chat model's binding since langchain-core 1.8: it has more types.
    return type(one) is RunnableBinding or type(one).__name__ == _MODEL_BINDING


# -- pipes ------------------------------------------------------------------------------------


def after_composing(done: Callable[[RunnableSequence[Any, Any]], None]) -> None:
    """Call a function with every new pipe.

    This changes LangChain for the whole process, because no public API gives access to a pipe's
    steps when it is composed.

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
    """Replace all steps of a pipe except the last.

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
    """Ask a chat model without starting a run for it.

    Args:
        model: The model.
        messages: The conversation.
        stop: Texts at which the model stops.
        kwargs: Further options for the model.

    Returns:
        The replies.
    """
    made: ChatResult = model._generate_with_cache(messages, stop=stop, **kwargs)
    return made


async def agenerate(
    model: BaseChatModel,
    messages: list[BaseMessage],
    stop: list[str] | None,
    kwargs: Mapping[str, Any],
) -> ChatResult:
    """Ask a chat model without blocking the event loop; as `generate`."""
    made: ChatResult = await model._agenerate_with_cache(messages, stop=stop, **kwargs)
    return made


def stream(
    model: BaseChatModel,
    messages: list[BaseMessage],
    stop: list[str] | None,
    kwargs: Mapping[str, Any],
    whole: Callable[[ChatGeneration], ChatGenerationChunk],
) -> Iterator[ChatGenerationChunk]:
    """Stream a chat model's reply without starting a run for it.

    Args:
        model: The model.
        messages: The conversation.
        stop: Texts at which the model stops.
        kwargs: Further options for the model.
        whole: Turns a complete reply into one chunk, for models that don't stream.

    Yields:
        The chunks of the reply.
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
    """Stream a chat model's reply without blocking the event loop; as `stream`."""
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


# LangChain calls these inside a model's run to get replies from its cache or from the model.
generate_with_cache = BaseChatModel._generate_with_cache
agenerate_with_cache = BaseChatModel._agenerate_with_cache


def describe(model: BaseChatModel) -> tuple[str, Mapping[str, Any]]:
    """A chat model's type and the parameters that identify it.

    Args:
        model: The model.

    Returns:
        The type and the parameters.
    """
    return model._llm_type, model._identifying_params


def cache_string(model: BaseChatModel, stop: list[str] | None, options: Mapping[str, Any]) -> str:
    """The key of a chat model and its options in LangChain's caches.

    Args:
        model: The model.
        stop: Texts at which the model stops.
        options: Further options for the model.

    Returns:
        The key.
    """
    said: str = model._get_llm_string(stop=stop, **options)
    return said


def tracing_params(model: BaseChatModel, stop: list[str] | None, options: Mapping[str, Any]) -> Any:
    """The parameters of a chat model in LangSmith's traces.

    Args:
        model: The model.
        stop: Texts at which the model stops.
        options: Further options for the model.

    Returns:
        The parameters.
    """
    return model._get_ls_params(stop=stop, **options)


def sent_params(
    model: BaseChatModel, stop: list[str] | None, options: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The parameters that a chat model is called with: its own, and those of the call.

    Args:
        model: The model.
        stop: Texts at which the model stops.
        options: Further options for the model.

    Returns:
        The parameters, as far as the model says.
    """
    params: Mapping[str, Any] = model._get_invocation_params(stop=stop, **options)
    return params


def combine_outputs(
    model: BaseChatModel, outputs: Sequence[dict[str, Any] | None]
) -> dict[str, Any]:
    """Combine a chat model's metadata for several outputs.

    Args:
        model: The model.
        outputs: The metadata of each output.

    Returns:
        The combined metadata.
    """
    return model._combine_llm_outputs(list(outputs))
