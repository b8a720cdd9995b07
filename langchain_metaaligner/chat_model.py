"""A chat model whose replies are another's, edited."""

# The policy is called without a run of its own, which only a model's underscored methods do.
# ruff: noqa: SLF001

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from typing import Any

from langchain_core.caches import BaseCache
from langchain_core.globals import get_llm_cache
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig, ensure_config
from pydantic import ConfigDict, Field, model_validator

from langchain_metaaligner.aligner import Objectives
from langchain_metaaligner.calls import asked_objectives, given_context, hushed_step
from langchain_metaaligner.chat_cache import GoodReplies, digest
from langchain_metaaligner.chat_call import Call
from langchain_metaaligner.errors import UnknownObjectiveError
from langchain_metaaligner.objectives import Objective
from langchain_metaaligner.policies import achunks_of, chunks_of, read_policy
from langchain_metaaligner.replies import ReplySettings


class ChatMetaAligner(ReplySettings, BaseChatModel):
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

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    policy: BaseChatModel = Field(description="The chat model that writes the replies.")
    policy_options: dict[str, Any] = Field(
        default_factory=dict, description="What the policy is given with each call."
    )
    edit_tool_text: bool = Field(
        default=False, description="Whether the text beside tool calls is edited too."
    )
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

    @model_validator(mode="after")
    def _as_its_policy(self) -> ChatMetaAligner:
        # The policy has no run of its own, so that its listeners and marks are ours.
        policy, own = self.policy, self.__dict__
        for name in ("callbacks", "custom_get_token_ids", "output_version"):
            if own[name] is None:
                own[name] = getattr(policy, name)
        own["tags"] = list(dict.fromkeys([*(policy.tags or ()), *(own["tags"] or ())])) or None
        own["metadata"] = {**(policy.metadata or {}), **(own["metadata"] or {})} or None
        return self

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
            with answer.caught():
                if answer.run is not None:
                    answer.made = answer.run.align()
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
            with answer.caught():
                if answer.run is not None:
                    answer.made = await answer.run.aalign()
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
        with closing(chunks), call.ahead(streams=True) as ahead:
            if call.live:
                for chunk in chunks:
                    heard.append(chunk)
                    ahead.add(chunk.message)
                    yield call.live_chunk(chunk)
            else:
                with hushed_step():
                    for chunk in chunks:
                        heard.append(chunk)
                        ahead.add(chunk.message)
        answer = call.answer_of(heard)
        if answer is None:
            for chunk in () if call.live else heard:
                yield chunk
            return
        writer = call.writer(answer)
        with answer.caught():
            if answer.run is not None and writer is None:
                answer.made = answer.run.align()
            elif answer.run is not None and writer is not None:
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
            with call.ahead(streams=True) as ahead:
                if call.live:
                    async for chunk in chunks:
                        heard.append(chunk)
                        ahead.add(chunk.message)
                        yield call.live_chunk(chunk)
                else:
                    with hushed_step():
                        async for chunk in chunks:
                            heard.append(chunk)
                            ahead.add(chunk.message)
        answer = call.answer_of(heard)
        if answer is None:
            for chunk in () if call.live else heard:
                yield chunk
            return
        writer = call.writer(answer)
        with answer.caught():
            if answer.run is not None and writer is None:
                answer.made = await answer.run.aalign()
            elif answer.run is not None and writer is not None:
                async with aclosing(answer.run.astream()) as pieces:
                    async for piece in pieces:
                        answer.begun = True
                        for message in writer.write(piece):
                            yield ChatGenerationChunk(message=message)
                answer.made = answer.run.alignment
        for chunk in call.ending(answer, writer):
            yield chunk

    # -- what the policy answers for ----------------------------------------------------------

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | Any],
        *,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Give the policy tools.

        Args:
            tools: The tools, in any form that the policy takes.
            tool_choice: Which tool must be called, where one must.
            **kwargs: Further options of the policy's own method.

        Returns:
            This model, bound to the tools.

        Raises:
            NotImplementedError: The policy has no tools.
        """
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        bound: Any = self.policy.bind_tools(tools, **kwargs)
        options: dict[str, Any] = {}
        while isinstance(bound, RunnableBinding):
            options = {**bound.kwargs, **options}
            bound = bound.bound
        if not isinstance(bound, BaseChatModel):
            msg = (
                f"{type(self.policy).__name__}.bind_tools gives a {type(bound).__name__}, whose"
                " replies can't be edited from here. Put an aligner behind it in a pipe instead."
            )
            raise NotImplementedError(msg)
        same = bound is self.policy
        model = self if same else self.model_copy(update={"policy": bound})
        return model.bind(**options)

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """The policy's own: data in a given form is not edited.

        Args:
            schema: The form.
            include_raw: Whether the message is returned beside the data.
            **kwargs: Further options of the policy's own method.

        Returns:
            What the policy returns.
        """
        return self.policy.with_structured_output(schema, include_raw=include_raw, **kwargs)

    def get_token_ids(self, text: str) -> list[int]:
        """The policy's token ids of a text."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self.policy.get_token_ids(text)

    def get_num_tokens(self, text: str) -> int:
        """How many tokens of the policy a text has."""
        return self.policy.get_num_tokens(text)

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """How many tokens of the policy a conversation has."""
        return self.policy.get_num_tokens_from_messages(messages, tools)

    @property
    def model_name(self) -> str | None:
        """The name of the policy's model, where it has one."""
        for name in ("model_name", "model", "model_id"):
            if isinstance(value := getattr(self.policy, name, None), str):
                return value
        return None

    @property
    def _llm_type(self) -> str:
        return "metaaligner-chat"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return {
            **self.policy._identifying_params,
            "policy_type": self.policy._llm_type,
            "metaaligner_objectives": [one.name for one in self.wanted(None)],
            "metaaligner_model": self.model_label(),
        }

    def _resolve_model_profile(self) -> Any:
        return self.policy.profile

    def _combine_llm_outputs(self, llm_outputs: list[dict[str, Any] | None], /) -> dict[str, Any]:
        return self.policy._combine_llm_outputs(llm_outputs)

    def options_of(
        self, stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> tuple[list[str] | None, dict[str, Any]]:
        """What one call says beside the conversation, with what is said at every call.

        Args:
            stop: Where this call stops.
            kwargs: All else that this call says.

        Returns:
            Where the policy stops, and all else.
        """
        options = {**self.policy_options, **kwargs}
        own_stop = options.pop("stop", None)
        return (own_stop if stop is None else stop), options

    def _known(self, asked: Objectives | None) -> tuple[Objective, ...]:
        try:
            return self.wanted(asked)
        except UnknownObjectiveError:
            # Told where it is raised: inside the run.
            return ()

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        stop, options = self.options_of(stop, kwargs)
        params = self.policy._get_ls_params(stop=stop, **options)
        asked = kwargs.get("model")
        name = asked if isinstance(asked, str) else params.get("ls_model_name")
        return {**params, "ls_model_name": name or self.model_name or self.policy._llm_type}

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        # These are shown in traces, where a conversation that is given as a context must not be.
        stop, options = self.options_of(stop, kwargs)
        options.pop("context", None)
        if "objectives" in options:
            options["objectives"] = [one.name for one in self._known(options["objectives"])]
        return super()._get_invocation_params(stop=stop, **options)

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

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        stop, options = self.options_of(stop, kwargs)
        asked, context = options.pop("objectives", None), options.pop("context", None)
        aligner = self.get_aligner().settings
        ours = {
            "objectives": [(one.name, one.description) for one in self._known(asked)],
            "context": None if context is None else digest(context),
            "aligner": [self.model_label(), aligner.adapter, aligner.revision, aligner.family],
            "edit": [aligner.max_new_tokens, aligner.temperature, aligner.system],
            "reply": [self.apply, self.keep_original, self.edit_tool_text],
        }
        policy = self.policy._get_llm_string(stop=stop, **options)
        return f"{json.dumps(ours, sort_keys=True)}---{policy}"


def _with_asked(config: RunnableConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call, with what its config asks for.

    `_generate` knows of no config but that of the chain around, which may be another's.
    """
    config = ensure_config(config)
    asked = {"objectives": asked_objectives(config), "context": given_context(config)}
    return {**{name: one for name, one in asked.items() if one is not None}, **kwargs}
