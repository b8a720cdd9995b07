"""Follows an edit along its answer while it is written, and finds the passages that it changed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from typing import Any, Self

from langchain_metaaligner.editing.guards.change import Change
from langchain_metaaligner.editing.guards.judging import contradicts, judged

# Scripts that are written without spaces, and their punctuation: each character is a unit.
_DENSE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uff65"
)
_LONGEST = 512  # characters of a unit; of what is longer, such as an image in base64, parts count
_UNIT = re.compile(rf"[^\s{_DENSE}]{{1,{_LONGEST}}}|[{_DENSE}]")
_IS_BORDER = re.compile(rf"[\s{_DENSE}]").match
# What may be an item that a guard keeps: it is held back until all of it is there.
_ITEM = re.compile(r"[^\w\s.,;!?'\"()-]|\d|\w\.\w|www")
_LEAST, _MOST = 40, 400  # characters of a changed passage that are held back, at least and at most
# Characters of the answer in which the edit is looked for at first, and when it has strayed long.
_NEAR, _FAR = 1 << 11, 1 << 18
_LONG_WORD = 8
_SAYS_TWO_THINGS = 40  # characters of the shortest text that can contradict itself
_BLOCK = 1 << 14
_RECENT = 16


class Passages:
    """Follows an edit, in pieces of any length, and lets changed passages be judged.

    What the edit has in common with the answer flows on. From where it departs, it is held back
    until it is back at the answer's words, and then the passage between is judged. It is not held
    back, nor judged, if less than half of the text so far is the answer's: that is a rewrite, and
    none of a reply's words may come back into one. Nor is more held back than was kept before, or
    400 characters. What is given out depends on the whole text alone, not on its pieces.

    Args:
        answer: The answer.
        prompt: The prompt of the edit.
        guards: The option `guards`: names, and functions of the user's own.
        retryable: Whether another try may give another edit.

    Attributes:
        told: What the guards did: for each of them, how often it did what.
        text: The whole text that was given out, once it has ended.
    """

    def __init__(
        self, answer: str, prompt: str, guards: Sequence[Any], *, retryable: bool = False
    ) -> None:
        self.told: dict[str, dict[str, int]] = {}
        self.text = ""
        self._answer, self._prompt = answer, prompt
        self._guards, self._retryable = guards, retryable
        self._all: list[str] = []  # what was given out
        self._step = self._follow
        # The edit from the beginning of the current word or passage on, and how much of it was
        # compared, and given out.
        self._text, self._seen, self._given = "", 0, 0
        self._start = 0  # where that is in the answer
        # Characters before that: of the answer that the edit has kept, of the answer, of the edit.
        self._kept = self._passed = self._written = 0
        self._limit = 0  # of the characters that are held back
        self._units: list[tuple[int, str]] = []  # the last ones of a passage, and their places
        self._count = 0  # units since the edit has departed from the answer
        self._index = _Index(answer, 0, 0)  # the answer's next words
        self._moved = False  # whether the edit has left out or added lines
        self._out: list[str] = []
        self._plain: tuple[int, bool] = (-1, True)

    def push(self, piece: str) -> str:
        """Append a piece of the edit.

        Args:
            piece: The piece.

        Returns:
            What can be given out.

        Raises:
            GuardError: A guard refuses the edit.
        """
        return self._go_on(piece, ended=False)

    def finish(self) -> str:
        """End the edit.

        Returns:
            What was held back.

        Raises:
            GuardError: A guard refuses the edit.
        """
        rest = self._go_on("", ended=True)
        text = self.text = "".join(self._all)
        watched = len(text) >= _SAYS_TWO_THINGS and "contradiction" in self._guards
        if watched and text != self._answer and contradicts(text) and not contradicts(self._answer):
            self.told["contradiction"] = {"noted": 1}
        return rest

    @classmethod
    def of_whole(
        cls, edit: str, answer: str, prompt: str, guards: Sequence[Any], *, retryable: bool = False
    ) -> Self:
        """Let the guards look at a whole edit.

        Args:
            edit: The edit.
            answer: The answer.
            prompt: The prompt of the edit.
            guards: The option `guards`.
            retryable: Whether another try may give another edit.

        Returns:
            The passages, with the text that the guards let through.

        Raises:
            GuardError: A guard refuses the edit.
        """
        made = cls(answer, prompt, guards, retryable=retryable)
        for start in range(0, len(edit), _BLOCK):
            made.push(edit[start : start + _BLOCK])
        made.finish()
        return made

    def _go_on(self, piece: str, *, ended: bool) -> str:
        self._text += piece
        while self._step(ended=ended):
            pass
        out, self._out = self._out, []
        made = out[0] if len(out) == 1 else "".join(out)
        self._all.append(made)
        return made

    # Each step returns whether another one can be made with the text that is there.

    def _follow(self, *, ended: bool) -> bool:
        """Go along the words that the edit keeps."""
        answer = self._answer
        at = self._seen + _common(answer, self._start + self._seen, self._text, self._seen)
        border = _last_border(self._text, self._seen, at)
        border += (at - border) // _LONGEST * _LONGEST
        if border:
            self._pass(border)
            at -= border
        self._seen = at
        if at < len(self._text) or ended:
            if self._start + at == len(answer) and at == len(self._text):
                self._give(at)
                return False
            self._depart(at)
            return True
        if at and self._is_plain(self._start):
            self._give(at)
        return False

    def _pass(self, count: int) -> None:
        """Leave a number of characters behind, which the edit has kept."""
        self._give(count)
        self._start += count
        self._kept += count
        self._passed += count
        self._written += count
        self._drop(count)

    def _depart(self, at: int) -> None:
        """Begin a passage, where the edit has another character than the answer."""
        text, answer = self._text, self._answer
        inside = 0
        if at:
            both = (text[at : at + 1], answer[self._start + at : self._start + at + 1])
            if all(not char or _IS_BORDER(char) for char in both):
                self._pass(at)
            elif self._is_plain(self._start):
                inside = at
        if inside:
            self._give(inside)
        start, kept = self._start, self._kept
        if kept and 2 * kept >= max(self._passed, self._written):
            self._limit = min(_MOST, max(kept, _LEAST))
        elif not start and not self._is_plain(0):
            begun = at or (text[:1].isdigit() and answer[:1].isdigit())
            self._limit = _LEAST if begun else 0
        else:
            self._limit = 0
        self._units, self._count = [], 0
        self._seen = 0
        self._index = _Index(answer, start, _NEAR)
        self._step = self._hold if self._limit else self._stray

    def _hold(self, *, ended: bool) -> bool:
        """Hold a passage back until the edit is back at the answer's words."""
        text = self._text
        for found in _UNIT.finditer(text, self._seen):
            start, end = found.span()
            if end == len(text) and not ended:
                break
            if end > self._limit + (0 if self._count else _LONGEST):
                return self._let_go()
            self._seen = end
            self._count += 1
            if self._count == 1:  # an address takes as much room as it needs
                self._limit = max(self._limit, end + _LEAST)
            self._units.append((start, found[0]))
            back = self._back()
            if back is not None:
                run, place = back
                self._settle(self._units[-run][0], place, end)
                return True
        if len(text) > self._limit + (0 if self._count else _LONGEST):
            return self._let_go()
        return ended and self._end()

    def _let_go(self) -> bool:
        """Stop holding a passage back: it has become too long to be one of few words."""
        self._step, self._limit = self._stray, 0
        return True

    def _stray(self, *, ended: bool) -> bool:
        """Let the edit flow, and look for the answer's words."""
        text, index, recent = self._text, self._index, self._units
        self._moved = True
        pairs, last = index.pairs, recent[-1][1] if recent else ""
        for found in _UNIT.finditer(text, self._seen):
            end = found.end()
            if end == len(text) and not ended:
                break
            word = found[0]
            recent.append((found.start(), word))
            self._seen = end
            self._count += 1
            if (last, word) in pairs and (back := self._back()) is not None:
                run, place = back
                self._give(end)
                at = index.start_of(place + run - 1) + len(word)
                self._kept += sum(len(one[1]) for one in recent[-run:])
                self._passed += at - self._start
                self._written += end
                self._go_from(end, at)
                return True
            last = word
            if len(recent) > 4 * _RECENT:
                del recent[:-_RECENT]
                if 4 * self._count > len(index.words) and index.size < _FAR:
                    index = self._index = index.to(4 * index.size)
                    pairs = index.pairs
        self._give(len(text))
        if self._seen:  # what was looked at is not needed any more
            self._written += self._seen
            self._drop(self._seen)
            self._seen = 0
        return False

    def _back(self) -> tuple[int, int] | None:
        """Find out whether the edit's last words are the answer's next ones.

        Returns:
            How many units they are, and their place in the answer; `None` if they are not.
        """
        units, words = self._units, self._index.words
        place = self._index.pairs.get((units[-2][1], units[-1][1])) if len(units) > 1 else None
        if place is None:
            return None
        run, weight, most = 0, 0, min(len(units), place + 1)
        while run < most and words[place - run] == units[-1 - run][1]:
            weight += _weight(words[place - run])
            run += 1
        skipped, added = place + 1 - run, self._count - run
        near = abs(skipped - added) <= 2 and skipped <= 8
        needed = 4 if near else 6 if skipped <= 32 else 10
        return (run, place + 1 - run) if weight >= needed else None

    def _settle(self, until: int, place: int, end: int) -> None:
        """Judge a passage, whose end is known, and follow the answer from there on."""
        at = self._index.start_of(place)
        run = end - until
        self._change(until, at, self._answer[at : at + run])
        self._go_from(until, at)

    def _change(self, until: int, at: int, kept: str) -> None:
        """Write what is decided for a passage, if it can be judged."""
        before, after = self._answer[self._start : at], self._text[:until]
        given = self._text[: self._given]
        self._passed += _size(before)
        self._written += _size(after)
        self._moved = self._moved or before.count("\n") != after.count("\n")
        rewritten = 2 * (self._kept + len(kept)) < self._passed + len(kept)
        if not (rewritten or len(given) > until or len(before) > max(self._kept, _LEAST) + _MOST):
            change = Change(
                before, after, self._answer, self._start, kept, self._moved, self._prompt
            )
            made = judged(change, given, self._guards, self.told, retryable=self._retryable)
            self._out.append(made[len(given) :])
            self._given = until
        self._give(until)

    def _go_from(self, until: int, at: int) -> None:
        self._units = []
        self._drop(until)
        self._start, self._seen = at, 0
        self._step = self._follow

    def _end(self) -> bool:
        """Judge the passage at the end of the edit."""
        text, answer, start = self._text, self._answer, self._start
        most = min(len(text), len(answer) - start) - self._given
        same = most - len(_differing(text[len(text) - most :], answer[len(answer) - most :]))
        # The common end begins where a word does, in both.
        while same and not (
            _begins(text, len(text) - same) and _begins(answer, len(answer) - same)
        ):
            same -= 1
        until, at = len(text) - same, len(answer) - same
        self._change(until, at, answer[at:])
        self._give(len(text))
        self._step = self._ended
        return False

    def _ended(self, *, ended: bool) -> bool:
        return False

    def _is_plain(self, start: int) -> bool:
        """Whether the word of the answer that begins here is nothing that a guard keeps."""
        if self._plain[0] != start:
            found = _UNIT.match(self._answer, start)
            word = "" if found is None else found[0]
            plain = len(word) == _LONGEST or _ITEM.search(word) is None
            self._plain = (start, plain)
        return self._plain[1]

    def _give(self, until: int) -> None:
        if until > self._given:
            self._out.append(self._text[self._given : until])
            self._given = until

    def _drop(self, count: int) -> None:
        self._text = self._text[count:]
        self._given = max(self._given - count, 0)


class _Index:
    """The next words of the answer, and where each pair of them stands first.

    Args:
        answer: The answer.
        start: Where the words begin.
        size: How many characters of the answer are read.
    """

    def __init__(self, answer: str, start: int, size: int) -> None:
        self.size = size
        self._answer, self._start = answer, start
        self._end = min(len(answer), start + size)
        words = self.words = _UNIT.findall(answer, start, self._end)
        if words and self._end < len(answer):
            words.pop()  # it may be cut off
        backwards = zip(reversed(words[:-1]), reversed(words[1:]), strict=True)
        self.pairs = dict(zip(backwards, range(len(words) - 1, 0, -1), strict=True))

    def start_of(self, place: int) -> int:
        """The offset of a word in the answer."""
        found = _UNIT.finditer(self._answer, self._start, self._end)
        return next(islice(found, place, None)).start()

    def to(self, size: int) -> _Index:
        """Read more characters of the answer."""
        return _Index(self._answer, self._start, size)


def _weight(word: str) -> int:
    """How much a word says about where a text is: a sign or a character of a dense script less."""
    return 2 if len(word) > 1 or (word.isalnum() and _IS_BORDER(word) is None) else 1


def _size(passage: str) -> int:
    """The length of a passage, in which a long address counts no more than another word."""
    return sum([min(len(word), _LONG_WORD) + 1 for word in _UNIT.findall(passage)])


def _begins(text: str, place: int) -> bool:
    return (
        not place
        or place == len(text)
        or bool(_IS_BORDER(text, place - 1) or _IS_BORDER(text, place))
    )


def _common(one: str, i: int, other: str, j: int) -> int:
    """Count the characters that two texts have in common from these places on."""
    most, count = min(len(one) - i, len(other) - j), 0
    size = _BLOCK
    while count < most and size:
        size = min(size, most - count)
        if one.startswith(other[j + count : j + count + size], i + count):
            count += size
        else:
            size //= 2
    return count


def _differing(one: str, other: str) -> str:
    """What is before the end that two texts of one length have in common."""
    low, high = 0, len(one)
    while low < high:
        middle = (low + high) // 2
        if one[middle:] == other[middle:]:
            high = middle
        else:
            low = middle + 1
    return one[:low]


def _last_border(text: str, start: int, end: int) -> int:
    """The place after the last character that ends words, in a part of a text; 0 for none."""
    while end > start:
        if _IS_BORDER(text, end - 1):
            return end
        end -= 1
    return 0
