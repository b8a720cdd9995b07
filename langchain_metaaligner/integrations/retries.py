"""Retries and fallbacks of a face, which end once a consumer has read a part of an edit."""

from __future__ import annotations

import copyreg
import functools
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any, cast

from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig
from langchain_core.runnables import RunnableWithFallbacks as _Fallbacks

from langchain_metaaligner.errors import mark_begun, may_repeat, steers_graph
from langchain_metaaligner.integrations._langchain import Input, Output, RunnableRetry
from langchain_metaaligner.integrations._langchain import (
    RunnableConfigurableAlternatives as _Alternatives,
)
from langchain_metaaligner.integrations._langchain import RunnableConfigurableFields as _Fields
from langchain_metaaligner.integrations.bindings import SecretiveBinding


class Repeatable(Runnable[Input, Output]):
    """A runnable whose `with_retry` and `with_fallbacks` never send a consumer two texts.

    LangChain's rule for `stream` (no second attempt after the first chunk) applies to every way in
    which a consumer may have read a part of an edit, such as a graph's `stream_mode="messages"`.
    """

    def with_retry(
        self, *, retry_if_exception_type: Any = (Exception,), **options: Any
    ) -> Runnable[Input, Output]:
        """Retry after failures, as for any runnable, where that can help.

        An error that is not `retryable` is raised at once. So is one after which a consumer has
        read a part of the edit, or a part of the unedited reply.

        Args:
            retry_if_exception_type: Error classes, or a function that tells whether to retry after
                an error.
            **options: As for any runnable.

        Returns:
            The runnable with retries.
        """
        wanted = only_repeatable(retry_if_exception_type)
        made: Runnable[Input, Output] = super().with_retry(
            retry_if_exception_type=wanted, **options
        )
        return cast("Runnable[Input, Output]", _of_ours(made))

    def with_fallbacks(
        self,
        fallbacks: Sequence[Runnable[Input, Output]],
        *,
        exceptions_to_handle: tuple[type[BaseException], ...] = (Exception,),
        exception_key: str | None = None,
    ) -> _Fallbacks[Input, Output]:
        """Add fallbacks, as for any runnable, for failures before a consumer has read anything.

        Args:
            fallbacks: Runnables to try, in order, if this one fails.
            exceptions_to_handle: Error classes after which a fallback is tried.
            exception_key: As for any runnable.

        Returns:
            The runnable with fallbacks.
        """
        return RunnableWithFallbacks(
            runnable=self,
            fallbacks=fallbacks,
            exceptions_to_handle=exceptions_to_handle,
            exception_key=exception_key,
        )

    if not TYPE_CHECKING:  # the types stay those of the runnable or chat model

        def bind(self, **kwargs: Any) -> Runnable[Input, Output]:
            """Bind arguments, as for any runnable."""
            return _of_ours(super().bind(**kwargs))

        def with_config(
            self, config: RunnableConfig | None = None, **kwargs: Any
        ) -> Runnable[Input, Output]:
            """Bind a config, as for any runnable."""
            return _of_ours(super().with_config(config, **kwargs))

        def with_listeners(self, **kwargs: Any) -> Runnable[Input, Output]:
            """Bind listeners, as for any runnable."""
            return _of_ours(super().with_listeners(**kwargs))

        def with_alisteners(self, **kwargs: Any) -> Runnable[Input, Output]:
            """Bind asynchronous listeners, as for any runnable."""
            return _of_ours(super().with_alisteners(**kwargs))

        def with_types(self, **kwargs: Any) -> Runnable[Input, Output]:
            """Bind types, as for any runnable."""
            return _of_ours(super().with_types(**kwargs))

        def configurable_fields(self, **kwargs: Any) -> Any:
            """Make fields configurable, as for any runnable."""
            return _of_ours(super().configurable_fields(**kwargs))

        def configurable_alternatives(self, *args: Any, **kwargs: Any) -> Any:
            """Add alternatives, as for any runnable."""
            return _of_ours(super().configurable_alternatives(*args, **kwargs))


class Binding(Repeatable[Input, Output], SecretiveBinding[Input, Output]):
    """A binding of a face; it is serialised as LangChain's own class."""


class _Retry(Repeatable[Input, Output], RunnableRetry[Input, Output]):
    """A face with retries; it is serialised as LangChain's own class."""

    @classmethod
    def lc_id(cls) -> list[str]:
        """The id of LangChain's own class."""
        return RunnableRetry.lc_id()


class RunnableWithFallbacks(Repeatable[Input, Output], _Fallbacks[Input, Output]):
    """A face with fallbacks; it is serialised and traced as LangChain's own class."""

    @property
    def runnables(self) -> Iterator[Runnable[Input, Output]]:
        """The runnables to try, in order; LangChain takes the next one after a failure."""
        failures: list[BaseException] = []
        for runnable in super().runnables:
            yield cast("Runnable[Input, Output]", _Watched(runnable, failures))
            if any(getattr(error, "begun", False) or steers_graph(error) for error in failures):
                for error in failures:  # LangChain raises the first one
                    mark_begun(error)
                return

    @classmethod
    def lc_id(cls) -> list[str]:
        """The id of LangChain's own class."""
        return _Fallbacks.lc_id()


class RunnableConfigurableFields(Repeatable[Input, Output], _Fields[Input, Output]):
    """A face with configurable fields; it is serialised and traced as LangChain's own class."""

    @classmethod
    def lc_id(cls) -> list[str]:
        """The id of LangChain's own class."""
        return _Fields.lc_id()


class RunnableConfigurableAlternatives(Repeatable[Input, Output], _Alternatives[Input, Output]):
    """A face with alternatives; it is serialised and traced as LangChain's own class."""

    @classmethod
    def lc_id(cls) -> list[str]:
        """The id of LangChain's own class."""
        return _Alternatives.lc_id()


_OURS: dict[type[Any], type[Any]] = {
    RunnableBinding: Binding,
    RunnableRetry: _Retry,
    _Fields: RunnableConfigurableFields,
    _Alternatives: RunnableConfigurableAlternatives,
}


def _of_ours(made: Any) -> Any:
    if isinstance(made, Repeatable):
        return made
    kind = next(ours for known, ours in _OURS.items() if isinstance(made, known))
    return kind(**made.__dict__)


class _Watched:
    """A runnable whose failures are noted.

    Args:
        runnable: The runnable.
        failures: Where to note them.
    """

    def __init__(self, runnable: Any, failures: list[BaseException]) -> None:
        self._runnable, self._failures = runnable, failures

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runnable, name)

    def invoke(self, *args: Any, **kwargs: Any) -> Any:
        with self._noting():
            return self._runnable.invoke(*args, **kwargs)

    async def ainvoke(self, *args: Any, **kwargs: Any) -> Any:
        with self._noting():
            return await self._runnable.ainvoke(*args, **kwargs)

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        with self._noting():
            yield from self._runnable.stream(*args, **kwargs)

    async def astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        with self._noting():
            async with aclosing(self._runnable.astream(*args, **kwargs)) as pieces:
                async for piece in pieces:
                    yield piece

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._failures.append(error)
            raise


def only_repeatable(wanted: Any) -> Any:
    """Exclude errors after which a retry can't help, or would send a second text.

    Args:
        wanted: Error classes, or a function that tells whether to retry after an error.

    Returns:
        The same without such errors, in the form that LangChain's `with_retry` takes.
    """
    if isinstance(wanted, tuple):
        return tuple(map(_repeatable, wanted))
    return functools.partial(_wanted_and_repeatable, wanted)


def _wanted_and_repeatable(wanted: Any, error: BaseException) -> bool:
    return may_repeat(error) and bool(wanted(error))


class _Repeatables(type):
    """Metaclass of error classes that match what their base matches, if it may be repeated."""

    def __instancecheck__(cls, error: Any) -> bool:
        known: Any = cls.__base__
        return isinstance(error, known) and may_repeat(error)


@functools.cache
def _repeatable(kind: type[BaseException]) -> type[BaseException]:
    if type(kind) is _Repeatables:
        return kind
    made: Any = _Repeatables(kind.__name__, (kind,), {})
    return cast("type[BaseException]", made)


def _reduced(kind: Any) -> tuple[Any, ...]:
    return _repeatable, (kind.__base__,)


copyreg.pickle(_Repeatables, _reduced)
