"""Judges of pairs of texts: chat models, reward models, functions, or one for each objective."""

from __future__ import annotations

import inspect
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langchain_metaaligner.editing.objectives import Objective
from langchain_metaaligner.editing.prompts import parse_conversation
from langchain_metaaligner.engines import threads
from langchain_metaaligner.engines.completions.loop import LoopThread
from langchain_metaaligner.errors import EvaluationError
from langchain_metaaligner.evaluation.calls import call_each
from langchain_metaaligner.evaluation.fingerprints import fingerprint
from langchain_metaaligner.training.data.pairs import PreferencePair, digest
from langchain_metaaligner.training.data.parser import objective_name
from langchain_metaaligner.training.data.scores import Scorer, score_pairs
from langchain_metaaligner.training.scoring.chat_judge import (
    INSTRUCTION,
    ChatJudge,
    Verdict,
    name_of,
    why_unjudged,
)
from langchain_metaaligner.training.scoring.reward_models import RewardModel, RewardModels

_AT_ONCE = 8  # calls of a chat model, or of an asynchronous function
_ADVICE = (
    "Give a LangChain chat model, a reward model (RewardModel, its hub id or its folder), a"
    " function of (context, first, second, objective) that returns 1, 2 or 0, or a dictionary from"
    " the names of objectives to such judges."
)
_NUMBERS: Mapping[str, int] = {"first": 1, "second": 2, "equal": 0, "a": 1, "b": 2}


@dataclass(frozen=True, slots=True)
class Question:
    """What a judge is asked: which of two texts does better, as they stand.

    Attributes:
        context: The conversation before the texts.
        first: The text that is read first.
        second: The other.
        objective: What they are judged by.
    """

    context: str = field(repr=False)
    first: str = field(repr=False)
    second: str = field(repr=False)
    objective: Objective


@dataclass(frozen=True, slots=True)
class Answer:
    """What a judge said.

    Attributes:
        verdict: 1 for the first text, 2 for the second, 0 for neither; `None` for no verdict.
        reason: Why there is none, with no text of the data.
        seconds: Time that the judge took.
    """

    verdict: int | None
    reason: str | None = None
    seconds: float = 0.0


class Judge(ABC):
    """Says which of two texts does better on an objective.

    Attributes:
        name: Its name in reports.
    """

    name: str

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """What tells this judge from another one, as plain JSON; of a change, resumed runs tell."""

    @abstractmethod
    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """Answer questions.

        Args:
            questions: The questions.

        Yields:
            The number of a question, from 0, and its answer, as soon as it is known.
        """

    def prepare(self, objectives: Sequence[Objective]) -> None:  # noqa: B027 - most need nothing
        """Check and load what the judge needs, before anything is spent.

        Args:
            objectives: The objectives that it will be asked about.

        Raises:
            MetaAlignerError: It can't judge one of them.
        """


class _CalledJudge(Judge):
    """Calls something for each question, several at a time, each within its time."""

    def __init__(self, *, at_once: int, seconds: float | None) -> None:
        self._at_once, self._seconds = at_once, seconds

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """As in `Judge`."""
        calls = call_each(
            len(questions),
            lambda place: self._verdict(questions[place]),
            at_once=self._at_once,
            seconds=self._seconds,
        )
        for called in calls:
            said = called.result
            if isinstance(said, Exception):
                yield called.place, Answer(None, self._reason(said), called.seconds)
            else:
                yield called.place, Answer(said, None, called.seconds)

    @abstractmethod
    def _verdict(self, question: Question) -> int: ...

    def _reason(self, error: Exception) -> str:
        if isinstance(error, threads.Late):
            return f"the judge took longer than {self._seconds:g} s"
        return str(error) if isinstance(error, _NonsenseError) else why_unjudged(error)


class ChatModelJudge(_CalledJudge):
    """Asks a chat model.

    Args:
        judge: The model with its question.
        model: The model, where it is known; only for what tells it from another.
        at_once: Calls at the same time.
        seconds: Time for each call; `None` for no limit.
    """

    def __init__(
        self, judge: ChatJudge, model: Any = None, *, at_once: int, seconds: float | None
    ) -> None:
        super().__init__(at_once=at_once, seconds=seconds)
        self._judge, self._model = judge, model
        self.name = judge.name

    @property
    def settings(self) -> Mapping[str, Any]:
        """As in `Judge`."""
        known = {"kind": "chat model", "name": self.name, "question": digest(INSTRUCTION)[:16]}
        for name in ("temperature", "seed", "reasoning_effort"):
            value = getattr(self._model, name, None)
            if isinstance(value, int | float | str):
                known[name] = str(value)
        return known

    def _verdict(self, question: Question) -> int:
        verdict: Verdict = self._judge.ask(_pair(question), question.objective)
        return _NUMBERS[verdict]


class FunctionJudge(_CalledJudge):
    """Calls a function `judge(context, first, second, objective) -> 1 | 2 | 0`.

    Args:
        function: The function, plain or asynchronous.
        at_once: Calls at the same time.
        seconds: Time for each call; `None` for no limit.
    """

    def __init__(
        self, function: Callable[..., Any], *, at_once: int, seconds: float | None
    ) -> None:
        super().__init__(at_once=at_once, seconds=seconds)
        self._function = function
        self._loop = LoopThread("metaaligner-judge-loop", _nothing)
        named = getattr(function, "name", None) or getattr(function, "__name__", None)
        self.name = named if isinstance(named, str) else type(function).__qualname__

    @property
    def settings(self) -> Mapping[str, Any]:
        """As in `Judge`."""
        return {"kind": "function", "name": self.name, "code": fingerprint(self._function)}

    def _verdict(self, question: Question) -> int:
        said = self._function(
            question.context, question.first, question.second, question.objective.name
        )
        if inspect.isawaitable(said):
            made = self._loop.submit(_awaited(said, self._seconds))
            said = made.result()
        return _number(said)


class ScorerJudge(Judge):
    """Compares the scores that reward models, or another scorer, give to texts.

    Args:
        scorer: The scorer.
        name: Its name in reports.
        single: The scorer is one model for every objective.
    """

    def __init__(self, scorer: Scorer, name: str, *, single: RewardModel | None = None) -> None:
        self._scorer, self.name, self._single = scorer, name, single

    @property
    def settings(self) -> Mapping[str, Any]:
        """As in `Judge`."""
        known: dict[str, Any] = {"kind": "scorer", "name": self.name}
        if self._single is not None:
            known["model"] = _model_settings(self._single)
        elif isinstance(self._scorer, RewardModels):
            known["models"] = {
                name: _model_settings(one) for name, one in sorted(self._scorer.models.items())
            }
        return known

    def prepare(self, objectives: Sequence[Objective]) -> None:
        """As in `Judge`."""
        if self._single is not None:
            self._scorer = RewardModels({one.name: self._single for one in objectives})
        if isinstance(self._scorer, RewardModels):
            self._scorer.load(objectives)

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """As in `Judge`."""
        for objective in dict.fromkeys(one.objective for one in questions):
            places = [at for at, one in enumerate(questions) if one.objective == objective]
            yield from self._about(objective, {at: questions[at] for at in places})

    def _about(
        self, objective: Objective, questions: Mapping[int, Question]
    ) -> Iterator[tuple[int, Answer]]:
        pairs = [_pair(one, str(place)) for place, one in questions.items()]
        try:
            scored, problems = score_pairs(pairs, self._scorer, [objective])
        except Exception as error:  # noqa: BLE001 - a text that a judge can't read is no end
            if len(pairs) == 1:
                yield next(iter(questions)), Answer(None, why_unjudged(error))
                return
            for place, one in questions.items():
                yield from self._about(objective, {place: one})
            return
        name = objective_name(objective.name)
        for pair in scored:
            winner = pair.winner(name)
            yield int(pair.place), Answer(None if winner is None else _NUMBERS[winner])
        for problem in problems:
            yield int(problem.place), Answer(None, problem.detail.removeprefix(f"{name}: "))


class JudgePerObjective(Judge):
    """Asks another judge about each objective.

    Args:
        judges: Name of an objective to its judge.
    """

    def __init__(self, judges: Mapping[str, Judge]) -> None:
        self._judges = {objective_name(name): one for name, one in judges.items()}
        self.name = ", ".join(dict.fromkeys(one.name for one in self._judges.values()))

    @property
    def settings(self) -> Mapping[str, Any]:
        """As in `Judge`."""
        return {name: one.settings for name, one in sorted(self._judges.items())}

    def prepare(self, objectives: Sequence[Objective]) -> None:
        """As in `Judge`."""
        for objective in objectives:
            self._of(objective).prepare([objective])

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """As in `Judge`."""
        for objective in dict.fromkeys(one.objective for one in questions):
            places = [at for at, one in enumerate(questions) if one.objective == objective]
            for place, answer in self._of(objective).answers([questions[at] for at in places]):
                yield places[place], answer

    def _of(self, objective: Objective) -> Judge:
        name = objective_name(objective.name)
        if name not in self._judges:
            msg = (
                f"There is no judge for the objective {name!r}, only for"
                f" {', '.join(map(repr, self._judges))}. Add one, or leave the objective out."
            )
            raise EvaluationError(msg)
        return self._judges[name]


def as_judge(
    given: Any, *, option: str, max_concurrency: int | None, seconds: float | None
) -> Judge:
    """Make a judge of what a user gives as one.

    Args:
        given: A chat model or another runnable, a `ChatJudge`, a reward model in any form, a
            scorer, a function, or a mapping from objectives to them.
        option: Name of the option, for messages.
        max_concurrency: Calls at the same time; `None` for 8 of a chat model or of an asynchronous
            function, and 1 of a plain function, which may not bear more.
        seconds: Time for each call; `None` for no limit.

    Returns:
        The judge.

    Raises:
        EvaluationError: It is none of these.
    """
    if isinstance(given, Judge):
        return given
    many = max_concurrency or _AT_ONCE
    if isinstance(given, Mapping):
        return _per_objective(given, option, max_concurrency, seconds)
    if isinstance(given, ChatJudge):
        return ChatModelJudge(given, at_once=many, seconds=seconds)
    if not isinstance(given, type):
        if callable(getattr(given, "invoke", None)) and hasattr(given, "with_retry"):
            return ChatModelJudge(ChatJudge(given), given, at_once=many, seconds=seconds)
        model = _reward_model(given)
        if model is not None:
            name = model.model if isinstance(model.model, str | Path) else name_of(model.model)
            return ScorerJudge(RewardModels({}), str(name), single=model)
        if isinstance(given, Scorer):
            return ScorerJudge(given, type(given).__name__)
    if callable(given) and not isinstance(given, type) and _takes_four(given):
        call = given if inspect.isroutine(given) else getattr(given, "__call__", given)  # noqa: B004
        once = many if inspect.iscoroutinefunction(call) else max_concurrency or 1
        return FunctionJudge(given, at_once=once, seconds=seconds)
    raise EvaluationError(_no_judge(given, option))


def _per_objective(
    given: Mapping[Any, Any], option: str, max_concurrency: int | None, seconds: float | None
) -> Judge:
    if not given or not all(isinstance(name, str) for name in given):
        msg = f"`{option}` maps names of objectives to judges; {given.keys()} are no such names."
        raise EvaluationError(msg)
    return JudgePerObjective(
        {
            name: as_judge(
                one, option=f"{option}[{name!r}]", max_concurrency=max_concurrency, seconds=seconds
            )
            for name, one in given.items()
        }
    )


def _reward_model(given: Any) -> RewardModel | None:
    if isinstance(given, RewardModel):
        return given
    if isinstance(given, str) and ":" in given and not Path(given).exists():
        msg = (
            f"A text names a reward model, which {given!r} is none of. If it names a chat model,"
            f" give the model itself: init_chat_model({given!r}, temperature=0), from"
            " langchain.chat_models."
        )
        raise EvaluationError(msg)
    if isinstance(given, str | Path):
        return RewardModel(given)
    model, tokenizer = given, None
    if isinstance(given, tuple) and len(given) == 2:
        model, tokenizer = given
    elif hasattr(given, "model") and hasattr(given, "tokenizer"):  # a pipeline of transformers
        model, tokenizer = given.model, given.tokenizer
    if not (hasattr(model, "forward") and hasattr(getattr(model, "config", None), "num_labels")):
        return None
    if tokenizer is None:
        msg = "A loaded reward model needs its tokenizer: RewardModel(model, tokenizer=…)."
        raise EvaluationError(msg)
    return RewardModel(model, tokenizer=tokenizer)


def _takes_four(given: Any) -> bool:
    try:
        inspect.signature(given).bind("", "", "", "")
    except TypeError:
        return False
    except ValueError:  # written in C, and does not say
        return True
    return True


def _no_judge(given: Any, option: str) -> str:
    what = f"an object of type {type(given).__name__}"
    if given is None:
        what = "None"
    elif isinstance(given, type):
        what = f"the class {given.__name__}, and no object of it"
    elif callable(given):
        name = getattr(given, "__name__", type(given).__name__)
        what = f"{name}, which does not take a judge's four arguments"
    return f"`{option}` is {what}. {_ADVICE}"


def _model_settings(one: RewardModel) -> Mapping[str, Any]:
    loaded = not isinstance(one.model, str | Path)
    config = getattr(one.model, "config", None)
    name = getattr(config, "_name_or_path", None) or name_of(one.model) if loaded else one.model
    label = None if one.label is None else str(one.label)
    return {"model": str(name), "revision": one.revision, "label": label}


def _pair(question: Question, place: str = "") -> PreferencePair:
    turns = parse_conversation(question.context)
    context = question.context if turns is None else tuple(turns)
    return PreferencePair(context, question.first, question.second, {}, place)


class _NonsenseError(Exception):
    """A function returned something that is no verdict."""


def _number(said: Any) -> int:
    try:
        number = None if isinstance(said, bool) else operator.index(said)
    except TypeError:
        number = None
    if number in (0, 1, 2):
        return number
    what = str(number) if number is not None and abs(number) < 10**6 else type(said).__name__
    msg = f"the judge answered {what}, where 1, 2 or 0 was expected"
    raise _NonsenseError(msg)


async def _awaited(said: Any, seconds: float | None) -> Any:
    import asyncio

    try:
        return await asyncio.wait_for(said, seconds)
    except TimeoutError as error:
        raise threads.Late from error


def _nothing() -> None:
    """A new loop starts with the next call."""
