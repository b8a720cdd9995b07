"""One call of the chat model that edits another's replies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from langchain_metaaligner.editing.alignment import METADATA_KEY
from langchain_metaaligner.editing.conversation import answer_text
from langchain_metaaligner.integrations.answers import Answer
from langchain_metaaligner.integrations.call_config import hushed_step
from langchain_metaaligner.integrations.message_chunks import MessageWriter, as_chunk
from langchain_metaaligner.integrations.policy_model import PolicyModel
from langchain_metaaligner.integrations.prefetch import Ahead, What
from langchain_metaaligner.integrations.reply_edit import EditRun
from langchain_metaaligner.integrations.upstream_model import reply_of, wants_data


class Call:
    """One call of the model.

    Attributes:
        stop: Where the policy stops.
        kwargs: What the policy is given.
        live: Whether what the policy says may be shown as it says it.
    """

    def __init__(
        self,
        model: PolicyModel,
        messages: Sequence[BaseMessage],
        stop: list[str] | None,
        kwargs: Mapping[str, Any],
    ) -> None:
        self.stop, self.kwargs = model.options_of(stop, kwargs)
        self._asked = self.kwargs.pop("objectives", None)
        context = self.kwargs.pop("context", None)
        self._context = messages if context is None else context
        self._model = model
        self._data = wants_data(self.kwargs)
        self.live = self._data or not model.apply
        if model.apply:
            # A mistake in the call is told before the policy runs for it.
            model.wanted(self._asked)

    def hush(self) -> Any:
        """Around the policy: keeps models inside it from consumers of streams."""
        return nullcontext() if self.live else hushed_step()

    def ahead(self, *, streams: bool) -> Ahead:
        """Who prefills the edit's prompt while the policy works, begun where that is wanted.

        Args:
            streams: Whether somebody reads the reply as it is made.
        """
        model, eager = self._model, self._model.eager
        if eager is None:  # with tools what comes first may well be no answer to edit
            eager = streams and not self.kwargs.get("tools")

        def find(_: Any) -> What | None:
            if self._data or not eager:
                return None
            return self._context, model.wanted(self._asked)

        ahead = Ahead(model.get_aligner, find)
        ahead.begin()
        return ahead

    def answer(self, reply: BaseMessage) -> Answer:
        """A reply, with its edit where there is something to edit."""
        # Never the policy's own object: it may be one that a cache keeps.
        answer = Answer(cast("AIMessage", reply.model_copy()))
        if self._to_be_edited(answer.reply):
            with answer.caught():
                item = (self._context, answer.reply, self._model.wanted(self._asked))
                answer.run = EditRun(self._model.get_aligner(), item, reply_id=None, config=None)
        return answer

    def answer_of(self, heard: Sequence[ChatGenerationChunk]) -> Answer | None:
        """The reply that came in chunks; `None` where there is nothing to edit."""
        if not heard:
            return None
        answer = self.answer(reply_of(heard))
        return None if answer.run is None and answer.made is None else answer

    def _to_be_edited(self, reply: AIMessage) -> bool:
        passes = self._data or (bool(reply.tool_calls) and not self._model.edit_tool_text)
        return not passes and bool(answer_text(reply).strip())

    def result(self, made: ChatResult, answers: Sequence[Answer]) -> ChatResult:
        """The policy's result, with what became of its replies."""
        generations = [
            ChatGeneration(
                message=answer.settled(self._model, self._asked),
                generation_info=one.generation_info,
            )
            for one, answer in zip(made.generations, answers, strict=True)
        ]
        return ChatResult(generations=generations, llm_output=made.llm_output)

    def live_chunk(self, chunk: ChatGenerationChunk) -> ChatGenerationChunk:
        """A chunk of the policy's, with which the stream does not end if a record follows."""
        if not self._data:
            cast("AIMessageChunk", chunk.message).chunk_position = None
        return chunk

    def writer(self, answer: Answer) -> MessageWriter | None:
        """Who writes the edit as it is made, where that can be done."""
        can_write = self._model.apply and MessageWriter.can_write(answer.reply)
        return MessageWriter(answer.reply) if can_write else None

    def ending(self, answer: Answer, writer: MessageWriter | None) -> Iterator[ChatGenerationChunk]:
        """What is left to send once it is known what becomes of the reply."""
        settled = answer.settled(self._model, self._asked)
        if self.live:
            provenance = {METADATA_KEY: settled.response_metadata[METADATA_KEY]}
            messages = [
                AIMessageChunk(content="", response_metadata=provenance, chunk_position="last")
            ]
        elif writer is None:
            messages = [as_chunk(settled, settled.content)]
        else:
            messages = list(writer.end(settled))
        for message in messages:
            yield ChatGenerationChunk(message=message)
