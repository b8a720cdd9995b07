"""Asks a judge about pairs in both orders, and keeps each verdict as soon as it is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from langchain_metaaligner.editing.objectives import Objective
from langchain_metaaligner.errors import EvaluationError
from langchain_metaaligner.evaluation.judges import Answer, Judge, Question
from langchain_metaaligner.evaluation.records import Comparison, Outcome
from langchain_metaaligner.evaluation.storage import ResultsFile
from langchain_metaaligner.training.data.pairs import digest

GIVE_UP = 50
"""After so many failures in a row, a judge or an aligner is down, or unable to do its work."""

_DOWN = 8  # failures in a row after which a check, which can do without, asks no more

_BETTER: dict[Outcome, int] = {"win": 1, "tie": 0, "loss": -1}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts to compare.

    Attributes:
        context: The conversation before them.
        text: The text whose outcome is asked for: the edit, or what is compared with a reference.
        other: What it is compared with.
        objective: What both are judged by.
    """

    context: str = field(repr=False)
    text: str = field(repr=False)
    other: str = field(repr=False)
    objective: Objective


class Asking:
    """Asks one judge, in both orders, what is not known yet.

    Args:
        judge: The judge.
        kept: Where its verdicts are kept.
        role: `judge` or `second_judge`; the verdicts of the two are kept apart.

    Attributes:
        checked: By what the verdicts of the check are known.
    """

    def __init__(self, judge: Judge, kept: ResultsFile, role: str) -> None:
        self._judge, self._kept, self._role = judge, kept, role
        self._failures = 0
        self.checked: set[str] = set()

    def compare(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, Comparison]]:
        """Compare texts; a text is equal to itself without a question.

        Args:
            pairs: The pairs.

        Yields:
            The number of a pair, from 0, and what came of it, as soon as both orders are known.

        Raises:
            EvaluationError: Many questions in a row got no verdict.
        """
        answers: dict[tuple[int, bool], Answer] = {}
        places: list[tuple[int, bool]] = []
        questions: list[Question] = []
        for place, pair in enumerate(pairs):
            if pair.text == pair.other:
                yield place, Comparison("tie")
                continue
            for swapped in (False, True):
                texts = (pair.other, pair.text) if swapped else (pair.text, pair.other)
                places.append((place, swapped))
                questions.append(Question(pair.context, *texts, pair.objective))
        for at, answer in self.answers(questions):
            place, swapped = places[at]
            answers[place, swapped] = answer
            other = answers.get((place, not swapped))
            if other is not None:
                both = (other, answer) if swapped else (answer, other)
                yield place, _comparison(*both)

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """Answer questions; the same one is asked once.

        Args:
            questions: The questions.

        Yields:
            The number of a question, from 0, and its answer.

        Raises:
            EvaluationError: Many questions in a row got no verdict.
        """
        waiting: dict[str, list[int]] = {}
        for at, question in enumerate(questions):
            key = self._key(question)
            known = self._kept.notes.get(key)
            if known is not None:
                yield at, Answer(**known)
            else:
                waiting.setdefault(key, []).append(at)
        keys = list(waiting)
        new = [questions[places[0]] for places in waiting.values()]
        for number, answer in self._judge.answers(new) if new else ():
            if answer.verdict is not None:
                self._kept.note(keys[number], asdict(answer))
            self._check_alive(answer)
            for at in waiting[keys[number]]:
                yield at, answer

    def ask_each(self, questions: Sequence[Question]) -> list[int | None]:
        """Answer the questions of a check, and stop asking a judge that is down.

        Args:
            questions: The questions.

        Returns:
            For each 1, 2 or 0; `None` if the judge gave no verdict.
        """
        self.checked |= set(map(self._key, questions))
        verdicts: list[int | None] = [None] * len(questions)
        if self._failures < _DOWN:
            for at, answer in self.answers(questions):
                verdicts[at] = answer.verdict
                if self._failures >= _DOWN:
                    break
        return verdicts

    def _key(self, question: Question) -> str:
        objective = question.objective.name, question.objective.description
        return digest(self._role, question.context, question.first, question.second, objective)[:32]

    def _check_alive(self, answer: Answer) -> None:
        self._failures = self._failures + 1 if answer.verdict is None else 0
        if self._failures >= GIVE_UP:
            msg = (
                f"The {self._role.replace('_', ' ')} {self._judge.name!r} gave no verdict on"
                f" {self._failures} questions in a row, lastly because {answer.reason}."
                f" {went_on(self._kept)}"
            )
            raise EvaluationError(msg)


def went_on(kept: ResultsFile) -> str:
    """What becomes of the work so far, in a sentence for an error's message.

    Args:
        kept: Where it is kept.
    """
    if kept.path is None:
        return "Mend that and evaluate again, with out= so that nothing is done twice."
    return f"Mend that and evaluate again: what was done is kept in {kept.path}."


def against(edit: Comparison, original: Comparison) -> Comparison:
    """What follows for an edit and its original from how both do against a reference.

    Args:
        edit: The edit against the reference.
        original: The original against the reference.
    """
    seconds = edit.seconds + original.seconds
    if edit.outcome is None or original.outcome is None:
        return Comparison(None, reason=edit.reason or original.reason, seconds=seconds)
    difference = _BETTER[edit.outcome] - _BETTER[original.outcome]
    outcome: Outcome = "win" if difference > 0 else "loss" if difference < 0 else "tie"
    return Comparison(outcome, seconds=seconds)


def _comparison(first: Answer, second: Answer) -> Comparison:
    verdicts = first.verdict, second.verdict
    seconds = round(first.seconds + second.seconds, 6)
    if None in verdicts:
        return Comparison(None, verdicts, first.reason or second.reason, seconds)
    outcomes: dict[Any, Outcome] = {(1, 2): "win", (2, 1): "loss"}
    return Comparison(outcomes.get(verdicts, "tie"), verdicts, None, seconds)
