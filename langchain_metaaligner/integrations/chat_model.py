"""A chat model whose replies are another's, edited."""

# The policy is called without a run of its own, which only a model's underscored methods do.
# ruff: noqa: SLF001

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from typing import Any

from langchain_core.caches import BaseCache
from langchain_core.globals import get_llm_cache
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig, ensure_config
from pydantic import Field

from langchain_metaaligner.integrations.call_config import asked_objectives, given_context, listed
from langchain_metaaligner.integrations.chat_cache import GoodReplies
from langchain_metaaligner.integrations.chat_call import Call
from langchain_metaaligner.integrations.policy_model import PolicyModel
from langchain_metaaligner.integrations.upstream_model import achunks_of, chunks_of, read_policy


class ChatMetaAligner(PolicyModel):
    """A chat model that edits what its policy replies: `ChatMetaAligner(policy=llm)`.

    It is accepted wherever a chat model is, and whoever streams it reads the edit as it is made.
    Replies that call tools, and those in a form that was asked for, are the policy's own. The
    policy is called without a run of its own: one run stands for both, and usage counts once.

    Objectives and context for one call are
    `config={"configurable": {"objectives": [...], "context": [...]}}`, or arguments of the call.

    Args:
        policy: The chat model that writes the replies, or its name for `init_chat_model`.
        objectives: What edits are made towards: names, sentences or `Objective`s.
        **options: The fields below and those of a chat model. `max_tokens` and `stop` go to the
            policy with each call; so do `temperature` and `timeout` beside a given `aligner`.

    Raises:
        TypeError: The policy is no chat model.
        UnknownObjectiveError: An objective is unknown.
        pydantic.ValidationError: An option is unknown or out of range.
    """

    streaming: bool | None = Field(
        default=None, description="Whether replies are streamed where they are asked for whole."
    )

    def __init__(
        self,
        policy: Any = None,
        objectives: Any = ("harmlessness", "helpfulness"),
        **options: Any,
    ) -> None:
        super().__init__(**read_policy({"policy": policy, "objectives": objectives, **options}))

    # -- what a call says of itself -----------------------------------------------------------

    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Ask the policy and edit its reply.

        Args:
            input: The conversation.
            config: The run's config; `configurable` may hold `objectives` and `context`.
            stop: Texts at which the policy stops.
            **kwargs: `objectives` and `context` may also be given or bound here; all else goes
                to the policy.

        Returns:
            The reply.

        Raises:
            MetaAlignerError: As `on_error` says; see `Aligner.align` for the kinds.
        """
        return super().invoke(input, config, stop=stop, **_with_asked(config, kwargs))

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Ask the policy and edit its reply without blocking the event loop; as `invoke`."""
        return await super().ainvoke(input, config, stop=stop, **_with_asked(config, kwargs))

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Ask the policy and yield the edit of its reply as it is made; as `invoke`."""
        chunks: Any = super().stream(input, config, stop=stop, **_with_asked(config, kwargs))
        with closing(chunks):
            yield from chunks

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Yield the edit of the policy's reply without blocking the event loop; as `invoke`."""
        chunks: Any = super().astream(input, config, stop=stop, **_with_asked(config, kwargs))
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    def stream_events(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """As for any chat model."""
        if kwargs.get("version") == "v3":
            kwargs = _with_asked(config, kwargs)
        return super().stream_events(input, config, **kwargs)

    def astream_events(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """As for any chat model."""
        if kwargs.get("version") == "v3":
            kwargs = _with_asked(config, kwargs)
        return super().astream_events(input, config, **kwargs)

    # -- the reply --------------------------------------------------------------------------

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = Call(self, messages, stop, kwargs)
        with call.hush(), call.ahead(streams=False):
            result = self.policy._generate_with_cache(messages, stop=call.stop, **call.kwargs)
        answers = [call.answer(one.message) for one in result.generations]
        for answer in answers:
            answer.align()
        return call.result(result, answers)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = Call(self, messages, stop, kwargs)
        with call.hush(), call.ahead(streams=False):
            result = await self.policy._agenerate_with_cache(
                messages, stop=call.stop, **call.kwargs
            )
        answers = [call.answer(one.message) for one in result.generations]
        for answer in answers:
            await answer.aalign()
        return call.result(result, answers)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = Call(self, messages, stop, kwargs)
        heard: list[ChatGenerationChunk] = []
        chunks: Any = chunks_of(self.policy, messages, call.stop, call.kwargs)
        with closing(chunks), call.ahead(streams=True) as ahead, call.hush():
            for chunk in chunks:
                heard.append(chunk)
                ahead.add(chunk.message)
                if call.live:  # else what is inside is hushed, which nothing may leave meanwhile
                    yield call.live_chunk(chunk)
        answer = call.answer_of(heard)
        if answer is None:
            for chunk in () if call.live else heard:
                yield chunk
            return
        writer = call.writer(answer)
        if writer is None:
            answer.align()
        elif answer.run is not None:
            with answer.caught():
                with closing(answer.run.stream()) as pieces:
                    for piece in pieces:
                        answer.begun = True
                        for message in writer.write(piece):
                            yield ChatGenerationChunk(message=message)
                answer.made = answer.run.alignment
        for chunk in call.ending(answer, writer):
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call = Call(self, messages, stop, kwargs)
        heard: list[ChatGenerationChunk] = []
        chunks: Any = achunks_of(self.policy, messages, call.stop, call.kwargs)
        async with aclosing(chunks):
            with call.ahead(streams=True) as ahead, call.hush():
                async for chunk in chunks:
                    heard.append(chunk)
                    ahead.add(chunk.message)
                    if call.live:
                        yield call.live_chunk(chunk)
        answer = call.answer_of(heard)
        if answer is None:
            for chunk in () if call.live else heard:
                yield chunk
            return
        writer = call.writer(answer)
        if writer is None:
            await answer.aalign()
        elif answer.run is not None:
            with answer.caught():
                async with aclosing(answer.run.astream()) as pieces:
                    async for piece in pieces:
                        answer.begun = True
                        for message in writer.write(piece):
                            yield ChatGenerationChunk(message=message)
                answer.made = answer.run.alignment
        for chunk in call.ending(answer, writer):
            yield chunk

    # -- the cache ----------------------------------------------------------------------------

    def _generate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        made: ChatResult = BaseChatModel._generate_with_cache(
            self._keeping_good_ones(), messages, stop=stop, run_manager=run_manager, **kwargs
        )
        return made

    async def _agenerate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        made: ChatResult = await BaseChatModel._agenerate_with_cache(
            self._keeping_good_ones(), messages, stop=stop, run_manager=run_manager, **kwargs
        )
        return made

    def _keeping_good_ones(self) -> ChatMetaAligner:
        cache = self.cache if isinstance(self.cache, BaseCache) else get_llm_cache()
        if self.cache is False or cache is None:
            return self
        return self.model_copy(update={"cache": GoodReplies(cache)})


def _with_asked(config: RunnableConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call, with what its config asks for.

    `_generate` knows of no config but that of the chain around, which may be another's.
    """
    config = ensure_config(config)
    asked = {"objectives": asked_objectives(config), "context": given_context(config)}
    given = {**{name: one for name, one in asked.items() if one is not None}, **kwargs}
    if "objectives" in given:
        given["objectives"] = listed(given["objectives"])
    return given
