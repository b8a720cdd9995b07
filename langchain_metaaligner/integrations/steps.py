"""Edits the replies that a step of a chain was given."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    CallbackManagerForChainRun,
)
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import RunnableConfig

from langchain_metaaligner.editing.aligner import Item, Objectives
from langchain_metaaligner.editing.alignment import METADATA_KEY, Alignment
from langchain_metaaligner.editing.conversation import answer_text
from langchain_metaaligner.editing.pending_edit import NO_CONTEXT
from langchain_metaaligner.errors import InputTypeError, MissingContextError
from langchain_metaaligner.integrations.call_config import asked_objectives, given_context
from langchain_metaaligner.integrations.capture import capture
from langchain_metaaligner.integrations.inputs import Reply, read_reply
from langchain_metaaligner.integrations.leaks import check_leak
from langchain_metaaligner.integrations.message_chunks import (
    Gathered,
    MessageWriter,
    TextWriter,
    as_chunk,
)
from langchain_metaaligner.integrations.prefetch import Ahead, What, is_piece
from langchain_metaaligner.integrations.reply_edit import EditRun, OutsideRuns, listened_to
from langchain_metaaligner.integrations.reply_policy import ReplySettings

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Call:
    """One input on its way through the runnable.

    Attributes:
        reply: The reply in it.
        in_state: Whether the reply came in a state, and goes back in one.
        asked: The objectives that the caller asked for.
        item: What the aligner is to edit; `None` where there is nothing to edit.
        made: The edit or its error, once there is one.
        begun: Whether a consumer has read a part of the edit.
    """

    reply: Reply
    in_state: bool
    asked: Objectives | None
    item: Item | None = None
    made: Alignment | Exception | None = None
    begun: bool = False

    @contextmanager
    def caught(
        self, run: EditRun | None, writer: TextWriter | MessageWriter | None = None
    ) -> Iterator[None]:
        """Keep an error for the error policy."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the error policy decides
            self.made = error
            self.begun = (run is not None and run.emitted) or (
                writer is not None and writer.started
            )


class ReplyStep(ReplySettings):
    """What a step does with its inputs, in each way of calling it.

    The methods are what LangChain calls inside the step's run.
    """

    def _read(
        self,
        input: Any,
        run_manager: Any,
        config: RunnableConfig,
        given: Mapping[str, Any],
    ) -> _Call:
        asked = given.get("objectives")
        if asked is None:
            asked = asked_objectives(config)
        context = given.get("context")
        if context is None:
            context = given_context(config)
        capture.mark_editing(run_manager.run_id)
        try:
            reply, before = read_reply(input)
        except InputTypeError as error:
            if self.apply:
                raise
            logger.warning("Nothing was edited in shadow mode: %s", error)
            return _Call(reply=input, in_state=False, asked=asked)
        call = _Call(reply=reply, in_state=before is not None, asked=asked)
        try:
            text = answer_text(reply)
            if not text.strip():
                return call
            wanted = self.wanted(asked)
            asked_of_model = capture.find(
                run_manager.parent_run_id,
                reply_id=reply.id if isinstance(reply, AIMessage) else None,
                reply_text=text,
            )
            if self.apply and self.on_leak == "raise":
                check_leak(run_manager.handlers, config.get("metadata") or {}, asked_of_model)
            if context is None:
                # A state that holds the reply alone says nothing of what it answers.
                context = before or None
            if context is None:
                if asked_of_model is None:
                    raise MissingContextError(NO_CONTEXT)
                context = asked_of_model.messages
            call.item = (context, text, wanted)
        except Exception as error:  # noqa: BLE001 - the error policy decides
            call.made = error
        return call

    def _invoke(
        self,
        input: Any,
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        **given: Any,
    ) -> Any:
        call = self._read(input, run_manager, config, given)
        if (run := self._run(call, run_manager, config)) is not None:
            with call.caught(run):
                call.made = run.align()
        return self._settled(call)

    async def _ainvoke(
        self,
        input: Any,
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **given: Any,
    ) -> Any:
        call = self._read(input, run_manager, config, given)
        if (run := self._run(call, run_manager, config)) is not None:
            with call.caught(run):
                call.made = await run.aalign()
        return self._settled(call)

    def _batch(
        self,
        inputs: list[Any],
        run_manager: list[CallbackManagerForChainRun],
        config: list[RunnableConfig],
        **given: Any,
    ) -> list[Any]:
        calls = self._read_all(inputs, run_manager, config, given)
        for group in _groups(calls, config):
            items = [call.item for call in group if call.item is not None]
            with OutsideRuns():
                made = self.get_aligner().align_batch(items, return_exceptions=True)
            _take(group, made)
        for one, manager, own in zip(calls, run_manager, config, strict=True):
            # The error, if it is one, goes on through the error policy.
            with suppress(Exception):
                if (run := self._run_to_show(one, manager, own)) is not None:
                    run.align()
        return [self._settled_or_error(call) for call in calls]

    async def _abatch(
        self,
        inputs: list[Any],
        run_manager: list[AsyncCallbackManagerForChainRun],
        config: list[RunnableConfig],
        **given: Any,
    ) -> list[Any]:
        calls = self._read_all(inputs, run_manager, config, given)
        for group in _groups(calls, config):
            items = [call.item for call in group if call.item is not None]
            with OutsideRuns():
                made = await self.get_aligner().aalign_batch(items, return_exceptions=True)
            _take(group, made)
        for one, manager, own in zip(calls, run_manager, config, strict=True):
            with suppress(Exception):
                if (run := self._run_to_show(one, manager, own)) is not None:
                    await run.aalign()
        return [self._settled_or_error(call) for call in calls]

    def _read_all(
        self,
        inputs: list[Any],
        run_manager: Sequence[Any],
        config: Sequence[RunnableConfig],
        given: Mapping[str, Any],
    ) -> list[_Call | Exception]:
        calls: list[_Call | Exception] = []
        for one, manager, own in zip(inputs, run_manager, config, strict=True):
            try:
                calls.append(self._read(one, manager, own, given))
            except Exception as error:  # noqa: BLE001 - one input must not take the others
                calls.append(error)
        return calls

    def _transform(
        self,
        inputs: Iterator[Any],
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        **given: Any,
    ) -> Iterator[Any]:
        gathered = Gathered()
        with self._ahead(run_manager, config, given) as ahead:
            for piece in inputs:
                gathered.add(piece)
                ahead.add(piece)
                if not self.apply and is_piece(piece):
                    yield piece
        if gathered.empty:
            return
        call = self._read(gathered.value, run_manager, config, given)
        run, writer = self._run(call, run_manager, config), self._writer(call)
        with call.caught(run, writer):
            if run is not None and writer is None:
                call.made = run.align()
            elif run is not None and writer is not None:
                with closing(run.stream()) as pieces:
                    for piece in pieces:
                        for chunk in writer.write(piece):
                            yield chunk
                call.made = run.alignment
        for chunk in self._ending(call, writer):
            yield chunk

    async def _atransform(
        self,
        inputs: AsyncIterator[Any],
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **given: Any,
    ) -> AsyncIterator[Any]:
        gathered = Gathered()
        with self._ahead(run_manager, config, given) as ahead:
            async for piece in inputs:
                gathered.add(piece)
                ahead.add(piece)
                if not self.apply and is_piece(piece):
                    yield piece
        if gathered.empty:
            return
        call = self._read(gathered.value, run_manager, config, given)
        run, writer = self._run(call, run_manager, config), self._writer(call)
        with call.caught(run, writer):
            if run is not None and writer is None:
                call.made = await run.aalign()
            elif run is not None and writer is not None:
                async with aclosing(run.astream()) as pieces:
                    async for piece in pieces:
                        for chunk in writer.write(piece):
                            yield chunk
                call.made = run.alignment
        for chunk in self._ending(call, writer):
            yield chunk

    def _ahead(self, run_manager: Any, config: RunnableConfig, given: Mapping[str, Any]) -> Ahead:
        """Who prefills the edit's prompt while the reply arrives."""

        def find(piece: str | AIMessageChunk | None) -> What | None:
            # Whose reply it is, and so what it answers, is known with its first piece.
            if self.eager is False or piece is None:
                return None
            call = self._read(piece, run_manager, config, given)
            if call.item is None:
                return None
            context, _, objectives = call.item
            return context, objectives

        return Ahead(self.get_aligner, find)

    def _listened_to(self, run_manager: Any) -> bool:
        # In shadow mode the policy streams for itself, and the edit is for nobody's eyes.
        return self.apply and any(one is not capture for one in run_manager.handlers)

    def _run(self, call: _Call, run_manager: Any, config: RunnableConfig) -> EditRun | None:
        if call.item is None:
            return None
        reply, heard = call.reply, self._listened_to(run_manager)
        run = EditRun(
            self.get_aligner(),
            call.item,
            reply_id=reply.id if isinstance(reply, AIMessage) else None,
            config=config if heard else None,
            made=call.made,
        )
        streams = heard and listened_to(run_manager.handlers)
        if streams and isinstance(reply, AIMessage) and not reply.id:
            # Without an id its consumer would get it twice: in pieces, and whole.
            call.reply = reply.model_copy(update={"id": run.message_id})
        return run

    def _run_to_show(
        self, call: _Call | Exception, run_manager: Any, config: RunnableConfig
    ) -> EditRun | None:
        if isinstance(call, _Call) and self._listened_to(run_manager):
            return self._run(call, run_manager, config)
        return None

    def _writer(self, call: _Call) -> TextWriter | MessageWriter | None:
        if call.in_state or call.item is None or not self.apply:
            return None
        if isinstance(call.reply, str):
            return TextWriter()
        return MessageWriter(call.reply) if MessageWriter.can_write(call.reply) else None

    def _settled(self, call: _Call) -> Any:
        reply = call.reply
        if call.made is not None:
            reply = self.settle(reply, call.made, call.asked, begun=call.begun)
        return {"messages": [reply]} if call.in_state else reply

    def _settled_or_error(self, call: _Call | Exception) -> Any:
        if isinstance(call, Exception):
            return call
        try:
            return self._settled(call)
        except Exception as error:  # noqa: BLE001 - takes this item's place alone
            return error

    def _ending(self, call: _Call, writer: TextWriter | MessageWriter | None) -> Iterator[Any]:
        settled = self._settled(call)
        if writer is not None:
            yield from writer.end(settled)
        elif self.apply or not is_piece(settled):
            yield as_chunk(settled, settled.content) if type(settled) is AIMessage else settled
        elif isinstance(settled, AIMessageChunk) and METADATA_KEY in settled.response_metadata:
            # The reply itself has gone out already, as it came.
            provenance = {METADATA_KEY: settled.response_metadata[METADATA_KEY]}
            yield AIMessageChunk(content="", id=settled.id, response_metadata=provenance)


def _take(calls: Sequence[_Call], made: Sequence[Alignment | Exception]) -> None:
    for call, result in zip(calls, made, strict=True):
        call.made = result


def _groups(
    calls: Sequence[_Call | Exception], configs: Sequence[RunnableConfig]
) -> Iterator[list[_Call]]:
    wanted = [call for call in calls if isinstance(call, _Call) and call.item is not None]
    bounds = [bound for one in configs if (bound := one.get("max_concurrency"))]
    size = min(bounds, default=len(wanted))
    for start in range(0, len(wanted), max(1, size)):
        yield wanted[start : start + size]
