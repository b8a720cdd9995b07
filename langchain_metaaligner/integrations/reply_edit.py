"""One reply being edited: one flow, with a driver that waits and one that awaits.

A flow is a generator. It yields calls to be made, which it is sent the results of, and what is to
go out to a consumer; it neither waits nor awaits itself, so that both ways of calling share it.
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from langchain_metaaligner.editing.aligner import Aligner, Item, Objectives
from langchain_metaaligner.editing.alignment import Alignment
from langchain_metaaligner.integrations._langchain import (
    OutsideRuns,
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
)
from langchain_metaaligner.integrations.edit_run import EditRun
from langchain_metaaligner.integrations.message_chunks import MessageWriter, TextWriter
from langchain_metaaligner.integrations.reply_policy import Reply, ReplyPolicy

T = TypeVar("T")

END = object()
"""What the next input is where there is none."""


@dataclass(frozen=True, slots=True)
class Emit:
    """What a flow sends out to a consumer.

    Attributes:
        value: A chunk of a message, a piece of text, or a whole.
    """

    value: Any


Flow = Generator[Callable[[], Any] | Emit, Any, T]
"""Yields calls to make and what to send out; returns its result."""


class Closed(BaseException):
    """What a flow is thrown where its consumer has left.

    A `GeneratorExit` would close the generators inside it at once, before they have made the calls
    that clean up.
    """


class Sync:
    """The calls of a flow, made by waiting."""

    manager = staticmethod(get_callback_manager_for_config)

    @staticmethod
    def align(aligner: Aligner, item: Item) -> Alignment:
        """Edit one answer."""
        with OutsideRuns():
            return aligner.align(*item)

    @staticmethod
    def align_batch(aligner: Aligner, items: Iterable[Item]) -> Sequence[Alignment | Exception]:
        """Edit several answers, an error in the place of each that fails."""
        with OutsideRuns():
            return aligner.align_batch(items, return_exceptions=True)

    @staticmethod
    def next_piece(pieces: Iterator[str]) -> str | None:
        """The next piece of an edit; `None` at its end."""
        with OutsideRuns():
            return next(pieces, None)

    @staticmethod
    def next_input(inputs: Iterator[Any]) -> Any:
        """The next input of a stream; `END` at its end."""
        return next(inputs, END)

    @staticmethod
    def close(pieces: Any) -> None:
        """Stop a stream."""
        pieces.close()


class Async:
    """The calls of a flow, made by awaiting; as `Sync`."""

    manager = staticmethod(get_async_callback_manager_for_config)

    @staticmethod
    async def align(aligner: Aligner, item: Item) -> Alignment:
        """Edit one answer."""
        with OutsideRuns():
            return await aligner.aalign(*item)

    @staticmethod
    async def align_batch(
        aligner: Aligner, items: Iterable[Item]
    ) -> Sequence[Alignment | Exception]:
        """Edit several answers, an error in the place of each that fails."""
        with OutsideRuns():
            return await aligner.aalign_batch(items, return_exceptions=True)

    @staticmethod
    async def next_piece(pieces: AsyncIterator[str]) -> str | None:
        """The next piece of an edit; `None` at its end."""
        with OutsideRuns():
            return await anext(pieces, None)

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
    """Make a flow's calls, to its end; what it sends out goes nowhere.

    Args:
        flow: The flow.

    Returns:
        Its result.
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
    """Await a flow's calls, to its end; as `run`."""
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
    """Make a flow's calls and yield what it sends out; closing lets it clean up first.

    Args:
        flow: The flow.

    Yields:
        What it sends out.
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
    """Await a flow's calls and yield what it sends out; as `stream`."""
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


@dataclass(slots=True)
class ReplyEdit:
    """One reply on its way through its edit.

    Attributes:
        policy: What the face does with replies.
        reply: The reply.
        asked: The objectives that the caller asked for.
        item: What the aligner is to edit; `None` where there is nothing to edit.
        made: The edit or its error, once there is one.
        run: Shows the edit to those who listen, where anybody does.
        begun: Whether a consumer has read a part of the edit.
    """

    policy: ReplyPolicy
    reply: Reply
    asked: Objectives | None = None
    item: Item | None = None
    made: Alignment | Exception | None = None
    run: EditRun | None = None
    begun: bool = False

    def flow(self, mode: Mode, writer: TextWriter | MessageWriter | None = None) -> Flow[None]:
        """Make the edit; its error is kept for the policy.

        Args:
            mode: How calls are made.
            writer: Writes the pieces of the edit for a consumer; without one it is made whole.
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
            self.made = error
            self.begun = self.begun or (self.run is not None and self.run.emitted)

    def settled(self) -> Reply:
        """What becomes of the reply.

        Returns:
            The reply, edited where it was.

        Raises:
            MetaAlignerError: The error, where the policy says so.
        """
        if self.made is None:
            return self.reply
        return self.policy.settle(self.reply, self.made, self.asked, begun=self.begun)

    def _shown(
        self, mode: Mode, item: Item, shown: EditRun, writer: TextWriter | MessageWriter | None
    ) -> Flow[Alignment]:
        yield from shown.start(mode.manager)
        try:
            if writer is None and not shown.streamed:
                alignment = yield from self._whole(mode, item)
            else:
                alignment = yield from self._streamed(mode, item, writer)
                yield from shown.last_piece(alignment)
        except BaseException as error:
            yield from shown.fail(GeneratorExit() if isinstance(error, Closed) else error)
            raise
        yield from shown.end(alignment)
        return alignment

    def _whole(self, mode: Mode, item: Item) -> Flow[Alignment]:
        made = self.made
        if made is None:
            made = yield partial(mode.align, self.policy.aligner, item)
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
        pieces = self.policy.aligner.stream(*item)
        try:
            while (piece := (yield partial(mode.next_piece, pieces))) is not None:
                yield from self._sent(piece, writer)
        finally:
            yield partial(mode.close, pieces)
        if pieces.alignment is None:
            msg = "The edit ended without a record."
            raise RuntimeError(msg)
        return pieces.alignment

    def _sent(self, piece: str, writer: TextWriter | MessageWriter | None) -> Flow[None]:
        if self.run is not None:
            yield from self.run.piece(piece)
        if writer is not None:
            self.begun = True
            for chunk in writer.write(piece):
                yield Emit(chunk)
