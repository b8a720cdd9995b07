"""The flow of editing one reply, with a synchronous and an asynchronous driver.

A flow is a generator. It yields calls, whose results the driver sends back, and values for a
consumer. It never waits or awaits itself, so that synchronous and asynchronous callers share it.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Self, TypeVar

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_messages
from langchain_core.runnables import AddableDict, RunnableConfig

from langchain_metaaligner.editing.aligner import Aligner
from langchain_metaaligner.editing.alignment import METADATA_KEY, Alignment
from langchain_metaaligner.editing.conversation import NO_CONTEXT
from langchain_metaaligner.editing.objectives import Objectives
from langchain_metaaligner.editing.pending_edit import Item
from langchain_metaaligner.errors import InputTypeError, MetaAlignerError, MissingContextError
from langchain_metaaligner.integrations._langchain import (
    child_config,
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
    streams,
)
from langchain_metaaligner.integrations.call_config import asked_objectives, given_context
from langchain_metaaligner.integrations.capture import CAPTURING, Found, capture
from langchain_metaaligner.integrations.edit_run import EditRun
from langchain_metaaligner.integrations.leaks import check_leak
from langchain_metaaligner.integrations.message_chunks import (
    MessageWriter,
    TextWriter,
    as_chunk,
    writer_of,
)
from langchain_metaaligner.integrations.prefetch import Prefetch, What
from langchain_metaaligner.integrations.reply_policy import FaceOptions, Reply, ReplyPolicy

T = TypeVar("T")

# Types whose pieces are joined.
_ADDED = (str, AIMessageChunk, AddableDict)

END = object()
"""Marks the end of a stream of inputs."""


@dataclass(frozen=True, slots=True)
class Emit:
    """A value that a flow sends to a consumer.

    Attributes:
        value: A message chunk, a piece of text, or a whole output.
    """

    value: Any


Flow = Generator[Callable[[], Any] | Emit, Any, T]
"""Yields calls to make and values to send to a consumer; returns its result."""


class Closed(BaseException):
    """Thrown into a flow when its consumer has stopped reading.

    A `GeneratorExit` would close the generators inside the flow at once, before they could make
    the calls that clean up.
    """


class Sync:
    """The calls of a flow for a synchronous driver.

    The aligner is called outside of all runs, so that models which its engine calls don't stream.
    """

    manager = staticmethod(get_callback_manager_for_config)

    @staticmethod
    def align(aligner: Aligner, item: Item) -> Alignment:
        """Edit one answer."""
        outside = child_config.set(None)
        try:
            return aligner.align(*item)
        finally:
            child_config.reset(outside)

    @staticmethod
    def align_batch(aligner: Aligner, items: Iterable[Item]) -> Sequence[Alignment | Exception]:
        """Edit several answers; a failed item gives its error."""
        outside = child_config.set(None)
        try:
            return aligner.align_batch(items, return_exceptions=True)
        finally:
            child_config.reset(outside)

    @staticmethod
    def next_piece(pieces: Iterator[str]) -> str | None:
        """The next piece of an edit; `None` at its end."""
        outside = child_config.set(None)
        try:
            return next(pieces, None)
        finally:
            child_config.reset(outside)

    @staticmethod
    def next_input(inputs: Iterator[Any]) -> Any:
        """The next input of a stream; `END` at its end."""
        return next(inputs, END)

    @staticmethod
    def close(pieces: Any) -> None:
        """Stop a stream."""
        pieces.close()


class Async:
    """The calls of a flow for an asynchronous driver; as `Sync`."""

    manager = staticmethod(get_async_callback_manager_for_config)

    @staticmethod
    async def align(aligner: Aligner, item: Item) -> Alignment:
        """Edit one answer."""
        outside = child_config.set(None)
        try:
            return await aligner.aalign(*item)
        finally:
            child_config.reset(outside)

    @staticmethod
    async def align_batch(
        aligner: Aligner, items: Iterable[Item]
    ) -> Sequence[Alignment | Exception]:
        """Edit several answers; a failed item gives its error."""
        outside = child_config.set(None)
        try:
            return await aligner.aalign_batch(items, return_exceptions=True)
        finally:
            child_config.reset(outside)

    @staticmethod
    async def next_piece(pieces: AsyncIterator[str]) -> str | None:
        """The next piece of an edit; `None` at its end."""
        outside = child_config.set(None)
        try:
            return await anext(pieces, None)
        finally:
            child_config.reset(outside)

    @staticmethod
    def next_input(inputs: AsyncIterator[Any]) -> Awaitable[Any]:
        """The next input of a stream; `END` at its end."""
        return anext(inputs, END)

    @staticmethod
    async def close(pieces: Any) -> None:
        """Stop a stream."""
        await pieces.aclose()


Mode = type[Sync] | type[Async]


def run(flow: Flow[T]) -> T:
    """Run a flow to its end, and discard what it sends to a consumer.

    Args:
        flow: The flow.

    Returns:
        The flow's result.
    """
    sent: Any = None
    failed: BaseException | None = None
    while True:
        try:
            step = flow.send(sent) if failed is None else flow.throw(failed)
        except StopIteration as end:
            result: T = end.value
            return result
        sent = failed = None
        if not isinstance(step, Emit):
            try:
                sent = step()
            except BaseException as error:  # noqa: BLE001 - the flow decides
                failed = error


async def arun(flow: Flow[T]) -> T:
    """Run a flow to its end and await its calls; as `run`."""
    sent: Any = None
    failed: BaseException | None = None
    while True:
        try:
            step = flow.send(sent) if failed is None else flow.throw(failed)
        except StopIteration as end:
            result: T = end.value
            return result
        sent = failed = None
        if not isinstance(step, Emit):
            try:
                sent = await step()
            except BaseException as error:  # noqa: BLE001 - the flow decides
                failed = error


def stream(flow: Flow[None]) -> Iterator[Any]:
    """Run a flow and yield what it sends to a consumer; it can clean up when it is closed.

    Args:
        flow: The flow.

    Yields:
        The values for the consumer.
    """
    sent: Any = None
    failed: BaseException | None = None
    while True:
        try:
            step = flow.send(sent) if failed is None else flow.throw(failed)
        except (StopIteration, Closed):
            return
        sent = failed = None
        try:
            if isinstance(step, Emit):
                yield step.value
            else:
                sent = step()
        except GeneratorExit:
            failed = Closed()
        except BaseException as error:  # noqa: BLE001 - the flow decides
            failed = error


async def astream(flow: Flow[None]) -> AsyncGenerator[Any, None]:
    """Run a flow, await its calls and yield what it sends to a consumer; as `stream`."""
    sent: Any = None
    failed: BaseException | None = None
    while True:
        try:
            step = flow.send(sent) if failed is None else flow.throw(failed)
        except (StopIteration, Closed):
            return
        sent = failed = None
        try:
            if isinstance(step, Emit):
                yield step.value
            else:
                sent = await step()
        except GeneratorExit:
            failed = Closed()
        except BaseException as error:  # noqa: BLE001 - the flow decides
            failed = error


class UntilStopped:
    """An iterator that ends when it is stopped.

    LangChain reads a step's input to its end, even if the step's consumer has stopped reading.
    Without this, the model would continue to generate for nobody.

    Args:
        pieces: The iterator to read from.
    """

    def __init__(self, pieces: Iterator[Any]) -> None:
        self._pieces = pieces
        self._stopped = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._stopped:
            raise StopIteration
        return next(self._pieces)

    def stop(self) -> None:
        """End the iteration, and close the source of the pieces."""
        self._stopped = True
        if (close := getattr(self._pieces, "close", None)) is not None:
            close()


def until_closed(pieces: UntilStopped, edited: Generator[Any, None, None]) -> Iterator[Any]:
    """Yield the pieces of an edit, and stop its input before its run is closed.

    Args:
        pieces: The edit's input.
        edited: The edit's output.

    Yields:
        The pieces of the output.
    """
    try:
        for piece in edited:  # noqa: UP028 - with `yield from`, the run would be closed first
            yield piece
    finally:
        pieces.stop()
        edited.close()


@dataclass(slots=True)
class ReplyEdit:
    """A reply that is being edited.

    Attributes:
        policy: How replies are handled.
        reply: The reply.
        asked: The objectives that the caller asked for.
        item: The input of the aligner; `None` if there is nothing to edit.
        aligner: The aligner, if it is known already.
        made: The record of the edit or its error, once known.
        run: The run that reports the edit to callback handlers, if there are any.
        begun: Whether a consumer has read part of the edit.
        final: The final reply, once it is known.
    """

    policy: ReplyPolicy
    reply: Reply
    asked: Objectives | None = None
    item: Item | None = None
    aligner: Aligner | None = None
    made: Alignment | Exception | None = None
    run: EditRun | None = None
    begun: bool = False
    final: Reply | None = None

    def flow(self, mode: Mode, writer: TextWriter | MessageWriter | None = None) -> Flow[None]:
        """Make the edit; an error is kept for `settled`.

        Args:
            mode: The calls, for a synchronous or an asynchronous driver.
            writer: Writes the pieces of the edit for a consumer; `None` makes the edit in one
                piece.
        """
        item = self.item
        if item is None:
            return
        try:
            if self.run is not None:
                self.made = yield from self._shown(mode, item, self.run, writer)
            elif writer is None:
                self.made = yield from self._whole(mode, item)
            else:
                self.made = yield from self._streamed(mode, item, writer)
        except Exception as error:  # noqa: BLE001 - the error policy decides
            self.made, self.final = error, None
            self.begun = self.begun or (self.run is not None and self.run.emitted)

    def settled(self) -> Reply:
        """The final reply.

        Returns:
            The edited reply, or whatever replaces it after an error.

        Raises:
            MetaAlignerError: The edit failed, and the policy is to raise the error.
        """
        if self.made is None:
            return self.reply
        if self.final is None:
            unrelated = self.run is not None and self.made is self.run.refusal
            self.final = self.policy.settle(
                self.reply, self.made, self.asked, begun=self.begun, unrelated=unrelated
            )
        return self.final

    def _shown(
        self, mode: Mode, item: Item, shown: EditRun, writer: TextWriter | MessageWriter | None
    ) -> Flow[Alignment]:
        yield from shown.start(mode.manager)
        try:
            if writer is None and not shown.streamed:
                alignment = yield from self._whole(mode, item)
            else:
                alignment = self.made = yield from self._streamed(mode, item, writer)
                yield from shown.last_piece(self.settled(), alignment)
        except BaseException as error:
            yield from shown.fail(GeneratorExit() if isinstance(error, Closed) else error)
            raise
        yield from shown.end(alignment)
        return alignment

    def _whole(self, mode: Mode, item: Item) -> Flow[Alignment]:
        made = self.made
        if made is None:
            made = yield partial(mode.align, self.aligner or self.policy.aligner, item)
        if isinstance(made, Exception):
            raise made
        return made

    def _streamed(
        self, mode: Mode, item: Item, writer: TextWriter | MessageWriter | None
    ) -> Flow[Alignment]:
        if self.made is not None:
            alignment = yield from self._whole(mode, item)
            yield from self._sent(alignment.text, writer)
            return alignment
        pieces = (self.aligner or self.policy.aligner).stream(*item)
        try:
            while (piece := (yield partial(mode.next_piece, pieces))) is not None:
                yield from self._sent(piece, writer)
        except BaseException:
            yield partial(mode.close, pieces)
            raise
        if pieces.result is None:
            msg = (
                "The edit's stream ended without a record of the edit. This is a fault in"
                " langchain-metaaligner; please report it."
            )
            raise RuntimeError(msg)
        return pieces.result

    def _sent(self, piece: str, writer: TextWriter | MessageWriter | None) -> Flow[None]:
        if self.run is not None:
            yield from self.run.piece(piece)
        if writer is not None:
            self.begun = True
            for chunk in writer.write(piece):
                yield Emit(chunk)


# -- inputs of a chain's step -------------------------------------------------------------------


class Call(NamedTuple):
    """One call of a step by LangChain.

    Attributes:
        run_manager: The step's run.
        config: The run's config.
        given: The arguments of the call: `objectives` and `context`, if they were given.
    """

    run_manager: Any
    config: RunnableConfig
    given: Mapping[str, Any]


def edit_input(options: FaceOptions, input: Any, call: Call, mode: Mode) -> Flow[Any]:
    """Edit the reply in one input of a step.

    Args:
        options: The step's options.
        input: A message, text, or a state with messages.
        call: The call.
        mode: The calls, for a synchronous or an asynchronous driver.

    Returns:
        The edited reply, of the same kind as the input.
    """
    edit, in_state = _read(options, input, call)
    _show(edit, call)
    yield from edit.flow(mode)
    return _out(edit, in_state)


def edit_inputs(
    options: FaceOptions, inputs: Sequence[Any], calls: Sequence[Call], mode: Mode
) -> Flow[list[Any]]:
    """Edit the replies in several inputs of a step, with as few calls to the engine as allowed.

    Args:
        options: The step's options.
        inputs: The inputs, each as for `edit_input`.
        calls: The calls, one for each input.
        mode: The calls, for a synchronous or an asynchronous driver.

    Returns:
        An edited reply or an error for each input, in order.
    """
    read: list[tuple[ReplyEdit, bool] | Exception] = []
    for input, call in zip(inputs, calls, strict=True):  # noqa: A001 - LangChain's name
        try:
            read.append(_read(options, input, call))
        except Exception as error:  # noqa: BLE001 - one input must not fail the others
            read.append(error)
    edits = [one[0] for one in read if not isinstance(one, Exception) and one[0].item is not None]
    bounds = [bound for call in calls if (bound := call.config.get("max_concurrency"))]
    size = max(1, min(bounds, default=len(edits)))
    for start in range(0, len(edits), size):
        group = edits[start : start + size]
        items = [edit.item for edit in group if edit.item is not None]
        made = yield partial(mode.align_batch, ReplyPolicy(options).aligner, items)
        for edit, result in zip(group, made, strict=True):
            edit.made = result
    results: list[Any] = []
    for one, call in zip(read, calls, strict=True):
        if isinstance(one, Exception):
            results.append(one)
            continue
        _show(one[0], call)
        if one[0].run is not None:
            yield from one[0].flow(mode)
        try:
            results.append(_out(*one))
        except Exception as error:  # noqa: BLE001 - this error belongs to this item only
            results.append(error)
    return results


def edit_pieces(
    options: FaceOptions,
    inputs: Iterator[Any],
    run_manager: Any,
    config: RunnableConfig,
    **given: Any,
) -> Iterator[Any]:
    """Edit a reply that arrives in pieces, and yield the edit as it is generated.

    Args:
        options: The step's options.
        inputs: The pieces.
        run_manager: The step's run.
        config: The run's config.
        **given: The arguments of the call.

    Returns:
        An iterator over the pieces of the edit.
    """
    return stream(edit_stream(options, inputs, Call(run_manager, config, given), Sync))


def aedit_pieces(
    options: FaceOptions,
    inputs: AsyncIterator[Any],
    run_manager: Any,
    config: RunnableConfig,
    **given: Any,
) -> AsyncGenerator[Any, None]:
    """Edit a reply that arrives in pieces without blocking the event loop; as `edit_pieces`."""
    return astream(edit_stream(options, inputs, Call(run_manager, config, given), Async))


def edit_stream(options: FaceOptions, inputs: Any, call: Call, mode: Mode) -> Flow[None]:
    """Edit a reply that arrives in pieces, and send out the edit as it is generated.

    Args:
        options: The step's options.
        inputs: A synchronous or asynchronous iterator over the pieces.
        call: The call.
        mode: The calls, for a synchronous or an asynchronous driver.
    """
    arrived: list[Any] = []
    live, data = not options.apply, False
    prefetch = _prefetch(options, call)
    try:
        while (piece := (yield partial(mode.next_input, inputs))) is not END:
            if not arrived:
                data = _begins_data(piece, call)
                # Instead of data, a model may answer with a refusal.
                live = live or (data and not options.edit_refusals)
            arrived.append(piece)
            if prefetch is not None and not (data or prefetch.over):
                prefetch.add(piece)
            if live and isinstance(piece, str | AIMessageChunk):
                yield Emit(piece)
    finally:
        if prefetch is not None:
            prefetch.stop()
    if not arrived:
        return
    data = data and not options.edit_refusals
    edit, in_state = _read(options, _gather(arrived), call, data=data)
    _show(edit, call)
    writer = None
    if edit.item is not None and options.apply and not in_state:
        writer = writer_of(edit.reply, refusals=options.edit_refusals)
    yield from edit.flow(mode, writer)
    out = _out(edit, in_state)
    if writer is not None:
        for chunk in writer.end(out):
            yield Emit(chunk)
    elif not live or not isinstance(out, str | AIMessageChunk):
        yield Emit(as_chunk(out, out.content) if type(out) is AIMessage else out)
    elif isinstance(out, AIMessageChunk) and METADATA_KEY in out.response_metadata:
        # The reply itself has already been sent, piece by piece.
        provenance = {METADATA_KEY: out.response_metadata[METADATA_KEY]}
        yield Emit(AIMessageChunk(content="", id=out.id, response_metadata=provenance))


def _begins_data(piece: Any, call: Call) -> bool:
    """Whether the first piece of a reply belongs to data that the model was asked for."""
    if not isinstance(piece, AIMessageChunk):
        return False
    manager = call.run_manager
    found = capture.find(
        manager.handlers, manager.parent_run_id, reply_id=piece.id, reply_text=piece.text
    ).models
    return len(found) == 1 and found[0].wants_data and found[0].is_just_before(manager)


def _prefetch(options: FaceOptions, call: Call) -> Prefetch | None:
    """Prefills the edit's prompt while the reply arrives; `None` if that is of no use."""
    policy = ReplyPolicy(options)
    try:
        if options.eager is False or not policy.aligner.prefills:
            return None
    except MetaAlignerError:  # reported by the edit itself
        return None

    def find(piece: str | AIMessageChunk | None) -> What | None:
        # The first piece tells which model run the reply is from, and so what its context is.
        item = None if piece is None else _read(options, piece, call, whole=False)[0].item
        return None if item is None else (item[0], item[2])

    return Prefetch(lambda: policy.aligner, find)


def _read(
    options: FaceOptions, input: Any, call: Call, *, whole: bool = True, data: bool = False
) -> tuple[ReplyEdit, bool]:
    """Read the reply in an input, its context and the objectives.

    Args:
        options: The step's options.
        input: The step's input.
        call: The call.
        whole: Whether the reply is complete, so that `when` can be called.
        data: Whether the reply is known to be data that was asked for.

    Returns:
        The edit, and whether the reply came in a state and is returned in one.
    """
    run_manager, config, given = call
    asked, context = given.get("objectives"), given.get("context")
    if config.get("configurable"):
        asked = asked_objectives(config, options.call_keys) if asked is None else asked
        context = given_context(config, options.call_keys) if context is None else context
    policy = ReplyPolicy(options)
    try:
        reply, before = read_reply(input)
    except InputTypeError as error:
        if options.apply:
            raise
        options.shared.log.tell(
            "input", f"The input was passed through unedited in shadow mode: {error}"
        )
        return ReplyEdit(policy, input, asked), False
    edit, in_state = ReplyEdit(policy, reply, asked), before is not None
    try:
        message = None if isinstance(reply, str) else reply
        terms = policy.terms(reply, asked)
        if terms is None:
            if whole:
                edit.made = policy.without_text(reply, asked)
            return edit, in_state
        if context is not None:
            policy.check_context(context)
        text, wanted, edit.aligner = terms
        found = capture.find(
            run_manager.handlers,
            run_manager.parent_run_id,
            reply_id=None if message is None else message.id,
            reply_text=text,
            editing=run_manager.run_id,
        )
        if data or answers_with_data(found, text):
            edit.made = policy.left_alone(reply, asked, "data")
            return edit, in_state
        if options.apply and options.on_leak == "raise":
            reply_id = None if message is None else message.id
            _check_step(run_manager, found, reply_id, text, whole=whole)
        if context is None:
            # A state that contains only the reply has no context.
            context = before or (None if len(found.models) != 1 else found.models[0].messages)
        if whole and options.when is not None:
            edit.made = policy.skipped(reply, context, asked)
            if edit.made is not None:
                return edit, in_state
        if context is None:
            raise MissingContextError(_SEVERAL_MODELS if found.models else NO_CONTEXT)
        edit.item = (context, text, wanted)
    except Exception as error:  # noqa: BLE001 - the error policy decides
        edit.made = error
    return edit, in_state


def answers_with_data(found: Found, text: str) -> bool:
    """Whether a reply is data that its model was asked for.

    Args:
        found: The model run that made the reply. Where it may be one of several, all of them must
            have been asked for data.
        text: The reply's text.
    """
    models = found.models
    return bool(models) and all(one.wants_data and one.replied(text) for one in models)


def _check_step(run: Any, found: Found, reply_id: str | None, text: str, *, whole: bool) -> None:
    handlers = run.handlers
    if not found.models and run.parent_run_id is None:
        # A thread of its own, for example.
        unattached = capture.find_unattached(reply_id=reply_id, reply_text=text)
        if unattached is None:
            return
        found, handlers = Found((), (unattached,)), unattached.heard_by
    check_leaks(handlers, run.metadata, found, reply_id, whole=whole)


def check_leaks(
    handlers: Sequence[Any],
    metadata: Mapping[str, Any],
    found: Found,
    reply_id: str | None,
    *,
    whole: bool = True,
) -> None:
    """Refuse to edit a reply that a consumer of a graph has seen.

    Args:
        handlers: The handlers of the aligner's run.
        metadata: The metadata of the aligner's run.
        found: The model run that made the reply.
        reply_id: The reply's id, if it has one.
        whole: Whether the reply is complete.

    Raises:
        LeakError: A consumer of `stream_mode="messages"` has seen the unedited reply.
    """
    for model_run in found.nearest:
        if model_run.graph_namespace and (heard := capture.listening(handlers, model_run)):
            check_leak(heard, metadata, model_run, reply_id, whole=whole)


def _show(edit: ReplyEdit, call: Call) -> None:
    """Give an edit its own run if there are callback handlers to report it to."""
    handlers = call.run_manager.handlers
    # In shadow mode, the policy's own tokens are streamed and the edit is not shown.
    if edit.item is None or not edit.policy.options.apply:
        return
    if CAPTURING.issuperset(map(type, handlers)):
        return
    reply = edit.reply
    aligner = edit.aligner or edit.policy.aligner
    edit.run = EditRun(call.config, reply=reply, objectives=edit.item[2], aligner=aligner)
    if isinstance(reply, AIMessage) and not reply.id and streams(handlers):
        # Without an id, a consumer would get the reply twice: in pieces and whole.
        edit.reply = reply.model_copy(update={"id": edit.run.message_id})


def _out(edit: ReplyEdit, in_state: bool) -> Any:
    reply = edit.settled()
    return {"messages": [reply]} if in_state else reply


def _gather(pieces: Sequence[Any]) -> Any:
    """Join the pieces of an input.

    They are joined once at the end: joining after every chunk would copy a long reply's text each
    time.

    Args:
        pieces: The pieces, in order; at least one.

    Returns:
        Message chunks merged, texts joined, dicts added; for any other type, the last piece.
    """
    kind = next((kind for kind in _ADDED if isinstance(pieces[-1], kind)), None)
    if kind is None:
        return pieces[-1]
    start = len(pieces)
    while start and isinstance(pieces[start - 1], kind):
        start -= 1
    first, *rest = pieces[start:]
    if kind is str:
        return "".join(pieces[start:])
    if kind is AddableDict:
        return functools.reduce(operator.add, rest, first)
    return first + rest if rest else first


def read_reply(given: Any) -> tuple[Reply, list[BaseMessage] | None]:
    """Find the reply in a step's input.

    Args:
        given: A message, text, or a state with messages whose last message is the reply.

    Returns:
        The reply, and the messages before it in a state; `None` for them if there is no state.

    Raises:
        InputTypeError: The input contains no reply.
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
        msg = f"The last message must be the reply to edit, an AIMessage, but it is {last}."
        raise InputTypeError(msg)
    return conversation[-1], list(conversation[:-1])


def _messages_of(given: Any) -> Any:
    if isinstance(given, BaseMessage):
        return None
    messages = getattr(given, "messages", None)
    return messages if isinstance(messages, Sequence) and not isinstance(messages, str) else None


_SEVERAL_MODELS = (
    "The context is not known: several models ran before the aligner, and the reply does not tell"
    " which of them made it. Pass on the model's message with its id, put the aligner directly"
    ' after its model (llm | aligner), or give config={"configurable": {"context": [...]}}.'
)
_WRONG_INPUT = (
    "An aligner edits an AIMessage, text, or the last message of a state with 'messages', not"
    " {}. Put it directly after the step that makes the reply, or convert this input first."
)
