"""Hushes what runs before an aligner, so that consumers of streams don't see unedited tokens.

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
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, closing, contextmanager, suppress
from types import CodeType
from typing import Any, TypeVar, cast

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.output_parsers import BaseLLMOutputParser
from langchain_core.prompts import BasePromptTemplate
from langchain_core.runnables import (
    Runnable,
    RunnableBinding,
    RunnableConfig,
    RunnablePassthrough,
    ensure_config,
)

from langchain_metaaligner.integrations._langchain import (
    DynamicRunnable,
    after_composing,
    config_inside,
    merge_configs,
    set_steps,
)

NOSTREAM = "nostream"
STEP = "metaaligner:step"
HUSH = "metaaligner:hush"

_HUSH_VARIABLE = "LANGCHAIN_METAALIGNER_HUSH"

T = TypeVar("T")


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
        quiet = _tagged(target, NOSTREAM, HUSH)
        if type(quiet) is RunnableBinding:
            return cast("T", _Hushed(**quiet.__dict__))
        return cast("T", quiet)
    if not callable(target):
        msg = f"hushed() takes a model, a runnable or a function, not {type(target).__name__}."
        raise TypeError(msg)
    return cast("T", _hushed_function(target))


class _Quiet(RunnableBinding[Any, Any]):
    """A binding whose config is merged once.

    LangChain merges all a second time with what factories give, factories or not: a third of
    what an aligner adds to a chain. It is written down as the binding that it is.
    """

    def _merge_configs(self, *configs: RunnableConfig | None) -> RunnableConfig:
        if self.config_factories:
            return super()._merge_configs(*configs)
        return merge_configs(self.config, *configs)

    @classmethod
    def lc_id(cls) -> list[str]:
        return RunnableBinding.lc_id()


class _Hushed(_Quiet):
    """A binding that stays hushed through the methods that make a new model of it."""

    def bind_tools(self, *args: Any, **kwargs: Any) -> Any:
        return hushed(cast("Any", self.bound).bind_tools(*args, **kwargs))

    def with_structured_output(self, *args: Any, **kwargs: Any) -> Any:
        return hushed(cast("Any", self.bound).with_structured_output(*args, **kwargs))


def _hushed_function(function: Callable[..., Any]) -> Callable[..., Any]:
    at = _place_of_config(function)
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def asyncgen(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            args, kwargs = _hushed_arguments(args, kwargs, at)
            async with aclosing(function(*args, **kwargs)) as items:
                while (item := await _anext_hushed(items)) is not _END:
                    yield item

        return asyncgen
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generator(*args: Any, **kwargs: Any) -> Iterator[Any]:
            args, kwargs = _hushed_arguments(args, kwargs, at)
            with closing(function(*args, **kwargs)) as items:
                while (item := _next_hushed(items)) is not _END:
                    yield item

        return generator
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
    ):

        @functools.wraps(function)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = _hushed_arguments(args, kwargs, at)
            with _hushed_inside():
                return await function(*args, **kwargs)

        return coroutine

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = _hushed_arguments(args, kwargs, at)
        with _hushed_inside():
            return function(*args, **kwargs)

    return call


_END = object()


def _next_hushed(items: Iterator[Any]) -> Any:
    with _hushed_inside():
        return next(items, _END)


async def _anext_hushed(items: AsyncIterator[Any]) -> Any:
    with _hushed_inside():
        return await anext(items, _END)


@contextmanager
def _hushed_inside() -> Iterator[None]:
    with config_inside(_with_tags(ensure_config())):
        yield


def _place_of_config(function: Callable[..., Any]) -> int | None:
    with suppress(TypeError, ValueError):
        names = [*inspect.signature(function).parameters]
        return names.index("config") if "config" in names else None
    return None


def _hushed_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any], at: int | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    # What a function passes on goes before what it runs in.
    if isinstance(kwargs.get("config"), Mapping):
        kwargs = {**kwargs, "config": _with_tags(kwargs["config"])}
    elif at is not None and at < len(args) and isinstance(args[at], Mapping):
        args = (*args[:at], _with_tags(args[at]), *args[at + 1 :])
    return args, kwargs


def _with_tags(config: Any) -> RunnableConfig:
    tags = [*(config.get("tags") or ())]
    tags += [tag for tag in (NOSTREAM, HUSH) if tag not in tags]
    callbacks = config.get("callbacks")
    if isinstance(callbacks, BaseCallbackManager):
        # A model's own config takes the place of the config's tags, never of the manager's.
        callbacks = callbacks.copy()
        callbacks.add_tags([NOSTREAM, HUSH])
    return cast("RunnableConfig", {**config, "tags": tags, "callbacks": callbacks})


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
        after_composing(lambda pipe: _hush_steps(pipe, is_aligner))
        _installed = True


def _hush_steps(sequence: Any, is_aligner: Callable[[Any], bool]) -> None:
    steps: list[Any] = sequence.steps
    last = next((i for i in reversed(range(len(steps))) if _holds(steps[i], is_aligner)), 0)
    if not last:
        return
    before = [_hushed_step(step) for step in steps[:last]]
    set_steps(sequence, before[0], [*before[1:], *steps[last:-1]])


def _hushed_step(step: Any) -> Any:
    if _asks_no_model(step):
        return step
    if isinstance(step, RunnableBinding) and STEP in (step.config.get("tags") or ()):
        return step
    quiet = _tagged(step, NOSTREAM, STEP)
    return _Quiet(**quiet.__dict__) if type(quiet) is RunnableBinding else quiet


def _tagged(one: Any, *tags: str) -> Any:
    # Their with_config replaces what it is given, tags too, and the second one's all the rest.
    own = (isinstance(one, RunnableBinding | DynamicRunnable) and one.config) or {}
    had = own.get("tags") or ()
    return one.with_config({**own, "tags": [*had, *(tag for tag in tags if tag not in had)]})


def _asks_no_model(step: Any) -> bool:
    if isinstance(step, BaseLLMOutputParser):
        # One that mends what it can't read has a chain of its own.
        return not any(isinstance(part, Runnable) for part in vars(step).values())
    return isinstance(step, BasePromptTemplate | RunnablePassthrough)


# Where runnables keep the runnables inside them.
_PARTS = (
    "bound", "steps", "steps__", "branches", "default", "runnables", "mapper", "runnable",
    "fallbacks", "alternatives", "nodes",
)  # fmt: skip
_FUNCTIONS = ("func", "afunc", "coroutine", "_transform", "_atransform", "condition")


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
    if isinstance(one, Runnable) or isinstance(_get(one, "bound"), Runnable):
        return [part for name in (*_PARTS, *_FUNCTIONS) if (part := _get(one, name)) is not None]
    if inspect.isfunction(call := getattr(type(one), "__call__", None)):  # noqa: B004
        return [call, *_runnables_of(one)]
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
