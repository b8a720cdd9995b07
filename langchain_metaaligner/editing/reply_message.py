"""What of a message is the text of a reply, and the same message with another text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from langchain_core.messages import AIMessage, AIMessageChunk

from langchain_metaaligner.editing.citations import LISTS, Moves, moved_citations
from langchain_metaaligner.editing.content_blocks import (
    Path,
    is_for_model,
    is_thought,
    kind_of,
    refusal_text,
    text_at,
    text_paths,
    with_texts_at,
)
from langchain_metaaligner.editing.copies import GONE, Copies, names_thoughts, names_tools
from langchain_metaaligner.editing.plain_metadata import plain_metadata
from langchain_metaaligner.editing.refusals import refusal_beside, without_refusal
from langchain_metaaligner.editing.word_diff import share_out
from langchain_metaaligner.errors import InputTypeError

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

M = TypeVar("M", bound="BaseMessage")

_CALLS = frozenset(
    "tool_call tool_call_chunk invalid_tool_call tool_use function_call custom_tool_call"
    " computer_call input_json_delta".split()
)
_SIGNATURES = ("signature", "thought_signature", "encrypted_content", "data", "redactedContent")
_SIGNED_WITHIN = 4  # levels of a thought
_SAID = ("audio", "refusal")


class _Place(NamedTuple):
    """Where a text stands in a message: the index of its block, its path there, and the text."""

    block: int
    path: Path
    text: str


def answer_text(answer: Any, *, refusals: bool = False) -> str:
    """The text of an answer that an edit may change.

    Args:
        answer: Text or an `AIMessage`.
        refusals: Whether a refusal that the provider marks as such is text.

    Returns:
        The text; if a message has several text blocks, their texts joined without a separator.

    Raises:
        InputTypeError: The answer is neither text nor a message.
    """
    if isinstance(answer, str):
        return answer
    content = getattr(answer, "content", None)
    if isinstance(content, str) and not refusals:
        return content
    if isinstance(content, str | list):
        return "".join(_texts_of(answer, refusals=refusals))
    msg = f"An answer must be text or an AIMessage, not {type(answer).__name__}."
    raise InputTypeError(msg)


def text_blocks(message: Any) -> list[int]:
    """The positions of the blocks that hold some text.

    Args:
        message: The message, whose content is a list.

    Returns:
        The positions, in order.
    """
    filled = [place.block for place in _places(message.content, refusals=False) if place.text]
    return list(dict.fromkeys(filled))


def thoughts_beside(message: Any) -> dict[str, Any]:
    """The thoughts that a message has outside of its content.

    Args:
        message: The message.

    Returns:
        Those of its additional arguments that hold thoughts.
    """
    return {key: value for key, value in message.additional_kwargs.items() if names_thoughts(key)}


def has_sole_text(message: Any, *, refusals: bool = False) -> bool:
    """Whether a message has one text that can be written piece by piece.

    Empty blocks are no text. A message whose other blocks may repeat the text before it can't be.

    Args:
        message: The message, whose content is a list.
        refusals: As for `answer_text`.
    """
    places = [one for one in _places(message.content, refusals=refusals) if one.text]
    if len(places) != 1 or places[0].path not in _WRITTEN:
        return False
    return all(never_repeats(block) for block in message.content[: places[0].block])


_WRITTEN: tuple[Path, ...] = ((), ("text",), ("refusal",))


def never_repeats(block: Any) -> bool:
    """Whether a block can't repeat the text of its message, or may do so even beside an edit.

    Args:
        block: A block of any provider.
    """
    if isinstance(block, str):
        return not block
    if is_for_model(block):
        return True
    return isinstance(block, Mapping) and block.keys() <= _HARMLESS and not block.get("text")


_HARMLESS = frozenset("type text index id extras url base64 mime_type file_id phase".split())


def with_text(
    message: M, text: str, *, refusals: bool = False, metadata: Mapping[str, Any] | None = None
) -> M:
    """Replace the text of a message, and keep everything else that does not repeat it.

    Each text block gets the matching part of the new text, so that other blocks keep their place
    between them. A block that has lost all its text is removed. Where the message repeats the old
    text, it is left out. Citations move with their span. An id by which the provider would go on
    from the old text goes, too. Thoughts and tool calls stay as they are.

    Args:
        message: The message, which is not modified.
        text: The new text.
        refusals: Whether the text includes refusals, which then become text, changed or not.
        metadata: Entries that are added to the message's metadata.

    Returns:
        A copy, or the message itself if nothing changes.
    """
    given = message
    if refusals:
        message = _without_marks(message)
    old = answer_text(message)
    changes: dict[str, Any] = {}
    if old == text:
        if metadata:
            changes["response_metadata"] = {**message.response_metadata, **metadata}
        return message.model_copy(update=changes) if changes else message
    content, beside = message.content, message.additional_kwargs
    extra = _fields_beside(message)
    if isinstance(content, str) and not (beside or extra or message.response_metadata):
        # There is nothing that could repeat the text.
        plain = {"content": text, "response_metadata": dict(metadata or {})}
        return message.model_copy(update=plain)
    copies = _copies_of(given, text, refusals=refusals)
    if isinstance(content, str):
        changes["content"] = text
    else:
        places = _places(content, refusals=False)
        filled = [place.text for place in places if place.text]
        shares = copies.shares if given is message else share_out(filled, text)
        changes["content"] = _with_shares(content, places, shares, text, copies)
        if not places:
            changes["content"].append({"type": "text", "text": text})
    if beside:
        # A recording is the reply as sound, which the provider also finds again by its id.
        silent = {key: value for key, value in beside.items() if key != "audio" or not value}
        changes["additional_kwargs"] = copies.left_of(silent)
    left = copies.left_of(message.response_metadata)
    changes["response_metadata"] = {**left, **metadata} if metadata else left
    if extra:
        changes = _with_fields(message, changes, extra, copies.left_of(extra))
    return message.model_copy(update=changes)


def blocked(message: M, text: str, *, metadata: Mapping[str, Any] | None = None) -> M:
    """The message that stands in for one that must not be shown.

    It keeps the id, the name, the tool calls, the usage and plain metadata. It has none of the
    thoughts, except for signed ones beside a tool call, which the provider needs there.

    Args:
        message: The message, which is not modified.
        text: The text of the new message.
        metadata: Entries that are added to the message's metadata.

    Returns:
        A new message of the same class.
    """
    calls = bool(getattr(message, "tool_calls", None) or getattr(message, "invalid_tool_calls", ()))
    copies = _copies_of(message, text, refusals=True)
    content: Any = text
    if isinstance(message.content, list):
        content = [{"type": "text", "text": text}]
        if calls:
            thoughts = [block for block in message.content if is_thought(block)]
            before = _signed(thoughts) or []
            after = [block for block in message.content if kind_of(block) in _CALLS]
            content = [*before, *content, *after]
    quiet = {key: one for key, one in message.additional_kwargs.items() if key not in _SAID}
    beside = plain_metadata(quiet, copies)
    if calls:
        for key, value in quiet.items():
            if names_tools(key) and key != "tool_outputs":
                beside[key] = value
            elif names_thoughts(key) and (kept := _signed(value)) is not None:
                beside[key] = kept
    changes: dict[str, Any] = {
        "content": content,
        "additional_kwargs": beside,
        "response_metadata": {
            **plain_metadata(message.response_metadata, copies),
            **(metadata or {}),
        },
    }
    if extra := _fields_beside(message):
        changes = _with_fields(message, changes, extra, {})
    return message.model_copy(update=changes)


def _fields_beside(message: BaseMessage) -> dict[str, Any]:
    """The fields of a message that LangChain's own classes don't have."""
    extra: dict[str, Any] = getattr(message, "__pydantic_extra__", None) or {}
    kind = type(message)
    if kind in _OWN_CLASSES:
        return extra
    own = [name for name in kind.model_fields if name not in AIMessageChunk.model_fields]
    return {**{name: getattr(message, name) for name in own}, **extra}


_OWN_CLASSES = (AIMessage, AIMessageChunk)


def _with_fields(
    message: BaseMessage,
    changes: dict[str, Any],
    fields: Mapping[str, Any],
    left: Mapping[str, Any],
) -> dict[str, Any]:
    """All changes of a message: a field is what is left of it, else its default.

    Args:
        message: The message before.
        changes: What becomes of LangChain's own fields.
        fields: The other fields before.
        left: What is left of them.
    """
    # What a default is made from must not hold the text before.
    known = {name: one for name, one in vars(message).items() if name not in fields} | changes
    for name in fields:
        field = type(message).model_fields.get(name)
        if name in left:
            known[name] = left[name]
        elif field is None or field.is_required():
            known[name] = None
        else:
            known[name] = field.get_default(call_default_factory=True, validated_data={**known})
    return {**changes, **{name: known[name] for name in fields}}


def left_beside(
    message: BaseMessage, text: str, *, refusals: bool, plain: bool
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Make the function that tells what may be told beside a message whose text was changed.

    Args:
        message: The message as the model made it.
        text: The text that takes the place of its own.
        refusals: As for `answer_text`; if so, nothing tells that the model refused.
        plain: Whether only plain metadata may stay, as for a blocked message.

    Returns:
        A function that takes metadata and returns a copy of what is left of it.
    """
    if plain:
        return partial(plain_metadata, copies=_copies_of(message, text, refusals=True))
    if answer_text(message, refusals=refusals) == text:
        return without_refusal if refusals else dict
    copies = _copies_of(message, text, refusals=refusals)
    if refusals:
        return lambda given: copies.left_of(without_refusal(given))
    return copies.left_of


def _copies_of(message: BaseMessage, text: str, *, refusals: bool) -> Copies:
    """Finds copies of a message's text, which another text replaces."""
    texts = [one for one in _texts_of(message, refusals=refusals) if one]
    return Copies("".join(texts), text, texts)


def _texts_of(message: Any, *, refusals: bool) -> list[str]:
    """The texts that make up the text of an answer."""
    content = message.content
    if isinstance(content, str):
        texts = [content]
    else:
        texts = [place.text for place in _places(content, refusals=refusals)]
    if refusals:
        said = "".join(texts)
        texts.append(_with_refusal(message, said)[len(said) :])
    return texts


def _places(content: Sequence[Any], *, refusals: bool) -> list[_Place]:
    places = []
    for index, block in enumerate(content):
        if refusals and (said := refusal_text(block)) is not None:
            places.append(_Place(index, ("refusal",), said))
        else:
            places += [_Place(index, path, text_at(block, path)) for path in text_paths(block)]
    return places


def _with_refusal(message: Any, said: str) -> str:
    """A text, and the refusal that the provider reports beside it."""
    refusal = refusal_beside(message)
    return said if refusal in said else said + refusal


def _without_marks(message: M) -> M:
    """The message with its refusals as text; the message itself if it has none."""
    content: Any = message.content
    changes: dict[str, Any] = {}
    if isinstance(content, list) and any(refusal_text(block) is not None for block in content):
        changes["content"] = content = [
            block if (said := refusal_text(block)) is None else _as_text(block, said)
            for block in content
        ]
    said = answer_text(message.model_copy(update=changes))
    if left := _with_refusal(message, said)[len(said) :]:
        changes["content"] = content + left if isinstance(content, str) else _longer(content, left)
    beside = message.additional_kwargs
    if beside.get("refusal"):
        changes["additional_kwargs"] = {key: beside[key] for key in beside if key != "refusal"}
    metadata = without_refusal(message.response_metadata)
    if len(metadata) < len(message.response_metadata):
        changes["response_metadata"] = metadata
    return message.model_copy(update=changes) if changes else message


def _longer(content: Sequence[Any], more: str) -> list[Any]:
    """A content with more text at the end of its last text."""
    filled = [place for place in _places(content, refusals=False) if place.text]
    if not filled:
        return [*content, {"type": "text", "text": more}]
    last = filled[-1]
    block = with_texts_at(content[last.block], [(last.path, last.text + more)])
    return [*content[: last.block], block, *content[last.block + 1 :]]


def _as_text(refusal: Mapping[str, Any], said: str) -> dict[str, Any]:
    kept = {key: refusal[key] for key in ("id", "index", "extras") if key in refusal}
    return {"type": "text", "text": said, **kept}


def _with_shares(
    content: Sequence[Any],
    places: Sequence[_Place],
    shares: Sequence[str],
    text: str,
    copies: Copies,
) -> list[Any]:
    """The content with the new text.

    Args:
        content: The content before.
        places: Its texts.
        shares: The part of the new text for each of them that is not empty.
        text: The new text, which the first one gets if all are empty.
        copies: Finds copies of the text before.
    """
    left = iter(shares or [text])
    of_block: dict[int, list[tuple[_Place, str]]] = {}
    for place in places:
        # Empty places stay empty where others are not.
        share = next(left, "") if place.text or not shares else ""
        of_block.setdefault(place.block, []).append((place, share))
    blocks: list[Any] = []
    for index, block in enumerate(content):
        own = of_block.get(index)
        if own is None:
            if is_for_model(block):
                blocks.append(block)
            elif (left := _left_of(block, copies)) is not None:
                blocks.append(left)
        elif (new := _with_share(block, own, copies)) is not None:
            blocks.append(new)
    return blocks


def _left_of(block: Any, copies: Copies) -> Any:
    left = copies.left(block)
    if left is block:
        return block
    # Of a recording with a transcript, the sound would repeat the text.
    if left is GONE or "audio" in kind_of(block) or not left.keys() - {"type", "id", "index"}:
        return None
    return left


def _with_share(block: Any, own: Sequence[tuple[_Place, str]], copies: Copies) -> Any:
    if isinstance(block, str):
        return own[0][1] if own[0][1] or not own[0][0].text else None
    had = any(place.text for place, _ in own)
    if had and not any(share for _, share in own) and not _holds_signature(block):
        return None
    return _shared(block, own, copies)


def _shared(value: Any, own: Sequence[tuple[_Place, str]], copies: Copies) -> Any:
    """A text block, or a part of it, with its shares and without copies beside them."""
    if not own[0][0].path:
        return own[0][1]
    below: dict[str | int, list[tuple[_Place, str]]] = {}
    for place, share in own:
        head, *rest = place.path
        below.setdefault(head, []).append((place._replace(path=tuple(rest)), share))
    if isinstance(value, list):
        items = []
        for index, one in enumerate(value):
            if index in below:
                items.append(_shared(one, below[index], copies))
            elif is_for_model(one):
                items.append(one)
            elif (left := copies.left(one)) is not GONE:
                items.append(left)
        return items
    rest_of = _rest_of({key: one for key, one in value.items() if key not in below}, own, copies)
    return {
        key: _shared(one, below[key], copies) if key in below else rest_of[key]
        for key, one in value.items()
        if key in below or key in rest_of
    }


def _rest_of(
    rest: Mapping[str, Any], own: Sequence[tuple[_Place, str]], copies: Copies
) -> dict[str, Any]:
    """What is left of a text block beside its text."""
    left: dict[str, Any] = {}
    moves: list[Moves] | None = None
    for key, value in rest.items():
        if isinstance(value, list) and LISTS.fullmatch(key):
            moves = moves or [Moves(place.text, share) for place, share in own if place.text]
            # An empty block holds what a stream tells of the text before it.
            cited = moved_citations(value, moves or copies.texts, of_text=key == "citations")
            cited = [kept for one in cited if (kept := copies.left_of_citation(one)) is not GONE]
            left[key] = value if cited == value else cited
        else:
            left.update(copies.left_of({key: value}, inner=True))
    return left


def _signed(thought: Any) -> Any:
    """What a provider wants back of a thought with a tool call; `None` if it wants nothing."""
    if isinstance(thought, list):
        return [one for inner in thought if (one := _signed(inner)) is not None] or None
    if not _holds_signature(thought):
        return None
    if "encrypted_content" in thought or str(thought.get("id", "")).startswith("rs_"):
        # OpenAI finds the thought again without its readable summary.
        kept = {key: one for key, one in thought.items() if key not in _READABLE}
        return {**kept, "summary": []} if "summary" in thought else kept
    return thought


_READABLE = frozenset("reasoning content text".split())


def _holds_signature(value: Any, depth: int = _SIGNED_WITHIN) -> bool:
    if not isinstance(value, Mapping) or not depth:
        return False
    if any(value.get(key) for key in _SIGNATURES) or str(value.get("id", "")).startswith("rs_"):
        return True
    return any(_holds_signature(inner, depth - 1) for inner in value.values())
