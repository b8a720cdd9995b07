"""Hushes the steps before an aligner, so that consumers of streams don't see unedited tokens.

LangChain sends a model's tokens to consumers before a later step sees the reply. LangGraph holds
them back if the model has the tag `nostream`, so a pipe's steps before an aligner get this tag when
the pipe is composed. LangChain has no public API for that, so `RunnableSequence.__init__` is
wrapped when the first `MetaAlignerRunnable` is made. Nothing else in this package changes
LangChain. Set `LANGCHAIN_METAALIGNER_HUSH=0` in the environment to turn it off.
"""

from __future__ import annotations

import functools
import inspect
import os
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

from langchain_metaaligner.engines.processes import Lock
from langchain_metaaligner.integrations._langchain import (
    DynamicRunnable,
    after_composing,
    config_inside,
    merge_configs,
    set_steps,
)
from langchain_metaaligner.integrations.retries import Binding

NOSTREAM = "nostream"
STEP = "metaaligner:step"
HUSH = "metaaligner:hush"

_HUSH_VARIABLE = "LANGCHAIN_METAALIGNER_HUSH"

T = TypeVar("T")


def hushed(target: T) -> T:
    """Keep the tokens of a model, node or graph out of LangGraph's streams.

    Use it where there is no pipe: for a node that calls the model and then the aligner, for a
    subgraph, or for a model. The aligner's edit inside it is still streamed.

    Args:
        target: A runnable, or a function such as a graph's node, synchronous or asynchronous.

    Returns:
        The same kind of object with the tags `nostream` and `metaaligner:hush`; the target itself
        is not modified.

    Raises:
        TypeError: The target is neither a runnable nor a function.
    """
    if isinstance(target, Runnable):
        quiet = _tagged(target, NOSTREAM, HUSH)
        if type(quiet) in (RunnableBinding, Binding):
            return cast("T", _Hushed(**quiet.__dict__))
        return cast("T", quiet)
    if not callable(target):
        msg = f"hushed() takes a model, a runnable or a function, not {type(target).__name__}."
        raise TypeError(msg)
    return cast("T", _hushed_function(target))


class _Quiet(RunnableBinding[Any, Any]):
    """A binding whose config is merged only once.

    LangChain merges every config a second time for config factories, even if there are none. That
    would be a third of the time that an aligner adds to a chain. It is serialised as a plain
    binding.
    """

    def _merge_configs(self, *configs: RunnableConfig | None) -> RunnableConfig:
        if self.config_factories:
            return super()._merge_configs(*configs)
        return merge_configs(self.config, *configs)

    @classmethod
    def lc_id(cls) -> list[str]:
        return RunnableBinding.lc_id()


class _Hushed(_Quiet):
    """A binding that stays hushed when its methods return a new model."""

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
    # A config that the function passes on takes precedence over the one that it inherits.
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
        # A model's own config replaces the tags of the config, but not those of the manager.
        callbacks = callbacks.copy()
        callbacks.add_tags([NOSTREAM, HUSH])
    return cast("RunnableConfig", {**config, "tags": tags, "callbacks": callbacks})


_installing = Lock()
_installed = False


def hush_pipes(is_aligner: Callable[[Any], bool]) -> None:
    """Make every new pipe hush its steps before an aligner.

    Args:
        is_aligner: Tells whether an object is an aligner that changes replies.
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
    return _Quiet(**quiet.__dict__) if type(quiet) in (RunnableBinding, Binding) else quiet


def _tagged(one: Any, *tags: str) -> Any:
    # with_config of a binding replaces the keys that it is given, tags too; that of a
    # DynamicRunnable replaces the whole config.
    own = (isinstance(one, RunnableBinding | DynamicRunnable) and one.config) or {}
    had = own.get("tags") or ()
    return one.with_config({**own, "tags": [*had, *(tag for tag in tags if tag not in had)]})


def _asks_no_model(step: Any) -> bool:
    if isinstance(step, BaseLLMOutputParser):
        # A parser that repairs its input contains a chain with a model.
        return not any(isinstance(part, Runnable) for part in vars(step).values())
    return isinstance(step, BasePromptTemplate | RunnablePassthrough)


# Attributes in which runnables keep other runnables.
_PARTS = (
    "bound", "steps", "steps__", "branches", "default", "runnables", "mapper", "runnable",
    "fallbacks", "alternatives", "nodes",
)  # fmt: skip
_FUNCTIONS = ("func", "afunc", "coroutine", "_transform", "_atransform", "condition")


# Enough for any real chain, but a limit is needed: a function's globals can reach half a library.
_LOOKED_AT_MOST = 2000


def _holds(part: Any, is_aligner: Callable[[Any], bool]) -> bool:
    """Whether an object is an aligner or contains one."""
    # Keep the objects, not only their ids: some are created on access, and ids can be reused.
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
    """The objects that a function's code can reach by name: closure, defaults and globals."""
    names = set(_names_in(function.__code__))
    values = [
        *(function.__defaults__ or ()),
        *(function.__kwdefaults__ or {}).values(),
        *(value for name, value in function.__globals__.items() if name in names),
    ]
    for cell in function.__closure__ or ():
        # A cell is empty until its variable is assigned.
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
    # A binding forwards unknown names to the bound object, which may raise any error.
    try:
        return getattr(one, name, None)
    except Exception:  # noqa: BLE001 - an attribute that can't be read contains no aligner
        return None
