"""What of a message is the text of a reply, and the same message with another text."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from langchain_core.messages import AIMessage, AIMessageChunk

from langchain_metaaligner.editing.citations import LISTS, Moves, moved_citations
from langchain_metaaligner.editing.content_blocks import (
    Path,
    is_data,
    is_thought,
    is_tool,
    kind_of,
    refusal_text,
    text_at,
    text_paths,
    with_text_at,
)
from langchain_metaaligner.editing.copies import (
    GONE,
    Copies,
    count_words,
    is_plain_name,
    names_thoughts,
    names_tools,
)
from langchain_metaaligner.editing.word_diff import compare_words, split_words
from langchain_metaaligner.errors import InputTypeError

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

M = TypeVar("M", bound="BaseMessage")

REFUSAL = "refusal"
"""Why a reply is skipped that is nothing but a refusal."""

_CALLS = frozenset(
    "tool_call tool_call_chunk invalid_tool_call tool_use function_call custom_tool_call"
    " computer_call input_json_delta".split()
)
_SIGNATURES = ("signature", "thought_signature", "encrypted_content", "data", "redactedContent")
_SAID = ("audio", "refusal")
# A longer value is no plain metadata; a date and a time can have six words.
_LONGEST, _WORDS_OF_A_NAME = 256, 6
# Other keys may be texts themselves.
_KEY = re.compile(r"[\w.:/-]{1,64}", re.ASCII)
_SEARCHED = 4
# A block with more than this inside of each other is taken for text without a look.
_DEEPEST = 60
# LangChain's keys for what providers tell of a block, and for what a tool is called with.
_UNREAD = ("extras", "args")
_ADDRESS = re.compile(r"(?:data:|[a-z]+://)\S+$")


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


def reason_without_text(message: Any) -> str | None:
    """Why a reply without text is not edited, although a person would read or hear something.

    Args:
        message: A message whose `answer_text` is blank.

    Returns:
        The reason in a word or two; `None` if there is nothing to read or hear.
    """
    if getattr(message, "tool_calls", None):
        return None
    if (reason := reason_beside_text(message)) is not None:
        return reason
    audio = getattr(message, "additional_kwargs", {}).get("audio")
    return "audio" if isinstance(audio, Mapping) and audio.get("transcript") else None


def reason_beside_text(message: Any, *, refusals: bool = False) -> str | None:
    """Why something that a person would read is not part of the text that an edit may change.

    Args:
        message: A message.
        refusals: As for `answer_text`.

    Returns:
        The reason in a word or two; `None` if there is nothing else to read.
    """
    content = getattr(message, "content", "")
    if not refusals:
        if refusal_beside(message):
            return REFUSAL
        if isinstance(content, list) and any(map(refusal_text, content)):
            return REFUSAL
    for block in content if isinstance(content, list) else ():
        if isinstance(block, str) or refusal_text(block):
            continue
        sound = "audio" in kind_of(block)
        if _is_to_read(block) or (sound and _has_transcript(block)):
            return "audio" if sound else f"block of type {kind_of(block) or 'unknown'}"
    return None


def _has_transcript(block: Mapping[str, Any]) -> bool:
    return "transcript" in block or "transcript" in (block.get("extras") or ())


def _is_to_read(block: Mapping[str, Any]) -> bool:
    """Whether a block holds something that a person would read, beside its text."""
    if _is_of_model(block):
        return False
    paths = text_paths(block)
    if not paths and _is_written(block):
        return True
    for path in paths:
        block = with_text_at(block, path, "")
    return any(_holds_prose(value, key) for key, value in block.items())


def _is_written(block: Mapping[str, Any]) -> bool:
    """Whether a block is a file with text."""
    kinds = [block.get(key) for key in ("mime_type", "media_type", "mimeType")]
    return any(isinstance(kind, str) and kind.startswith("text/") for kind in kinds)


def _is_of_model(block: Any) -> bool:
    """Whether a block is for the model alone, such as a thought or a tool call."""
    return is_thought(block) or (is_tool(block) and not is_data(block))


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
    if _is_of_model(block):
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
    if isinstance(content, str):
        copies = _copies_of(given, text, refusals=refusals)
        changes["content"] = text
    else:
        places = _places(content, refusals=False)
        shares = _shares_of(places, text)
        moves = [Moves(place.text, share) for place, share in zip(places, shares, strict=True)]
        same = given is message
        copies = Copies(old, text, moves) if same else _copies_of(given, text, refusals=refusals)
        changes["content"] = _with_shares(content, places, shares, copies)
        if not places:
            changes["content"].append({"type": "text", "text": text})
    if beside:
        # A recording is the reply as sound, which the provider also finds again by its id.
        silent = {key: value for key, value in beside.items() if key != "audio" or not value}
        changes["additional_kwargs"] = copies.left_of(silent)
    left = copies.left_of(message.response_metadata)
    changes["response_metadata"] = {**left, **metadata} if metadata else left
    if extra:
        changes.update(_changed(message, extra, copies.left_of(extra)))
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
    beside = _plain_metadata(quiet, copies)
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
            **_plain_metadata(message.response_metadata, copies),
            **(metadata or {}),
        },
    }
    if extra := _fields_beside(message):
        changes.update(_changed(message, extra, {}))
    return message.model_copy(update=changes)


def _fields_beside(message: BaseMessage) -> dict[str, Any]:
    """The fields of a message that LangChain's own classes don't have."""
    extra: dict[str, Any] = getattr(message, "__pydantic_extra__", None) or {}
    kind = type(message)
    if kind in _OWN_CLASSES:
        return extra
    own = kind.model_fields.keys() - AIMessageChunk.model_fields.keys()
    return {**{name: getattr(message, name) for name in own}, **extra}


_OWN_CLASSES = (AIMessage, AIMessageChunk)


def _changed(
    message: BaseMessage, fields: Mapping[str, Any], left: Mapping[str, Any]
) -> dict[str, Any]:
    """What becomes of fields: what is left of them, else their default."""
    changed = {}
    for name, value in fields.items():
        field = type(message).model_fields.get(name)
        if name in left:
            changed.update({} if left[name] is value else {name: left[name]})
        elif field is None or field.is_required():
            changed[name] = None
        else:
            changed[name] = field.get_default(call_default_factory=True)
    return changed


def left_beside(
    given: Mapping[str, Any], message: BaseMessage, text: str, *, refusals: bool, plain: bool
) -> dict[str, Any]:
    """What is left of metadata that came beside a message whose text was changed.

    Args:
        given: The metadata.
        message: The message as the model made it.
        text: The text that takes the place of its own.
        refusals: As for `answer_text`.
        plain: Whether only plain metadata may stay, as for a blocked message.

    Returns:
        A copy.
    """
    copies = _copies_of(message, text, refusals=refusals)
    return _plain_metadata(given, copies) if plain else copies.left_of(given)


def _plain_metadata(given: Mapping[str, Any], copies: Copies) -> dict[str, Any]:
    """Numbers, names and other short values: how a reply was made, but not what it says."""
    return _plain(copies.left_of(given, inner=True), 0) or {}


def _plain(value: Any, depth: int, name: str = "") -> Any:
    """The plain part of a value; `None` if there is none."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        most = _WORDS_OF_A_NAME if is_plain_name(name) else 1
        return value if len(value) <= _LONGEST and count_words(value) <= most else None
    if depth > _SEARCHED:
        return None
    if isinstance(value, Mapping):
        kept = {}
        for key, inner in value.items():
            if not isinstance(key, str) or LISTS.fullmatch(key) or _KEY.fullmatch(key) is None:
                continue
            if names_thoughts(key) or names_tools(key):
                continue
            if inner is None or (one := _plain(inner, depth + 1, key)) is not None:
                kept[key] = None if inner is None else one
        return kept
    if isinstance(value, list):
        if sum(count_words(one) for one in value if isinstance(one, str)) > _WORDS_OF_A_NAME:
            value = [one for one in value if not isinstance(one, str)]
        return [one for inner in value if (one := _plain(inner, depth + 1, name)) is not None]
    return None


def _copies_of(message: BaseMessage, text: str, *, refusals: bool) -> Copies:
    """Finds copies of a message's text, which another text replaces."""
    texts = [one for one in _texts_of(message, refusals=refusals) if one]
    shares = _share_out(texts, text) if texts else ()
    return Copies("".join(texts), text, list(map(Moves, texts, shares)))


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
    metadata = _without_refusal(dict(message.response_metadata))
    if len(metadata) < len(message.response_metadata):
        changes["response_metadata"] = metadata
    return message.model_copy(update=changes) if changes else message


def _longer(content: Sequence[Any], more: str) -> list[Any]:
    """A content with more text at the end of its last text."""
    filled = [place for place in _places(content, refusals=False) if place.text]
    if not filled:
        return [*content, {"type": "text", "text": more}]
    last = filled[-1]
    block = with_text_at(content[last.block], last.path, last.text + more)
    return [*content[: last.block], block, *content[last.block + 1 :]]


def _as_text(refusal: Mapping[str, Any], said: str) -> dict[str, Any]:
    kept = {key: refusal[key] for key in ("id", "index", "extras") if key in refusal}
    return {"type": "text", "text": said, **kept}


def refusal_beside(message: Any, *, explained: bool = True) -> str:
    """A refusal that the provider reports outside of the content, or explains there.

    Args:
        message: A message.
        explained: Whether an explanation counts. In a context it does so only without a text.

    Returns:
        The refusal; empty if there is none.
    """
    said = getattr(message, "additional_kwargs", {}).get("refusal")
    if isinstance(said, str) and said:
        return said
    if not explained:
        return ""
    for where, key, marks in _REFUSALS:
        metadata = getattr(message, "response_metadata", {})
        if str(metadata.get(where)) in marks:
            for name in key:
                metadata = metadata.get(name) if isinstance(metadata, Mapping) else None
            if isinstance(metadata, str):
                return metadata
    return ""


EXPLANATIONS = ("stop_details", "finish_message")
"""Metadata in which providers explain a refusal."""

# Where providers mark a refusal, under which key they explain it, and by which marks.
_REFUSALS: tuple[tuple[str, tuple[str, ...], frozenset[str]], ...] = (
    ("stop_reason", ("stop_details", "explanation"), frozenset({"refusal"})),
    (
        "finish_reason",
        ("finish_message",),
        frozenset({"SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST"}),
    ),
)


def _without_refusal(metadata: dict[str, Any]) -> dict[str, Any]:
    for where, key, marks in _REFUSALS:
        if str(metadata.get(where)) in marks:
            metadata.pop(where)
            metadata.pop(key[0], None)
    return metadata


def _with_shares(
    content: Sequence[Any], places: Sequence[_Place], shares: Sequence[str], copies: Copies
) -> list[Any]:
    of_block: dict[int, list[tuple[_Place, str]]] = {}
    for place, share in zip(places, shares, strict=True):
        of_block.setdefault(place.block, []).append((place, share))
    blocks: list[Any] = []
    for index, block in enumerate(content):
        own = of_block.get(index)
        if own is None:
            if _is_of_model(block):
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
    new = block
    for place, share in own:
        new = with_text_at(new, place.path, share)
    return _cleaned(new, own, copies)


def _cleaned(value: Any, own: Sequence[tuple[_Place, str]], copies: Copies) -> Any:
    """A text block, or a part of it, without copies beside its own texts."""
    if not own[0][0].path:
        return value
    heads = {place.path[0] for place, _ in own}
    if isinstance(value, list):
        items = []
        for index, one in enumerate(value):
            if index in heads:
                items.append(_cleaned(one, _below(own, index), copies))
            elif _is_of_model(one):
                items.append(one)
            elif (left := copies.left(one)) is not GONE:
                items.append(left)
        return items
    rest = _rest_of({key: one for key, one in value.items() if key not in heads}, own, copies)
    return {
        key: _cleaned(one, _below(own, key), copies) if key in heads else rest[key]
        for key, one in value.items()
        if key in heads or key in rest
    }


def _below(own: Sequence[tuple[_Place, str]], key: str | int) -> list[tuple[_Place, str]]:
    return [
        (place._replace(path=place.path[1:]), share) for place, share in own if place.path[0] == key
    ]


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
            # Without its quote, a provider would refuse a citation.
            cited = [one for one in cited if copies.left(one) is one]
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


def _holds_signature(value: Any, depth: int = _SEARCHED) -> bool:
    if not isinstance(value, Mapping) or not depth:
        return False
    if any(value.get(key) for key in _SIGNATURES) or str(value.get("id", "")).startswith("rs_"):
        return True
    return any(_holds_signature(inner, depth - 1) for inner in value.values())


def _holds_prose(value: Any, name: Any, depth: int = _DEEPEST) -> bool:
    """Whether a part of a block that is not its text can be read.

    Args:
        value: The part.
        name: Its key.
        depth: How deep it is searched; what is deeper counts as text.
    """
    name = name if isinstance(name, str) else ""
    if name in _UNREAD or LISTS.fullmatch(name) or names_thoughts(name) or names_tools(name):
        return False
    if isinstance(value, str):
        if _ADDRESS.match(value) is not None:
            return value.startswith("data:text/")
        return count_words(value) > (_WORDS_OF_A_NAME if is_plain_name(name) else 1)
    if isinstance(value, Mapping):
        if _is_of_model(value):
            return False
        if _is_written(value):
            return True
        items = list(value.items())
    else:
        items = [(name, one) for one in value] if isinstance(value, list) else []
    return bool(items) and (
        not depth or any(_holds_prose(one, key, depth - 1) for key, one in items)
    )


def _shares_of(places: Sequence[_Place], text: str) -> list[str]:
    """The part of a new text for each place; empty places stay empty where others are not."""
    filled = [place.text for place in places if place.text]
    if not filled:
        return [text if index == 0 else "" for index in range(len(places))]
    shares = iter(_share_out(filled, text))
    return [next(shares) if place.text else "" for place in places]


def _share_out(old: Sequence[str], text: str) -> list[str]:
    """Split a text at the positions that match the borders between the old texts."""
    if len(old) == 1:
        return [text]
    before, after = split_words("".join(old)), split_words(text)
    starts = _offsets(after)
    moves = compare_words(before, after)
    cuts, border = [0], 0
    word_ends, move_ends = _offsets(before), [i2 for _, _, i2, _, _ in moves]
    for piece in old[:-1]:
        border += len(piece)
        # A border inside a word moves to the end of the word.
        index = bisect_left(word_ends, border)
        cut = 0
        if moves:
            tag, i1, _, j1, j2 = moves[bisect_left(move_ends, index)]
            cut = j1 + min(index - i1, j2 - j1) if tag == "equal" else j2
        cuts.append(max(starts[cut], cuts[-1]))
    return [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def _offsets(words: Sequence[str]) -> list[int]:
    return list(accumulate(map(len, words), initial=0))
