"""What the blocks of a message's content are: text, refusals, thoughts, tools or media."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Path = tuple[str | int, ...]
"""Keys and indices that lead from a block to a text inside it; empty for a block that is text."""

_THOUGHTS = frozenset(
    "reasoning thinking redacted_thinking reasoning_content thought thoughts".split()
)
_MEDIA = re.compile(
    r"(input_)?(image|audio|video|file|document|media)(_url|_uri|_data)?|container_upload"
)
_TOOLS = frozenset(
    "executable_code computer_call input_json_delta json search_result compaction guard_content"
    " guardContent cachePoint cache_point item_reference mcp_list_tools mcp_approval_request"
    " mcp_approval_response".split()
)
_CARRIERS = frozenset(["message", "output_message"])
_DEPTH = 5


def kind_of(block: Any) -> str:
    """The type of a content block.

    Args:
        block: A block of any provider.

    Returns:
        Its type; `text` for a string, and empty if a mapping does not tell.
    """
    if isinstance(block, str):
        return "text"
    return str(block.get("type") or "") if isinstance(block, Mapping) else ""


def is_thought(block: Any) -> bool:
    """Whether a block contains what the model thought, which is never the text of its reply.

    Args:
        block: A block of any provider.
    """
    if not isinstance(block, Mapping):
        return False
    if kind_of(block) == "non_standard":
        return is_thought(block.get("value"))
    return (
        kind_of(block) in _THOUGHTS
        or block.get("thought") is True
        or ("type" not in block and not _THOUGHTS.isdisjoint(block))
    )


def is_tool(block: Any) -> bool:
    """Whether a block calls a tool, says what a tool returned, or is an instruction for a provider.

    Args:
        block: A block of any provider.
    """
    kind = kind_of(block)
    if kind == "non_standard":
        return is_tool(block.get("value"))
    return kind in _TOOLS or "tool" in kind or kind.endswith(_TOOL_ENDS)


def is_for_model(block: Any) -> bool:
    """Whether a block is for the model alone, such as a thought or a tool call.

    Args:
        block: A block of any provider.
    """
    return is_thought(block) or (is_tool(block) and not _is_shown(block))


def _is_shown(block: Any) -> bool:
    """Whether a block of a tool's kind is data that a person may read, as part of a reply."""
    kind = kind_of(block)
    return _is_shown(block.get("value")) if kind == "non_standard" else kind in _SHOWN


_SHOWN = ("json", "search_result")
_TOOL_ENDS = ("_call", "_call_chunk", "_call_output", "_result")


def is_media(block: Any) -> bool:
    """Whether a block is an image, a recording, a video or a file.

    Args:
        block: A block of any provider.
    """
    return _MEDIA.fullmatch(kind_of(block)) is not None


def refusal_text(block: Any) -> str | None:
    """The text of a refusal that the provider marks as one.

    Args:
        block: A block of any provider.

    Returns:
        The text; `None` if the block is no refusal.
    """
    kind = kind_of(block)
    if kind == "non_standard":
        return refusal_text(block.get("value"))
    untyped = not kind and isinstance(block, Mapping) and isinstance(block.get("refusal"), str)
    if kind != "refusal" and not untyped:
        return None
    said = block.get("refusal", block.get("text"))
    return said if isinstance(said, str) else ""


def text_paths(block: Any) -> list[Path]:
    """Where the texts of a block are, as far as they are part of what the reply says.

    Known are plain strings, `text`, `output_text`, `text-plain`, `{"text": ...}` without a type,
    `{"text": {"value": ...}}`, messages with blocks of their own, and all these inside a
    `non_standard` block. Of an unknown type, its `text`, its `content`, its `parts` or the key
    named like the type counts, which may also hold blocks.

    Args:
        block: A block of any provider.

    Returns:
        The paths, in order.
    """
    return list(_text_paths(block, _DEPTH))


def _text_paths(block: Any, depth: int) -> Iterator[Path]:
    if isinstance(block, str):
        yield ()
        return
    if not isinstance(block, Mapping) or not depth:
        return
    kind = kind_of(block)
    if kind == "non_standard":
        yield from _inside(block, "value", depth)
        return
    if refusal_text(block) is not None or is_thought(block) or is_tool(block) or is_media(block):
        return
    if kind in _CARRIERS or (not kind and "role" in block):
        yield from _inside(block, "content", depth)
        return
    for key in ("text", "content", kind):
        value = block.get(key)
        if isinstance(value, str):
            yield (key,)
            return
        if key == "text" and isinstance(value, Mapping) and isinstance(value.get("value"), str):
            yield (key, "value")
            return
    for key in ("text", "content", "parts", kind or _only_key(block)):
        if isinstance(block.get(key), list | Mapping):
            yield from _inside(block, key, depth)
            return


def _only_key(block: Mapping[str, Any]) -> str:
    """The key that names what a block is, where providers give it no type."""
    keys = block.keys() - {"index", "id"}
    return str(*keys) if len(keys) == 1 else ""


def _inside(block: Mapping[str, Any], key: str, depth: int) -> Iterator[Path]:
    value = block.get(key)
    if isinstance(value, list):
        for index, one in enumerate(value):
            for path in _text_paths(one, depth - 1):
                yield (key, index, *path)
    else:
        for path in _text_paths(value, depth - 1):
            yield (key, *path)


def text_at(block: Any, path: Path) -> str:
    """The text at a path.

    Args:
        block: The block.
        path: A path that `text_paths` returned for it.

    Returns:
        The text.
    """
    for key in path:
        block = block[key]
    return str(block)


def with_texts_at(block: Any, texts: Sequence[tuple[Path, str]]) -> Any:
    """Replace the texts at some paths, in one pass.

    Args:
        block: The block, which is not modified.
        texts: Paths that `text_paths` returned for it, with the new texts.

    Returns:
        A copy of the block; the block itself if there is nothing to replace.
    """
    if not texts:
        return block
    if not texts[0][0]:
        return texts[0][1]
    by_head: dict[str | int, list[tuple[Path, str]]] = {}
    for (head, *rest), text in texts:
        by_head.setdefault(head, []).append((tuple(rest), text))
    if isinstance(block, list):
        return [with_texts_at(one, by_head.get(index, ())) for index, one in enumerate(block)]
    return {key: with_texts_at(one, by_head.get(key, ())) for key, one in block.items()}


def block_text(block: Any) -> str | None:
    """The text of a content block that is part of what the reply says.

    Args:
        block: A block of any provider.

    Returns:
        The text; `None` if it is not a text block.
    """
    if isinstance(block, str):
        return block
    paths = text_paths(block)
    return "".join([text_at(block, path) for path in paths]) if paths else None
