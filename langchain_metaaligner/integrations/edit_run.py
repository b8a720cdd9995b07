"""Reports an edit to callback handlers as the run of a chat model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from functools import cached_property, partial
from typing import Any
from uuid import UUID, uuid4

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from langchain_core.runnables import RunnableConfig

from langchain_metaaligner.editing.aligner import Aligner
from langchain_metaaligner.editing.alignment import METADATA_KEY, Alignment
from langchain_metaaligner.editing.objectives import Objectives, parse_objectives
from langchain_metaaligner.integrations._langchain import streams, takes_events
from langchain_metaaligner.integrations.capture import EDIT
from langchain_metaaligner.integrations.hushing import HUSH, NOSTREAM, STEP
from langchain_metaaligner.integrations.message_chunks import MessageWriter
from langchain_metaaligner.integrations.message_events import EventWriter
from langchain_metaaligner.integrations.reply_policy import Reply

Calls = Generator[Callable[[], Any], Any, None]
"""Yields callbacks to call, in order; the result of each is sent back."""

_RUN_NAME = "MetaAlignerEdit"
_SERIALIZED = {"lc": 1, "type": "not_implemented", "id": ["langchain_metaaligner", _RUN_NAME]}
_METADATA = {"ls_provider": "metaaligner", "ls_model_type": "chat"}


class EditRun:
    """The run of one edit, tagged `metaaligner`.

    Its stream is the edited reply, with everything else that the reply contains. Its result has
    only the text and the provenance: the policy's run has the usage already, and counters add up
    the results of all runs.

    Args:
        config: The config of the surrounding run.
        reply: The reply, whose id the edit keeps.
        objectives: The objectives of the edit.
        aligner: The aligner that makes the edit.

    Attributes:
        emitted: Whether part of the edit has been reported.
        refusal: What a handler with `raise_error` has raised, if any did.
        streamed: Once started, whether a handler streams the edit to a consumer.
    """

    def __init__(
        self, config: RunnableConfig, *, reply: Reply, objectives: Objectives, aligner: Aligner
    ) -> None:
        self.emitted = False
        self.refusal: BaseException | None = None
        self.streamed = False
        self._config = _edit_config(config, aligner.model_name)
        self._reply = reply
        self._objectives = parse_objectives(objectives)
        self._aligner = aligner
        self._run: Any = None
        self._events: EventWriter | None = None

    @cached_property
    def _run_id(self) -> UUID:
        return uuid4()

    @cached_property
    def _chunks(self) -> MessageWriter:
        return MessageWriter(self._message(self._reply))

    @property
    def message_id(self) -> str:
        """The message id of the streamed edit: the reply's id if it has one."""
        own = None if isinstance(self._reply, str) else self._reply.id
        return own or f"lc_run--{self._run_id}"

    def start(self, manager_of: Callable[[RunnableConfig], Any]) -> Calls:
        """Start the run.

        Args:
            manager_of: Makes a callback manager from a config.
        """
        names = "; ".join(objective.name for objective in self._objectives)
        (self._run,) = yield from self._call(
            manager_of(self._config).on_chat_model_start,
            _SERIALIZED,
            [[HumanMessage(f"Edit the reply towards: {names}")]],
            run_id=self._run_id,
            name=_RUN_NAME,
            # Langfuse and OpenInference show these parameters.
            invocation_params={
                "_type": "metaaligner",
                "model": self._aligner.model_name,
                "model_name": self._aligner.model_name,
                "temperature": self._aligner.options.temperature,
                "max_tokens": self._aligner.options.max_new_tokens,
            },
            options={"stop": None},
            batch_size=1,
        )
        self.streamed = streams(self._run.handlers)
        if takes_events(self._run.handlers):
            self._events = EventWriter()

    def piece(self, text: str) -> Calls:
        """Report a piece of the edit.

        Args:
            text: The piece.
        """
        chunks = self._chunks.write(text)
        self.emitted = True
        yield from self._tokens(chunks)
        if self._events is not None:
            yield from self._told(self._events.write(text, chunks))

    def last_piece(self, settled: Reply, alignment: Alignment) -> Calls:
        """Report that there are no more pieces, and everything that the reply contains beside them.

        Args:
            settled: The final reply.
            alignment: The record of the edit.
        """
        message = self._message(settled)
        if isinstance(settled, str):
            message.response_metadata = {METADATA_KEY: alignment.provenance()}
        left = self._chunks.end(message)
        yield from self._tokens(left)
        if self._events is not None:
            yield from self._told(self._events.end(message, left[-1]))

    def end(self, alignment: Alignment) -> Calls:
        """End the run.

        Args:
            alignment: The record of the edit.
        """
        message = AIMessage(
            content=alignment.text,
            id=self.message_id,
            response_metadata={METADATA_KEY: alignment.provenance()},
        )
        result = LLMResult(generations=[[ChatGeneration(message=message)]])
        yield from self._call(self._run.on_llm_end, result)

    def fail(self, error: BaseException) -> Calls:
        """End the run with an error.

        Args:
            error: The error.
        """
        yield partial(self._run.on_llm_error, error, response=LLMResult(generations=[]))

    def _message(self, reply: Reply) -> AIMessage:
        if isinstance(reply, str):
            return AIMessage(reply, id=self.message_id)
        return reply.model_copy(update={"id": self.message_id})

    def _tokens(self, messages: Iterable[AIMessageChunk]) -> Calls:
        for message in messages:
            chunk = ChatGenerationChunk(message=message)
            yield from self._call(self._run.on_llm_new_token, chunk.text, chunk=chunk)

    def _told(self, events: Iterable[dict[str, Any]]) -> Calls:
        for event in events:
            yield from self._call(self._run.on_stream_event, event)

    def _call(
        self, callback: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Generator[Callable[[], Any], Any, Any]:
        try:
            return (yield partial(callback, *args, **kwargs))
        except Exception as error:
            self.refusal = error
            raise


def _edit_config(config: RunnableConfig, model: str) -> RunnableConfig:
    """The config of the edit's run, which stays visible if `hushed` hides the runs around it."""
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
        # LangSmith, Langfuse and OpenInference read the model's name under this key.
        "metadata": {**(config.get("metadata") or {}), **_METADATA, "ls_model_name": model},
    }
