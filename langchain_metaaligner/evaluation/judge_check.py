"""Is a judge worth it: does it agree with people and with itself, and what else sways it?

A fault is told if its 95 % interval is clear of what a sound judge does, so few pairs accuse no
judge, and many find a small leaning. The bounds, in the order in which faults are told:

| Fault | Told if |
| --- | --- |
| gives no verdict | on more than a tenth of the questions |
| favours a place | share of verdicts for the first clear of 45 to 55 % |
| prefers the longer text | share for text padded with its own sentences is clearly above 55 % |
| disagrees with people | share of agreement, on 10 pairs or more, not clearly above 55 % |
| changes its mind | share of pairs judged alike in both orders clearly below 75 % |
| takes shuffled words for text | share for the real text, where it decides, clearly below 90 % |
| tells a text from itself | share of ties between a text and itself clearly below 90 % |
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from langchain_metaaligner.editing.objectives import Objective, Objectives, parse_objectives
from langchain_metaaligner.errors import EvaluationError
from langchain_metaaligner.evaluation.human_pairs import HumanPair, read_human_pairs
from langchain_metaaligner.evaluation.judges import Question, as_judge
from langchain_metaaligner.evaluation.records import Comparison, EvaluatedRow
from langchain_metaaligner.evaluation.statistics import Interval, share_interval, wilson

# So many texts are made into planted pairs, those with most words to shuffle first come first.
_PLANTED = 20
_WORDS = 6
_LEANING = 0.55
_STEADY = 0.75
_SOUND = 0.9
_SILENT = 0.1
_ENOUGH = 10
_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Share:
    """A share of some pairs.

    Attributes:
        of: Number of pairs.
        share: The share; `None` of no pairs.
        interval: Its 95 % interval; all of 0 to 1 of no pairs.
    """

    of: int = 0
    share: float | None = None
    interval: Interval = (0.0, 1.0)

    def __str__(self) -> str:
        if self.share is None:
            return "no pairs"
        return f"{100 * self.share:.0f} % of {self.of} {'pair' if self.of == 1 else 'pairs'}"


@dataclass(frozen=True, slots=True)
class JudgeCheck:
    """What is known of a judge.

    A verdict for neither counts half wherever a coin would have a half.

    Attributes:
        consistency: Share of pairs on which both orders agree: of the rows, or of the human pairs
            if the rows have none.
        first_place: Share of verdicts for the text that is read first, in pairs read both ways.
        people: Agreement with people: share of verdicts that are theirs.
        people_kappa: Cohen's kappa of the same; `None` if it can't be told.
        second: Agreement of its outcomes with those of a second judge.
        second_kappa: Cohen's kappa of the same.
        same_text: Share of ties between a text and itself.
        garbage: Share of verdicts for a text against its own words, shuffled, where it decides.
        longer: Share of verdicts for an answer padded with its own sentences against the answer.
        asked: Questions asked for this check.
        unanswered: Those without a verdict.
        unused_pairs: Human pairs on objectives about which the judge can't be asked.
        packaged: Whether the human pairs are those that come with the package.
    """

    consistency: Share = Share()
    first_place: Share = Share()
    people: Share = Share()
    people_kappa: float | None = None
    second: Share = Share()
    second_kappa: float | None = None
    same_text: Share = Share()
    garbage: Share = Share()
    longer: Share = Share()
    asked: int = 0
    unanswered: int = 0
    unused_pairs: int = 0
    packaged: bool = False

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with the judge, the worst first; empty if it looks sound."""
        return tuple(self._faults())

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found that is wrong, and something was looked at."""
        return not self.faults and any(
            one.of for one in (self.people, self.consistency, self.longer)
        )

    def first_line(self) -> str:
        """Say in one sentence whether the judge is worth it."""
        if self.asked and self.unanswered == self.asked:
            return f"The judge gave no verdict on any of the {self.asked} questions of its check."
        faults = self.faults
        if faults:
            return f"Don't rely on this judge: it {'; it '.join(faults)}."
        if not self.is_sound:
            return "The judge was not checked: no pair was there to check it on."
        parts = []
        if self.people.of:
            theirs = "the package's labelled pairs" if self.packaged else "people"
            parts.append(f"agrees with {theirs} on {self.people}, where a coin has 50 %")
        if self.consistency.of:
            parts.append(f"agrees with itself in the other order on {self.consistency}")
        if self.second.of:
            parts.append(f"agrees with the second judge on {self.second}")
        if self.longer.of:
            parts.append("does not favour the longer text or a place")
        little = "" if self.people.of >= _ENOUGH else ", but was hardly compared with people"
        return f"The judge looks sound{little}: it {_joined(parts)}."

    def _faults(self) -> Iterator[str]:
        if self.unanswered > _SILENT * self.asked:
            yield f"gave no verdict on {self.unanswered} of {self.asked} questions"
        yield from self._place()
        if self.longer.interval[0] > _LEANING:
            yield f"prefers the longer text: the same answer, padded, on {self.longer}"
        if self.people.of >= _ENOUGH and self.people.interval[0] <= _LEANING:
            theirs = "the package's labels" if self.packaged else "people"
            yield f"agrees with {theirs} on {self.people}, where a coin has 50 %"
        if self.consistency.interval[1] < _STEADY:
            yield f"agrees with itself in the other order on only {self.consistency}"
        if self.garbage.interval[1] < _SOUND:
            yield f"prefers text to its own words, shuffled, on only {self.garbage}"
        if self.same_text.interval[1] < _SOUND:
            yield f"finds a text as good as itself on only {self.same_text}"

    def _place(self) -> Iterator[str]:
        share, (low, high) = self.first_place.share, self.first_place.interval
        if share is None or not (low > _LEANING or high < 1 - _LEANING):
            return
        place, favoured = ("first", share) if low > _LEANING else ("second", 1 - share)
        often = (
            "always says" if favoured == 1 else f"favours (in {100 * favoured:.0f} % of verdicts)"
        )
        yield f"{often} the {place}, whichever text that is"


@runtime_checkable
class AsksEach(Protocol):
    """A judge that is asked many questions at once."""

    def ask_each(self, questions: Sequence[Question]) -> Sequence[int | None]:
        """Answer questions.

        Args:
            questions: The questions.

        Returns:
            For each 1, 2 or 0, or `None` for no verdict.
        """
        ...


def check_judge(
    judge: Any,
    *,
    objectives: Objectives,
    human_pairs: Any = None,
    rows: Sequence[EvaluatedRow] = (),
    second_judge: Any = None,
) -> JudgeCheck:
    """Find out whether a judge is worth it.

    It is asked about the human pairs in both orders, and about at most 100 questions on planted
    pairs that are made of the rows' texts and of the human pairs: a text and itself, a text and
    its shuffled words, an answer and the same padded with its own sentences. What it said of the
    rows is taken from them.

    Args:
        judge: The judge, in any form that `evaluate` takes.
        objectives: What it will be asked about.
        human_pairs: Pairs that people compared: see `read_human_pairs`. By default those that come
            with the package.
        rows: Rows that it judged already.
        second_judge: Another judge: how often the two agree is told, on the rows if it judged
            those too, and on the human pairs.

    Returns:
        What was found.

    Raises:
        EvaluationError: The human pairs can't be read, or a judge is none.
    """
    goals = tuple(parse_objectives(objectives))
    pairs = read_human_pairs(human_pairs, objectives=goals)
    first = _Asked(judge, goals, "judge")
    second = None if second_judge is None else _Asked(second_judge, goals, "second_judge")
    planted = _planted(rows, pairs, goals)
    same = first.each([(c, text, text, goal) for c, text, _, _, goal in planted])
    shuffled = first.both([(c, text, other, goal) for c, text, other, _, goal in planted])
    longer = first.both([(c, more, text, goal) for c, text, _, more, goal in planted if more])
    known = _answerable(first, pairs, goals)
    people = first.both([(*_texts(pair), goal) for pair, goal in known])
    theirs = second.both([(*_texts(pair), goal) for pair, goal in known]) if second else []
    judged = list(_judged(rows))
    in_rows = [(row.conversation, one.verdicts) for row, one in judged]
    in_pairs = [(str(number), one) for number, one in enumerate(people)]
    decided = [one for one in shuffled if None not in one and any(one)]
    outcomes = [*_second_outcomes(rows), *_paired_outcomes(people, theirs)]
    labels = [
        label
        for (pair, _), one in zip(known, people, strict=True)
        for label in _labels(pair.better, one)
    ]
    return JudgeCheck(
        consistency=_consistency(in_rows) if judged else _consistency(in_pairs),
        first_place=_first_place(
            [
                *in_rows,
                *in_pairs,
                *((f"planted {at}", one) for at, one in enumerate([*shuffled, *longer])),
            ]
        ),
        people=_mean(
            [_points(one, better=pair.better) for (pair, _), one in zip(known, people, strict=True)]
        ),
        people_kappa=_kappa(labels),
        second=_mean([float(one == other) for one, other in outcomes]),
        second_kappa=_kappa(outcomes),
        same_text=_mean([None if said is None else float(said == 0) for said in same]),
        garbage=_mean([_points(one, better=1) for one in decided]),
        longer=_mean([_points(one, better=1) for one in longer]),
        asked=first.asked,
        unanswered=first.unanswered,
        unused_pairs=len(pairs) - len(known),
        packaged=human_pairs is None,
    )


_Pair = tuple[str, str, str, Objective]
_Both = tuple[int | None, int | None]


class _Asked:
    """Asks a judge, and counts."""

    def __init__(self, judge: Any, objectives: Sequence[Objective], role: str) -> None:
        self.asked = self.unanswered = 0
        if isinstance(judge, AsksEach):
            self._ask = judge.ask_each
            return
        made = as_judge(judge, option=role, max_concurrency=None, seconds=_SECONDS)
        made.prepare(objectives)

        def ask(questions: Sequence[Question]) -> list[int | None]:
            told: dict[int, int | None] = {}
            for place, answer in made.answers(questions):
                told[place] = answer.verdict
            return [told.get(place) for place in range(len(questions))]

        self._ask = ask

    def each(self, pairs: Sequence[_Pair]) -> list[int | None]:
        """Verdicts on pairs as they stand."""
        if not pairs:
            return []
        said = list(self._ask([Question(*pair) for pair in pairs]))
        self.asked += len(said)
        self.unanswered += said.count(None)
        return said

    def both(self, pairs: Sequence[_Pair]) -> list[_Both]:
        """Verdicts on pairs as they stand, and with their texts the other way round."""
        said = self.each(
            [one for c, a, b, goal in pairs for one in ((c, a, b, goal), (c, b, a, goal))]
        )
        return list(zip(said[::2], said[1::2], strict=True))

    def can(self, pair: _Pair) -> bool:
        """Whether there is a verdict on a pair; the question does not count."""
        try:
            return self._ask([Question(*pair)])[0] is not None
        except EvaluationError:
            return False


def _answerable(
    judge: _Asked, pairs: Sequence[HumanPair], goals: Sequence[Objective]
) -> list[tuple[HumanPair, Objective]]:
    """Pairs with the objective that the judge is asked by.

    A reward model knows one objective, so whether a judge can be asked about others is tried once.
    """
    names = {goal.name for goal in goals}
    known = [(pair, pair.objective or goals[0]) for pair in pairs]
    others = [(pair, goal) for pair, goal in known if goal.name not in names]
    if others and judge.can((*_texts(others[0][0]), others[0][1])):
        return known
    return [(pair, goal) for pair, goal in known if goal.name in names]


def _texts(pair: HumanPair) -> tuple[str, str, str]:
    return pair.context, pair.first, pair.second


class _Planted(NamedTuple):
    context: str
    text: str
    shuffled: str
    padded: str
    objective: Objective


def _planted(
    rows: Sequence[EvaluatedRow], pairs: Sequence[HumanPair], goals: Sequence[Objective]
) -> list[_Planted]:
    """Pairs whose outcome is known, from texts of as many conversations as possible."""
    texts = {row.conversation: (row.context, row.edited) for row in rows}
    given = list(texts.values())
    random.Random(0).shuffle(given)
    given += [(pair.context, pair.first if pair.better == 1 else pair.second) for pair in pairs]
    planted: list[_Planted] = []
    for context, text in given:
        if len(planted) == _PLANTED:
            break
        if len(text.split()) >= _WORDS:
            goal = goals[len(planted) % len(goals)]
            planted.append(_Planted(context, text, _shuffled(text), _padded(text), goal))
    return planted


def _shuffled(text: str) -> str:
    words = text.split()
    shuffled = words[:]
    random.Random(text).shuffle(shuffled)
    return " ".join(shuffled if shuffled != words else words[::-1])


def _padded(text: str) -> str:
    """The text with its sentences once more; empty where it has no whole sentence."""
    sentences = re.findall(r"[^.!?\n]{12,}[.!?]", text)
    return f"{text} {' '.join(one.strip() for one in sentences)}" if sentences else ""


def _judged(rows: Sequence[EvaluatedRow]) -> Iterator[tuple[EvaluatedRow, Comparison]]:
    """What a judge was asked about rows; it isn't asked about a text and itself."""
    for row in rows:
        for name, comparison in row.comparisons.items():
            for one in row.against_reference.get(name, (comparison,)):
                if None not in one.verdicts:
                    yield row, one


def _consistency(judged: Sequence[tuple[str, _Both]]) -> Share:
    told = [
        (group, Comparison(None, both).consistent) for group, both in judged if None not in both
    ]
    return _share([bool(one) for _, one in told], [group for group, _ in told])


def _first_place(judged: Sequence[tuple[str, _Both]]) -> Share:
    said = [(group, one) for group, both in judged for one in both if one]
    return _share([one == 1 for _, one in said], [group for group, _ in said])


def _share(hits: Sequence[bool], groups: Sequence[str]) -> Share:
    if not hits:
        return Share()
    return Share(len(hits), sum(hits) / len(hits), share_interval(hits, groups))


def _mean(points: Sequence[float | None]) -> Share:
    """The mean of what pairs score, from 0 to 1; its interval is at most too wide."""
    told = [one for one in points if one is not None]
    if not told:
        return Share()
    return Share(len(told), sum(told) / len(told), wilson(sum(told), len(told)))


def _points(both: _Both, *, better: int) -> float | None:
    """How right two verdicts are on a pair, in both orders; half where one of them is a tie."""
    if None in both:
        return None
    return (
        sum(
            1.0 if right == said else 0.5 if 0 in (right, said) else 0.0
            for right, said in _labels(better, both)
        )
        / 2
    )


def _labels(better: int, both: _Both) -> list[tuple[int, int]]:
    """What was right, and what was said, in each order."""
    wanted = (better, better and 3 - better)
    return [(right, said) for right, said in zip(wanted, both, strict=True) if said is not None]


def _outcome(both: _Both) -> int:
    return {(1, 2): 1, (2, 1): 2}.get((both[0] or 0, both[1] or 0), 0)


def _paired_outcomes(
    ours: Sequence[_Both], theirs: Sequence[_Both]
) -> Iterator[tuple[object, object]]:
    for one, other in zip(ours, theirs, strict=False):
        if None not in one and None not in other:
            yield _outcome(one), _outcome(other)


def _second_outcomes(rows: Sequence[EvaluatedRow]) -> Iterator[tuple[object, object]]:
    number = {"win": 1, "loss": 2, "tie": 0}
    for row in rows:
        for name, other in row.second.items() if row.changed else ():
            one = row.comparisons.get(name)
            if one is not None and one.outcome is not None and other.outcome is not None:
                yield number[one.outcome], number[other.outcome]


def _kappa(labels: Sequence[tuple[object, object]]) -> float | None:
    """Cohen's kappa: agreement beyond what the two would have by chance."""
    if not labels:
        return None
    ours, theirs = [one for one, _ in labels], [other for _, other in labels]
    count = len(labels)
    by_chance = sum(ours.count(one) * theirs.count(one) for one in set(ours)) / count**2
    if by_chance == 1:
        return None
    return (sum(one == other for one, other in labels) / count - by_chance) / (1 - by_chance)


def _joined(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
