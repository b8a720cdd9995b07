"""Reports an edit to callback handlers as the run of a chat model."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import cached_property, partial
from typing import Any
from uuid import UUID, uuid4

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from langchain_core.runnables import RunnableConfig

from langchain_metaaligner.editing.alignment import METADATA_KEY, Alignment
from langchain_metaaligner.editing.objectives import Objectives, parse_objectives
from langchain_metaaligner.integrations._langchain import streams, takes_events
from langchain_metaaligner.integrations.capture import EDIT
from langchain_metaaligner.integrations.hushing import HUSH, NOSTREAM, STEP

Calls = Generator[Callable[[], Any], Any, None]
"""Yields callbacks to call, in order; the result of each is sent back."""

_RUN_NAME = "MetaAlignerEdit"
_SERIALIZED = {"lc": 1, "type": "not_implemented", "id": ["langchain_metaaligner", _RUN_NAME]}
_METADATA = {"ls_provider": "metaaligner", "ls_model_type": "chat"}


class EditRun:
    """The run of one edit, tagged `metaaligner`.

    It does not contain the conversation, nor the policy's usage, which would be counted twice.

    Args:
        config: The config of the surrounding run.
        reply_id: The id of the reply, which its edit keeps.
        objectives: The objectives of the edit.

    Attributes:
        emitted: Whether part of the edit has been reported.
        streamed: Once started, whether a handler streams the edit to a consumer.
    """

    def __init__(
        self, config: RunnableConfig, *, reply_id: str | None, objectives: Objectives
    ) -> None:
        self.emitted = False
        self.streamed = False
        self._config = _edit_config(config)
        self._reply_id = reply_id
        self._objectives = parse_objectives(objectives)
        self._run: Any = None
        self._events: list[dict[str, Any]] | None = None
        self._texts: list[str] = []

    @cached_property
    def _run_id(self) -> UUID:
        return uuid4()

    @property
    def message_id(self) -> str:
        """The message id of the streamed edit: the reply's id if it has one."""
        return self._reply_id or f"lc_run--{self._run_id}"

    def start(self, manager_of: Callable[[RunnableConfig], Any]) -> Calls:
        """Start the run.

        Args:
            manager_of: Makes a callback manager from a config.
        """
        names = "; ".join(objective.name for objective in self._objectives)
        (self._run,) = yield partial(
            manager_of(self._config).on_chat_model_start,
            _SERIALIZED,
            [[HumanMessage(f"Edit the reply towards: {names}")]],
            run_id=self._run_id,
            name=_RUN_NAME,
            invocation_params={"_type": "metaaligner"},
            options={"stop": None},
            batch_size=1,
        )
        self.streamed = streams(self._run.handlers)
        self._events = [] if takes_events(self._run.handlers) else None

    def piece(self, text: str) -> Calls:
        """Report a piece of the edit.

        Args:
            text: The piece.
        """
        if self._events is not None:
            if not self._texts:
                self._events += [
                    {"event": "message-start", "role": "ai", "id": self.message_id},
                    {"event": "content-block-start", "index": 0, "content": _text_block("")},
                ]
            delta = {"type": "text-delta", "text": text}
            self._events.append({"event": "content-block-delta", "index": 0, "delta": delta})
        self._texts.append(text)
        self.emitted = True
        yield from self._token(text)

    def last_piece(self, alignment: Alignment) -> Calls:
        """Report that there are no more pieces.

        Args:
            alignment: The record of the edit.
        """
        provenance = {METADATA_KEY: alignment.provenance()}
        if self._events is not None:
            block = _text_block("".join(self._texts))
            self._events += [
                {"event": "content-block-finish", "index": 0, "content": block},
                {"event": "message-finish", "metadata": provenance},
            ]
        yield from self._token("", response_metadata=provenance, chunk_position="last")

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
        yield partial(self._run.on_llm_end, result)

    def fail(self, error: BaseException) -> Calls:
        """End the run with an error.

        Args:
            error: The error.
        """
        yield partial(self._run.on_llm_error, error, response=LLMResult(generations=[]))

    def _token(self, text: str, **fields: Any) -> Calls:
        message = AIMessageChunk(content=text, id=self.message_id, **fields)
        chunk = ChatGenerationChunk(message=message)
        yield partial(self._run.on_llm_new_token, text, chunk=chunk)
        if self._events:
            events, self._events = self._events, []
            for event in events:
                yield partial(self._run.on_stream_event, event)


def _text_block(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _edit_config(config: RunnableConfig) -> RunnableConfig:
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
        "metadata": {**(config.get("metadata") or {}), **_METADATA},
    }
