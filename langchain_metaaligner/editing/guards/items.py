"""The guards of what is told by its form: numbers, addresses and citations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from langchain_metaaligner.editing.guards.change import Change

_SENTENCE = re.compile(r"[.!?][\"'\u201d\u2019)*_\]]*\s+|[\u3002\uff01\uff1f]|\n")
_LOOKED_BACK = 400  # characters before a passage in which its sentence's beginning is looked for
_WORD = re.compile(r"[^\W\d_]+|[\d][\w]*")
_IN_URL = r"[^\s<>\"'`|\u3000-\u9fff\uff00-\uffef]"
_URL = re.compile(
    rf"(?:https?|ftp)://{_IN_URL}+"
    r"|(?<![@\w.-])(?:[a-z0-9-]{1,63}\.){1,8}"
    r"(?:com|org|net|edu|gov|int|io|info|ai|app|dev|uk|de|fr|eu|es|it|nl|ch|at|ca|au|jp|cn|in|br)"
    rf"(?![\w@-])(?:[/?#]{_IN_URL}*)?",
    re.IGNORECASE,
)
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_CITATION = re.compile(
    r"\[\^?\d{1,4}(?:\s?[,;\u2013-]\s?\^?\d{1,4})*\]|\u3010[^\u3010\u3011\n]{1,64}\u3011"
    r"|!?\[[^\]\[\n]{1,300}\]\([^()\s]+(?:\([^()\s]*\)[^()\s]*)?\)"
)
_NAME = re.compile(r"\b[^\W\d]\w*\d\w*(?:[.-]\d+)*")
_NUMBER = re.compile(r"\d+(?:[.,:/'\u2019\u2013-]\d+)*")
_THOUSANDS = re.compile(r"(?<=\d)[,'\u2019](?=\d{3}(?!\d))")
_PHONE = re.compile(r"(?<![\w.,/-])(?:\+\d|\(?\d)\d{0,3}\)?(?:[ .()-]{1,2}\d{2,5}){1,5}(?![\w/])")
_PHONE_FORM = re.compile(r"\+|\)|-.*-|-\d{4}\Z")
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}|\d{1,2}[.-]\d{1,2}[.-]\d{2,4}|\d{4} ?- ?\d{4}")
_MARKER = re.compile(r"(?m)^[ \t>#*_-]*(?:step\s+)?\(?\d{1,3}[.):]", re.IGNORECASE)
_ONLY_MARKER = re.compile(r"[\s>#*_(-]*(?:step\s+)?\d{1,3}", re.IGNORECASE)


class Item(NamedTuple):
    """A number, an address or a citation in a text.

    Attributes:
        start: Offset of its first character.
        text: How it is written.
        key: What it says, which is the same for other ways to write it.
        is_contact: Whether it leads somewhere, and so must not be invented.
    """

    start: int
    text: str
    key: str
    is_contact: bool


Find = Callable[[str, Change], Iterable[Item]]
"""Finds the items of one kind in a text of a change."""


class ItemGuard:
    """Keeps the items of one kind, in the sentences that an edit keeps.

    An item that was replaced by another one is put back, and so are the answer's words where one
    was lost. A sentence may vanish, or be replaced, with all that is in it. Where an edit adds an
    address that is not in the prompt, it is taken out again.

    Args:
        find: Finds the items.
        may_have: A quick look at whether a text may have any.
    """

    def __init__(self, find: Find, may_have: Callable[[str], object]) -> None:
        self._find, self._may_have = find, may_have

    def __call__(self, change: Change) -> str | None:
        """Look at a changed passage.

        Args:
            change: The passage.

        Returns:
            What is written in its place; `None` if the edit must not be used.
        """
        if not (self._may_have(change.before) or self._may_have(change.after)):
            return change.after
        head = _sentences(change.answer[max(0, change.start - _LOOKED_BACK) : change.start])[-1]
        olds, news = _sentences(change.before), _sentences(change.after)
        tail = "" if olds[-1] == "" else _sentences(change.kept)[0]
        if not change.after.strip() and _is_whole(change):
            return change.after
        pairs = _paired(len(olds), len(news), bool(head))
        alone = len(olds) > len({old for old, _ in pairs}) and any(
            one.strip() for place, one in enumerate(olds) if place not in {old for old, _ in pairs}
        )
        made = dict(enumerate(news))
        partner = {new: old for old, new in pairs}
        for place, new in enumerate(news):
            old = partner.get(place)
            before = "" if old is None else olds[old]
            around = (head if place == 0 else "") + (tail if place == len(news) - 1 else "")
            if old is None and not alone and self._invented(new, change):
                made[place] = ""  # a sentence that was added
                continue
            result = self._compared(before, new, around, change)
            if result is None:
                return None
            made[place] = result
        return "".join(made.values())

    def keys(self, text: str, change: Change) -> set[str]:
        """What the items of a text say.

        Args:
            text: The text.
            change: The change to which it belongs.
        """
        return {one.key for one in self._find(text, change)} if self._may_have(text) else set()

    def _compared(self, before: str, after: str, around: str, change: Change) -> str | None:
        olds, news = list(self._find(before, change)), list(self._find(after, change))
        had, has = [one.key for one in olds], [one.key for one in news]
        if had == has:
            return after
        invented = self._invented(after, change, besides=had)
        same, other = _kept_words(before, after, around)
        if other and same <= other:  # another sentence, and no word of the old one may come back
            if not invented:
                return after
            return None if before.strip() else before
        lost, added = Counter(had) - Counter(has), Counter(has) - Counter(had)
        if not lost and added and not invented:
            return after
        if other or len(olds) != len(news) or not added:
            return before
        made: list[str] = []
        end = 0
        for old, new in zip(olds, news, strict=True):
            if _is_glued(after, new) and not _is_glued(before, old):
                return before
            made += after[end : new.start], old.text if old.key != new.key else new.text
            end = new.start + len(new.text)
        return "".join([*made, after[end:]])

    def _invented(self, text: str, change: Change, besides: Sequence[str] = ()) -> bool:
        return any(
            one.is_contact and one.key not in besides and one.text not in change.prompt
            for one in self._find(text, change)
        )


def _sentences(text: str) -> list[str]:
    """Split a text into sentences and lines; the last one is empty if the text ends with one."""
    made, end = [], 0
    for found in _SENTENCE.finditer(text):
        if found[0] != "\n" and _ONLY_MARKER.fullmatch(text, end, found.start()):
            continue  # the number of a list's item
        made.append(text[end : found.end()])
        end = found.end()
    return [*made, text[end:]]


def _paired(olds: int, news: int, headed: bool) -> list[tuple[int, int]]:
    """Which sentences of a passage and of its edit are the same one."""
    if olds == news:
        return [(place, place) for place in range(olds)]
    pairs = [(0, 0)] if headed else []
    if (olds > 1 and news > 1) or not headed:
        pairs.append((olds - 1, news - 1))
    return pairs


def _is_whole(change: Change) -> bool:
    """Whether an edit leaves out whole sentences or lines, and nothing else."""
    answer, start, end = change.answer, change.start, change.end
    for _ in range(_LOOKED_BACK):
        if _at_sentence(answer, start) and (_at_sentence(answer, end) or end == len(answer)):
            return True
        # What is left out could as well be a little before, with the same result.
        if not start or answer[start - 1] != answer[end - 1]:
            return False
        start, end = start - 1, end - 1
    return False


def _at_sentence(text: str, place: int) -> bool:
    begin = max(0, place - _LOOKED_BACK)
    return not _sentences(text[begin:place])[-1].strip(" \t*_#>-")


def _kept_words(before: str, after: str, around: str) -> tuple[int, int]:
    """Count the words of a sentence that an edit keeps, and those that it does not."""
    old = Counter(word for word in _WORD.findall(before) if not word[0].isdigit())
    new = Counter(_WORD.findall(after))
    both = sum((old & new).values())
    return both + len(_WORD.findall(around)), sum(old.values()) - both


def _is_glued(text: str, item: Item) -> bool:
    """Whether an item is a part of a word."""
    end = item.start + len(item.text)
    return text[max(0, item.start - 1) : item.start].isalpha() or text[end : end + 1].isalpha()


def _of(pattern: re.Pattern[str], text: str, *, contact: bool) -> Iterator[Item]:
    for found in pattern.finditer(text):
        said = _without_end(found[0]) if contact else found[0]
        yield Item(found.start(), said, said.rstrip("/"), contact)


def _without_end(address: str) -> str:
    """An address without the punctuation behind it."""
    while address and address[-1] in ".,;:!?)]}*_'\u2019":
        if address[-1] == ")" and address.count("(") >= address.count(")"):
            break
        address = address[:-1]
    return address


def _urls(text: str, _: Change) -> Iterator[Item]:
    return _of(_URL, _without(_EMAIL, text) if "@" in text else text, contact=True)


def _emails(text: str, _: Change) -> Iterator[Item]:
    return _of(_EMAIL, text, contact=True)


def _citations(text: str, _: Change) -> Iterator[Item]:
    for found in _CITATION.finditer(text):
        key = found[0].rpartition("](")[2] if "](" in found[0] else found[0]
        yield Item(found.start(), found[0], key, is_contact=True)


def _without(pattern: re.Pattern[str], text: str) -> str:
    return pattern.sub(lambda found: " " * len(found[0]), text)


def _numbers(text: str, change: Change) -> Iterator[Item]:
    for pattern, sign in ((_CITATION, "["), (_EMAIL, "@"), (_URL, ".")):
        if sign in text:
            text = _without(pattern, text)
    marked = len(_MARKER.findall(change.before)), len(_MARKER.findall(change.after))
    if change.moved or marked[0] != marked[1]:  # lists are numbered anew, or no longer
        text = _without(_MARKER, text)
    if _names(change.before) != _names(change.after):
        # The digits of a name, such as `B12`, are kept as long as it is such a name.
        text = _without(_NAME, text)
    phones = [
        found
        for found in _PHONE.finditer(text)
        if sum(map(str.isdigit, found[0])) >= 7
        and _PHONE_FORM.search(found[0])
        and not _DATE.fullmatch(found[0])
    ]
    for found in phones:
        said = found[0]
        yield Item(found.start(), said, "".join(filter(str.isdigit, said)), is_contact=True)
        text = f"{text[: found.start()]}{' ' * len(said)}{text[found.end() :]}"
    for found in _NUMBER.finditer(text):
        yield Item(found.start(), found[0], _THOUSANDS.sub("", found[0]), is_contact=False)


def _names(text: str) -> list[str]:
    """The names with digits in a text, as far as these don't matter."""
    return sorted([re.sub(r"\d+", "0", name) for name in _NAME.findall(text)])


def _in_order(find: Find) -> Find:
    return lambda text, change: sorted(find(text, change))


_HAS_DIGIT = re.compile(r"\d").search

numbers = ItemGuard(_in_order(_numbers), _HAS_DIGIT)
"""Numbers, dates and telephone numbers."""

urls = ItemGuard(_urls, lambda text: "." in text)
"""Addresses in the web."""

emails = ItemGuard(_emails, lambda text: "@" in text)
"""E-mail addresses."""

citations = ItemGuard(_citations, lambda text: "[" in text or "\u3010" in text)
"""References such as `[1]`, and links of Markdown."""
