"""Keeps unedited tokens from consumers of streams, and streams the edit in their place.

LangChain hands a model's tokens to consumers before a later step sees the reply. What keeps
them back is the tag `nostream`, which LangGraph honours, put on the steps before an aligner when
the pipe is composed; no public seam of LangChain does that, so `RunnableSequence.__init__` is
wrapped, from the first `MetaAlignerRunnable` on. This is the one place where this package changes
LangChain. `LANGCHAIN_METAALIGNER_HUSH=0` in the environment leaves it as it is.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
import warnings
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import aclosing, closing, contextmanager, suppress
from types import CodeType
from typing import Any, TypeVar, cast

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.output_parsers import BaseLLMOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import BasePromptTemplate
from langchain_core.runnables import (
    Runnable,
    RunnableBinding,
    RunnableConfig,
    RunnablePassthrough,
    RunnableSequence,
    ensure_config,
)
from langchain_core.runnables.config import var_child_runnable_config
from pydantic import Field

from langchain_metaaligner.aligner import Aligner, Item
from langchain_metaaligner.alignment import METADATA_KEY, Alignment
from langchain_metaaligner.capture import ModelRun
from langchain_metaaligner.errors import LeakError
from langchain_metaaligner.objectives import parse_objectives

NOSTREAM = "nostream"
STEP = "metaaligner:step"
HUSH = "metaaligner:hush"
EDIT = "metaaligner"

_HUSH_VARIABLE = "LANGCHAIN_METAALIGNER_HUSH"

T = TypeVar("T")


class EditModel(BaseChatModel):
    """An edit as a chat model's run, so that whatever streams models' tokens streams the edit's.

    Attributes:
        aligner: Who edits.
        item: Context, answer and objectives.
        reply_id: The id of the reply, which its edit keeps.
        made: The edit, where it is made already.
        alignment: The record, once the run has ended well.
        emitted: Whether a token has gone out.
    """

    aligner: Any = Field(exclude=True, repr=False)
    item: Any = Field(exclude=True, repr=False)
    reply_id: str | None = None
    made: Any = Field(default=None, exclude=True, repr=False)
    alignment: Any = Field(default=None, exclude=True, repr=False)
    emitted: bool = False
    # The user's cache of models' replies must not answer for the aligner.
    cache: Any = Field(default=False, exclude=True)

    @property
    def _llm_type(self) -> str:
        return "metaaligner"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        params = super()._get_ls_params(stop=stop, **kwargs)
        return {**params, "ls_provider": "metaaligner"}

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any
    ) -> ChatResult:
        if self.made is None:
            return self._result(cast("Aligner", self.aligner).align(*self.item))
        return self._result(self.made)

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any
    ) -> ChatResult:
        if self.made is None:
            return self._result(await cast("Aligner", self.aligner).aalign(*self.item))
        return self._result(self.made)

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any
    ) -> Iterator[ChatGenerationChunk]:
        if self.made is not None:
            yield self._chunk(self._taken().text)
        else:
            with closing(cast("Aligner", self.aligner).stream(*self.item)) as pieces:
                for piece in pieces:
                    yield self._chunk(piece)
                self.alignment = pieces.alignment
        yield self._last_chunk()

    async def _astream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        if self.made is not None:
            yield self._chunk(self._taken().text)
        else:
            async with aclosing(cast("Aligner", self.aligner).astream(*self.item)) as pieces:
                async for piece in pieces:
                    yield self._chunk(piece)
                self.alignment = pieces.alignment
        yield self._last_chunk()

    def _taken(self) -> Alignment:
        if isinstance(self.made, Exception):
            raise self.made
        self.alignment = self.made
        return cast("Alignment", self.made)

    def _result(self, made: Alignment) -> ChatResult:
        self.made = made
        made = self._taken()
        message = AIMessage(
            content=made.text,
            id=self.reply_id,
            response_metadata={METADATA_KEY: made.provenance()},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _chunk(self, text: str) -> ChatGenerationChunk:
        self.emitted = True
        return ChatGenerationChunk(message=AIMessageChunk(content=text, id=self.reply_id))

    def _last_chunk(self) -> ChatGenerationChunk:
        return ChatGenerationChunk(
            message=AIMessageChunk(
                content="",
                id=self.reply_id,
                response_metadata={METADATA_KEY: self.alignment.provenance()},
                chunk_position="last",
            )
        )


class EditRun:
    """One edit, with a run of its own where somebody listens.

    Args:
        aligner: Who edits.
        item: Context, answer and objectives.
        reply_id: The id of the reply.
        config: The config of the surrounding run; `None` where nobody listens.
        made: The edit or its error, where it is made already.
    """

    def __init__(
        self,
        aligner: Aligner,
        item: Item,
        *,
        reply_id: str | None,
        config: RunnableConfig | None,
        made: Alignment | Exception | None = None,
    ) -> None:
        self.alignment: Alignment | None = None
        self._aligner, self._item = aligner, item
        self._model: EditModel | None = None
        if config is not None:
            self._model = EditModel(aligner=aligner, item=item, reply_id=reply_id, made=made)
            self._config = _edit_config(config)
            wanted = parse_objectives(item[2])
            self._note = "Edit the reply towards: " + "; ".join(one.name for one in wanted)

    @property
    def emitted(self) -> bool:
        """Whether a consumer has seen a part of the edit."""
        return self._model is not None and self._model.emitted

    def align(self) -> Alignment:
        """Make the edit whole."""
        if self._model is None:
            return self._aligner.align(*self._item)
        self._model.invoke(self._note, self._config)
        return cast("Alignment", self._model.alignment)

    async def aalign(self) -> Alignment:
        """Make the edit whole without blocking the event loop."""
        if self._model is None:
            return await self._aligner.aalign(*self._item)
        await self._model.ainvoke(self._note, self._config)
        return cast("Alignment", self._model.alignment)

    def stream(self) -> Generator[str, None, None]:
        """Yield the pieces of the edit; when they have ended, `alignment` is the record."""
        if self._model is None:
            with closing(self._aligner.stream(*self._item)) as pieces:
                yield from pieces
                self.alignment = pieces.alignment
        else:
            with closing(cast("Any", self._model.stream(self._note, self._config))) as chunks:
                for chunk in chunks:
                    if chunk.content:
                        yield chunk.content
            self.alignment = self._model.alignment

    async def astream(self) -> AsyncGenerator[str, None]:
        """Yield the pieces of the edit without blocking the event loop; as `stream`."""
        if self._model is None:
            async with aclosing(self._aligner.astream(*self._item)) as pieces:
                async for piece in pieces:
                    yield piece
                self.alignment = pieces.alignment
        else:
            chunks = cast("Any", self._model.astream(self._note, self._config))
            async with aclosing(chunks):
                async for chunk in chunks:
                    if chunk.content:
                        yield chunk.content
            self.alignment = self._model.alignment


def check_leak(
    handlers: Iterable[Any], metadata: Mapping[str, Any], model_run: ModelRun | None
) -> None:
    """Refuse to edit a reply whose tokens a LangGraph consumer has seen.

    Args:
        handlers: The handlers of the aligner's run.
        metadata: The metadata of the aligner's run.
        model_run: The run that made the reply, where it is known.

    Raises:
        LeakError: A consumer of `stream_mode="messages"` has the unedited reply.
    """
    if model_run is None or "langgraph_node" not in metadata:
        return
    here, there = str(metadata.get("langgraph_checkpoint_ns") or ""), model_run.graph_namespace
    elsewhere = bool(there) and not (here.startswith(there) or there.startswith(here))
    if NOSTREAM in model_run.tags and not elsewhere:
        return
    if any(_streams_messages(one) for one in handlers):
        raise LeakError(_LEAKED_STATE if elsewhere else _LEAKED)
    _warn_once(_WOULD_LEAK)


def _streams_messages(handler: Any) -> bool:
    # By name: langgraph need not be installed, and the class is not public.
    return any(kind.__name__ == "StreamMessagesHandler" for kind in type(handler).__mro__)


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=2)


_REMEDY = (
    " Put model and aligner into one pipe (llm | aligner), or wrap the node that calls both:"
    " hushed(node). on_leak='ignore' turns this check off."
)
_LEAKED = (
    "Tokens of the unedited reply have already gone to a consumer of stream_mode='messages',"
    " because the model ran unhushed in this graph." + _REMEDY
)
_LEAKED_STATE = (
    "The unedited reply came from another node of this graph, so consumers of its state and of"
    " stream_mode='messages' have seen it." + _REMEDY
)
_WOULD_LEAK = (
    "The model ran unhushed in this graph: with stream_mode='messages' consumers would see the"
    " unedited reply." + _REMEDY
)


def _edit_config(config: RunnableConfig) -> RunnableConfig:
    """The config of the edit's own run: seen where its surroundings were hushed for its sake."""
    tags = [*(config.get("tags") or ())]
    callbacks = config.get("callbacks")
    if isinstance(callbacks, BaseCallbackManager):
        callbacks = callbacks.copy()
        tags = list(dict.fromkeys([*tags, *callbacks.tags, *callbacks.inheritable_tags]))
    if HUSH in tags and STEP not in tags:
        tags = [tag for tag in tags if tag not in (NOSTREAM, HUSH)]
    if isinstance(callbacks, BaseCallbackManager):
        callbacks.tags, callbacks.inheritable_tags = [], []
    child: RunnableConfig = {
        "tags": [*tags, EDIT],
        "callbacks": callbacks,
        "metadata": config.get("metadata") or {},
        "run_name": "MetaAlignerEdit",
    }
    return child


def hushed(target: T) -> T:
    """Keep a model's, a node's or a graph's tokens from consumers of LangGraph's streams.

    For what is no pipe: a node that calls the model and then the aligner, a subgraph, a model.
    Inside, the aligner's own edit is streamed all the same.

    Args:
        target: A runnable, or a function (a node of a graph, say), synchronous or not.

    Returns:
        The same with the tags `nostream` and `metaaligner:hush`; the target is not changed.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(target, Runnable):
        quiet = target.with_config(tags=[NOSTREAM, HUSH])
        if type(quiet) is RunnableBinding:
            return cast("T", _Hushed(**quiet.__dict__))
        return cast("T", quiet)
    if not callable(target):
        msg = f"hushed() takes a model, a runnable or a function, not {type(target).__name__}."
        raise TypeError(msg)
    return cast("T", _hushed_function(target))


class _Hushed(RunnableBinding[Any, Any]):
    """A binding that stays hushed through the methods that make a new model of it."""

    def bind_tools(self, *args: Any, **kwargs: Any) -> Any:
        return hushed(cast("Any", self.bound).bind_tools(*args, **kwargs))

    def with_structured_output(self, *args: Any, **kwargs: Any) -> Any:
        return hushed(cast("Any", self.bound).with_structured_output(*args, **kwargs))


def _hushed_function(function: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def asyncgen(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            with _hushed_config(kwargs):
                async for item in function(*args, **kwargs):
                    yield item

        return asyncgen
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generator(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with _hushed_config(kwargs):
                yield from function(*args, **kwargs)

        return generator
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
    ):

        @functools.wraps(function)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            with _hushed_config(kwargs):
                return await function(*args, **kwargs)

        return coroutine

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _hushed_config(kwargs):
            return function(*args, **kwargs)

    return call


@contextmanager
def _hushed_config(kwargs: dict[str, Any]) -> Iterator[None]:
    given = kwargs.get("config")
    if isinstance(given, Mapping):
        kwargs["config"] = _with_tags(cast("RunnableConfig", given))
    token = var_child_runnable_config.set(_with_tags(ensure_config()))
    try:
        yield
    finally:
        # A generator may be closed from another context, where there is nothing to reset.
        with suppress(ValueError):
            var_child_runnable_config.reset(token)


def _with_tags(config: RunnableConfig) -> RunnableConfig:
    tags = [*(config.get("tags") or ())]
    return {**config, "tags": [*tags, *(tag for tag in (NOSTREAM, HUSH) if tag not in tags)]}


_installing = threading.Lock()
_installed = False


def hush_pipes(is_aligner: Callable[[Any], bool]) -> None:
    """Have every pipe composed from now on hush the steps before an aligner.

    Args:
        is_aligner: Whether an object is an aligner that changes replies.
    """
    global _installed  # noqa: PLW0603
    if _installed or os.environ.get(_HUSH_VARIABLE, "1") == "0":
        return
    with _installing:
        if _installed:
            return
        compose = RunnableSequence.__init__

        @functools.wraps(compose)
        def compose_hushed(self: Any, *args: Any, **kwargs: Any) -> None:
            compose(self, *args, **kwargs)
            _hush_steps(self, is_aligner)

        RunnableSequence.__init__ = compose_hushed  # type: ignore[method-assign]
        _installed = True


def _hush_steps(sequence: Any, is_aligner: Callable[[Any], bool]) -> None:
    steps: list[Any] = sequence.steps
    last = next((i for i in reversed(range(len(steps))) if _holds(steps[i], is_aligner)), 0)
    if not last:
        return
    before = [_hushed_step(step) for step in steps[:last]]
    sequence.first, sequence.middle = before[0], [*before[1:], *steps[last:-1]]


def _hushed_step(step: Any) -> Any:
    if isinstance(step, BasePromptTemplate | BaseLLMOutputParser | RunnablePassthrough):
        return step
    if isinstance(step, RunnableBinding) and STEP in (step.config.get("tags") or ()):
        return step
    return step.with_config(tags=[NOSTREAM, STEP])


# Where runnables keep the runnables inside them.
_PARTS = (
    "bound", "steps", "steps__", "branches", "default", "runnables", "mapper", "runnable",
    "fallbacks", "alternatives", "nodes",
)  # fmt: skip
_FUNCTIONS = ("func", "afunc", "_transform", "_atransform", "condition")


# Enough for any real chain; a function can name half of a library.
_LOOKED_AT_MOST = 2000


def _holds(part: Any, is_aligner: Callable[[Any], bool]) -> bool:
    """Whether an aligner is the object, or sits somewhere inside."""
    # Objects are kept, not their ids: some of these are made anew at each look.
    seen: dict[int, Any] = {}
    waiting = deque([part])
    while waiting and len(seen) < _LOOKED_AT_MOST:
        one = waiting.popleft()
        if id(one) in seen:
            continue
        seen[id(one)] = one
        if is_aligner(one):
            return True
        waiting.extend(_parts_of(one))
    return False


def _parts_of(one: Any) -> Iterable[Any]:
    if isinstance(one, Mapping):
        return list(one.values())
    if isinstance(one, list | tuple | set | frozenset):
        return list(one)
    if isinstance(one, functools.partial):
        return [one.func, *one.args, *one.keywords.values()]
    if inspect.ismethod(one):
        return [one.__func__, *_runnables_of(one.__self__)]
    if inspect.isfunction(one):
        return _named_by(one)
    if isinstance(one, Runnable) or hasattr(type(one), "bound"):
        return [part for name in (*_PARTS, *_FUNCTIONS) if (part := _get(one, name)) is not None]
    return ()


def _named_by(function: Any) -> Iterable[Any]:
    """What a function's code can reach by name: its closure, its defaults and globals."""
    names = set(_names_in(function.__code__))
    values = [
        *(function.__defaults__ or ()),
        *(function.__kwdefaults__ or {}).values(),
        *(value for name, value in function.__globals__.items() if name in names),
    ]
    for cell in function.__closure__ or ():
        # A cell is empty until its name is bound.
        with suppress(ValueError):
            values.append(cell.cell_contents)
    for value in values:
        if isinstance(value, Runnable | functools.partial) or inspect.isroutine(value):
            yield value
        elif inspect.ismodule(value):
            yield from (part for name in names if isinstance(part := _get(value, name), Runnable))
        elif not isinstance(value, type):
            yield from _runnables_of(value)


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _runnables_of(owner: Any) -> list[Any]:
    if isinstance(owner, Runnable):
        return [owner]
    held = owner if isinstance(owner, Mapping) else getattr(owner, "__dict__", {})
    values = owner if isinstance(owner, list | tuple) else held.values()
    return [value for value in list(values) if isinstance(value, Runnable)]


def _get(one: Any, name: str) -> Any:
    # Bindings forward unknown names to what they bind, and that may raise anything.
    try:
        return getattr(one, name, None)
    except Exception:  # noqa: BLE001 - what can't be looked into holds no aligner
        return None
