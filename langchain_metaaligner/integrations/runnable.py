"""The step of a LangChain pipe that edits the reply of the model before it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import (
    ConfigurableField,
    ConfigurableFieldSpec,
    RunnableConfig,
    RunnableSerializable,
    ensure_config,
    patch_config,
)
from pydantic import ConfigDict

from langchain_metaaligner.editing.objectives import Objectives
from langchain_metaaligner.integrations._langchain import (
    child_config,
    get_callback_manager_for_config,
    get_config_list,
    set_config_context,
)
from langchain_metaaligner.integrations.call_config import (
    asked_objectives,
    listed,
    with_listed,
)
from langchain_metaaligner.integrations.capture import CAPTURING, install
from langchain_metaaligner.integrations.hushing import hush_pipes
from langchain_metaaligner.integrations.reply_edit import (
    Async,
    Call,
    Sync,
    UntilStopped,
    aedit_pieces,
    arun,
    edit_input,
    edit_inputs,
    edit_pieces,
    run,
    until_closed,
)
from langchain_metaaligner.integrations.reply_policy import FaceOptions, ReplyPolicy
from langchain_metaaligner.integrations.retries import Repeatable
from langchain_metaaligner.options import check_names

if TYPE_CHECKING:
    from langchain_metaaligner.integrations.reply_arguments import ReplyArguments

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseMessage)


class MetaAlignerRunnable(
    FaceOptions, Repeatable[Any, AIMessage], RunnableSerializable[Any, AIMessage]
):
    """Edits the reply of the model before it in a chain: `llm | MetaAlignerRunnable(...)`.

    A message is returned as a message of the same class with the same id. Only its text is edited,
    and `response_metadata["metaaligner"]` says what was done. Text is returned as text, and
    `{"messages": [...]}` (or a state object with `.messages`) as `{"messages": [edited]}`. A
    message without text is returned unchanged. So is text that comes with tool calls, unless
    `edit_tool_text=True`.

    The context is the messages that were sent to the model that made the reply. To give another
    context, use `config={"configurable": {"context": [...]}}` or an input with `messages`. To
    choose objectives for one call, use `config={"configurable": {"objectives": [...]}}`.

    Args:
        objectives: What edits should improve: names, sentences or `Objective`s.
        name: The name of this step in traces.
        **options: See `ReplyOptions` in `langchain_metaaligner.options`, and docs/options.md.

    Raises:
        UnknownObjectiveError: An objective is unknown.
        CheckpointError: The model can't be used, as far as can be told without loading it.
        pydantic.ValidationError: An option is unknown or out of range.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    def __init__(
        self,
        objectives: Objectives = ("harmlessness", "helpfulness"),
        *,
        name: str | None = None,
        **options: Unpack[ReplyArguments],
    ) -> None:
        check_names(type(self), options)
        given: dict[str, Any] = {"objectives": objectives, "name": name, **options}
        super().__init__(**given)

    def model_post_init(self, _context: Any, /) -> None:
        """Install the capture of model runs and the hushing of pipes."""
        _put_in_place()

    @property
    def _policy(self) -> ReplyPolicy:
        return ReplyPolicy(self)

    @property
    def InputType(self) -> Any:
        """The type of the input: a message, text, or a state with messages."""
        return Any

    @property
    def OutputType(self) -> Any:
        """The type of the output: the same kind as the input."""
        return Any

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """The keys of `config["configurable"]` that an aligner reads."""
        # The same for all instances: all steps of a chain must declare a key in the same way.
        keys = self.call_keys
        return [
            ConfigurableFieldSpec(
                id=keys.objectives,
                annotation=list[str | dict[str, str]] | None,
                name="Objectives",
                description=(
                    "Objectives for this call, instead of the aligner's own: names, sentences or"
                    " mappings with name and description."
                ),
                default=None,
            ),
            ConfigurableFieldSpec(
                id=keys.context,
                annotation=list[Any] | None,
                name="Context",
                description=(
                    "The conversation that the reply belongs to, as messages, instead of the"
                    " captured conversation."
                ),
                default=None,
            ),
        ]

    def configurable_fields(self, **kwargs: Any) -> Any:
        """Make fields configurable; `objectives` already is, under its own name.

        Args:
            **kwargs: The fields and how they are configured.

        Returns:
            A runnable whose fields can be set by config.
        """
        given = kwargs.get("objectives")
        if isinstance(given, ConfigurableField) and given.id == self.call_keys.objectives:
            # LangChain refuses a key that is declared twice.
            del kwargs["objectives"]
            if not kwargs:
                return self
        return super().configurable_fields(**kwargs)

    @overload
    def invoke(self, input: M, config: RunnableConfig | None = None, **kwargs: Any) -> M: ...

    @overload
    def invoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> str: ...

    @overload
    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any: ...

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Edit one reply.

        Args:
            input: A message, text, or a state with messages.
            config: The run's config; `configurable` may contain `objectives` and `context`.
            **kwargs: `objectives` and `context` may also be given or bound here.

        Returns:
            The edited reply, of the same kind as the input.

        Raises:
            MetaAlignerError: If `on_error` says so; see `Aligner.align` for the kinds.
        """
        _read_arguments(kwargs)
        config = _attached(ensure_config(config))
        if config.get("configurable"):
            (config,) = with_listed([config], self.call_keys)
        # Does what `_call_with_config` does, but does not inspect signatures, and adds trace
        # metadata only if there are handlers. That halves the overhead of this step.
        manager = get_callback_manager_for_config(config)
        if not CAPTURING.issuperset(map(type, manager.handlers)):
            manager.add_metadata(self._policy.trace_metadata(self._asked(config, kwargs)))
        run_manager = manager.on_chain_start(
            None,
            input,
            name=config.get("run_name") or self.get_name(),
            run_id=config.pop("run_id", None),
        )
        child = patch_config(config, callbacks=run_manager.get_child())
        try:
            with set_config_context(child) as context:
                flow = edit_input(self, input, Call(run_manager, child, kwargs), Sync)
                output = context.run(run, flow)
        except BaseException as error:
            run_manager.on_chain_error(error)
            raise
        run_manager.on_chain_end(output)
        return output

    @overload
    async def ainvoke(self, input: M, config: RunnableConfig | None = None, **kwargs: Any) -> M: ...

    @overload
    async def ainvoke(
        self, input: str, config: RunnableConfig | None = None, **kwargs: Any
    ) -> str: ...

    @overload
    async def ainvoke(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any: ...

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Edit one reply without blocking the event loop; as `invoke`."""
        _read_arguments(kwargs)
        return await self._acall_with_config(
            self._aedit, input, self._traced(config, kwargs), **kwargs
        )

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Edit several replies with one call to the engine, each with its own config.

        Args:
            inputs: Replies, each as for `invoke`.
            config: One config for all replies or one for each. The smallest `max_concurrency`
                limits how many replies are edited by one call to the engine.
            return_exceptions: Whether to return the error of a failed reply in its place instead
                of raising it.
            **kwargs: As for `invoke`.

        Returns:
            The edited replies, in order.

        Raises:
            MetaAlignerError: As for `invoke`.
        """
        _read_arguments(kwargs)
        return self._batch_with_config(
            self._edit_all,
            inputs,
            self._traced_all(config, kwargs, len(inputs)),
            return_exceptions=return_exceptions,
            **kwargs,
        )

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Edit several replies without blocking the event loop; as `batch`."""
        _read_arguments(kwargs)
        return await self._abatch_with_config(
            self._aedit_all,
            inputs,
            self._traced_all(config, kwargs, len(inputs)),
            return_exceptions=return_exceptions,
            **kwargs,
        )

    def stream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[Any]:
        """Edit one reply and yield the edited text as it is generated.

        Args:
            input: A message, text, or a state with messages.
            config: As for `invoke`.
            **kwargs: As for `invoke`.

        Yields:
            Message chunks for a message, pieces of text for text; a state is yielded whole.
            Usage and provenance are on the last chunk.

        Raises:
            MetaAlignerError: As for `invoke`. After the first piece, an error is raised whatever
                `on_error` says, because that piece can't be replaced any more.
        """
        yield from self.transform(iter([input]), config, **kwargs)

    async def astream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """Edit one reply piece by piece without blocking the event loop; as `stream`."""

        async def one() -> AsyncIterator[Any]:
            yield input

        edited: Any = self.atransform(one(), config, **kwargs)
        async with aclosing(edited):
            async for piece in edited:
                yield piece

    def transform(
        self, input: Iterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[Any]:
        """Edit a reply that arrives in pieces; as `stream`."""
        _read_arguments(kwargs)
        config = self._traced(config, kwargs)
        pieces = UntilStopped(input)
        transform = partial(edit_pieces, self)
        edited: Any = self._transform_stream_with_config(pieces, transform, config, **kwargs)
        return until_closed(pieces, edited)

    async def atransform(
        self, input: AsyncIterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """Edit a reply that arrives in pieces without blocking the event loop; as `stream`."""
        _read_arguments(kwargs)
        edited: Any = self._atransform_stream_with_config(
            input, partial(aedit_pieces, self), self._traced(config, kwargs), **kwargs
        )
        async with aclosing(edited):
            async for piece in edited:
                yield piece

    def _traced(self, config: RunnableConfig | None, kwargs: Mapping[str, Any]) -> RunnableConfig:
        if config is None or "metadata" not in config:
            config = ensure_config(config)
        config = _attached(config)
        if config.get("configurable"):
            (config,) = with_listed([config], self.call_keys)
        told = self._policy.trace_metadata(self._asked(config, kwargs))
        metadata = {**(config.get("metadata") or {}), **told}
        return {**config, "metadata": metadata}

    def _traced_all(
        self,
        config: RunnableConfig | Sequence[RunnableConfig] | None,
        kwargs: Mapping[str, Any],
        count: int,
    ) -> list[RunnableConfig]:
        configs = with_listed(get_config_list(config, count), self.call_keys)
        return [self._traced(each, kwargs) for each in configs]

    def _asked(self, config: RunnableConfig, given: Mapping[str, Any]) -> Objectives | None:
        asked: Objectives | None = given.get("objectives")
        if asked is None and config.get("configurable"):
            return asked_objectives(config, self.call_keys)
        return asked

    # -- called by LangChain inside the step's run --------------------------------------------

    async def _aedit(
        self, input: Any, run_manager: Any, config: RunnableConfig, **given: Any
    ) -> Any:
        return await arun(edit_input(self, input, Call(run_manager, config, given), Async))

    def _edit_all(
        self, inputs: list[Any], run_manager: Any, config: list[RunnableConfig], **given: Any
    ) -> list[Any]:
        return run(edit_inputs(self, inputs, _calls(run_manager, config, given), Sync))

    async def _aedit_all(
        self, inputs: list[Any], run_manager: Any, config: list[RunnableConfig], **given: Any
    ) -> list[Any]:
        return await arun(edit_inputs(self, inputs, _calls(run_manager, config, given), Async))


def _calls(
    run_managers: Sequence[Any], configs: Sequence[RunnableConfig], given: Mapping[str, Any]
) -> list[Call]:
    pairs = zip(run_managers, configs, strict=True)
    return [Call(manager, config, given) for manager, config in pairs]


def _read_arguments(given: dict[str, Any]) -> None:
    """Refuse unknown arguments of a call; turn an iterator of objectives into a list."""
    if not given:
        return
    if unknown := given.keys() - {"objectives", "context"}:
        msg = (
            f"A call of an aligner takes no argument {min(unknown)!r}, only objectives= and"
            " context=. Give all other options when you make the aligner."
        )
        raise TypeError(msg)
    if "objectives" in given:
        given["objectives"] = listed(given["objectives"])


def _attached(config: RunnableConfig) -> RunnableConfig:
    """Keep a call inside the run around it, where its config has callbacks of its own.

    LangChain would start a run outside of all others. There would be no context, and no consumer
    to be told of a leak.

    Args:
        config: The call's config.

    Returns:
        The config, with its own callbacks added to those of the run around it.
    """
    own = config.get("callbacks")
    if own is None or (isinstance(own, BaseCallbackManager) and own.parent_run_id is not None):
        return config
    around = (child_config.get() or {}).get("callbacks")
    if not isinstance(around, BaseCallbackManager):
        return config
    callbacks = around.copy()
    for handler in own.handlers if isinstance(own, BaseCallbackManager) else own:
        callbacks.add_handler(handler, inherit=True)
    return {**config, "callbacks": callbacks}


def _put_in_place() -> None:
    install()
    hush_pipes(lambda one: isinstance(one, MetaAlignerRunnable) and one.apply)
