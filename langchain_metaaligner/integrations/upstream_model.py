"""What a chat model of a chat model is given as its policy, and how that is called."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableBinding

from langchain_metaaligner.integrations import _langchain
from langchain_metaaligner.integrations.hushing import HUSH, NOSTREAM
from langchain_metaaligner.integrations.message_chunks import as_chunk

logger = logging.getLogger(__name__)

# What chat models are commonly made with that a policy takes at each call as well.
CALL_OPTIONS = ("max_tokens", "stop")
# Options that an aligner has too: they are the policy's where the aligner has been made already.
SHARED_OPTIONS = ("temperature", "timeout")
# Options of a model that is yet to be made.
MAKING_OPTIONS = ("api_key", "max_retries")

# Keys by which providers are told to answer with data; such an answer is not prose to edit.
_STRUCTURED = (
    "format", "json_schema", "output_config", "output_format", "response_format",
    "response_json_schema", "response_mime_type", "response_schema",
)  # fmt: skip


def read_policy(given: Mapping[str, Any]) -> dict[str, Any]:
    """Read the policy among a chat model's options, and the options that are meant for it.

    Args:
        given: The options as they were given.

    Returns:
        The options: `policy` a chat model, `policy_options` what it gets with each call.

    Raises:
        TypeError: The policy is no chat model.
        ImportError: It is a name, and langchain is missing.
    """
    options = dict(given)
    names = CALL_OPTIONS if options.get("aligner") is None else (*CALL_OPTIONS, *SHARED_OPTIONS)
    for_calls = {name: options.pop(name) for name in names if name in options}
    for_making = {name: options.pop(name) for name in MAKING_OPTIONS if name in options}
    policy = options.get("policy")
    if isinstance(policy, str):
        policy = _by_name(policy, {**for_calls, **for_making})
        for_calls = {}
    elif for_making:
        logger.warning("%s: the policy has its own; set it there", ", ".join(for_making))
    while isinstance(policy, RunnableBinding):
        for_calls = {**policy.kwargs, **for_calls}
        _take_config(options, policy.config)
        policy = policy.bound
    if not isinstance(policy, BaseChatModel):
        msg = (
            "The policy is the chat model that writes the replies: an object such as"
            f" ChatOpenAI(...), or a name for init_chat_model; not {type(policy).__name__}."
            " Retries and fallbacks go around this model: ChatMetaAligner(...).with_retry()."
        )
        raise TypeError(msg)
    wanted = {name: value for name, value in for_calls.items() if value not in (None, [])}
    options["policy_options"] = {**wanted, **(options.get("policy_options") or {})}
    options["policy"] = policy
    return options


def _by_name(name: str, options: Mapping[str, Any]) -> Any:
    try:
        from langchain.chat_models import init_chat_model
    except ImportError as error:
        msg = (
            f"To find the policy {name!r} by its name needs langchain: pip install"
            " 'langchain-metaaligner[agents]'. Or give the model itself."
        )
        raise ImportError(msg) from error
    return init_chat_model(name, **options)


def _take_config(options: dict[str, Any], config: Mapping[str, Any]) -> None:
    """The policy has no run of its own, so what its binding says of runs is said of ours."""
    tags = [tag for tag in config.get("tags") or () if tag not in (NOSTREAM, HUSH)]
    if tags:
        options["tags"] = [*tags, *(options.get("tags") or ())]
    if metadata := config.get("metadata"):
        options["metadata"] = {**metadata, **(options.get("metadata") or {})}
    if (callbacks := config.get("callbacks")) and options.get("callbacks") is None:
        options["callbacks"] = callbacks


def wants_data(kwargs: Mapping[str, Any]) -> bool:
    """Whether a call asks the policy for data in a given form instead of prose."""
    for key in _STRUCTURED:
        asked = kwargs.get(key)
        plain = asked == "text/plain" or (
            isinstance(asked, Mapping) and asked.get("type") == "text"
        )
        if asked and not plain:
            return True
    return False


def chunks_of(
    policy: BaseChatModel,
    messages: list[BaseMessage],
    stop: list[str] | None,
    kwargs: Mapping[str, Any],
) -> Iterator[ChatGenerationChunk]:
    """The policy's reply as it streams, without a run of its own."""
    return _langchain.stream(policy, messages, stop, kwargs, _whole)


def achunks_of(
    policy: BaseChatModel,
    messages: list[BaseMessage],
    stop: list[str] | None,
    kwargs: Mapping[str, Any],
) -> AsyncIterator[ChatGenerationChunk]:
    """The policy's reply as it streams, without blocking the event loop; as `chunks_of`."""
    return _langchain.astream(policy, messages, stop, kwargs, _whole)


def _whole(generation: Any) -> ChatGenerationChunk:
    message = generation.message
    if not isinstance(message, AIMessageChunk):
        message = as_chunk(message, message.content)
    return ChatGenerationChunk(message=message, generation_info=generation.generation_info)


def reply_of(chunks: Sequence[ChatGenerationChunk]) -> AIMessageChunk:
    """The whole reply, with the metadata that LangChain puts on it."""
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    message = cast("AIMessageChunk", whole.message)
    metadata = {**(whole.generation_info or {}), **message.response_metadata}
    return message.model_copy(update={"response_metadata": metadata})
