"""Finds copies of a changed text in the rest of a message, and leaves them out."""

from __future__ import annotations

import base64
import html
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from enum import Enum, auto
from functools import cached_property, lru_cache
from typing import Any, Final
from urllib.parse import unquote_plus

from langchain_metaaligner.editing.citations import LISTS, Moves, moved_citations
from langchain_metaaligner.editing.word_diff import share_out

GONE: Final = object()
"""Stands for a value that is or holds a copy."""

# Scripts that are written without spaces, where each character counts as a word.
_DENSE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORDS = re.compile(rf"[{_DENSE}]|[^\W_{_DENSE}]+")
_DENSE_WORD = re.compile(f"[{_DENSE}]")
# How many words in a row are a span of the text; a single word can be anything.
_SPAN, _DENSE_SPAN = 2, 4
# A text of one word is found where it stands alone, if it is no shorter than this.
_SHORTEST = 4

DEEPEST: Final = 60
"""Nesting deeper than this is not searched, and so counts as text."""

WORDS_OF_A_NAME: Final = 6
"""How many words a plain value may have, such as a date and a time."""

_GOES_WITH_THE_TEXT = re.compile(r"(?i)(?:.*log_?probs?(?:_?results?)?|parsed)")
_LISTS_OF_TOKENS = re.compile(r"(?i)(?:tokens|(?:\w+_)?(?:token|output)_?ids|text_?offsets?)")
# Where a list of numbers is the text as its tokens; a list of texts may be what the model has read.
_IDS = re.compile(r"(?i)(?:tokens|context|(?:\w+_)?(?:token|output)_?ids)")
_PLAIN = re.compile(
    r"(?i:(?:.*[_-])?(?:ids?|index|type|role|kind|object|(?:file)?name|model|version|provider"
    r"|reasons?|status"
    r"|tier|fingerprint|category|severity|probability|language|lang|created|created_?at|format"
    r"|modality|mode|phase|region|ur[il]|domain|mime_?type|signature))"
    r"|.*[a-z](?:Id|Reason|Name|Type|Version|Model|Tier|At)"
)
_STORED = re.compile(r"(?i)(?:previous_)?(?:response|conversation|interaction)(?:_?id)?")
_STORED_ID = re.compile(r"(?:resp|conv|interactions?)[_/][\w./-]+")
_URL = re.compile(r"https?://\S+")
_THOUGHTS = re.compile(r"(?i).*(?:reasoning|thinking|thoughts?)(?:_?(?:content|details?|blocks?))?")
_TOOLS = frozenset(
    "tool_calls function_call __gemini_function_call_thought_signatures__"
    " __openai_function_call_ids__ tool_outputs".split()
)


@lru_cache(maxsize=1024)
def _names_tokens(key: str) -> tuple[bool, bool, bool]:
    """Whether a key names what says each token, and a list and a list of numbers that do."""
    odds, tokens, ids = (
        one.fullmatch(key) is not None for one in (_GOES_WITH_THE_TEXT, _LISTS_OF_TOKENS, _IDS)
    )
    return odds, tokens, ids


def _goes_with_the_text(key: str, value: Any, *, recorded: bool) -> bool:
    odds, tokens, ids = _names_tokens(key)
    if not recorded and (odds or (tokens and isinstance(value, list))):
        return True
    return ids and _holds_numbers(value)


def _holds_numbers(value: Any, *, nested: bool = True) -> bool:
    """Whether a value is a list of whole numbers, or of such lists."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(one) is int or (nested and _holds_numbers(one, nested=False)) for one in value)
    )


@lru_cache(maxsize=1024)
def is_plain_name(key: str) -> bool:
    """Whether a key is known to name plain metadata, such as a model or why a reply ended.

    Args:
        key: The key.
    """
    return _PLAIN.fullmatch(key) is not None


@lru_cache(maxsize=1024)
def names_thoughts(key: str) -> bool:
    """Whether a key is known to hold what the model thought.

    Args:
        key: The key.
    """
    return _THOUGHTS.fullmatch(key) is not None


def count_words(value: str) -> int:
    """How many words a text has; of scripts without spaces, each character is one.

    Args:
        value: The text.
    """
    return len(value.split()) + len(_DENSE_WORD.findall(value))


def names_tools(key: str) -> bool:
    """Whether a key is known to hold tool calls, or what providers need with them.

    Args:
        key: The key.
    """
    return key in _TOOLS


def is_stored_reply(key: str, value: Any) -> bool:
    """Whether a value tells a provider to go on from a reply that it has stored.

    Args:
        key: The value's key.
        value: The value.
    """
    if not isinstance(value, str):
        return False
    return _STORED.fullmatch(key) is not None or _STORED_ID.fullmatch(value) is not None


class _Within(Enum):
    """In what a value stands, which decides what its name says."""

    METADATA = auto()
    RECORD = auto()
    """JSON in a text: nobody reads its names, and a copy in it takes all of it away."""
    CITATION = auto()
    """Where a title is that of the source."""


class Copies:
    """Finds copies of a text that was changed: all of it, a span that was edited, or its tokens.

    Args:
        original: The text before the edit.
        edited: The text after the edit, which may contain parts of the original.
        parts: The texts that the whole text is made of, if there are several; citations may point
            into them.
    """

    def __init__(self, original: str, edited: str, parts: Sequence[str] = ()) -> None:
        self._original, self._edited = original, edited
        self._parts = parts
        self._whole = original.strip()
        self._known: dict[int, tuple[Any, Any]] = {}

    @cached_property
    def shares(self) -> Sequence[str]:
        """The part of the edited text for each of the texts that the original is made of."""
        return share_out(self._parts, self._edited)

    @cached_property
    def texts(self) -> Sequence[Moves]:
        """The texts that citations may point into."""
        whole = Moves(self._original, self._edited)
        several = len(self._parts) > 1
        return (whole, *map(Moves, self._parts, self.shares)) if several else (whole,)

    @cached_property
    def _gone(self) -> tuple[frozenset[tuple[str, ...]], frozenset[tuple[str, ...]]]:
        """The spans that only the original has, as they are written and in lower case."""
        before = [self._original]
        if len(self._parts) > 1:
            # Two texts without a space between them share a word, but only in the whole text.
            before.append("\n".join(self._parts))
        after = self._edited
        exact = _spans_of_all(before) - _spans_of_all([after])
        lower = _spans_of_all(map(str.casefold, before)) - _spans_of_all([after.casefold()])
        return exact, lower

    @cached_property
    def _one_word(self) -> bool:
        texts = {self._original, *self._parts}
        return not any(next(iter(_spans_of(one)), None) for one in texts)

    def in_text(self, text: str) -> bool:
        """Whether a text holds a copy.

        Args:
            text: The text, which may be escaped for JSON, HTML or a URL.
        """
        if self._in(text):
            return True
        return any(self._in(one) for one in _unescaped(text))

    def _in(self, text: str) -> bool:
        if self._one_word:
            known = len(self._whole) >= _SHORTEST and self._whole not in self._edited
            return known and text.strip() == self._whole
        if self._whole in text and self._whole not in self._edited:
            return True
        spans = list(_spans_of(text))
        if not spans:
            return False
        exact, lower = self._gone
        return not (exact.isdisjoint(spans) and lower.isdisjoint(_spans_of(text.casefold())))

    def _is_whole(self, value: str) -> bool:
        """Whether a value holds all of the text."""
        if self._one_word:
            return self._in(value)
        return self._whole in value and self._whole not in self._edited

    def left_of(self, given: Mapping[str, Any], *, inner: bool = False) -> dict[str, Any]:
        """What is left of a mapping without the copies in it.

        Args:
            given: The mapping, which is not modified.
            inner: Whether it belongs to a part of the message, so that keys of whole messages
                mean nothing in it.

        Returns:
            A copy.
        """
        left: dict[str, Any] = {}
        for key, value in given.items():
            if not inner and (names_tools(key) or names_thoughts(key)):
                left[key] = value
            elif (kept := self._left(value, key)) is not GONE:
                left[key] = kept
        return left

    def left(self, value: Any) -> Any:
        """What is left of a value without the copies in it.

        Args:
            value: Any value, which is not modified.

        Returns:
            The value itself if it holds no copy; else a copy without them, or `GONE`.
        """
        return self._left(value)

    def left_of_citation(self, entry: Any) -> Any:
        """What is left of a citation, whose offsets fit the edited text.

        Args:
            entry: The citation, which is not modified.

        Returns:
            The citation itself if it holds no copy; else a copy without them. `GONE` if it quotes
            a copy, because without its quote a provider would refuse it.
        """
        return GONE if self._is_quoted(entry) else self._left(entry, within=_Within.CITATION)

    def _is_quoted(self, value: Any, name: Any = "", depth: int = 0) -> bool:
        if isinstance(value, str):
            return name in _QUOTES and self.in_text(value)
        if depth > DEEPEST:
            return False
        if isinstance(value, Mapping):
            return any(self._is_quoted(one, key, depth + 1) for key, one in value.items())
        if isinstance(value, list):
            return any(self._is_quoted(one, name, depth + 1) for one in value)
        return False

    def _left(
        self, value: Any, key: Any = "", depth: int = 0, within: _Within = _Within.METADATA
    ) -> Any:
        if value is None or isinstance(value, bool | int | float | complex):
            return value
        name = key if isinstance(key, str) else ""
        recorded = within is _Within.RECORD
        if name and _goes_with_the_text(name, value, recorded=recorded):
            return GONE
        if isinstance(value, str):
            if not recorded and is_stored_reply(name, value):
                return GONE
            if within is _Within.CITATION and _TITLE.fullmatch(name) is not None:
                # The words of a title are the source's; but no title is a whole text.
                return GONE if self._is_whole(value) else value
            return GONE if self._is_copy(value, name) else value
        if depth > DEEPEST:
            return GONE
        if isinstance(value, bytes | bytearray):
            return GONE if self.in_text(value.decode(errors="ignore")) else value
        if isinstance(value, Mapping):
            return self._left_of_mapping(value, depth, within)
        if isinstance(value, list | tuple | set | frozenset):
            return self._left_of_list(value, name, depth, within)
        return self._left_of_object(value, depth)

    def _is_copy(self, value: str, name: str) -> bool:
        if _URL.fullmatch(value) is not None:
            # The words of an address are those of the page, but a reply can be part of a query.
            spaced = "%20" in value
            return self.in_text(value if spaced else re.split(r"[?#]|$", value, maxsplit=1)[1])
        if is_plain_name(name) and count_words(value) <= 1:
            return any(map(self._in, _decoded(value)))
        if self.in_text(value):
            return True
        recorded = _recorded(value)
        return bool(recorded) and self._left(recorded, within=_Within.RECORD) is not recorded

    def _left_of_mapping(self, value: Mapping[Any, Any], depth: int, within: _Within) -> Any:
        if _may_be_odds(value):
            if any(map(self.in_text, _spelled(list(value)))) and self._are_tokens(value):
                return GONE
        elif _is_numbered(value) and any(map(self.in_text, _spelled(list(value.values())))):
            return GONE
        left = {}
        for key, inner in value.items():
            if isinstance(key, str) and not _is_name(key) and self.in_text(key):
                continue
            if (kept := self._left(inner, key, depth + 1, within)) is not GONE:
                left[key] = kept
        if len(left) == len(value) and all(left[key] is value[key] for key in left):
            return value
        return left or GONE

    def _are_tokens(self, keys: Iterable[Any]) -> bool:
        """Whether the keys of numbers are tokens, and not names that also occur in the text."""
        names = list(keys)
        if not _are_names(names):
            return True
        exact, lower = self._gone
        said = (frozenset(_spans_of(one)) for one in _of_tokens(names))
        return any(spans and spans <= exact | lower for spans in said)

    def _left_of_list(self, value: Any, name: str, depth: int, within: _Within) -> Any:
        items = list(value)
        if isinstance(value, list) and within is not _Within.RECORD and LISTS.fullmatch(name):
            items = moved_citations(items, self.texts, of_text=False)
            within = _Within.CITATION
        elif any(self.in_text(said) for said in _spelled(items)):
            return GONE
        left = [
            kept for one in items if (kept := self._left(one, name, depth + 1, within)) is not GONE
        ]
        if len(left) == len(value) and all(a is b for a, b in zip(left, value, strict=True)):
            return value
        return type(value)(left) if left and type(value) in _LISTS else GONE

    def _left_of_object(self, value: Any, depth: int) -> Any:
        """An object can't be changed, so that it stays or goes as a whole."""
        known = self._known.get(id(value))
        if known is None:
            # The object is kept, so that no other one gets its id; it may contain itself.
            self._known[id(value)] = (value, value)
            try:
                held = _fields_of(value)
                kept = value if self._left(held, "", depth + 1) is held else GONE
            except Exception:  # noqa: BLE001 - what can't be read can't be checked
                kept = GONE
            known = self._known[id(value)] = (value, kept)
        return known[1]


_LISTS = (list, tuple, set, frozenset)
_TITLE = re.compile(r"(?:\w+_)?title")
_QUOTES = ("cited_text", "text")


def _is_name(key: str) -> bool:
    return key.isascii() and key.isidentifier()


def _are_names(keys: Iterable[Any]) -> bool:
    return all(isinstance(key, str) and _is_name(key) for key in keys)


def _may_be_odds(value: Mapping[Any, Any]) -> bool:
    """Whether a mapping may tell how likely tokens are, and does not count things by their names.

    Two names may well be two words of the text in a row; but no count is negative, as the
    logarithm of a probability is.
    """
    if not _gives_numbers(value):
        return False
    if not _are_names(value) or any(one < 0 for one in value.values()):
        return True
    return len(value) > _SPAN and not all("_" in key.strip("_") for key in value)


def _fields_of(value: Any) -> dict[str, Any]:
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name) for one in fields(value)}
    if isinstance(value, type) or callable(value):
        return {}
    held = dict(getattr(value, "__dict__", {}))
    held.update(getattr(value, "__pydantic_extra__", None) or {})
    if isinstance(value, BaseException):
        held["args"] = value.args
    return held


def _spelled(items: Sequence[Any], depth: int = 0) -> Iterator[str]:
    """The texts that the items of a list make together: words, tokens, bytes or characters."""
    if len(items) < _SPAN or depth > _SPELLED:
        return
    if all(type(one) is int for one in items):
        yield from _of_numbers(items)
        return
    said = [one for one in items if isinstance(one, str)]
    if len(said) >= _SPAN:
        yield from _of_tokens(said)
    rows = [_as_row(one) for one in items if not isinstance(one, _SCALARS)]
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for key, value in row.items() if isinstance(row, Mapping) else ():
            if isinstance(key, str) and not is_plain_name(key):
                columns.setdefault(key, []).append(value)
    for column in columns.values():
        yield from _spelled(column, depth + 1)
    # The rows of a table have the same keys; other keys are what could have stood in a place.
    keyed = [row for row in rows if isinstance(row, Mapping) and row]
    if len({tuple(row) for row in keyed}) > 1:
        yield from _spelled([next(iter(row)) for row in keyed], depth + 1)
        scored = [row for row in keyed if _gives_numbers(row)]
        yield from _spelled([max(row, key=row.__getitem__) for row in scored], depth + 1)
    inside = [one for row in rows if isinstance(row, list | tuple) for one in row]
    yield from _spelled(inside, depth + 1)


_SCALARS = (str, bytes, bytearray, bool, int, float, complex, type(None))
# How deep the parts of one text may be inside of the items of a list.
_SPELLED = 8


def _as_row(item: Any) -> Any:
    if isinstance(item, Mapping | list | tuple):
        return item
    try:
        return _fields_of(item)
    except Exception:  # noqa: BLE001 - what can't be read is checked, and left out, by itself
        return {}


def _gives_numbers(row: Any) -> bool:
    """Whether a value is a mapping to numbers alone."""
    return isinstance(row, Mapping) and all(isinstance(one, int | float) for one in row.values())


def _is_numbered(value: Mapping[Any, Any]) -> bool:
    """Whether the keys of a mapping are places in a list."""
    return all(type(key) is int or (isinstance(key, str) and key.isdecimal()) for key in value)


def _of_tokens(said: Sequence[str]) -> Iterator[str]:
    joined, apart = "".join(said), " ".join(said)
    yield joined
    yield apart
    # How WordPiece vocabularies write the parts of words.
    if " ##" in apart:
        yield apart.replace(" ##", "")


def _of_numbers(numbers: Sequence[int]) -> Iterator[str]:
    if all(0 <= one < 256 for one in numbers):
        yield bytes(numbers).decode(errors="ignore")
    if all(0 <= one < 0x110000 for one in numbers):
        yield "".join(map(chr, numbers))


def _spans_of(text: str) -> Iterable[tuple[str, ...]]:
    """The shortest spans of a text: every few words in a row."""
    words = _WORDS.findall(text)
    if _DENSE_WORD.search(text) is None:
        return itertools.pairwise(words)
    return _dense_spans_of(words)


def _spans_of_all(texts: Iterable[str]) -> frozenset[tuple[str, ...]]:
    return frozenset(itertools.chain.from_iterable(map(_spans_of, texts)))


def _dense_spans_of(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for place in range(len(words) - _SPAN + 1):
        dense = any(map(_DENSE_WORD.match, words[place : place + _SPAN]))
        span = tuple(words[place : place + (_DENSE_SPAN if dense else _SPAN)])
        if not dense or len(span) == _DENSE_SPAN:
            yield span


_BASE64 = re.compile(r"(?:data:[^,\s]{0,99},)?([A-Za-z0-9+/_-]{8,}+)={0,2}")
_TAG = re.compile(r"<[^<>]*>")
_ESCAPE = re.compile(r"""\\(?:u([0-9a-fA-F]{4})|([nrtbfv"'\\/]))""")


def _unescaped(text: str) -> Iterator[str]:
    if "\\" in text:
        yield _ESCAPE.sub(lambda it: chr(int(it[1], 16)) if it[1] else _SAID.get(it[2], " "), text)
    if "&" in text:
        yield html.unescape(text)
    if "%" in text or "+" in text:
        yield unquote_plus(text)
    if "<" in text:
        yield _TAG.sub(" ", text)
    if "\u0120" in text or "\u010a" in text:  # how byte-level vocabularies write spaces
        yield text.replace("\u0120", " ").replace("\u010a", " ")
    yield from _decoded(text)


def _decoded(text: str) -> Iterator[str]:
    if (encoded := _BASE64.fullmatch(text)) is not None:
        with suppress(ValueError):
            padded = encoded[1] + "=" * (-len(encoded[1]) % 4)
            yield base64.b64decode(padded.translate(_URL_SAFE)).decode()


_URL_SAFE = str.maketrans("-_", "+/")
_SAID = {'"': '"', "'": "'", "\\": "\\", "/": "/"}


def _recorded(text: str) -> list[Any]:
    """The values in JSON, or in a record of a stream: what is JSON or `data:` in each line."""
    if _RECORD.search(text) is None:
        return []
    values, end = _values_at_start(text)
    if values and end == len(text):
        return values
    values = []
    for line in _LINES.split(text):
        field = _FIELD.match(line)
        said = line[field.end() :] if field is not None else line.lstrip()
        found, end = _values_at_start(said)
        values += found
        if end < len(said) and field is not None and field[1] == "data" and not _RECORD.match(said):
            values.append(said)
    return values


def _values_at_start(text: str) -> tuple[list[Any], int]:
    """The JSON values with which a text begins, and where they end."""
    values, end = [], _end_of_space(text, 0)
    with suppress(ValueError, RecursionError):
        while end < len(text):
            value, end = _JSON.raw_decode(text, end)
            values.append(value)
            end = _end_of_space(text, end)
    return values, end


def _end_of_space(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return start if found is None else found.end()


_JSON = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n\x1e]*")
_LINES = re.compile(r"[\r\n\x1e]+")
_RECORD = re.compile(r"(?:^|[\r\n\x1e])[ \t]*+(?:data:|(?:\w{1,16}: ?)?[\"{\[])")
# The prefix of a line, as of server-sent events; one space after it is no part of the value.
_FIELD = re.compile(r"[ \t]*(\w{1,16}): ?")
