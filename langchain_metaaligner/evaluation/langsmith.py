"""The comparison of `evaluate` as an evaluator of LangSmith's `evaluate` and `aevaluate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_metaaligner.editing.objectives import Objectives, parse_objectives
from langchain_metaaligner.editing.prompts import render_conversation
from langchain_metaaligner.errors import EvaluationError
from langchain_metaaligner.evaluation.judges import Answer, Question, as_judge
from langchain_metaaligner.evaluation.records import Comparison
from langchain_metaaligner.training.data.columns import Columns
from langchain_metaaligner.training.data.fields import BadRowError, read_answer, read_context

LangSmithEvaluator = Callable[..., dict[str, Any]]
"""An evaluator that takes `inputs`, `outputs` and `reference_outputs`."""

_COLUMNS = Columns(None)
_SCORES: Mapping[tuple[int | None, int | None], float] = {(1, 2): 1.0, (2, 1): 0.0}
_ANSWERS = ("edited", "answer", "output", "original", "messages")


def as_langsmith_evaluator(
    judge: Any,
    objectives: Objectives,
    *,
    max_concurrency: int | None = None,
    judge_timeout: float | None = 120.0,
) -> LangSmithEvaluator:
    """Make an evaluator that compares a run's output with its example's reference output.

    The judge reads the two in both orders, as in `evaluate`. The score is 1 if the output is better
    in both, 0 if the reference is, and ½ otherwise, so that its mean is ½ without a preference. As
    the reference, take the reply before the edit to see what the edit changes, or an ideal reply.

    Args:
        judge: The judge, in any form that `evaluate` takes.
        objectives: What the two are compared by.
        max_concurrency: As in `evaluate`.
        judge_timeout: As in `evaluate`.

    Returns:
        The evaluator. It gives one feedback for each objective, under the objective's name.

    Raises:
        EvaluationError: The judge is none.
    """
    goals = tuple(parse_objectives(objectives))
    made = as_judge(judge, option="judge", max_concurrency=max_concurrency, seconds=judge_timeout)
    made.prepare(goals)

    def metaaligner(
        inputs: dict[str, Any], outputs: dict[str, Any], reference_outputs: dict[str, Any] | None
    ) -> dict[str, Any]:
        context = _context(inputs)
        edited = _text(outputs, "output")
        reference = _text(reference_outputs, "reference output")
        questions = [
            Question(context, *texts, goal)
            for goal in goals
            for texts in ((edited, reference), (reference, edited))
        ]
        told = dict(enumerate([Answer(0)] * len(questions)))
        if edited != reference:
            told = dict(made.answers(questions))
        results = [
            _feedback(goal.name, told[2 * at], told[2 * at + 1]) for at, goal in enumerate(goals)
        ]
        return results[0] if len(results) == 1 else {"results": results}

    return metaaligner


def _feedback(name: str, first: Answer, second: Answer) -> dict[str, Any]:
    verdicts = first.verdict, second.verdict
    if None in verdicts:
        why = first.reason or second.reason or "the judge gave no verdict"
        return {"key": name, "score": None, "comment": f"No verdict: {why}"}
    if not Comparison(None, verdicts).consistent:
        return {"key": name, "score": 0.5, "comment": "The judge's two orders disagree."}
    return {"key": name, "score": _SCORES.get(verdicts, 0.5)}


def _context(inputs: Mapping[str, Any]) -> str:
    given, is_question = _COLUMNS.context(inputs)
    if given is None and len(inputs) == 1:
        (given,) = inputs.values()
        is_question = isinstance(given, str)
    try:
        turns, _ = read_context(given, system="first_turn", is_question=is_question)
    except BadRowError as error:
        msg = (
            f"The example's inputs have no conversation that a judge could read: {error.detail}."
            " Give them as `messages`, `question` or `context`."
        )
        raise EvaluationError(msg) from error
    if isinstance(given, str) and not is_question:
        return given
    return turns if isinstance(turns, str) else render_conversation(turns)


def _text(given: Mapping[str, Any] | None, what: str) -> str:
    """The answer in an output: a field of a known name, or the only one."""
    found: Any = None
    if given:
        names = [name for name in _ANSWERS if given.get(name) is not None]
        found = given[names[0]] if names else next(iter(given.values()))
        if not names and len(given) > 1:
            found = given if "content" in given else None
        if isinstance(found, Sequence) and not isinstance(found, str) and found:
            found = found[-1]
    try:
        if found is None:
            raise BadRowError(kind="missing", detail="there is none")
        return read_answer(found, f"the {what}")
    except BadRowError as error:
        msg = (
            f"The {what} has no answer to compare: {error.detail}. Give it as the only field, or as"
            f" one of {', '.join(map(repr, _ANSWERS))}."
        )
        raise EvaluationError(msg) from error
