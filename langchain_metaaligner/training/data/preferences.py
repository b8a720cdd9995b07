"""Reads preference data: pairs of answers with a score or a preference for each objective."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from langchain_metaaligner.editing.conversation import SystemHandling
from langchain_metaaligner.editing.objectives import Objective, ObjectiveLike, parse_objectives
from langchain_metaaligner.editing.prompts import HH_RLHF, PromptFamily
from langchain_metaaligner.errors import PreferenceDataError
from langchain_metaaligner.training.data.columns import Columns
from langchain_metaaligner.training.data.pairs import PreferencePair, Preferences, Problem, settle
from langchain_metaaligner.training.data.parser import Rules, objective_name, parse_row
from langchain_metaaligner.training.data.rows import read_rows

if TYPE_CHECKING:
    from langchain_metaaligner.training.data.scores import ScorerLike

OnProblem = Literal["skip", "raise"]


def read_preferences(
    source: Any,
    *,
    columns: Mapping[str, str] | None = None,
    objectives: ObjectiveLike | Iterable[ObjectiveLike] | None = None,
    preferred_on: str | Iterable[str] = (),
    scorer: ScorerLike | None = None,
    family: PromptFamily = HH_RLHF,
    split: str = "train",
    subset: str | None = None,
    revision: str | None = None,
    system: SystemHandling = None,
    pairs_per_prompt: int | None = None,
    seed: int = 0,
    on_problem: OnProblem = "skip",
) -> Preferences:
    r"""Read pairs of answers and how they compare on each objective.

    A row has these fields; `columns` says where they are if they are called otherwise:

    - the context: `context` (text as the aligner is given it, or messages), `messages`, or the
      user's question alone under `prompt`, `question`, `query` or `instruction`;
    - two answers, `answer_a` and `answer_b` (or `chosen` and `rejected`): text or a message. With
      messages, as in TRL's conversational data, or with whole conversations as in HH-RLHF, the
      context is what comes before the last one;
    - for each objective two scores, more is better: `scores_a` and `scores_b`, or just the better
      one: `preferences` (`"a"`, `"b"` or `"equal"`). These are dictionaries by the objective's
      name; in a CSV the columns are called `scores_a.helpfulness` and so on;
    - or, instead of two answers, `answers`: a list of dictionaries with `answer` and `scores`
      (`ULTRAFEEDBACK_COLUMNS` are the columns of that data set). All pairs of them are read.

    What can't be used is never in the pairs but in the problems: a missing, infinite or
    non-numeric score, an empty text, both answers the same, rows that repeat or contradict each
    other, and text that holds the prompt's own structure, which would teach an aligner to write
    it.

    The rows are read one after the other, but the pairs and the problems are held in memory:
    about twice the size of the texts.

    Args:
        source: A `.jsonl`, `.csv`, `.tsv` or `.parquet` file, a folder that `datasets` saved, a
            data set's name on the hub, a `Dataset`, or an iterable of dictionaries.
        columns: A field's name here to its name in the data, with dots into nested fields.
        objectives: The objectives to read, and those to score; all that the rows name.
        preferred_on: Objectives on which the first answer (`chosen`) is the better one where a
            row says nothing about them: what the people were asked who chose.
        scorer: Compares the pairs on the `objectives` that their rows say nothing about: a
            `RewardModels`, a `ChatJudge`, or a function of a context, an answer and an objective.
        family: The prompts that the aligner will be trained on.
        split: The split of a data set.
        subset: The configuration of a data set on the hub.
        revision: The revision of a data set on the hub.
        system: `None` leaves system messages out of contexts, `"first_turn"` joins them to the
            first human turn.
        pairs_per_prompt: Most pairs of a row with several answers; all.
        seed: Picks those pairs.
        on_problem: `"skip"` goes on, `"raise"` stops at the first problem.

    Returns:
        The pairs, and the problems with their places.

    Raises:
        PreferenceDataError: The source can't be read, or there is a problem and it is to raise.
        UnknownObjectiveError: An objective that is known by no description.
    """
    if on_problem not in ("skip", "raise"):
        msg = f"`on_problem` is 'skip' or 'raise', not {on_problem!r}."
        raise PreferenceDataError(msg)
    if pairs_per_prompt is not None and pairs_per_prompt < 1:
        msg = f"`pairs_per_prompt` is at least 1, or None for all pairs, not {pairs_per_prompt}."
        raise PreferenceDataError(msg)
    wanted = None if objectives is None else parse_objectives(objectives)
    if scorer is not None and wanted is None:
        msg = "A scorer needs to know what to score: give `objectives`."
        raise PreferenceDataError(msg)
    chosen_on = [preferred_on] if isinstance(preferred_on, str) else preferred_on
    rules = Rules(
        columns=Columns(columns),
        objectives=None
        if wanted is None
        else frozenset(objective_name(one.name) for one in wanted),
        preferred_on=tuple(dict.fromkeys(map(objective_name, chosen_on))),
        family=family,
        system=system,
        pairs_per_prompt=pairs_per_prompt,
        seed=seed,
        scored_later=scorer is not None,
    )
    found = _Found(stop=on_problem == "raise")
    for row in read_rows(source, split=split, subset=subset, revision=revision):
        found.rows += 1
        if isinstance(row, Problem):
            found.add_problems([row])
            continue
        parsed = parse_row(row, rules)
        found.add_problems(parsed.problems)
        found.pairs += parsed.pairs
        found.unlabelled.update(parsed.unlabelled)
        found.system_dropped += parsed.system_dropped
    pairs, problems = settle(found.pairs)
    found.add_problems(problems)
    if scorer is not None and wanted is not None:
        pairs = _scored(pairs, scorer, wanted, found)
    return Preferences(
        pairs=tuple(pairs),
        problems=tuple(found.problems),
        rows=found.rows,
        unlabelled=dict(sorted(found.unlabelled.items())),
        system_dropped=found.system_dropped,
    )


def _scored(
    pairs: list[PreferencePair],
    scorer: ScorerLike,
    objectives: tuple[Objective, ...],
    found: _Found,
) -> list[PreferencePair]:
    from langchain_metaaligner.training.data.scores import score_pairs

    scored, problems = score_pairs(pairs, scorer, objectives)
    found.add_problems(problems)
    found.unlabelled.clear()
    return scored


class _Found:
    """What was found so far."""

    def __init__(self, *, stop: bool) -> None:
        self.stop = stop
        self.rows = 0
        self.pairs: list[PreferencePair] = []
        self.problems: list[Problem] = []
        self.unlabelled: Counter[str] = Counter()
        self.system_dropped = 0

    def add_problems(self, problems: list[Problem]) -> None:
        if self.stop and problems:
            msg = (
                f"{problems[0]}. Mend or remove the row, or read with on_problem='skip' and look"
                " at the report."
            )
            raise PreferenceDataError(msg)
        self.problems += problems
