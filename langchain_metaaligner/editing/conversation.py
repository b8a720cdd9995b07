"""Reads contexts from messages."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from langchain_metaaligner.editing.context_text import joined, read_content
from langchain_metaaligner.errors import InputTypeError, MissingContextError
from langchain_metaaligner.pickles import reduce_at_root

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

SystemHandling = Literal["first_turn"] | None


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation.

    Attributes:
        role: The speaker.
        text: What the speaker says.
    """

    role: Literal["human", "assistant"]
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True, repr=False)
class Context:
    """A context given as text, which goes into the prompt as it is.

    LangChain copies a bare string in a runnable's config into trace metadata and checkpoints. It
    does not copy a `Context`, and its `repr` does not show the text either.

    Attributes:
        text: The conversation before the answer, in the format that the checkpoint was trained on.
    """

    text: str

    __reduce_ex__ = reduce_at_root

    def __repr__(self) -> str:
        return f"Context(<{len(self.text)} characters>)"


@dataclass(frozen=True, slots=True)
class Conversation:
    """The turns of a conversation, read from messages.

    Attributes:
        turns: Human and assistant turns, oldest first.
        system_dropped: How many system messages were left out.
    """

    turns: tuple[Turn, ...]
    system_dropped: int = 0


def read_conversation(messages: Iterable[Any], *, system: SystemHandling = None) -> Conversation:
    """Read the turns of a conversation from messages.

    Adjacent human turns stay separate. Tool results become part of the next assistant turn, as
    `[tool NAME] text`; images and files become `[image]` and `[file]`. What a policy reads in other
    blocks (search results, documents, data, refusals) is read as text.

    Args:
        messages: LangChain messages, or values that LangChain can convert to messages.
        system: `None` leaves system messages out; `"first_turn"` puts them in front of the first
            human turn.

    Returns:
        The conversation.

    Raises:
        InputTypeError: A value can't be converted to a message.
    """
    turns: list[Turn] = []
    system_texts: list[str] = []
    tool_texts: list[str] = []
    tool_names: dict[str, str] = {}
    for message in _as_messages(messages):
        kind = _speaker(message)
        if message.type == "remove":
            continue
        text, returned = _text_of(message, kind)
        if kind == "tool":
            name = getattr(message, "name", None) or tool_names.get(
                getattr(message, "tool_call_id", "") or ""
            )
            tool_texts.append(f"[tool {name}] {text}" if name else f"[tool] {text}")
        elif kind == "system":
            system_texts.append(text)
        elif kind == "assistant":
            for key in ("tool_calls", "invalid_tool_calls"):
                for call in getattr(message, key, ()):
                    if call.get("id"):
                        tool_names[call["id"]] = call["name"]
            if text.strip():
                turns.append(Turn("assistant", "\n".join([*tool_texts, text])))
                tool_texts.clear()
        else:
            tool_texts.extend(returned)
            if returned and not text:
                continue
            if tool_texts:
                turns.append(Turn("assistant", "\n".join(tool_texts)))
                tool_texts.clear()
            turns.append(Turn("human", text))
    if tool_texts:
        turns.append(Turn("assistant", "\n".join(tool_texts)))
    if system != "first_turn":
        return Conversation(tuple(turns), system_dropped=len(system_texts))
    first = next((i for i, turn in enumerate(turns) if turn.role == "human"), None)
    if system_texts and first is not None:
        turns[first] = Turn("human", "\n\n".join([*system_texts, turns[first].text]))
        system_texts.clear()
    return Conversation(tuple(turns), system_dropped=len(system_texts))


def read_context(
    context: Any, *, whole_conversation: bool = True, system: SystemHandling = None
) -> tuple[str | tuple[Turn, ...], dict[str, int]]:
    """Read a context as given by a user.

    Args:
        context: Text, a `Context`, a prompt value, or messages.
        whole_conversation: Whether to return all turns or only the last human turn.
        system: What to do with system messages, as for `read_conversation`.

    Returns:
        Text or turns, and counts of what was left out.

    Raises:
        MissingContextError: The context is empty or missing.
        InputTypeError: The context is of another type.
    """
    if isinstance(context, Context):
        context = context.text
    if isinstance(context, str):
        if not context.strip():
            raise MissingContextError(NO_CONTEXT)
        return context, {}
    if context is None:
        raise MissingContextError(NO_CONTEXT)
    if hasattr(context, "to_messages"):
        context = context.to_messages()
    if not isinstance(context, Iterable) or isinstance(context, bytes | dict):
        msg = (
            "A context must be text, a Context or a list of messages, not"
            f" {type(context).__name__}."
        )
        raise InputTypeError(msg)
    conversation = read_conversation(context, system=system)
    turns, dropped = conversation.turns, {}
    if conversation.system_dropped:
        dropped["system"] = conversation.system_dropped
    if not whole_conversation:
        last = tuple(turn for turn in turns if turn.role == "human")[-1:]
        if len(turns) > len(last):
            dropped["turns"] = len(turns) - len(last)
        turns = last
    if not turns:
        raise MissingContextError(NO_CONTEXT)
    return turns, dropped


def check_form(context: str) -> None:
    """Log, once in a process, that a text is not the conversation that it stands for.

    It is no Python warning: those that are errors would fail edits that can be made.

    Args:
        context: A context given as bare text, for a family that reads the whole conversation.
    """
    if "Human:" not in context:
        log_bare_question()


@functools.cache
def log_bare_question() -> None:
    """Log the advice about a question that is given as a whole context; only the first time."""
    logging.getLogger(__name__).warning(_BARE_QUESTION)


def _as_messages(messages: Iterable[Any]) -> Sequence[Any]:
    from langchain_core.messages import BaseMessage, convert_to_messages

    given = list(messages)
    if all(isinstance(one, BaseMessage) for one in given):
        return given
    try:
        return convert_to_messages(given)
    except (ValueError, NotImplementedError, TypeError, KeyError) as error:
        msg = (
            "A context must be text, a Context or a list of messages (or of values that LangChain"
            f" can convert to messages), but a value can't be converted: {type(error).__name__}."
        )
        raise InputTypeError(msg) from error


def _text_of(message: BaseMessage, kind: str) -> tuple[str, list[str]]:
    """What a message says, and, apart from it, what tools returned in a message of a human."""
    content = message.content
    if isinstance(content, str) and content and not message.additional_kwargs:
        return content, []
    said, returned = read_content(message), []
    if kind == "human":
        returned = [one.text for one in said if one.kind == "tool"]
        said = [one for one in said if one.kind != "tool"]
    return joined(said, between="" if kind == "assistant" else "\n"), returned


def _speaker(message: BaseMessage) -> Literal["human", "assistant", "system", "tool"]:
    known = _SPEAKERS.get(message.type)
    if known is not None:
        return known
    kind = message.type.removesuffix("MessageChunk").lower()
    role = str(getattr(message, "role", "")).lower()
    if kind in ("ai", "assistant") or role in ("assistant", "ai"):
        return "assistant"
    if kind == "system" or role in ("system", "developer"):
        return "system"
    if kind in ("tool", "function") or role in ("tool", "function"):
        return "tool"
    return "human"


_SPEAKERS: Mapping[str, Literal["human", "assistant", "system", "tool"]] = {
    "human": "human",
    "ai": "assistant",
    "AIMessageChunk": "assistant",
    "system": "system",
    "tool": "tool",
}


_BARE_QUESTION = (
    "A context was given as text without the turns of a conversation. Text goes into the prompt as"
    " it is, but this aligner was trained on '\\n\\nHuman: … \\n\\nAssistant:', and edits worse"
    " without. If the text is a question, give it as messages: [('human', question)]. If it is"
    " meant as it is, give it as Context(text)."
)
NO_CONTEXT = (
    "There is no context: an aligner needs the conversation that the answer belongs to. In a chain,"
    " it is found if the model runs before the aligner in the same run (llm | aligner). Otherwise"
    ' give it, as config={"configurable": {"context": [HumanMessage(...)]}} or as Context(text),'
    ' or as the input {"messages": [..., AIMessage(...)]}.'
)
