"""The policy of `ChatMetaAligner`: how it is read from the options, and how it is called."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableBinding

from langchain_metaaligner.integrations import _langchain
from langchain_metaaligner.integrations.asked_format import wants_data
from langchain_metaaligner.integrations.hushing import HUSH, NOSTREAM
from langchain_metaaligner.integrations.message_chunks import as_chunk

logger = logging.getLogger(__name__)

# Constructor options of most chat models that a policy also accepts with each call.
CALL_OPTIONS = ("max_tokens", "stop")
# Options that an aligner has too; they go to the policy if an existing aligner is given.
SHARED_OPTIONS = ("temperature", "timeout")
# Options for a policy given by name, which is made here.
MAKING_OPTIONS = ("api_key", "max_retries")


def read_policy(given: Mapping[str, Any]) -> dict[str, Any]:
    """Read the policy and its options from the options of a `ChatMetaAligner`.

    Args:
        given: The options as given.

    Returns:
        The options, with a chat model as `policy` and its options for each call as
        `policy_options`.

    Raises:
        TypeError: The policy is not a chat model.
        ImportError: The policy is a name, and langchain is not installed.
    """
    options = dict(given)
    names = CALL_OPTIONS if options.get("aligner") is None else (*CALL_OPTIONS, *SHARED_OPTIONS)
    for_calls = {name: options.pop(name) for name in names if name in options}
    for_calls = {name: value for name, value in for_calls.items() if value not in (None, [])}
    for_making = {name: options.pop(name) for name in MAKING_OPTIONS if name in options}
    policy = options.get("policy")
    if isinstance(policy, str):
        policy = _by_name(policy, {**for_calls, **for_making})
        for_calls = {}
    elif for_making:
        logger.warning(
            "Ignored %s, because the policy is already made: set these options on the policy",
            ", ".join(for_making),
        )
    while isinstance(policy, RunnableBinding):
        for_calls = {**policy.kwargs, **for_calls}
        _take_config(options, policy.config)
        policy = policy.bound
    if not isinstance(policy, BaseChatModel):
        msg = (
            "The policy must be the chat model that writes the replies, such as ChatOpenAI(...), or"
            f" a name for init_chat_model, not {type(policy).__name__}. Add retries and fallbacks"
            " to the ChatMetaAligner instead: ChatMetaAligner(...).with_retry()."
        )
        raise TypeError(msg)
    options["policy_options"] = {**for_calls, **(options.get("policy_options") or {})}
    options["policy"] = policy
    return options


def _by_name(name: str, options: Mapping[str, Any]) -> Any:
    try:
        from langchain.chat_models import init_chat_model
    except ImportError as error:
        msg = (
            f"Making the policy {name!r} from its name needs langchain, which is not installed. Run"
            " pip install 'langchain-metaaligner[agents]', or give the model itself."
        )
        raise ImportError(msg) from error
    return init_chat_model(name, **options)


def _take_config(options: dict[str, Any], config: Mapping[str, Any]) -> None:
    """Take over the binding's tags, metadata and callbacks: the policy has no run to use them."""
    tags = [tag for tag in config.get("tags") or () if tag not in (NOSTREAM, HUSH)]
    if tags:
        options["tags"] = [*tags, *(options.get("tags") or ())]
    if metadata := config.get("metadata"):
        options["metadata"] = {**metadata, **(options.get("metadata") or {})}
    if (callbacks := config.get("callbacks")) and options.get("callbacks") is None:
        options["callbacks"] = callbacks


def asks_for_data(
    policy: BaseChatModel, stop: list[str] | None, options: Mapping[str, Any]
) -> bool:
    """Whether a call asks the policy for structured data instead of prose.

    Args:
        policy: The policy.
        stop: Texts at which the policy stops.
        options: Further options of the call.
    """
    return wants_data(vars(policy), _langchain.sent_params(policy, stop, options), options)


def chunks_of(
    policy: BaseChatModel,
    messages: list[BaseMessage],
    stop: list[str] | None,
    kwargs: Mapping[str, Any],
) -> Iterator[ChatGenerationChunk]:
    """Stream the policy's reply without starting a run for it; as `_langchain.stream`."""
    return _langchain.stream(policy, messages, stop, kwargs, _whole)


def achunks_of(
    policy: BaseChatModel,
    messages: list[BaseMessage],
    stop: list[str] | None,
    kwargs: Mapping[str, Any],
) -> AsyncIterator[ChatGenerationChunk]:
    """Stream the policy's reply without blocking the event loop; as `chunks_of`."""
    return _langchain.astream(policy, messages, stop, kwargs, _whole)


def _whole(generation: Any) -> ChatGenerationChunk:
    message = generation.message
    if not isinstance(message, AIMessageChunk):
        message = as_chunk(message, message.content)
    return ChatGenerationChunk(message=message, generation_info=generation.generation_info)


class StandardBlocks:
    """Turns the chunks of one reply into standard blocks, as `output_version="v1"` asks for.

    LangChain does this with each chunk of a model that has a run. The pieces of an edit can't be
    turned later, because only some of them tell whose blocks they have.
    """

    def __init__(self) -> None:
        self._kind, self._index = "", -1

    def of(self, chunk: ChatGenerationChunk) -> ChatGenerationChunk:
        """Turn the next chunk.

        Args:
            chunk: The chunk, which is not modified.

        Returns:
            The chunk with standard blocks.
        """
        message = cast("AIMessageChunk", chunk.message)
        metadata = {**(chunk.generation_info or {}), **message.response_metadata}
        message = message.model_copy(update={"response_metadata": metadata})
        blocks = []
        for block in message.content_blocks:
            if block["type"] != self._kind:
                self._kind, self._index = block["type"], self._index + 1
            blocks.append({"index": self._index, **block})
        changes = {"content": blocks, "response_metadata": {**metadata, "output_version": "v1"}}
        message = message.model_copy(update=changes)
        return ChatGenerationChunk(message=message, generation_info=chunk.generation_info)


def reply_of(chunks: Sequence[ChatGenerationChunk]) -> AIMessageChunk:
    """Merge chunks into the whole reply, with the metadata that LangChain adds.

    Args:
        chunks: The chunks, in order; at least one.

    Returns:
        The reply.
    """
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    message = cast("AIMessageChunk", whole.message)
    metadata = {**(whole.generation_info or {}), **message.response_metadata}
    return message.model_copy(update={"response_metadata": metadata})
