"""What a person would read or hear beside the text of a reply, and so why it is left alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from langchain_metaaligner.editing.citations import LISTS
from langchain_metaaligner.editing.content_blocks import (
    is_for_model,
    kind_of,
    refusal_text,
    text_paths,
    with_texts_at,
)
from langchain_metaaligner.editing.copies import (
    DEEPEST,
    WORDS_OF_A_NAME,
    count_words,
    is_plain_name,
    names_thoughts,
    names_tools,
)
from langchain_metaaligner.editing.refusals import refusal_beside

_REFUSAL = "refusal"
# LangChain's keys for what providers tell of a block, and for what a tool is called with.
_UNREAD = ("extras", "args")
_ADDRESS = re.compile(r"[a-z]+://\S+$")
_DATA_ADDRESS = re.compile(r"data:[\w.+-]{1,64}/[\w.+-]{1,64}[;,]")
# Pictures and sound are long; the beginning tells them from text.
_DATA = frozenset("base64 b64_json bytes data file_data".split())
_ENCODED = re.compile(r"[\w+/=-]{64}", re.ASCII)
_BEGINNING = 1024


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
            return _REFUSAL
        if isinstance(content, list) and any(map(refusal_text, content)):
            return _REFUSAL
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
    if is_for_model(block):
        return False
    paths = text_paths(block)
    if not paths and _is_written(block):
        return True
    silent = with_texts_at(block, [(path, "") for path in paths])
    return any(_holds_prose(value, key) for key, value in silent.items())


def _is_written(block: Mapping[str, Any]) -> bool:
    """Whether a block is a file with text."""
    kinds = [block.get(key) for key in ("mime_type", "media_type", "mimeType")]
    return any(isinstance(kind, str) and kind.startswith("text/") for kind in kinds)


def _holds_prose(value: Any, name: Any, depth: int = DEEPEST) -> bool:
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
        return _is_prose(value, name)
    if isinstance(value, Mapping):
        if is_for_model(value):
            return False
        if _is_written(value):
            return True
        items = list(value.items())
    else:
        items = [(name, one) for one in value] if isinstance(value, list) else []
    return bool(items) and (
        not depth or any(_holds_prose(one, key, depth - 1) for key, one in items)
    )


def _is_prose(value: str, name: str) -> bool:
    if _DATA_ADDRESS.match(value) is not None:
        return value.startswith("data:text/")
    if _ADDRESS.match(value) is not None or (name in _DATA and _ENCODED.match(value) is not None):
        return False
    most = WORDS_OF_A_NAME if is_plain_name(name) else 1
    return count_words(value[:_BEGINNING]) > most or count_words(value) > most
