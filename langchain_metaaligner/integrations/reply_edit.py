"""Streams an edit as a run of a chat model, so that whoever streams models' tokens streams it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Iterator
from contextlib import aclosing, closing
from functools import cached_property
from typing import Any
from uuid import UUID, uuid4

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import (
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
    var_child_runnable_config,
)

from langchain_metaaligner.editing.aligner import Aligner, Item
from langchain_metaaligner.editing.alignment import METADATA_KEY, Alignment
from langchain_metaaligner.editing.objectives import parse_objectives
from langchain_metaaligner.integrations.capture import EDIT
from langchain_metaaligner.integrations.hushing import HUSH, NOSTREAM, STEP

_RUN_NAME = "MetaAlignerEdit"
_SERIALIZED = {"lc": 1, "type": "not_implemented", "id": ["langchain_metaaligner", _RUN_NAME]}
_METADATA = {"ls_provider": "metaaligner", "ls_model_type": "chat"}


class EditRun:
    """One edit, with a run of its own where somebody listens.

    The run is a chat model's, tagged `metaaligner`. It carries no usage of the policy, which
    would count twice, and none of the conversation.

    Args:
        aligner: Who edits.
        item: Context, answer and objectives.
        reply_id: The id of the reply, which its edit keeps.
        config: The config of the surrounding run; `None` where nobody listens.
        made: The edit or its error, where it is made already.

    Attributes:
        alignment: The record, once the edit has ended well.
        emitted: Whether a part of the edit has gone out to those who listen.
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
        self.emitted = False
        self._aligner, self._item, self._made = aligner, item, made
        self._config = None if config is None else _edit_config(config)
        self._reply_id = reply_id

    @cached_property
    def _run_id(self) -> UUID:
        return uuid4()

    @property
    def message_id(self) -> str:
        """The id under which the edit streams; the reply's where it has one."""
        return self._reply_id or f"lc_run--{self._run_id}"

    def align(self) -> Alignment:
        """Make the edit whole; the pieces go to those who listen for them."""
        if self._config is None:
            return self._align_unheard()
        for _ in self._stream_heard(get_callback_manager_for_config(self._config), whole=True):
            pass
        return self._ended()

    async def aalign(self) -> Alignment:
        """Make the edit whole without blocking the event loop; as `align`."""
        if self._config is None:
            return await self._aalign_unheard()
        manager = get_async_callback_manager_for_config(self._config)
        async with aclosing(self._astream_heard(manager, whole=True)) as pieces:
            async for _ in pieces:
                pass
        return self._ended()

    def stream(self) -> Generator[str, None, None]:
        """Yield the pieces of the edit; when they have ended, `alignment` is the record."""
        if self._config is None:
            yield from self._stream_unheard()
        else:
            yield from self._stream_heard(get_callback_manager_for_config(self._config))

    async def astream(self) -> AsyncGenerator[str, None]:
        """Yield the pieces of the edit without blocking the event loop; as `stream`."""
        if self._config is None:
            source = self._astream_unheard()
        else:
            source = self._astream_heard(get_async_callback_manager_for_config(self._config))
        async with aclosing(source) as pieces:
            async for piece in pieces:
                yield piece

    # -- with a run -------------------------------------------------------------------------

    def _stream_heard(self, manager: Any, *, whole: bool = False) -> Generator[str, None, None]:
        (run,) = manager.on_chat_model_start(_SERIALIZED, [[self._note()]], **self._told_of_run())
        said = _Said(self.message_id, with_events=_take_events(run.handlers))
        try:
            if whole and not listened_to(run.handlers):
                self._align_unheard()
            else:
                with closing(self._stream_unheard()) as pieces:
                    for piece in pieces:
                        self.emitted = True
                        run.on_llm_new_token(piece, chunk=said.piece(piece))
                        for event in said.events():
                            run.on_stream_event(event)
                        yield piece
                run.on_llm_new_token("", chunk=said.last(self._ended()))
                for event in said.events():
                    run.on_stream_event(event)
        except BaseException as error:
            run.on_llm_error(error, response=LLMResult(generations=[]))
            raise
        run.on_llm_end(said.result(self._ended()))

    async def _astream_heard(
        self, manager: Any, *, whole: bool = False
    ) -> AsyncGenerator[str, None]:
        (run,) = await manager.on_chat_model_start(
            _SERIALIZED, [[self._note()]], **self._told_of_run()
        )
        said = _Said(self.message_id, with_events=_take_events(run.handlers))
        try:
            if whole and not listened_to(run.handlers):
                await self._aalign_unheard()
            else:
                async with aclosing(self._astream_unheard()) as pieces:
                    async for piece in pieces:
                        self.emitted = True
                        await run.on_llm_new_token(piece, chunk=said.piece(piece))
                        for event in said.events():
                            await run.on_stream_event(event)
                        yield piece
                await run.on_llm_new_token("", chunk=said.last(self._ended()))
                for event in said.events():
                    await run.on_stream_event(event)
        except BaseException as error:
            await run.on_llm_error(error, response=LLMResult(generations=[]))
            raise
        await run.on_llm_end(said.result(self._ended()))

    def _note(self) -> HumanMessage:
        wanted = parse_objectives(self._item[2])
        names = "; ".join(one.name for one in wanted)
        return HumanMessage(f"Edit the reply towards: {names}")

    def _told_of_run(self) -> dict[str, Any]:
        return {
            "run_id": self._run_id,
            "name": _RUN_NAME,
            "invocation_params": {"_type": "metaaligner"},
            "options": {"stop": None},
            "batch_size": 1,
        }

    # -- without a run ----------------------------------------------------------------------

    def _align_unheard(self) -> Alignment:
        if self._made is not None:
            return self._take()
        with OutsideRuns():
            self.alignment = self._aligner.align(*self._item)
        return self.alignment

    async def _aalign_unheard(self) -> Alignment:
        if self._made is not None:
            return self._take()
        with OutsideRuns():
            self.alignment = await self._aligner.aalign(*self._item)
        return self.alignment

    def _stream_unheard(self) -> Generator[str, None, None]:
        if self._made is not None:
            yield self._take().text
            return
        with closing(self._aligner.stream(*self._item)) as pieces:
            while (piece := _next_outside(pieces)) is not None:
                yield piece
            self.alignment = pieces.alignment

    async def _astream_unheard(self) -> AsyncGenerator[str, None]:
        if self._made is not None:
            yield self._take().text
            return
        async with aclosing(self._aligner.astream(*self._item)) as pieces:
            while (piece := await _anext_outside(pieces)) is not None:
                yield piece
            self.alignment = pieces.alignment

    def _take(self) -> Alignment:
        if isinstance(self._made, Exception):
            raise self._made
        self.alignment = self._made
        return self._ended()

    def _ended(self) -> Alignment:
        if self.alignment is None:
            msg = "The edit ended without a record."
            raise RuntimeError(msg)
        return self.alignment


class _Said:
    """What an edit's run says of its pieces: chunks, and events of LangChain's protocol."""

    def __init__(self, message_id: str, *, with_events: bool) -> None:
        self._id = message_id
        self._with_events = with_events
        self._texts: list[str] = []
        self._events: list[dict[str, Any]] = []

    def piece(self, text: str) -> ChatGenerationChunk:
        if self._with_events:
            if not self._texts:
                self._events += [
                    {"event": "message-start", "role": "ai", "id": self._id},
                    {"event": "content-block-start", "index": 0, "content": _text_block("")},
                ]
            delta = {"type": "text-delta", "text": text}
            self._events.append({"event": "content-block-delta", "index": 0, "delta": delta})
        self._texts.append(text)
        return ChatGenerationChunk(message=AIMessageChunk(content=text, id=self._id))

    def last(self, alignment: Alignment) -> ChatGenerationChunk:
        provenance = {METADATA_KEY: alignment.provenance()}
        if self._with_events:
            block = _text_block("".join(self._texts))
            self._events += [
                {"event": "content-block-finish", "index": 0, "content": block},
                {"event": "message-finish", "metadata": provenance},
            ]
        return ChatGenerationChunk(
            message=AIMessageChunk(
                content="", id=self._id, response_metadata=provenance, chunk_position="last"
            )
        )

    def events(self) -> list[dict[str, Any]]:
        """The events since the last time they were asked for."""
        events, self._events = self._events, []
        return events

    def result(self, alignment: Alignment) -> LLMResult:
        message = AIMessage(
            content=alignment.text,
            id=self._id,
            response_metadata={METADATA_KEY: alignment.provenance()},
        )
        return LLMResult(generations=[[ChatGeneration(message=message)]])


def _text_block(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _edit_config(config: RunnableConfig) -> RunnableConfig:
    """The config of the edit's own run: seen where its surroundings were hushed for its sake."""
    tags = [*(config.get("tags") or ())]
    callbacks = config.get("callbacks")
    if isinstance(callbacks, BaseCallbackManager):
        callbacks = callbacks.copy()
        tags = list(dict.fromkeys([*tags, *callbacks.tags, *callbacks.inheritable_tags]))
        callbacks.tags, callbacks.inheritable_tags = [], []
    if HUSH in tags and STEP not in tags:
        tags = [tag for tag in tags if tag not in (NOSTREAM, HUSH)]
    return {
        "tags": [*tags, EDIT],
        "callbacks": callbacks,
        "metadata": {**(config.get("metadata") or {}), **_METADATA},
    }


def listened_to(handlers: Iterable[Any]) -> bool:
    """Whether any of a run's handlers streams what is under way to a consumer.

    Args:
        handlers: The run's handlers.
    """
    # Both kinds are LangChain's and not public: the first is a protocol, the second a mark.
    return any(hasattr(one, "tap_output_iter") or _is(one, _TAKES_EVENTS) for one in handlers)


def _is(handler: Any, name: str) -> bool:
    return any(kind.__name__ == name for kind in type(handler).__mro__)


def _take_events(handlers: Iterable[Any]) -> bool:
    return any(_is(one, _TAKES_EVENTS) for one in handlers)


_TAKES_EVENTS = "_V2StreamingCallbackHandler"


class OutsideRuns:
    """Keeps models that an engine calls out of the runs, and so of the streams, around the edit.

    A class, and no generator: every edit of a chain passes here, and microseconds count.
    """

    __slots__ = ("_token",)

    def __enter__(self) -> None:
        self._token = var_child_runnable_config.set(None)

    def __exit__(self, *error: object) -> None:
        var_child_runnable_config.reset(self._token)


def _next_outside(pieces: Iterator[str]) -> str | None:
    with OutsideRuns():
        return next(pieces, None)


async def _anext_outside(pieces: AsyncIterator[str]) -> str | None:
    with OutsideRuns():
        return await anext(pieces, None)
