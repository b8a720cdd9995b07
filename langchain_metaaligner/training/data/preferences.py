"""Reads preference data: pairs of answers with a score or a preference for each objective."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from langchain_metaaligner.editing.conversation import SystemHandling
from langchain_metaaligner.editing.objectives import Objective, ObjectiveLike, parse_objectives
from langchain_metaaligner.editing.prompts import HH_RLHF, PromptFamily
from langchain_metaaligner.errors import PreferenceDataError
from langchain_metaaligner.training.data.columns import Columns
from langchain_metaaligner.training.data.pairs import PreferencePair, Preferences, Problem, settle
from langchain_metaaligner.training.data.parser import Rules, objective_name, parse_row
from langchain_metaaligner.training.data.rows import read_rows
from langchain_metaaligner.training.data.scores import ScorerLike, score_pairs

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

    A row has these fields; `columns` maps other names to them:

    - the context: `context` (text as given to the aligner, or messages), `messages`, or the user's
      question alone in `prompt`, `question`, `query` or `instruction`;
    - two answers, `answer_a` and `answer_b` (or `chosen` and `rejected`): text or a message. Where
      these are lists of messages, as in TRL's conversational data, or whole conversations, as in
      HH-RLHF, the context is everything before the last message;
    - for each objective two scores, higher is better, in `scores_a` and `scores_b`, or only the
      better answer in `preferences` (`"a"`, `"b"` or `"equal"`). These are dictionaries by name of
      the objective; in a CSV the columns are called `scores_a.helpfulness` and so on;
    - or, instead of two answers, `answers`: a list of dictionaries with `answer` and `scores`
      (for UltraFeedback, pass `ULTRAFEEDBACK_COLUMNS`). All pairs of them are read.

    Rows that can't be used are reported as problems and give no pairs: a missing, infinite or
    non-numeric score, an empty text, two identical answers, rows that repeat or contradict each
    other, and text with the markers of the prompt family, which an aligner would learn to write.

    Rows are read one at a time, but pairs and problems are held in memory: about twice the size of
    the texts.

    Args:
        source: A `.jsonl`, `.csv`, `.tsv` or `.parquet` file, a folder that `datasets` saved, a
            data set's name on the hub, a `Dataset`, or an iterable of dictionaries.
        columns: Our name of a field to its name in the data, with dots into nested fields.
        objectives: The objectives to read or score; by default all that the rows name.
        preferred_on: Objectives on which the first answer (`chosen`) is better in rows without
            them: the criterion of the people who chose.
        scorer: Compares pairs on those `objectives` that their rows lack: a `RewardModels`, a
            `ChatJudge`, or a function of a context, an answer and an objective.
        family: The prompt family that the aligner will be trained on.
        split: The split of a data set.
        subset: The configuration of a data set on the hub.
        revision: The revision of a data set on the hub.
        system: `None` leaves system messages out of contexts, `"first_turn"` joins them to the
            first human turn.
        pairs_per_prompt: Most pairs from a row with several answers; by default all.
        seed: Seed of the choice of those pairs.
        on_problem: `"skip"` continues, `"raise"` stops at the first problem.

    Returns:
        The pairs, and the problems with their places.

    Raises:
        PreferenceDataError: The source can't be read, or it has a problem and `on_problem` is
            `"raise"`.
        UnknownObjectiveError: An objective has no known description.
    """
    if on_problem not in ("skip", "raise"):
        msg = f"`on_problem` is 'skip' or 'raise', not {on_problem!r}."
        raise PreferenceDataError(msg)
    if pairs_per_prompt is not None and pairs_per_prompt < 1:
        msg = f"`pairs_per_prompt` is at least 1, or None for all pairs, not {pairs_per_prompt}."
        raise PreferenceDataError(msg)
    wanted = None if objectives is None else parse_objectives(objectives)
    if scorer is not None and wanted is None:
        msg = "A scorer needs to know what to score: pass `objectives`."
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
    scored, problems = score_pairs(pairs, scorer, objectives)
    found.add_problems(problems)
    found.unlabelled.clear()
    return scored


class _Found:
    """What was read so far."""

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
                f"{problems[0]}. Fix or remove the row, or read with on_problem='skip' and look at"
                " the report."
            )
            raise PreferenceDataError(msg)
        self.problems += problems
