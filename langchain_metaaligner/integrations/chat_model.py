"""A chat model that edits the replies of another chat model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Self, Unpack, cast

from langchain_core.caches import BaseCache
from langchain_core.globals import get_llm_cache
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig, ensure_config
from pydantic import AfterValidator, ConfigDict, Field, model_validator

from langchain_metaaligner.editing.alignment import METADATA_KEY
from langchain_metaaligner.editing.conversation import Context
from langchain_metaaligner.editing.objectives import Objective, Objectives
from langchain_metaaligner.editing.reply_message import answer_text
from langchain_metaaligner.errors import UnknownObjectiveError
from langchain_metaaligner.integrations import _langchain
from langchain_metaaligner.integrations.asked_format import BY_LANGCHAIN
from langchain_metaaligner.integrations.call_config import (
    asked_objectives,
    given_context,
    listed,
)
from langchain_metaaligner.integrations.hushing import NOSTREAM, STEP, hushed_inside
from langchain_metaaligner.integrations.message_chunks import MessageWriter, as_chunk
from langchain_metaaligner.integrations.prefetch import Prefetch, What
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
from langchain_metaaligner.integrations.reply_policy import FaceOptions, ReplyPolicy
from langchain_metaaligner.integrations.retries import Repeatable
from langchain_metaaligner.integrations.upstream_model import (
    CALL_OPTIONS,
    MAKING_OPTIONS,
    StandardBlocks,
    achunks_of,
    asks_for_data,
    chunks_of,
    read_policy,
    reply_of,
)
from langchain_metaaligner.options import cache_key, check_names, digested, hidden, masked, revealed

if TYPE_CHECKING:
    from langchain_metaaligner.integrations.reply_arguments import ReplyArguments

    class ChatArguments(ReplyArguments, total=False):
        """Options of `ChatMetaAligner`: those of an aligner and those of any chat model."""

        policy_options: dict[str, Any]
        """Options that the policy gets with each call."""

        streaming: bool | None
        """Whether to use streaming even for calls that return a whole reply."""

        max_tokens: int | None
        """Goes to the policy with each call."""

        stop: list[str] | str | None
        """Goes to the policy with each call."""

        api_key: Any
        """For a policy given by name."""

        max_retries: int
        """For a policy given by name."""

        name: str | None
        """The model's name in traces."""

        cache: BaseCache | bool | None
        """As for any chat model."""

        callbacks: Any
        """As for any chat model; by default, those of the policy."""

        tags: list[str] | None
        """As for any chat model; those of the policy are added."""

        metadata: dict[str, Any] | None
        """As for any chat model; those of the policy are added."""

        verbose: bool
        """As for any chat model."""

        custom_get_token_ids: Callable[[str], list[int]] | None
        """As for any chat model; by default, the policy's."""

        rate_limiter: BaseRateLimiter | None
        """As for any chat model."""

        disable_streaming: Any
        """As for any chat model."""

        output_version: str | None
        """As for any chat model; by default, the policy's."""

        profile: Any
        """As for any chat model; by default, the policy's."""


class ChatMetaAligner(FaceOptions, Repeatable[LanguageModelInput, AIMessage], BaseChatModel):
    """A chat model that edits the replies of its policy: `ChatMetaAligner(policy=llm)`.

    It can be used wherever a chat model can. Its stream contains the edit as it is generated.
    Replies that call tools and structured replies are returned unchanged. The policy has no run of
    its own: one run represents both models, and usage is counted once.

    To choose objectives or a context for one call, use
    `config={"configurable": {"objectives": [...], "context": [...]}}` or arguments of the call.

    Args:
        policy: The chat model that writes the replies, or its name for `init_chat_model`.
        objectives: What edits should improve: names, sentences or `Objective`s.
        **options: See `ReplyOptions` in `langchain_metaaligner.options` and docs/options.md, and
            the options of a chat model. `max_tokens` and `stop` go to the policy with each call; so
            do `temperature` and `timeout` if an `aligner` is given.

    Raises:
        TypeError: The policy is not a chat model.
        UnknownObjectiveError: An objective is unknown.
        pydantic.ValidationError: An option is unknown or out of range.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    policy: BaseChatModel = Field(description="The chat model that writes the replies.")
    policy_options: Annotated[dict[str, Any], AfterValidator(hidden)] = Field(
        default_factory=dict, description="Options that the policy gets with each call."
    )
    streaming: bool | None = Field(
        default=None,
        description="Whether to use streaming even for calls that return a whole reply.",
    )

    def __init__(
        self,
        policy: BaseChatModel | Runnable[LanguageModelInput, Any] | str | None = None,
        objectives: Objectives = ("harmlessness", "helpfulness"),
        **options: Unpack[ChatArguments],
    ) -> None:
        check_names(type(self), options.keys() - {*CALL_OPTIONS, *MAKING_OPTIONS})
        given = read_policy({"policy": policy, "objectives": objectives, **options})
        super().__init__(**given)

    @model_validator(mode="after")
    def _as_its_policy(self) -> Self:
        # The policy has no run of its own, so its callbacks, tags and metadata go on this model.
        policy, own = self.policy, self.__dict__
        for name in ("callbacks", "custom_get_token_ids", "output_version"):
            if own[name] is None:
                own[name] = getattr(policy, name)
        own["tags"] = list(dict.fromkeys([*(policy.tags or ()), *(own["tags"] or ())])) or None
        own["metadata"] = {**(policy.metadata or {}), **(own["metadata"] or {})} or None
        return self

    # -- calls --------------------------------------------------------------------------------

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
            config: The run's config; `configurable` may contain `objectives` and `context`.
            stop: Texts at which the policy stops.
            **kwargs: `objectives` and `context` may also be given or bound here; everything else
                goes to the policy.

        Returns:
            The edited reply.

        Raises:
            MetaAlignerError: If `on_error` says so; see `Aligner.align` for the kinds.
        """
        return super().invoke(input, config, stop=stop, **self._asked(config, kwargs))

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Ask the policy and edit its reply without blocking the event loop; as `invoke`."""
        return await super().ainvoke(input, config, stop=stop, **self._asked(config, kwargs))

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Ask the policy and yield the edit of its reply as it is generated; as `invoke`."""
        chunks: Any = super().stream(input, config, stop=stop, **self._asked(config, kwargs))
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
        """Ask the policy and yield the edit without blocking the event loop; as `stream`."""
        chunks: Any = super().astream(input, config, stop=stop, **self._asked(config, kwargs))
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    def stream_events(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """As for any chat model."""
        if kwargs.get("version") == "v3":
            kwargs = self._asked(config, kwargs)
        return super().stream_events(input, config, **kwargs)

    def astream_events(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """As for any chat model."""
        if kwargs.get("version") == "v3":
            kwargs = self._asked(config, kwargs)
        return super().astream_events(input, config, **kwargs)

    def _asked(self, config: RunnableConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Add the objectives and the context in a call's config to its arguments.

        `_generate` can only see the config of the surrounding chain, which may belong to another
        call.
        """
        config, keys = ensure_config(config), self.call_keys
        asked = {
            "objectives": asked_objectives(config, keys),
            "context": given_context(config, keys),
        }
        given = {**{name: one for name, one in asked.items() if one is not None}, **kwargs}
        if "objectives" in given:
            given["objectives"] = listed(given["objectives"])
        return given

    # -- the reply --------------------------------------------------------------------------

    @property
    def _policy(self) -> ReplyPolicy:
        return ReplyPolicy(self)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = _Call(self, messages, stop, kwargs)
        return run(call.whole(_langchain.generate, Sync))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = _Call(self, messages, stop, kwargs)
        return await arun(call.whole(_langchain.agenerate, Async))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = _Call(self, messages, stop, kwargs)
        yield from stream(call.pieces(chunks_of, Sync))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call = _Call(self, messages, stop, kwargs)
        async with aclosing(astream(call.pieces(achunks_of, Async))) as chunks:
            async for chunk in chunks:
                yield chunk

    # -- delegated to the policy --------------------------------------------------------------

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | Any],
        *,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Give the policy tools.

        Args:
            tools: The tools, in any form that the policy accepts.
            tool_choice: The tool that must be called, if any.
            **kwargs: Further options of the policy's own method.

        Returns:
            This model, bound to the tools.

        Raises:
            NotImplementedError: The policy does not support tools, or its bound model can't be
                edited.
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
                f"{type(self.policy).__name__}.bind_tools returns a {type(bound).__name__}, not a"
                " chat model, so its replies can't be edited here. Put an aligner after it in a"
                " pipe instead: policy.bind_tools(...) | MetaAlignerRunnable()."
            )
            raise NotImplementedError(msg)
        same = bound is self.policy
        model = self if same else self.model_copy(update={"policy": bound})
        return model.bind(**options)

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """The policy's own structured output, which is not edited.

        Args:
            schema: The schema of the output.
            include_raw: Whether to return the message as well.
            **kwargs: Further options of the policy's own method.

        Returns:
            A runnable that returns the policy's structured output.
        """
        return self.policy.with_structured_output(schema, include_raw=include_raw, **kwargs)

    def get_token_ids(self, text: str) -> list[int]:
        """The token ids of a text, by the policy's tokenizer."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self.policy.get_token_ids(text)

    def get_num_tokens(self, text: str) -> int:
        """The number of tokens of a text, by the policy's tokenizer."""
        return self.policy.get_num_tokens(text)

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """The number of tokens of a conversation, by the policy's tokenizer."""
        return self.policy.get_num_tokens_from_messages(messages, tools)

    @property
    def model_name(self) -> str | None:
        """The name of the policy's model, if it has one."""
        for name in ("model_name", "model", "model_id"):
            if isinstance(value := getattr(self.policy, name, None), str):
                return value
        return None

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        # The policy's own repr may show its headers, and LangChain puts this repr into traces.
        for name, value in super().__repr_args__():
            yield name, _Named(value, self.model_name) if name == "policy" else value

    @property
    def _llm_type(self) -> str:
        return "metaaligner-chat"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        kind, params = _langchain.describe(self.policy)
        return {
            **params,
            "policy_type": kind,
            "metaaligner_objectives": [objective.name for objective in self._policy.wanted(None)],
            "metaaligner_model": self._policy.aligner.model_name,
        }

    def _resolve_model_profile(self) -> Any:
        return self.policy.profile

    def _combine_llm_outputs(self, llm_outputs: list[dict[str, Any] | None], /) -> dict[str, Any]:
        return _langchain.combine_outputs(self.policy, llm_outputs)

    def options_of(
        self, stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> tuple[list[str] | None, dict[str, Any]]:
        """Merge the options of one call with `policy_options`.

        Args:
            stop: The stop texts of this call.
            kwargs: All other options of this call.

        Returns:
            The stop texts, and all other options.
        """
        options = {**revealed(self.policy_options), **kwargs}
        own_stop = options.pop("stop", None)
        return (own_stop if stop is None else stop), options

    def _known(self, asked: Objectives | None) -> tuple[Objective, ...]:
        try:
            return self._policy.wanted(asked)
        except UnknownObjectiveError:
            # The same error is raised later, inside the run.
            return ()

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        stop, options = self.options_of(stop, kwargs)
        params = _langchain.tracing_params(self.policy, stop, options)
        asked = kwargs.get("model")
        name = asked if isinstance(asked, str) else params.get("ls_model_name")
        return {
            **params,
            "ls_model_name": name or self.model_name or _langchain.describe(self.policy)[0],
        }

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        # Traces show these parameters, and must not show a context.
        stop, options = self.options_of(stop, kwargs)
        options.pop("context", None)
        if "objectives" in options:
            options["objectives"] = [one.name for one in self._known(options["objectives"])]
        shown: dict[str, Any] = masked(super()._get_invocation_params(stop=stop, **options))
        return shown

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        stop, options = self.options_of(stop, kwargs)
        asked, context = options.pop("objectives", None), options.pop("context", None)
        policy = _langchain.cache_string(self.policy, stop, digested(options))
        ours = {
            **cache_key(self),
            **(cache_key(self.aligner.options) if self.aligner is not None else {}),
            "objectives": [
                (objective.name, objective.description) for objective in self._known(asked)
            ],
            "context": None if context is None else _digest(context),
            "model": self._policy.aligner.model_name,
        }
        # An aligner object is represented by its options, which mean the same in other processes.
        ours.pop("aligner")
        return f"{json.dumps(ours, sort_keys=True)}---{policy}"

    # -- the cache ----------------------------------------------------------------------------

    def _generate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        made: ChatResult = _langchain.generate_with_cache(
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
        made: ChatResult = await _langchain.agenerate_with_cache(
            self._keeping_good_ones(), messages, stop=stop, run_manager=run_manager, **kwargs
        )
        return made

    def _keeping_good_ones(self) -> ChatMetaAligner:
        cache = self.cache if isinstance(self.cache, BaseCache) else get_llm_cache()
        if self.cache is False or cache is None:
            return self
        return self.model_copy(update={"cache": _GoodReplies(cache)})


class _Named:
    """A chat model as it is shown: its class and the name of its model."""

    def __init__(self, policy: BaseChatModel, model: str | None) -> None:
        self._shown = f"{type(policy).__name__}({'' if model is None else repr(model)})"

    def __repr__(self) -> str:
        return self._shown


class _Call:
    """One call of the model.

    Args:
        model: The model.
        messages: The conversation.
        stop: The stop texts of this call.
        kwargs: All other options of this call.
    """

    def __init__(
        self,
        model: ChatMetaAligner,
        messages: list[BaseMessage],
        stop: list[str] | None,
        kwargs: Mapping[str, Any],
    ) -> None:
        self._model, self._policy = model, ReplyPolicy(model)
        self._messages = messages
        self._stop, self._kwargs = model.options_of(stop, kwargs)
        self._asked = self._kwargs.pop("objectives", None)
        context = self._kwargs.pop("context", None)
        self._context = messages if context is None else context
        self._data = asks_for_data(model.policy, self._stop, self._kwargs)
        # LangChain takes it off where a model has a run; no model takes it.
        self._kwargs.pop(BY_LANGCHAIN, None)
        # Whether the policy's own tokens may be streamed. Instead of data, it may send a refusal.
        self._live = not model.apply or (self._data and not model.edit_refusals)
        self._given = context
        if model.apply:
            # Report a mistake in the call before the policy runs.
            self._policy.check_context(context)
            self._policy.wanted(self._asked)

    def whole(self, generate: Any, mode: Mode) -> Flow[ChatResult]:
        """Ask the policy and edit its replies.

        Args:
            generate: Calls the policy.
            mode: The calls, for a synchronous or an asynchronous driver.

        Returns:
            The edited replies.
        """
        with self._hush(), self._prefetch(streams=False):
            made: ChatResult = yield partial(
                generate, self._model.policy, self._messages, self._stop, self._kwargs
            )
        generations, output = [], made.llm_output
        for one in made.generations:
            edit = self._edit_of(one.message)
            yield from edit.flow(mode)
            message = cast("AIMessage", edit.settled())
            beside = self._policy.left_beside(message, cast("AIMessage", edit.reply))
            info, output = beside(one.generation_info), beside(output)
            generations.append(ChatGeneration(message=message, generation_info=info))
        return ChatResult(generations=generations, llm_output=output)

    def pieces(self, chunks_of: Any, mode: Mode) -> Flow[None]:
        """Ask the policy and send out the edit of its reply as it is generated.

        Args:
            chunks_of: Calls the policy.
            mode: The calls, for a synchronous or an asynchronous driver.
        """
        heard: list[ChatGenerationChunk] = []
        standard = "v1" in (self._model.output_version, self._model.policy.output_version)
        blocks = StandardBlocks() if standard else None
        chunks = chunks_of(self._model.policy, self._messages, self._stop, self._kwargs)
        try:
            with self._prefetch(streams=True) as prefetch, self._hush():
                while (chunk := (yield partial(mode.next_input, chunks))) is not END:
                    if blocks is not None:
                        chunk = blocks.of(chunk)
                    heard.append(chunk)
                    prefetch.add(chunk.message)
                    if self._live:  # otherwise the tokens are hushed and must not be sent
                        yield Emit(self._live_chunk(chunk))
        finally:
            yield partial(mode.close, chunks)
        if not heard:
            return
        edit = self._edit_of(reply_of(heard))
        if edit.item is None and edit.made is None:
            for chunk in () if self._live else heard:
                yield Emit(chunk)
            return
        writer = self._writer(edit)
        yield from edit.flow(mode, writer)
        for message in self._ending(edit, writer):
            yield Emit(message)

    def _hush(self) -> Any:
        """Keep the tokens of the policy, and of models inside it, out of streams."""
        return nullcontext() if self._live else hushed_inside(NOSTREAM, STEP)

    def _prefetch(self, *, streams: bool) -> Prefetch:
        """Prefills the edit's prompt while the policy is generating, if `eager` says so."""
        eager = self._model.eager
        if eager is None:  # with tools, the first reply is often a tool call
            eager = streams and not self._kwargs.get("tools")

        def find(_: Any) -> What | None:
            if self._data or not eager:
                return None
            self._policy.check_context(self._given)
            return self._context, self._policy.wanted(self._asked)

        prefetch = Prefetch(lambda: self._policy.aligner, find)
        prefetch.begin()
        return prefetch

    def _edit_of(self, reply: BaseMessage) -> ReplyEdit:
        """Prepare the edit of a reply; it has no item if there is nothing to edit."""
        # A copy, because the policy's own object may be in a cache.
        message = cast("AIMessage", reply.model_copy())
        edit = ReplyEdit(self._policy, message, self._asked)
        text = self._policy.text_of(message)
        if self._policy.leaves_alone(message):
            return edit
        if not text.strip():
            edit.made = self._policy.without_text(message, self._asked)
            return edit
        if self._data and text == answer_text(message):
            edit.made = self._policy.left_alone(message, self._asked, "data")
            return edit
        try:
            self._policy.check_context(self._given)
            edit.made = self._policy.skipped(message, self._context, self._asked)
            if edit.made is None:
                edit.item = (self._context, text, self._policy.wanted(self._asked))
        except Exception as error:  # noqa: BLE001 - the error policy decides
            edit.made = error
        return edit

    def _live_chunk(self, chunk: ChatGenerationChunk) -> ChatGenerationChunk:
        """The policy's chunk, not marked as the last: a chunk with the provenance may follow."""
        cast("AIMessageChunk", chunk.message).chunk_position = None
        return chunk

    def _writer(self, edit: ReplyEdit) -> _ChunkWriter | None:
        """The writer for the edit; `None` if it can only be written as a whole."""
        reply = cast("AIMessage", edit.reply)
        if edit.item is None or not self._model.apply:
            return None
        can_write = MessageWriter.can_write(reply, refusals=self._model.edit_refusals)
        return _ChunkWriter(reply) if can_write else None

    def _ending(
        self, edit: ReplyEdit, writer: _ChunkWriter | None
    ) -> Iterator[ChatGenerationChunk]:
        """Yield what is left to send once the final reply is known."""
        settled = cast("AIMessage", edit.settled())
        if self._live:
            provenance = {METADATA_KEY: settled.response_metadata[METADATA_KEY]}
            yield ChatGenerationChunk(
                message=AIMessageChunk(
                    content="", response_metadata=provenance, chunk_position="last"
                )
            )
        elif writer is None:
            yield ChatGenerationChunk(message=as_chunk(settled, settled.content))
        else:
            yield from writer.end(settled)


class _ChunkWriter(MessageWriter):
    """Writes an edited message as a chat model's chunks."""

    def write(self, piece: str) -> list[Any]:
        return [ChatGenerationChunk(message=chunk) for chunk in super().write(piece)]

    def end(self, settled: AIMessage) -> list[Any]:
        return [ChatGenerationChunk(message=chunk) for chunk in super().end(settled)]


class _GoodReplies(BaseCache):
    """A cache that does not keep replies whose edit failed.

    Args:
        cache: The cache for all other replies.
    """

    def __init__(self, cache: BaseCache) -> None:
        self._cache = cache

    def lookup(self, prompt: str, llm_string: str) -> Any:
        """As in the wrapped cache."""
        return self._cache.lookup(prompt, llm_string)

    async def alookup(self, prompt: str, llm_string: str) -> Any:
        """As in the wrapped cache."""
        return await self._cache.alookup(prompt, llm_string)

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Keep the reply, unless its edit failed."""
        if not any(_failed(one) for one in return_val):
            self._cache.update(prompt, llm_string, return_val)

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Keep the reply, unless its edit failed."""
        if not any(_failed(one) for one in return_val):
            await self._cache.aupdate(prompt, llm_string, return_val)

    def clear(self, **kwargs: Any) -> None:
        """As in the wrapped cache."""
        self._cache.clear(**kwargs)


def _failed(generation: Any) -> bool:
    message = getattr(generation, "message", None)
    metadata = message.response_metadata if isinstance(message, AIMessage) else {}
    return "error" in (metadata.get(METADATA_KEY) or {})


def _digest(context: Any) -> str:
    """A hash of a context, so that a cache key does not contain its text.

    Args:
        context: Text, a `Context`, or messages.
    """
    text = context.text if isinstance(context, Context) else context
    known = text if isinstance(text, str) else dumps(text)
    return hashlib.sha256(known.encode()).hexdigest()
