"""Reads edits: rows of an original text and the text that a person made of it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_metaaligner.editing.conversation import SystemHandling
from langchain_metaaligner.editing.objectives import (
    Objective,
    ObjectiveLike,
    objective_key,
    parse_objectives,
)
from langchain_metaaligner.editing.prompts import HH_RLHF, PromptFamily
from langchain_metaaligner.errors import PreferenceDataError, UnknownObjectiveError
from langchain_metaaligner.training.data.accepted import is_accepted, with_verdicts
from langchain_metaaligner.training.data.columns import EDIT_FIELDS, Columns
from langchain_metaaligner.training.data.example import TrainingExample
from langchain_metaaligner.training.data.fields import BadRowError, read_answer, read_context
from langchain_metaaligner.training.data.pairs import Problem, digest
from langchain_metaaligner.training.data.parser import check_structure
from langchain_metaaligner.training.data.rows import Row, read_rows


@dataclass(frozen=True, slots=True)
class Edits:
    """The usable edits of the data as training examples, and the problems of the other rows.

    Attributes:
        examples: The examples, in the order of the data: of the kind `edit`, or `copy` where the
            text stayed as it was.
        problems: What is not used, and why.
        rows: Number of rows read.
        system_dropped: Number of system messages left out of contexts.
        rejected: Number of recorded edits that people rejected.
        undecided: Number of recorded edits on which nobody has decided.
    """

    examples: tuple[TrainingExample, ...] = field(repr=False)
    problems: tuple[Problem, ...] = field(repr=False)
    rows: int
    system_dropped: int = 0
    rejected: int = 0
    undecided: int = 0

    def report(self, *, first: int = 10) -> str:
        """Summarise what was read: counts of each kind of problem, and the first problems.

        Args:
            first: Number of problems to list.

        Returns:
            Lines of text, with no text of the data.
        """
        kinds = Counter(example.kind for example in self.examples)
        made = f"{kinds['edit']} edits and {kinds['copy']} copies"
        lines = [f"{made} from {self.rows} rows, {len(self.problems)} problems"]
        counts = Counter(problem.kind for problem in self.problems)
        lines += [f"  {kind}: {count}" for kind, count in sorted(counts.items())]
        if self.system_dropped:
            lines.append(f"  system messages left out: {self.system_dropped}")
        if self.rejected or self.undecided:
            told = f"{self.rejected} rejected, {self.undecided} undecided"
            lines.append(f"  recorded edits that nobody accepted: {told}")
        lines += [str(problem) for problem in self.problems[:first]]
        if len(self.problems) > first:
            lines.append(f"… and {len(self.problems) - first} more")
        return "\n".join(lines)


def read_edits(
    source: Any,
    *,
    objectives: ObjectiveLike | Iterable[ObjectiveLike] | None = None,
    columns: Mapping[str, str] | None = None,
    family: PromptFamily = HH_RLHF,
    split: str = "train",
    subset: str | None = None,
    revision: str | None = None,
    system: SystemHandling = None,
    seed: int = 0,
    on_problem: Literal["skip", "raise"] = "skip",
) -> Edits:
    """Read edits that people or models made, as examples to train on.

    A row has these fields; `columns` maps other names to them:

    - the context: `context` (text as given to the aligner, or messages), `messages`, or the user's
      question alone in `prompt`, `question`, `query` or `instruction`;
    - `original` (or `original_response`, `answer`): the answer before the edit, text or a message;
    - `edited` (or `edited_response`, `edit`): the answer after it. Where the two are the same text,
      the row becomes a copy: an aligner has to learn what stays, too;
    - `objectives`, optional: what this edit was for, as one name or a list of names or sentences
      "Name: description".

    Of edits that `EditRecords` recorded, only those are used that people accepted: `accepted` is
    true in the row, or in a later line with the row's `id`.

    Rows of the `edit` subset of HelpSteer3 are read as they are (CC-BY-4.0: name it in your card).
    Rows that can't be used are reported as problems, as `read_preferences` does.

    Args:
        source: As for `read_preferences`.
        objectives: What the edits of rows without `objectives` were for. They also say what the
            names in rows mean, where the catalogue doesn't know them.
        columns: Our name of a field to its name in the data, with dots into nested fields.
        family: The prompt family that the aligner will be trained on.
        split: The split of a data set.
        subset: The configuration of a data set on the hub.
        revision: The revision of a data set on the hub.
        system: `None` leaves system messages out of contexts, `"first_turn"` joins them to the
            first human turn.
        seed: Seed of the order of the objectives in each example.
        on_problem: `"skip"` continues, `"raise"` stops at the first problem.

    Returns:
        The examples, and the problems with their places.

    Raises:
        PreferenceDataError: The source can't be read, or it has a problem and `on_problem` is
            `"raise"`.
        UnknownObjectiveError: An objective of `objectives` has no known description.
    """
    if on_problem not in ("skip", "raise"):
        msg = f"`on_problem` is 'skip' or 'raise', not {on_problem!r}."
        raise PreferenceDataError(msg)
    fields = Columns(columns, EDIT_FIELDS)
    otherwise = () if objectives is None else parse_objectives(objectives)
    examples: dict[str, TrainingExample] = {}
    places: dict[str, str] = {}
    problems: list[Problem] = []
    rows = dropped = rejected = undecided = 0
    found = read_rows(source, split=split, subset=subset, revision=revision)
    for row in with_verdicts(found):
        rows += 1
        try:
            verdict = True if isinstance(row, Problem) else is_accepted(row)
            if not verdict:
                rejected, undecided = rejected + (verdict is False), undecided + (verdict is None)
                continue
            example, left_out = _example(row, fields, otherwise, family, system, seed)
            dropped += left_out
            key = digest(example.context, example.answer, example.edit, _names(example))
            if key in examples:
                detail = f"the same edit as in {places[key]}"
                raise BadRowError(kind="duplicate", detail=detail)
        except BadRowError as error:
            problem = Problem(row.place, error.kind, error.detail)
            if on_problem == "raise":
                msg = (
                    f"{problem}. Fix or remove the row, or read with on_problem='skip' and look at"
                    " the report."
                )
                raise PreferenceDataError(msg) from error
            problems.append(problem)
        else:
            examples[key], places[key] = example, row.place
    return Edits(tuple(examples.values()), tuple(problems), rows, dropped, rejected, undecided)


def _example(
    row: Row | Problem,
    fields: Columns,
    otherwise: tuple[Objective, ...],
    family: PromptFamily,
    system: SystemHandling,
    seed: int,
) -> tuple[TrainingExample, int]:
    if isinstance(row, Problem):
        raise BadRowError(kind=row.kind, detail=row.detail)
    given, is_question = fields.context(row.values)
    context, dropped = read_context(given, system=system, is_question=is_question)
    texts = {name: _text(row, fields, name) for name in ("original", "edited")}
    check_structure(context, texts, family)
    rendered = context if isinstance(context, str) else family.render_turns(context)
    original, edited = texts["original"], texts["edited"]
    asked = _objectives(fields.text(row.values, "objectives"), otherwise)
    key = digest(seed, rendered, original, edited)
    return TrainingExample(
        rendered,
        original,
        tuple(random.Random(key).sample(asked, len(asked))),
        edited,
        kind="copy" if original == edited else "edit",
    ), dropped


def _text(row: Row, fields: Columns, name: str) -> str:
    given = fields.text(row.values, name)
    if given is None:
        raise BadRowError(kind="missing", detail=f"the row has no {name} text")
    return read_answer(given, name)


def _objectives(given: Any, otherwise: tuple[Objective, ...]) -> tuple[Objective, ...]:
    if not given:
        if otherwise:
            return otherwise
        detail = "the row doesn't say what the edit was for; pass `objectives` for such rows"
        raise BadRowError(kind="objectives", detail=detail)
    known = {objective_key(one.name): one for one in otherwise}
    if isinstance(given, str):
        given = [given]
    if isinstance(given, list | tuple):
        given = [
            known.get(objective_key(one), one) if isinstance(one, str) else one for one in given
        ]
    try:
        return parse_objectives(given)
    except UnknownObjectiveError as error:
        detail = "`objectives` names one without a known description"
        raise BadRowError(kind="objectives", detail=detail) from error


def _names(example: TrainingExample) -> list[str]:
    return sorted(f"{goal.name}: {goal.description}" for goal in example.objectives)
