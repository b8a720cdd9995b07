"""What a policy reads in the content of a message, as text for the context of an edit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Number
from typing import Any
from uuid import UUID

from langchain_metaaligner.editing.content_blocks import (
    block_text,
    is_thought,
    is_tool,
    kind_of,
    refusal_text,
)
from langchain_metaaligner.editing.refusals import refusal_beside

_DEPTH = 8

# Where blocks and what is inside them keep what a model reads, in the order in which it is written.
_READ = (
    "title", "filename", "context", "source", "text", "value", "content", "page_content",
    "document", "output", "outputs", "result", "results", "response", "stdout", "stderr", "logs",
    "snippet", "summary", "error", "error_code",
)  # fmt: skip
# One of these tells that a mapping without a type is a provider's result, and not any data.
_OUTPUTS = frozenset("text content output outputs result results stdout logs response".split())
# The same where a type tells that it is text, or nothing tells that it is something else.
_DATA_OF_TEXT = "data"
_FORMATS = frozenset("type mime_type mimeType media_type format".split())
# Results that some integrations keep beside a reply's content.
_RESULTS_BESIDE = ("tool_outputs", "executed_tools")

_MEDIA = ("image", "audio", "video", "file", "document", "media", "container", "inline_data")
_SHOWN = {"image": "[image]", "audio": "[audio]", "video": "[video]"}
# Of a file or a picture, nothing is read but what is given as text.
_ENCODED_SOURCES = ("base64", "url", "file", "file_id", "file_uri", "bytes", "id")
_DOCUMENTS = ("search_result", "document", "text_plain", "file", "guard_content", "compaction",
              "citations_content")  # fmt: skip
_SILENT = frozenset("cache_point executable_code item_reference mcp_list_tools mcp_approval_request"
                    " mcp_approval_response tool_reference input_json_delta".split())  # fmt: skip
_RESULT_ENDS = ("_call", "_call_output", "_tool_result", "_result", "_output", "_response")
# Keys of every block that say nothing of what it is.
_BESIDE_THE_KIND = frozenset(["type", "index", "id", "cache_control", "extras"])


@dataclass(frozen=True, slots=True)
class Said:
    """One piece of what a message says.

    Attributes:
        text: The text.
        kind: `text`, `shown` for a word in brackets that stands for something else, or `tool` for
            what a tool returned.
    """

    text: str
    kind: str = "text"


def read_content(message: Any) -> list[Said]:
    """Read what a message says.

    Texts, refusals, search results, documents and data are read as they are, data as compact JSON,
    and a recording as its transcript. Images and files become a word in brackets. Thoughts and
    calls of tools say nothing. What a provider's own tool returned becomes `[tool NAME] text`.

    Args:
        message: A message.

    Returns:
        The pieces, in order.
    """
    content, beside = message.content, message.additional_kwargs
    said = [Said(content)] if isinstance(content, str) and content else []
    blocks = [] if isinstance(content, str) else list(content)
    names = {
        str(one.get("id")): one["name"]
        for one in blocks
        if isinstance(one, Mapping) and isinstance(one.get("name"), str)
    }
    is_result = message.type in ("tool", "function")
    said.extend(one for block in blocks for one in _read_block(block, names, is_result=is_result))
    returned = [
        one
        for key in _RESULTS_BESIDE
        for result in (beside.get(key) if isinstance(beside.get(key), list) else ())
        for one in _of_a_tool(*_kind_and_body(result), names)
    ]
    said = [*returned, *said]
    for more in (_spoken(beside.get("audio")), refusal_beside(message, explained=not said)):
        if more not in [one.text for one in said]:
            said.append(Said(more))
    return [one for one in said if one.text]


def joined(said: list[Said], *, between: str) -> str:
    """Join pieces.

    Args:
        said: The pieces.
        between: What stands between two texts; everything else has a line of its own.

    Returns:
        The text.
    """
    text = ""
    last = "text"
    for one in said:
        joint = between if one.kind == last == "text" else "\n"
        text = f"{text}{joint}{one.text}" if text else one.text
        last = one.kind
    return text


def _read_block(block: Any, names: Mapping[Any, Any], *, is_result: bool) -> Iterator[Said]:
    if isinstance(block, Mapping) and kind_of(block) == "non_standard":
        block = block.get("value")
    if is_thought(block):
        return
    kind, body = _kind_and_body(block)
    if kind in _SILENT or is_thought({"type": kind}):
        return
    refusal = refusal_text(block)
    if refusal is not None:
        yield Said(refusal)
    elif kind in _DOCUMENTS:
        yield from _of_a_document(kind, body)
    elif (text := block_text(block)) is not None:
        yield Said(text)
    elif kind == "json":
        yield Said(_as_json(body.get("json", body)))
    elif kind and (is_tool(block) or "tool" in kind or kind.startswith("function_")):
        # The message of a tool has the tool's name already.
        yield from _of_a_tool(kind, body, None if is_result else names)
    elif any(word in kind for word in _MEDIA):
        spoken = _spoken(body)
        yield Said(spoken) if spoken else Said(_shown(kind), "shown")
    elif read := _texts(body, _DEPTH, results=is_result):
        yield Said("\n".join(read))
    elif is_result and block:
        yield Said(_as_json(block))
    else:
        yield Said(f"[{kind}]" if re.fullmatch(r"\w{1,40}", kind) else "[data]", "shown")


def _kind_and_body(block: Any) -> tuple[str, Mapping[str, Any]]:
    """The type of a block, in snake case, and what is in it.

    Some providers name the type by the block's only key.
    """
    if not isinstance(block, Mapping):
        return "", {}
    kind = kind_of(block)
    body = block
    if not kind:
        keys = [key for key in block if key not in _BESIDE_THE_KIND]
        kind = str(keys[0]) if len(keys) == 1 and _snake(str(keys[0])) in _BY_KEY else ""
    inner = block.get(kind)
    if isinstance(inner, Mapping) and kind != "json":
        body = inner
    elif isinstance(inner, str) and kind == "code_execution_result":
        body = {"output": inner}
    return _snake(kind), body


_BY_KEY = frozenset(
    "image audio video document json tool_use tool_result cache_point guard_content search_result"
    " reasoning_content citations_content inline_data file_data function_call function_response"
    " executable_code code_execution_result".split()
)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).replace("-", "_").lower()


def _of_a_document(kind: str, body: Mapping[str, Any]) -> Iterator[Said]:
    read = _inside(body, _DEPTH)
    titles = [
        one for key in ("title", "filename", "context") if isinstance(one := body.get(key), str)
    ]
    if len(read) > len(titles):
        yield Said("\n".join(read))
    elif kind in ("document", "file", "text_plain"):
        yield Said("[file]", "shown")


def _spoken(recording: Any) -> str:
    """What is said in a recording, as far as its provider tells."""
    said = recording.get("transcript") if isinstance(recording, Mapping) else None
    return said if isinstance(said, str) else ""


def _of_a_tool(
    kind: str, body: Mapping[str, Any], names: Mapping[Any, Any] | None
) -> Iterator[Said]:
    if "image" in kind:
        yield Said("[image]", "shown")
        return
    said = "\n".join(_inside(body, _DEPTH, results=True)).rstrip()
    if not said:
        return
    if names is None:
        yield Said(said)
        return
    name = body.get("name")
    if not isinstance(name, str):
        name = names.get(str(body.get("tool_use_id") or body.get("tool_call_id")))
    if name is None:
        extras = body.get("extras")
        name = str(extras.get("block_type") or kind) if isinstance(extras, Mapping) else kind
        for end in _RESULT_ENDS:
            name = name.removesuffix(end)
        name = "" if name in ("tool", "server", "server_tool", "mcp", "function") else name
    yield Said(f"[tool {name}] {said}" if name else f"[tool] {said}", "tool")


def _texts(value: Any, depth: int, *, results: bool = False) -> list[str]:
    """The texts inside a value that a model reads, in order.

    Args:
        value: A block, or something inside it.
        depth: How many levels are looked through.
        results: Whether data without a type is what a tool returned.
    """
    if isinstance(value, str):
        return [value] if value.strip() and not _is_encoded(value) else []
    if not depth or value is None:
        return []
    if isinstance(value, list | tuple):
        return [text for one in value for text in _texts(one, depth - 1, results=results)]
    if not isinstance(value, Mapping):
        return [_as_json(value)] if results else []
    if is_thought(value):
        return []
    kind = _snake(kind_of(value))
    if kind in _ENCODED_SOURCES or any(word in kind for word in ("image", "audio", "video")):
        return []
    if "json" in value:
        return [_as_json(value["json"])]
    if results and not kind and _OUTPUTS.isdisjoint(value):
        return [_as_json(value)] if value else []
    return _inside(value, depth - 1, results=results)


def _inside(value: Mapping[str, Any], depth: int, *, results: bool = False) -> list[str]:
    """The texts inside a mapping that a model reads; as `_texts`."""
    keys = [key for key in _READ if value.get(key)]
    if _DATA_OF_TEXT in value and (kind_of(value) == "text" or _FORMATS.isdisjoint(value)):
        keys.append(_DATA_OF_TEXT)
    return [text for key in keys for text in _texts(value[key], depth, results=results)]


def _shown(kind: str) -> str:
    return next((shown for word, shown in _SHOWN.items() if word in kind), "[file]")


_ENCODED = re.compile(r"data:[\w.+/-]{1,100};base64,|[A-Za-z0-9+/=_-]{256,}\Z")


def _is_encoded(text: str) -> bool:
    """Whether a text is data in base64, or a signature."""
    return _ENCODED.match(text) is not None


def _as_json(value: Any) -> str:
    """A value as compact JSON, without data in base64."""
    try:
        return json.dumps(
            _readable(value, _DEPTH), ensure_ascii=False, separators=(",", ":"), default=_plain
        )
    except (TypeError, ValueError, RecursionError):
        return "[data]"


def _readable(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return "[data]" if _is_encoded(value) else value
    if isinstance(value, Mapping) and depth:
        return {str(key): _readable(one, depth - 1) for key, one in value.items()}
    if isinstance(value, list | tuple) and depth:
        return [_readable(one, depth - 1) for one in value]
    return value


def _plain(value: Any) -> str:
    """A value that JSON does not know, as far as its text is no `repr` of an object."""
    as_date: Callable[[], str] | None = getattr(value, "isoformat", None)
    if as_date is not None:
        return as_date()
    return str(value) if isinstance(value, Number | UUID) else "[data]"
