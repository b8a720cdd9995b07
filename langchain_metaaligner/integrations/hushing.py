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
import weakref
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, closing, contextmanager, suppress
from itertools import islice
from types import (
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
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
    after_composing,
    child_config,
    config_inside,
    is_graph,
    is_plain_binding,
    merge_configs,
    set_steps,
    showing_only,
    with_calls,
    with_inherited,
    with_tool_config,
)
from langchain_metaaligner.integrations.bindings import SecretiveBinding
from langchain_metaaligner.integrations.capture import CAPTURING, EDIT
from langchain_metaaligner.integrations.retries import Binding, Repeatable

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
    from langchain_core.tools import BaseTool

    if isinstance(target, BaseTool):
        return cast("T", with_calls(target, _hushed_function))
    if isinstance(target, Runnable):
        return cast("T", _quiet(target, _Hushed, NOSTREAM, HUSH))
    if not callable(target):
        msg = f"hushed() takes a model, a runnable or a function, not {type(target).__name__}."
        raise TypeError(msg)
    return cast("T", _hushed_function(target))


class _Quiet(SecretiveBinding[Any, Any]):
    """A binding whose runs show consumers of `stream_mode="messages"` nothing but edits.

    Its config is merged only once. LangChain merges every config a second time for config
    factories, even if there are none. That would be a third of the time that an aligner adds to a
    chain.
    """

    def _merge_configs(self, *configs: RunnableConfig | None) -> RunnableConfig:
        if self.config_factories:
            return _showing_edits(super()._merge_configs(*configs))
        return _showing_edits(merge_configs(self.config, *configs))


class _Hushed(Repeatable[Any, Any], _Quiet):
    """A binding that stays hushed when its methods return a new model."""

    def bind_tools(self, *args: Any, **kwargs: Any) -> Any:
        return hushed(cast("Any", self.bound).bind_tools(*args, **kwargs))

    def with_structured_output(self, *args: Any, **kwargs: Any) -> Any:
        return hushed(cast("Any", self.bound).with_structured_output(*args, **kwargs))

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        # A binding's own method would replace the tags.
        made: Any = super().with_config(config, **kwargs)
        return made.model_copy(update={"config": _with_tags(made.config, NOSTREAM, HUSH)})


def _quiet(target: Any, kind: type[_Quiet], *tags: str) -> Any:
    if is_graph(target):
        return with_inherited(target.with_config({"tags": [*tags]}), _showing_edits)
    if is_plain_binding(target) or type(target) in (Binding, _Quiet, _Hushed):
        bound = _quiet(target.bound, kind, *tags) if is_graph(target.bound) else target.bound
        config = _with_tags(target.config, *tags)
        return kind(**{**target.__dict__, "bound": bound, "config": config})
    return kind(bound=target, config={"tags": [*tags]})


def _showing_edits(config: RunnableConfig) -> RunnableConfig:
    inherited = config if config.get("callbacks") is not None else child_config.get() or {}
    callbacks = inherited.get("callbacks")
    handlers = callbacks.handlers if isinstance(callbacks, BaseCallbackManager) else ()
    if CAPTURING.issuperset(map(type, handlers)):
        return config
    quiet = showing_only(EDIT, callbacks)
    return config if quiet is callbacks else {**config, "callbacks": quiet}


def _hushed_function(function: Callable[..., Any]) -> Callable[..., Any]:
    if isinstance(function, functools.partial):
        # LangGraph's nodes and tasks name a partial differently, so it must stay one.
        inner = _hushed_function(function.func)
        part = functools.partial(inner, *function.args, **function.keywords)
        vars(part).update(vars(function))
        return part
    called = _called(function)
    configs = _configs_of(called)
    wrapper: Any
    if inspect.isasyncgenfunction(called):

        async def asyncgen(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            args, kwargs = _hushed_arguments(args, kwargs, configs)
            async with aclosing(_aiterated(function(*args, **kwargs))) as items:
                async for item in items:
                    yield item

        wrapper = asyncgen
    elif inspect.isgeneratorfunction(called):

        def generator(*args: Any, **kwargs: Any) -> Iterator[Any]:
            args, kwargs = _hushed_arguments(args, kwargs, configs)
            yield from _iterated(function(*args, **kwargs))

        wrapper = generator
    elif inspect.iscoroutinefunction(called):

        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = _hushed_arguments(args, kwargs, configs)
            with hushed_inside(NOSTREAM, HUSH):
                return _hushed_later(await function(*args, **kwargs))

        wrapper = coroutine
    else:

        def call(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = _hushed_arguments(args, kwargs, configs)
            with hushed_inside(NOSTREAM, HUSH):
                made = function(*args, **kwargs)
            return _hushed_later(made)

        wrapper = call
    return _named_as(function, called, wrapper)


def _called(function: Callable[..., Any]) -> Any:
    """What is called when an object is called: an instance's method, or the function itself."""
    if inspect.isroutine(function) or isinstance(function, type):
        return function
    return cast("Any", function).__call__


def _named_as(function: Any, called: Any, wrapper: Any) -> Callable[..., Any]:
    # LangGraph reads a node's name, edges and state from the name, the annotations and the
    # signature. Those of an instance itself are its class's fields.
    functools.update_wrapper(wrapper, called)
    wrapper.__name__ = getattr(function, "__name__", None) or type(function).__name__
    return cast("Callable[..., Any]", wrapper)


def _hushed_later(made: Any) -> Any:
    """Hush what a function has returned, if it runs only when the caller uses it.

    LangChain and LangGraph call a runnable that a function returns.
    """
    if isinstance(made, Runnable):
        return hushed(made)
    if inspect.iscoroutine(made):
        return _awaited(made)
    if inspect.isgenerator(made):
        return _iterated(made)
    return _aiterated(made) if inspect.isasyncgen(made) else made


async def _awaited(made: Coroutine[Any, Any, Any]) -> Any:
    with hushed_inside(NOSTREAM, HUSH):
        return _hushed_later(await made)


_END = object()


def _iterated(made: Any) -> Iterator[Any]:
    with closing(made):
        while True:
            with hushed_inside(NOSTREAM, HUSH):
                item = next(made, _END)
            if item is _END:
                return
            yield item


async def _aiterated(made: Any) -> AsyncGenerator[Any, None]:
    async with aclosing(made):
        while True:
            with hushed_inside(NOSTREAM, HUSH):
                item = await anext(made, _END)
            if item is _END:
                return
            yield item


@contextmanager
def hushed_inside(*tags: str) -> Iterator[None]:
    """Keep what is called inside this block out of streams, except for edits.

    Args:
        tags: The tags of the runs inside: `NOSTREAM`, and `STEP` or `HUSH`.
    """
    with config_inside(_hushed_config(ensure_config(), tags)):
        yield


def _configs_of(function: Any) -> dict[str, int]:
    """The names and places of a function's parameters that take a config."""
    with suppress(TypeError, ValueError):
        given = inspect.signature(function).parameters.values()
        return {
            one.name: place
            for place, one in enumerate(given)
            if one.name == "config" or "RunnableConfig" in str(one.annotation)
        }
    return {}


def _hushed_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any], configs: Mapping[str, int]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    # A config that the function passes on takes precedence over the one that it inherits.
    def hush(value: Any, *, is_config: bool) -> Any:
        if is_config and isinstance(value, Mapping):
            return _hushed_config(value, (NOSTREAM, HUSH))
        return with_tool_config(value, lambda config: _hushed_config(config, (NOSTREAM, HUSH)))

    places = configs.values()
    return (
        tuple(hush(one, is_config=place in places) for place, one in enumerate(args)),
        {name: hush(one, is_config=name in configs) for name, one in kwargs.items()},
    )


def _hushed_config(config: Any, tags: Sequence[str]) -> RunnableConfig:
    callbacks = config.get("callbacks")
    if isinstance(callbacks, BaseCallbackManager):
        # A model's own config replaces the tags of the config, but not those of the manager.
        callbacks = callbacks.copy()
        callbacks.add_tags([*tags])
        callbacks = showing_only(EDIT, callbacks)
    return cast("RunnableConfig", {**_with_tags(config, *tags), "callbacks": callbacks})


def _with_tags(config: Any, *tags: str) -> RunnableConfig:
    had = config.get("tags") or ()
    new = [*had, *(tag for tag in tags if tag not in had)]
    return cast("RunnableConfig", {**config, "tags": new})


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
        after_composing(_Composition(is_aligner).hush_steps)
        _installed = True


class _Composition:
    """Hushes the steps before an aligner in every new pipe.

    Other people's pipes come here, too. What their steps hold is read without calling any of it:
    no property, and no mapping or sequence but Python's own.

    Args:
        is_aligner: Tells whether a runnable is an aligner that changes replies.
    """

    def __init__(self, is_aligner: Callable[[Any], bool]) -> None:
        self._is_aligner = is_aligner
        # Whether a step that comes after another holds an aligner, by the ids of both. A pipe of
        # `chain | step` has all steps of the chain, so most pairs of steps come again.
        self._found: dict[tuple[int, int], tuple[bool, Any]] = {}

    def hush_steps(self, sequence: Any) -> None:
        """Hush the steps before the last step that is or contains an aligner.

        Args:
            sequence: The pipe.
        """
        steps: list[Any] = sequence.steps
        last = len(steps) - 1
        while last:
            pair = id(steps[last - 1]), id(steps[last])
            found = self._found.get(pair)
            if found[0] if found is not None else self._look(pair, *steps[last - 1 : last + 1]):
                break
            last -= 1
        if last:
            before = [_hushed_step(step) for step in steps[:last]]
            set_steps(sequence, before[0], [*before[1:], *steps[last:-1]])

    def _look(self, pair: tuple[int, int], before: Any, step: Any) -> bool:
        holds = self._holds(step)

        def forget(_: Any) -> None:
            # Before either id can be used again.
            self._found.pop(pair, None)

        with suppress(TypeError):  # some objects can't be referred to weakly
            self._found[pair] = holds, (weakref.ref(before, forget), weakref.ref(step, forget))
        return holds

    def _holds(self, step: Any) -> bool:
        """Whether a step is an aligner or contains one."""
        # Keep the objects, not only their ids: some are created on access, and ids can be reused.
        seen: dict[int, Any] = {}
        waiting = deque([step])
        while waiting and len(seen) < _LOOKED_AT_MOST:
            one = waiting.popleft()
            if id(one) in seen:
                continue
            seen[id(one)] = one
            # Anything can fail in the class of somebody else's object.
            with suppress(Exception):
                if _is_a(one, Runnable) and self._is_aligner(one):
                    return True
                waiting.extend(_parts_of(one))
        return False


def _hushed_step(step: Any) -> Any:
    if _asks_no_model(step):
        return step
    if isinstance(step, RunnableBinding) and STEP in (step.config.get("tags") or ()):
        return step
    return _quiet(step, _Quiet, NOSTREAM, STEP)


def _asks_no_model(step: Any) -> bool:
    if isinstance(step, BaseLLMOutputParser):
        # A parser that repairs its input contains a chain with a model.
        return not any(isinstance(part, Runnable) for part in vars(step).values())
    return isinstance(step, BasePromptTemplate | RunnablePassthrough)


# Attributes in which runnables keep what they pass their input to.
_PARTS = (
    "bound", "first", "middle", "last", "steps", "steps__", "branches", "default", "runnables",
    "mapper", "runnable", "fallbacks", "alternatives", "nodes",
    "func", "afunc", "coroutine", "_transform", "_atransform", "condition",
)  # fmt: skip


# Enough for any real chain, but a limit is needed: a function's globals can reach half a library.
_LOOKED_AT_MOST = 2000


def _parts_of(one: Any) -> Iterable[Any]:
    if type(one) in _CONTAINERS:
        return _values_in(one, _LOOKED_AT_MOST)
    if _is_a(one, functools.partial):
        return [one.func, *one.args, *one.keywords.values()]
    if type(one) is MethodType:
        return [one.__func__, *_runnables_of(one.__self__)]
    if type(one) is FunctionType:
        return _named_by(one)
    if _is_a(one, Runnable):
        held = _attributes_of(one)
        return [held[name] for name in _PARTS if held.get(name) is not None]
    call = _of_class(one, "__call__")
    return [*([call] if type(call) is FunctionType else ()), *_runnables_of(one)]


def _named_by(function: Any) -> Iterable[Any]:
    """The objects that a function's code can reach by name: closure, defaults and globals."""
    names = set(_names_in(function.__code__))
    values = [
        *(function.__defaults__ or ()),
        *(function.__kwdefaults__ or {}).values(),
        *(dict.get(function.__globals__, name) for name in names),
    ]
    for cell in function.__closure__ or ():
        # A cell is empty until its variable is assigned.
        with suppress(ValueError):
            values.append(cell.cell_contents)
    for value in values:
        if type(value) in (FunctionType, MethodType) or _is_a(value, Runnable, functools.partial):
            yield value
        elif _is_a(value, ModuleType):
            held = _attributes_of(value)
            yield from (held[name] for name in names if _is_a(held.get(name), Runnable))
        else:
            yield from _runnables_of(value)


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _runnables_of(owner: Any) -> Sequence[Any]:
    if _is_a(owner, Runnable):
        return [owner]
    values = _values_in(owner if type(owner) in _CONTAINERS else _attributes_of(owner))
    return [value for value in values if _is_a(value, Runnable)]


_CONTAINERS = (dict, list, tuple, set, frozenset)
# Of what a function names: more than that is data.
_VALUES_AT_MOST = 100


def _values_in(container: Any, most: int = _VALUES_AT_MOST) -> Sequence[Any]:
    values = container.values() if type(container) is dict else container
    return list(islice(values, most))


def _is_a(one: Any, *kinds: type) -> bool:
    # `isinstance` would ask the object for its class.
    return any(kind is known for kind in type(one).__mro__ for known in kinds)


def _attributes_of(one: Any) -> Mapping[str, Any]:
    """An object's own attributes, without properties and what it forwards to other objects."""
    held = _of_class(one, "__dict__")
    return held.__get__(one) if type(held) in _C_LEVEL else {}


_C_LEVEL = (GetSetDescriptorType, MemberDescriptorType)


def _of_class(one: Any, name: str) -> Any:
    return next((vars(kind)[name] for kind in type(one).__mro__ if name in vars(kind)), None)
