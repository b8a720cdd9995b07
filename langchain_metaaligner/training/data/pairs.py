"""Records of preference data: two answers, how they compare, and what was wrong with a row."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from langchain_metaaligner.editing.conversation import Turn
from langchain_metaaligner.editing.prompts import render_conversation
from langchain_metaaligner.errors import PreferenceDataError

Winner = Literal["a", "b", "equal"]
Comparison = tuple[float, float] | Winner
"""How two answers compare on one objective: a score for each, or just the better one."""

ProblemKind = Literal[
    "unreadable",
    "context",
    "answer",
    "empty",
    "missing",
    "score",
    "unscored",
    "identical",
    "duplicate",
    "contradiction",
    "structure",
]
TieMargin = float | Mapping[str, float]

_OTHER: Mapping[Winner, Winner] = {"a": "b", "b": "a", "equal": "equal"}


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two answers to one conversation, and how they compare on each objective.

    Attributes:
        context: The turns before the answers, or text that is used as it is.
        answer_a: One answer.
        answer_b: The other.
        compared: Name of an objective to two scores (of `answer_a` and of `answer_b`; more is
            better) or to the better one: `"a"`, `"b"` or `"equal"`.
        place: Where it was read: a file and its line, or a row.
    """

    context: str | tuple[Turn, ...] = field(repr=False)
    answer_a: str = field(repr=False)
    answer_b: str = field(repr=False)
    compared: Mapping[str, Comparison]
    place: str = ""

    def winner(self, objective: str, *, tie_margin: TieMargin = 0.0) -> Winner | None:
        """Tell which answer is better on an objective.

        Args:
            objective: The name of the objective.
            tie_margin: Scores that are no further apart than this are equal; one number, or one
                for each objective by its name (0 for those left out).

        Returns:
            The better answer, `"equal"`, or `None` where the pair does not compare on it.
        """
        compared = self.compared.get(objective)
        if compared is None or isinstance(compared, str):
            return compared
        if isinstance(tie_margin, Mapping):
            tie_margin = tie_margin.get(objective, 0.0)
        first, second = compared
        if abs(first - second) <= tie_margin:
            return "equal"
        return "a" if first > second else "b"

    def swapped(self) -> PreferencePair:
        """The same pair with its answers the other way round."""
        return replace(
            self,
            answer_a=self.answer_b,
            answer_b=self.answer_a,
            compared={
                name: _OTHER[one] if isinstance(one, str) else (one[1], one[0])
                for name, one in self.compared.items()
            },
        )

    def identity(self) -> str:
        """Sixty-four hexadecimal digits for the context and its two answers in either order."""
        context = (
            self.context
            if isinstance(self.context, str)
            else [[turn.role, turn.text] for turn in self.context]
        )
        return digest(context, sorted([self.answer_a, self.answer_b]))

    def context_text(self) -> str:
        """The context as text: turns in the form of the HH-RLHF data, text as it is."""
        return self.context if isinstance(self.context, str) else render_conversation(self.context)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row, or part of it, is not used. It holds no text of the data.

    Attributes:
        place: The file and its line, or the row.
        kind: What kind of problem it is.
        detail: What was wrong and what was expected.
    """

    place: str
    kind: ProblemKind
    detail: str

    def __str__(self) -> str:
        return f"{self.place}: {self.kind}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Preferences:
    """What was read: the pairs that can be used, and what was wrong with the others.

    Attributes:
        pairs: The usable pairs, in the order of the data.
        problems: What is not used, and why.
        rows: Rows that were read.
        unlabelled: Name of an objective to the number of rows that say nothing about it: no
            problem, since a row may compare on some objectives only.
        system_dropped: System messages that contexts were read without.
    """

    pairs: tuple[PreferencePair, ...] = field(repr=False)
    problems: tuple[Problem, ...] = field(repr=False)
    rows: int
    unlabelled: Mapping[str, int] = field(default_factory=dict)
    system_dropped: int = 0

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the objectives that the pairs compare on, sorted."""
        return tuple(sorted({name for pair in self.pairs for name in pair.compared}))

    def report(self, *, first: int = 10) -> str:
        """Say what was read, how many problems there are of each kind, and where the first are.

        Args:
            first: Problems to show.

        Returns:
            Lines of text, without any text of the data.
        """
        lines = [f"{len(self.pairs)} pairs from {self.rows} rows, {len(self.problems)} problems"]
        counts = Counter(problem.kind for problem in self.problems)
        lines += [f"  {kind}: {count}" for kind, count in sorted(counts.items())]
        lines += [
            f"  without {name}: {count} rows" for name, count in sorted(self.unlabelled.items())
        ]
        if self.system_dropped:
            lines.append(f"  system messages left out: {self.system_dropped}")
        lines += [str(problem) for problem in self.problems[:first]]
        if len(self.problems) > first:
            lines.append(f"… and {len(self.problems) - first} more")
        return "\n".join(lines)


def join_preferences(*parts: Preferences) -> Preferences:
    """Put together what was read from several sources.

    Args:
        *parts: What was read from each.

    Returns:
        All pairs and problems, with pairs that are in several sources reported or put together as
        within one source.
    """
    pairs, problems = settle(pair for part in parts for pair in part.pairs)
    unlabelled: Counter[str] = Counter()
    for part in parts:
        unlabelled.update(part.unlabelled)
    return Preferences(
        pairs=tuple(pairs),
        problems=(*(one for part in parts for one in part.problems), *problems),
        rows=sum(part.rows for part in parts),
        unlabelled=dict(unlabelled),
        system_dropped=sum(part.system_dropped for part in parts),
    )


def settle(pairs: Iterable[PreferencePair]) -> tuple[list[PreferencePair], list[Problem]]:
    """Put pairs of the same two answers together, and find those that repeat or contradict.

    Args:
        pairs: Pairs as they were read.

    Returns:
        The pairs without repetitions, where rows that contradict each other are all left out, and
        the problems. Rows that compare the same answers on other objectives become one pair.
    """
    kept: dict[str, PreferencePair] = {}
    contradicted: dict[str, str] = {}
    problems: list[Problem] = []
    for pair in pairs:
        key = pair.identity()
        if key in contradicted:
            problems.append(_contradiction(pair.place, contradicted[key]))
            continue
        known = kept.setdefault(key, pair)
        if known is pair:
            continue
        same = pair if pair.answer_a == known.answer_a else pair.swapped()
        shared = known.compared.keys() & same.compared.keys()
        if any(known.winner(name) != same.winner(name) for name in shared):
            problems.append(_contradiction(known.place, pair.place))
            problems.append(_contradiction(pair.place, known.place))
            contradicted[key] = known.place
            del kept[key]
        elif len(shared) == len(same.compared):
            problems.append(
                Problem(pair.place, "duplicate", f"the same comparison as in {known.place}")
            )
        else:
            kept[key] = replace(known, compared={**same.compared, **known.compared})
    return list(kept.values()), problems


def check_margin(tie_margin: TieMargin) -> None:
    """Refuse a tie margin that is no distance.

    Args:
        tie_margin: One number, or one for each objective.

    Raises:
        PreferenceDataError: One is negative or not finite.
    """
    margins: Sequence[float] = (
        list(tie_margin.values()) if isinstance(tie_margin, Mapping) else [tie_margin]
    )
    for margin in margins:
        if not math.isfinite(margin) or margin < 0:
            msg = f"A tie margin is a finite number of at least 0, not {margin!r}."
            raise PreferenceDataError(msg)


def digest(*parts: object) -> str:
    """Sixty-four hexadecimal digits that only these parts give, in any process.

    Args:
        *parts: Texts, numbers and lists of them.

    Returns:
        Hexadecimal digits.
    """
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _contradiction(place: str, other: str) -> Problem:
    return Problem(place, "contradiction", f"{other} prefers the other of the same two answers")
