"""Records of preference data: pairs of answers, and problems of rows."""

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
"""How two answers compare on one objective: two scores, or the better answer."""

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
    "objectives",
    "accepted",
]
TieMargin = float | Mapping[str, float]

_OTHER: Mapping[Winner, Winner] = {"a": "b", "b": "a", "equal": "equal"}


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two answers to one conversation, and how they compare on each objective.

    Attributes:
        context: The turns before the answers, or text that is used verbatim.
        answer_a: One answer.
        answer_b: The other.
        compared: Name of an objective to two scores (of `answer_a` and `answer_b`; higher is
            better) or to the better answer: `"a"`, `"b"` or `"equal"`.
        place: Where it was read: file and line, or row.
    """

    context: str | tuple[Turn, ...] = field(repr=False)
    answer_a: str = field(repr=False)
    answer_b: str = field(repr=False)
    compared: Mapping[str, Comparison]
    place: str = ""

    def winner(self, objective: str, *, tie_margin: TieMargin = 0.0) -> Winner | None:
        """Say which answer is better on an objective.

        Args:
            objective: Name of the objective.
            tie_margin: Scores that differ by no more than this are equal: one number, or one for
                each objective by its name (0 for the others).

        Returns:
            The better answer, `"equal"`, or `None` if the pair does not compare on the objective.
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
        """The same pair with its answers swapped."""
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
        """A hash of the context and the two answers, in either order."""
        context = (
            self.context
            if isinstance(self.context, str)
            else [[turn.role, turn.text] for turn in self.context]
        )
        return digest(context, sorted([self.answer_a, self.answer_b]))

    def context_text(self) -> str:
        """The context as text: turns in the form of the HH-RLHF data, text verbatim."""
        return self.context if isinstance(self.context, str) else render_conversation(self.context)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row, or part of it, is not used; it holds no text of the data.

    Attributes:
        place: File and line, or row.
        kind: The kind of problem.
        detail: What was wrong and what was expected.
    """

    place: str
    kind: ProblemKind
    detail: str

    def __str__(self) -> str:
        return f"{self.place}: {self.kind}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Preferences:
    """The usable pairs of the data, and the problems of the other rows.

    Attributes:
        pairs: The usable pairs, in the order of the data.
        problems: What is not used, and why.
        rows: Number of rows read.
        unlabelled: Name of an objective to the number of rows without it. This is not a problem: a
            row may compare on some objectives only.
        system_dropped: Number of system messages left out of contexts.
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
        """Summarise what was read: counts of each kind of problem, and the first problems.

        Args:
            first: Number of problems to list.

        Returns:
            Lines of text, with no text of the data.
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
    """Join the preferences of several sources.

    Args:
        *parts: The preferences of each source.

    Returns:
        All pairs and problems. Pairs that occur in several sources are merged or reported, as they
        are within one source.
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
    """Merge pairs of the same two answers, and find repetitions and contradictions.

    Args:
        pairs: The pairs as they were read.

    Returns:
        The merged pairs, and the problems. Rows that compare the same answers on different
        objectives become one pair; rows that contradict each other are all left out.
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
    """Check that tie margins are distances.

    Args:
        tie_margin: One number, or one for each objective.

    Raises:
        PreferenceDataError: A margin is negative or not finite.
    """
    margins: Sequence[float] = (
        list(tie_margin.values()) if isinstance(tie_margin, Mapping) else [tie_margin]
    )
    for margin in margins:
        if not math.isfinite(margin) or margin < 0:
            msg = f"A tie margin is a finite number of at least 0, not {margin!r}."
            raise PreferenceDataError(msg)


def digest(*parts: object) -> str:
    """Hash values, with the same result in every process.

    Args:
        *parts: Texts, numbers and lists of them.

    Returns:
        Sixty-four hexadecimal digits.
    """
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _contradiction(place: str, other: str) -> Problem:
    return Problem(place, "contradiction", f"{other} prefers the other one of these two answers")
