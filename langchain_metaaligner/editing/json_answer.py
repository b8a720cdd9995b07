"""Finds the texts in an answer that is JSON as a whole, and writes edited texts back into it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, islice

_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_TOKENS = re.compile(
    r'(?>"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\s{}\[\],:]|[-+.\deE]|true|false|null)*+', re.DOTALL
)
_SPACE = re.compile(r"[ \t\r\n]*")
_BEGINS = re.compile(r"[ \t\r\n]*+[{\[`~]")
_FENCE = re.compile(r"(`{3,}|~{3,})[ \t]*[\w.+-]*[ \t]*\n?")
_CHARACTER = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|[^\\]",
    re.DOTALL,
)
_ESCAPED = re.compile(r"\\u(?!00[0-7])[0-9a-fA-F]{4}")


@dataclass(frozen=True)
class JsonText:
    """A string value of an answer that is JSON.

    Attributes:
        start: Offset of its first character in the answer, after the quotation mark.
        raw: How it is written in the answer.
        text: What it says.
        ascii: Whether the answer writes characters outside of ASCII as escapes.
    """

    start: int
    raw: str = field(repr=False)
    text: str = field(repr=False)
    ascii: bool = False

    @property
    def end(self) -> int:
        """Offset of the quotation mark after it."""
        return self.start + len(self.raw)

    @cached_property
    def offsets(self) -> list[int]:
        """The offset in `raw` of each character of the text, and of the end."""
        if "\\" not in self.raw:
            return list(range(len(self.raw) + 1))
        return list(accumulate(map(len, _CHARACTER.findall(self.raw)), initial=0))

    def writer(self) -> JsonWriter:
        """Make the writer for an edit of this text."""
        return JsonWriter(self)


class JsonWriter:
    """Writes an edited text, in pieces of any length, as the inside of a JSON string.

    As far as it begins like the text before the edit, it is written in the same way.

    Args:
        before: The text before the edit.
    """

    def __init__(self, before: JsonText) -> None:
        self._before = before
        self._same: int | None = 0

    def write(self, piece: str) -> str:
        """Return how the next piece of the edit is written.

        Args:
            piece: The piece.
        """
        before, same = self._before, self._same
        if same is None:
            return self._encoded(piece)
        if before.text.startswith(piece, same):
            kept = len(piece)
        else:
            rest = before.text[same : same + len(piece)]
            kept = next(
                (at for at, (a, b) in enumerate(zip(piece, rest, strict=False)) if a != b),
                min(len(piece), len(rest)),
            )
        self._same = same + kept if kept == len(piece) else None
        raw = before.raw[before.offsets[same] : before.offsets[same + kept]]
        return raw + self._encoded(piece[kept:])

    def _encoded(self, text: str) -> str:
        return json.dumps(text, ensure_ascii=self._before.ascii)[1:-1]


may_be_json = _BEGINS.match
"""Whether a text begins as JSON or a code fence does, and is worth to be read."""


def read_json(answer: str, most: int | None = None) -> list[JsonText] | None:
    """Find the string values of an answer that is one or more JSON objects or arrays.

    Keys, blank strings and everything that is no string are not among them.

    Args:
        answer: The answer; the JSON may be inside one code fence.
        most: After how many values to stop.

    Returns:
        The values, in order; `None` if the answer is something else.
    """
    start, end = _inside_fence(answer)
    if answer[start : start + 1] not in ("{", "["):
        return None
    try:
        _check(answer, start, end)
        return list(islice(_values(answer, start, end), most))
    except ValueError:
        return None


def _inside_fence(answer: str) -> tuple[int, int]:
    start, end = _SPACE.match(answer).end(), len(answer.rstrip(" \t\r\n"))  # type: ignore[union-attr]
    fence = _FENCE.match(answer, start, end)
    if fence is not None and answer.endswith(fence[1], fence.end(), end):
        start, end = fence.end(), end - len(fence[1])
        start = _SPACE.match(answer, start).end()  # type: ignore[union-attr]
        end = start + len(answer[start:end].rstrip(" \t\r\n"))
    return start, end


def _check(answer: str, start: int, end: int) -> None:
    # Numbers are not read: a very long one would be an error.
    decoder = json.JSONDecoder(parse_int=str, parse_float=str)
    body = answer[start:end]
    place = 0
    while place < len(body):
        try:
            value, place = decoder.raw_decode(body, place)
        except RecursionError:
            # Too deep to be read, but with nothing outside of its strings that says something.
            if _TOKENS.fullmatch(body, place) is None:
                raise ValueError from None
            return
        if not isinstance(value, dict | list):
            raise ValueError  # noqa: TRY004 - text that happens to be a number or a string
        place = _SPACE.match(body, place).end()  # type: ignore[union-attr]


def _values(answer: str, start: int, end: int) -> Iterator[JsonText]:
    body = answer[start:end]
    as_escapes = body.isascii() and _ESCAPED.search(body) is not None
    for token in _STRING.finditer(answer, start, end):
        after = _SPACE.match(answer, token.end()).end()  # type: ignore[union-attr]
        if answer.startswith(":", after, end):
            continue
        text = json.loads(token[0])
        if text.strip():
            yield JsonText(token.start() + 1, token[0][1:-1], text, as_escapes)
