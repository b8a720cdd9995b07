"""The step of a LangChain pipe that edits what the model before it replied."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, overload

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_messages
from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    RunnableSerializable,
    ensure_config,
    patch_config,
)
from langchain_core.runnables.utils import ConfigurableField, ConfigurableFieldSpec
from pydantic import ConfigDict

from langchain_metaaligner.editing.aligner import Objectives
from langchain_metaaligner.editing.alignment import METADATA_KEY
from langchain_metaaligner.editing.conversation import answer_text
from langchain_metaaligner.editing.pending_edit import NO_CONTEXT
from langchain_metaaligner.errors import InputTypeError, MetaAlignerError, MissingContextError
from langchain_metaaligner.integrations._langchain import (
    get_callback_manager_for_config,
    get_config_list,
    set_config_context,
    streams,
)
from langchain_metaaligner.integrations.call_config import (
    asked_objectives,
    given_context,
    listed,
    with_listed,
)
from langchain_metaaligner.integrations.capture import capture, install
from langchain_metaaligner.integrations.edit_run import EditRun
from langchain_metaaligner.integrations.hushing import hush_pipes
from langchain_metaaligner.integrations.leaks import but_leaks, check_leak
from langchain_metaaligner.integrations.message_chunks import (
    Gathered,
    MessageWriter,
    TextWriter,
    UntilStopped,
    as_chunk,
)
from langchain_metaaligner.integrations.prefetch import Prefetch, What, is_piece
from langchain_metaaligner.integrations.reply_edit import (
    END,
    Async,
    Emit,
    Flow,
    Mode,
    ReplyEdit,
    Sync,
    arun,
    astream,
    run,
    stream,
)
from langchain_metaaligner.integrations.reply_policy import FaceOptions, Reply, ReplyPolicy
from langchain_metaaligner.options import check_names

if TYPE_CHECKING:
    from langchain_metaaligner.integrations.reply_arguments import ReplyArguments

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseMessage)


class MetaAlignerRunnable(FaceOptions, RunnableSerializable[Any, AIMessage]):
    """Edits the reply of the model before it in a chain: `llm | MetaAlignerRunnable(...)`.

    A message comes back as a message of the same class, with the same id and all else it had,
    its text edited and what was done under `response_metadata["metaaligner"]`; text comes back
    as text; `{"messages": [...]}` (or a state object with `.messages`) as
    `{"messages": [edited]}`. A message without text comes back as it is, and so does the text
    beside tool calls, unless `edit_tool_text=True`.

    The context is what the model that made the reply was sent. It can be given instead, as
    `config={"configurable": {"context": [...]}}` or by an input with `messages`; objectives for
    one call are `config={"configurable": {"objectives": [...]}}`.

    Args:
        objectives: What edits are made towards: names, sentences or `Objective`s.
        name: The name of this step in traces.
        **options: See `ReplyOptions` in `langchain_metaaligner.options`, and docs/options.md.

    Raises:
        UnknownObjectiveError: An objective is unknown.
        CheckpointError: The model can't be used, as far as that is known without reading it.
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
        """Put the capture and the hushing of pipes in place."""
        _put_in_place()

    @property
    def _policy(self) -> ReplyPolicy:
        return ReplyPolicy(self)

    @property
    def InputType(self) -> Any:
        """What goes in: a message, text, or a state with messages."""
        return Any

    @property
    def OutputType(self) -> Any:
        """What comes out: the same kind as went in."""
        return Any

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """The keys of `config["configurable"]` that an aligner listens to."""
        # The same for all instances: LangChain refuses a chain whose steps differ in one.
        return [
            ConfigurableFieldSpec(
                id="objectives",
                annotation=list[str | dict[str, str]] | None,
                name="Objectives",
                description=(
                    "What this call's edits are made towards, instead of the aligner's own:"
                    " names, sentences or mappings with name and description."
                ),
                default=None,
            ),
            ConfigurableFieldSpec(
                id="context",
                annotation=list[Any] | None,
                name="Context",
                description=(
                    "The conversation that the reply belongs to, as messages, instead of the"
                    " captured one."
                ),
                default=None,
            ),
        ]

    def configurable_fields(self, **kwargs: Any) -> Any:
        """Make fields configurable; the objectives are so already, under their own name.

        Args:
            **kwargs: Fields and what configures them.

        Returns:
            A runnable whose fields can be set by config.
        """
        given = kwargs.get("objectives")
        if isinstance(given, ConfigurableField) and given.id == "objectives":
            # LangChain refuses a key that is described twice.
            del kwargs["objectives"]
            if not kwargs:
                return self
        return super().configurable_fields(**kwargs)

    def load(self) -> Self:
        """Load the aligner's weights now, so that no first reply waits for them.

        Returns:
            The same object.

        Raises:
            CheckpointError: The checkpoint can't be loaded or used.
        """
        self._policy.aligner.load()
        return self

    def close(self) -> None:
        """Give up the engines that this object and its copies opened.

        An aligner or engine that was given stays open; a later reply opens a new one.
        """
        self.shared.close()

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
            config: The run's config; `configurable` may hold `objectives` and `context`.
            **kwargs: `objectives` and `context` may also be given or bound here.

        Returns:
            The edited reply, of the kind that went in.

        Raises:
            MetaAlignerError: As `on_error` says; see `Aligner.align` for the kinds.
        """
        _read_arguments(kwargs)
        (config,) = with_listed([ensure_config(config)])
        # What `_call_with_config` does, without its looks at signatures, and with trace metadata
        # only for those who trace: half of what this step would cost otherwise.
        manager = get_callback_manager_for_config(config)
        if any(one is not capture for one in manager.handlers):
            manager.add_metadata(self._trace_metadata(_asked(config, kwargs)))
        run_manager = manager.on_chain_start(
            None,
            input,
            name=config.get("run_name") or self.get_name(),
            run_id=config.pop("run_id", None),
        )
        child = patch_config(config, callbacks=run_manager.get_child())
        try:
            with set_config_context(child) as context:
                output = context.run(self._edit, input, run_manager, child, **kwargs)
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
        """Edit several replies with one call to the engine, each by its own config.

        Args:
            inputs: Replies, each as for `invoke`.
            config: One config for all or one for each; the smallest `max_concurrency` bounds how
                many replies one call to the engine holds.
            return_exceptions: Whether a failure is returned in its place.
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
        """Edit one reply and yield the edited text as it is made.

        Args:
            input: A message, text, or a state with messages.
            config: As for `invoke`.
            **kwargs: As for `invoke`.

        Yields:
            Message chunks for a message, pieces of text for text; a state is yielded whole.
            Usage and provenance are on the last chunk.

        Raises:
            MetaAlignerError: As for `invoke`; after the first piece whatever `on_error` says,
                since what has been read can't be taken back.
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
        pieces = UntilStopped(input)
        edited: Any = self._transform_stream_with_config(
            pieces, self._edit_stream, self._traced(config, kwargs), **kwargs
        )
        with closing(edited), pieces:
            for piece in edited:  # noqa: UP028 - the input is to stop before the run is closed
                yield piece

    async def atransform(
        self, input: AsyncIterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """Edit a reply that arrives in pieces without blocking the event loop; as `stream`."""
        _read_arguments(kwargs)
        edited: Any = self._atransform_stream_with_config(
            input, self._aedit_stream, self._traced(config, kwargs), **kwargs
        )
        async with aclosing(edited):
            async for piece in edited:
                yield piece

    def with_retry(
        self, *, retry_if_exception_type: Any = (Exception,), **options: Any
    ) -> Runnable[Any, Any]:
        """Try again where an edit fails, as for any runnable; a `LeakError` is not repeated.

        Args:
            retry_if_exception_type: Kinds of errors, or a function that says of an error whether
                to try again.
            **options: As for any runnable.

        Returns:
            The runnable that tries again.
        """
        wanted = but_leaks(retry_if_exception_type)
        return super().with_retry(retry_if_exception_type=wanted, **options)

    def _traced(self, config: RunnableConfig | None, kwargs: Mapping[str, Any]) -> RunnableConfig:
        if config is None or "metadata" not in config:
            config = ensure_config(config)
        (config,) = with_listed([config])
        told = self._trace_metadata(_asked(config, kwargs))
        metadata = {**(config.get("metadata") or {}), **told}
        return {**config, "metadata": metadata}

    def _traced_all(
        self,
        config: RunnableConfig | Sequence[RunnableConfig] | None,
        kwargs: Mapping[str, Any],
        count: int,
    ) -> list[RunnableConfig]:
        configs = with_listed(get_config_list(config, count))
        return [self._traced(one, kwargs) for one in configs]

    def _trace_metadata(self, asked: Objectives | None) -> dict[str, Any]:
        policy = self._policy
        try:
            names = [one.name for one in policy.wanted(asked)]
        except MetaAlignerError:
            # Told where it is raised: inside the run, under the error policy.
            names = []
        return {"metaaligner_objectives": names, "metaaligner_model": policy.model_label()}

    # -- what LangChain calls inside the step's run -------------------------------------------

    def _edit(self, input: Any, run_manager: Any, config: RunnableConfig, **given: Any) -> Any:
        return run(self._whole(input, run_manager, config, given, Sync))

    async def _aedit(
        self, input: Any, run_manager: Any, config: RunnableConfig, **given: Any
    ) -> Any:
        return await arun(self._whole(input, run_manager, config, given, Async))

    def _edit_all(
        self,
        inputs: list[Any],
        run_manager: list[Any],
        config: list[RunnableConfig],
        **given: Any,
    ) -> list[Any]:
        return run(self._all(inputs, run_manager, config, given, Sync))

    async def _aedit_all(
        self,
        inputs: list[Any],
        run_manager: list[Any],
        config: list[RunnableConfig],
        **given: Any,
    ) -> list[Any]:
        return await arun(self._all(inputs, run_manager, config, given, Async))

    def _edit_stream(
        self, inputs: Iterator[Any], run_manager: Any, config: RunnableConfig, **given: Any
    ) -> Iterator[Any]:
        yield from stream(self._pieces(inputs, run_manager, config, given, Sync))

    async def _aedit_stream(
        self, inputs: AsyncIterator[Any], run_manager: Any, config: RunnableConfig, **given: Any
    ) -> AsyncIterator[Any]:
        flow = self._pieces(inputs, run_manager, config, given, Async)
        async with aclosing(astream(flow)) as pieces:
            async for piece in pieces:
                yield piece

    # -- flows --------------------------------------------------------------------------------

    def _whole(
        self,
        input: Any,
        run_manager: Any,
        config: RunnableConfig,
        given: Mapping[str, Any],
        mode: Mode,
    ) -> Flow[Any]:
        call = self._read(input, run_manager, config, given)
        self._show(call, run_manager, config)
        yield from call.edit.flow(mode)
        return call.settled()

    def _all(
        self,
        inputs: Sequence[Any],
        run_managers: Sequence[Any],
        configs: Sequence[RunnableConfig],
        given: Mapping[str, Any],
        mode: Mode,
    ) -> Flow[list[Any]]:
        calls: list[_Call | Exception] = []
        for one, manager, own in zip(inputs, run_managers, configs, strict=True):
            try:
                calls.append(self._read(one, manager, own, given))
            except Exception as error:  # noqa: BLE001 - one input must not take the others
                calls.append(error)
        edits = [one.edit for one in calls if isinstance(one, _Call) and one.edit.item is not None]
        bounds = [bound for one in configs if (bound := one.get("max_concurrency"))]
        size = max(1, min(bounds, default=len(edits)))
        for start in range(0, len(edits), size):
            group = edits[start : start + size]
            items = [one.item for one in group if one.item is not None]
            made = yield partial(mode.align_batch, self._policy.aligner, items)
            for edit, result in zip(group, made, strict=True):
                edit.made = result
        for one, manager, own in zip(calls, run_managers, configs, strict=True):
            if isinstance(one, _Call):
                self._show(one, manager, own)
                if one.edit.run is not None:
                    yield from one.edit.flow(mode)
        return [_settled_or_error(one) for one in calls]

    def _pieces(
        self,
        inputs: Any,
        run_manager: Any,
        config: RunnableConfig,
        given: Mapping[str, Any],
        mode: Mode,
    ) -> Flow[None]:
        gathered = Gathered()
        with self._prefetch(run_manager, config, given) as prefetch:
            while (piece := (yield partial(mode.next_input, inputs))) is not END:
                gathered.add(piece)
                prefetch.add(piece)
                if not self.apply and is_piece(piece):
                    yield Emit(piece)
        if gathered.empty:
            return
        call = self._read(gathered.value, run_manager, config, given)
        self._show(call, run_manager, config)
        writer = self._writer(call)
        yield from call.edit.flow(mode, writer)
        for chunk in self._ending(call, writer):
            yield Emit(chunk)

    # -- one input ------------------------------------------------------------------------------

    def _read(
        self,
        input: Any,
        run_manager: Any,
        config: RunnableConfig,
        given: Mapping[str, Any],
        *,
        whole: bool = True,
    ) -> _Call:
        """Read what a call gives: the reply, its context and what the edit is made towards.

        Args:
            input: What the step was given.
            run_manager: The step's run.
            config: Its config.
            given: The call's arguments.
            whole: Whether the reply is all there, so that `when` can be asked.
        """
        asked = given.get("objectives")
        if asked is None:
            asked = asked_objectives(config)
        context = given.get("context")
        if context is None:
            context = given_context(config)
        capture.mark_editing(run_manager.run_id)
        policy = self._policy
        try:
            reply, before = read_reply(input)
        except InputTypeError as error:
            if self.apply:
                raise
            logger.warning("Nothing was edited in shadow mode: %s", error)
            return _Call(ReplyEdit(policy, input, asked))
        edit = ReplyEdit(policy, reply, asked)
        call = _Call(edit, in_state=before is not None)
        try:
            text = answer_text(reply)
            if not text.strip() or policy.leaves_alone(reply):
                return call
            wanted = policy.wanted(asked)
            model_run = capture.find(
                run_manager.parent_run_id,
                reply_id=reply.id if isinstance(reply, AIMessage) else None,
                reply_text=text,
            )
            if self.apply and self.on_leak == "raise":
                check_leak(run_manager.handlers, config.get("metadata") or {}, model_run)
            if context is None:
                # A state that holds the reply alone says nothing of what it answers.
                context = before or (None if model_run is None else model_run.messages)
            if whole and (skipped := policy.skipped(reply, context, asked)) is not None:
                edit.made = skipped
                return call
            if context is None:
                raise MissingContextError(NO_CONTEXT)
            edit.item = (context, text, wanted)
        except Exception as error:  # noqa: BLE001 - the error policy decides
            edit.made = error
        return call

    def _show(self, call: _Call, run_manager: Any, config: RunnableConfig) -> None:
        """Give an edit a run of its own where somebody listens."""
        edit = call.edit
        # In shadow mode the policy streams for itself, and the edit is for nobody's eyes.
        if edit.item is None or not self.apply:
            return
        if not any(one is not capture for one in run_manager.handlers):
            return
        reply = edit.reply
        reply_id = reply.id if isinstance(reply, AIMessage) else None
        edit.run = EditRun(config, reply_id=reply_id, objectives=edit.item[2])
        if isinstance(reply, AIMessage) and not reply.id and streams(run_manager.handlers):
            # Without an id its consumer would get it twice: in pieces, and whole.
            edit.reply = reply.model_copy(update={"id": edit.run.message_id})

    def _prefetch(
        self, run_manager: Any, config: RunnableConfig, given: Mapping[str, Any]
    ) -> Prefetch:
        """Who prefills the edit's prompt while the reply arrives."""

        def find(piece: str | AIMessageChunk | None) -> What | None:
            # Whose reply it is, and so what it answers, is known with its first piece.
            if self.eager is False or piece is None:
                return None
            item = self._read(piece, run_manager, config, given, whole=False).edit.item
            return None if item is None else (item[0], item[2])

        return Prefetch(lambda: self._policy.aligner, find)

    def _writer(self, call: _Call) -> TextWriter | MessageWriter | None:
        reply = call.edit.reply
        if call.in_state or call.edit.item is None or not self.apply:
            return None
        if isinstance(reply, str):
            return TextWriter()
        return MessageWriter(reply) if MessageWriter.can_write(reply) else None

    def _ending(self, call: _Call, writer: TextWriter | MessageWriter | None) -> Iterator[Any]:
        settled = call.settled()
        if writer is not None:
            yield from writer.end(settled)
        elif self.apply or not is_piece(settled):
            yield as_chunk(settled, settled.content) if type(settled) is AIMessage else settled
        elif isinstance(settled, AIMessageChunk) and METADATA_KEY in settled.response_metadata:
            # The reply itself has gone out already, as it came.
            provenance = {METADATA_KEY: settled.response_metadata[METADATA_KEY]}
            yield AIMessageChunk(content="", id=settled.id, response_metadata=provenance)


@dataclass(slots=True)
class _Call:
    """One input on its way through the runnable.

    Attributes:
        edit: The edit of the reply in it.
        in_state: Whether the reply came in a state, and goes back in one.
    """

    edit: ReplyEdit
    in_state: bool = False

    def settled(self) -> Any:
        reply = self.edit.settled()
        return {"messages": [reply]} if self.in_state else reply


def _settled_or_error(call: _Call | Exception) -> Any:
    if isinstance(call, Exception):
        return call
    try:
        return call.settled()
    except Exception as error:  # noqa: BLE001 - takes this item's place alone
        return error


def read_reply(given: Any) -> tuple[Reply, list[BaseMessage] | None]:
    """Find the reply in what a step was given.

    Args:
        given: A message, text, or a state with messages, the reply last.

    Returns:
        The reply, and for a state the messages before it.

    Raises:
        InputTypeError: There is no reply in it.
    """
    if isinstance(given, AIMessage | str):
        return given, None
    messages = given.get("messages") if isinstance(given, Mapping) else _messages_of(given)
    if messages is None:
        raise InputTypeError(_WRONG_INPUT.format(type(given).__name__))
    try:
        conversation = convert_to_messages(messages)
    except (ValueError, NotImplementedError, TypeError, KeyError) as error:
        raise InputTypeError(_WRONG_INPUT.format(type(given).__name__)) from error
    if not conversation or not isinstance(conversation[-1], AIMessage):
        last = type(conversation[-1]).__name__ if conversation else "nothing"
        msg = f"The last of the messages is the reply to edit, an AIMessage; here it is {last}."
        raise InputTypeError(msg)
    return conversation[-1], list(conversation[:-1])


def _messages_of(given: Any) -> Any:
    if isinstance(given, BaseMessage):
        return None
    messages = getattr(given, "messages", None)
    return messages if isinstance(messages, Sequence) and not isinstance(messages, str) else None


def _read_arguments(given: dict[str, Any]) -> None:
    """Refuse what a call does not take; let its objectives be read more than once."""
    if not given:
        return
    if unknown := given.keys() - {"objectives", "context"}:
        msg = (
            f"An aligner's call takes no argument {min(unknown)!r}; it can be given objectives="
            " and context=."
        )
        raise TypeError(msg)
    if "objectives" in given:
        given["objectives"] = listed(given["objectives"])


def _asked(config: RunnableConfig, given: Mapping[str, Any]) -> Objectives | None:
    asked: Objectives | None = given.get("objectives")
    return asked_objectives(config) if asked is None else asked


def _put_in_place() -> None:
    install()
    hush_pipes(lambda one: isinstance(one, MetaAlignerRunnable) and one.apply)


_WRONG_INPUT = (
    "An aligner edits an AIMessage, text, or the last message of a state with 'messages', not"
    " {}. Put it behind the step that makes the reply, or turn this into one of those first."
)
