"""Makes the examples of the three training stages from pairs of answers."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from langchain_metaaligner.editing.objectives import Objective, ObjectiveLike, parse_objectives
from langchain_metaaligner.editing.prompts import HH_RLHF, PromptFamily
from langchain_metaaligner.errors import CheckpointError, PreferenceDataError
from langchain_metaaligner.training.data.example import (
    STAGES,
    Stage,
    TrainingExample,
    has_equal_wording,
)
from langchain_metaaligner.training.data.pairs import (
    PreferencePair,
    TieMargin,
    Winner,
    check_margin,
    digest,
)
from langchain_metaaligner.training.data.parser import objective_name

# One in so many of the equal examples; the paper takes a part of them and does not say how large.
_WARM_UP_SHARE = 5

Held = TypeVar("Held", PreferencePair, TrainingExample)


def build_examples(
    pairs: Iterable[PreferencePair],
    *,
    objectives: ObjectiveLike | Iterable[ObjectiveLike] | None = None,
    family: PromptFamily = HH_RLHF,
    seed: int = 0,
    tie_margin: TieMargin = 0.0,
    warm_up: int | None = None,
    stages: Sequence[Stage] | None = None,
) -> list[TrainingExample]:
    """Make the dynamic multi-objective data set of Yang et al. 2024 (arXiv 2403.17141).

    Section 3.1, algorithm 1: a pair gives up to three examples. The objectives on which A is
    better ask for the edit from B to A, and those on which B is better for the edit from A to B
    (stage `contrastive`). Those on which the two are equal ask for an equal edit from B to A
    (`equal`). The objectives are always in random order. Section 3.2.2: `warm_up` takes a random
    part of the equal examples, with the answer itself as the edit. If there are too few of them,
    the rest are answers of other pairs: an answer is equal to itself on every objective.

    (The authors' scripts depart from the algorithm: for HH-RLHF they list in the equal examples
    the objectives on which B is better, and for UltraFeedback they make only one of the two
    contrastive examples of a pair, and an equal one for the last answer only.)

    The same pairs and seed give the same examples, in any order of the pairs and in any process.

    Args:
        pairs: The pairs of `read_preferences`, or your own.
        objectives: The objectives to use, with their descriptions; by default all that the pairs
            compare on, which the catalogue must know.
        family: The prompt family that the aligner will be trained on.
        seed: Seed of everything random.
        tie_margin: Scores that differ by no more than this are equal: one number, or one for each
            objective by its name. Scores of a reward model are hardly ever exactly equal.
        warm_up: Number of warm-up examples; by default a fifth of the equal examples.
        stages: The stages to make examples for; by default all that the family has a wording for.

    Returns:
        The examples in the order of the stages, shuffled within each.

    Raises:
        PreferenceDataError: No pair compares on any of the objectives, or an option is out of its
            range.
        UnknownObjectiveError: The pairs compare on an objective without a known description.
        CheckpointError: The equal stage is wanted, and the family has no wording for it.
    """
    check_margin(tie_margin)
    if warm_up is not None and warm_up < 0:
        msg = f"`warm_up` is a number of examples, at least 0, not {warm_up}."
        raise PreferenceDataError(msg)
    wanted = _stages(stages, family)
    given = list(pairs)
    described = _described(given, objectives)
    equal: list[tuple[str, TrainingExample]] = []
    contrastive: list[tuple[str, TrainingExample]] = []
    for pair in given:
        by_winner = _by_winner(pair, described, tie_margin)
        identity = pair.identity()
        context = (
            pair.context if isinstance(pair.context, str) else family.render_turns(pair.context)
        )
        ways: tuple[tuple[Winner, Stage, str, str], ...] = (
            ("a", "contrastive", pair.answer_b, pair.answer_a),
            ("b", "contrastive", pair.answer_a, pair.answer_b),
            ("equal", "equal", pair.answer_b, pair.answer_a),
        )
        for winner, stage, answer, edit in ways:
            if by_winner[winner]:
                key = digest(seed, stage, identity, answer)
                asked = _shuffled(by_winner[winner], key)
                made = TrainingExample(context, answer, asked, edit, stage=stage)
                (equal if stage == "equal" else contrastive).append((key, made))
    count = -(-len(equal) // _WARM_UP_SHARE) if warm_up is None else warm_up
    made_of: Mapping[Stage, list[tuple[str, TrainingExample]]] = {
        "warm_up": _warm_up(equal, contrastive, count, seed),
        "equal": equal,
        "contrastive": contrastive,
    }
    return [
        example
        for stage in STAGES
        if stage in wanted
        for _, example in sorted(made_of[stage], key=lambda keyed: keyed[0])
    ]


def split_held_out(
    pairs: Iterable[Held], *, fraction: float = 0.1, seed: int = 0
) -> tuple[list[Held], list[Held]]:
    """Hold out some conversations for validation.

    Conversations in which the user opens with the same words are on the same side, however they
    continue and whatever else the data hold.

    Args:
        pairs: The pairs, or the examples of `read_edits`.
        fraction: Share of the conversations to hold out, from 0 to 1.
        seed: Another seed holds out others.

    Returns:
        Those to train on and those to validate on, each in the given order.

    Raises:
        PreferenceDataError: The fraction is not between 0 and 1.
    """
    if not 0 <= fraction <= 1:
        msg = f"`fraction` is a share between 0 and 1, not {fraction!r}."
        raise PreferenceDataError(msg)
    train: list[Held] = []
    kept: list[Held] = []
    for pair in pairs:
        at = int(digest(seed, "held out", _opening(pair))[:13], 16) / 16**13
        (kept if at < fraction else train).append(pair)
    return train, kept


def _stages(stages: Sequence[Stage] | None, family: PromptFamily) -> Sequence[Stage]:
    if stages is None:
        return [one for one in STAGES if one != "equal" or has_equal_wording(family)]
    unknown = [one for one in stages if one not in STAGES]
    if unknown:
        msg = f"There is no stage {unknown[0]!r}. The stages are {', '.join(STAGES)}."
        raise PreferenceDataError(msg)
    if "equal" in stages and not has_equal_wording(family):
        msg = (
            f"The family {family.name} has no wording for edits that are equally good. Leave out"
            " the stage 'equal', or train for HH-RLHF, UltraFeedback or IMHI."
        )
        raise CheckpointError(msg)
    return stages


def _opening(pair: PreferencePair | TrainingExample) -> str:
    if isinstance(pair.context, str):
        said = pair.context.split("\n\nAssistant:", maxsplit=1)[0].strip()
        said = said.removeprefix("Human:")
    else:
        said = next((turn.text for turn in pair.context if turn.role == "human"), "")
    return " ".join(said.split()).casefold()


def _described(
    pairs: Sequence[PreferencePair],
    objectives: ObjectiveLike | Iterable[ObjectiveLike] | None,
) -> dict[str, Objective]:
    compared = sorted({name for pair in pairs for name in pair.compared})
    if objectives is None:
        return {one.name: one for one in parse_objectives(compared)} if compared else {}
    described = {objective_name(one.name): one for one in parse_objectives(objectives)}
    if pairs and not described.keys() & set(compared):
        msg = (
            f"None of the {len(pairs)} pairs compares on {', '.join(described)}. They compare on"
            f" {', '.join(compared)}: name one of those."
        )
        raise PreferenceDataError(msg)
    return described


def _by_winner(
    pair: PreferencePair, described: Mapping[str, Objective], tie_margin: TieMargin
) -> dict[Winner, list[Objective]]:
    found: dict[Winner, list[Objective]] = {"a": [], "b": [], "equal": []}
    for name in sorted(pair.compared.keys() & described.keys()):
        winner = pair.winner(name, tie_margin=tie_margin)
        if winner is not None:
            found[winner].append(described[name])
    return found


def _shuffled(objectives: Sequence[Objective], key: str) -> tuple[Objective, ...]:
    return tuple(random.Random(key).sample(objectives, len(objectives)))


def _warm_up(
    equal: Sequence[tuple[str, TrainingExample]],
    contrastive: Sequence[tuple[str, TrainingExample]],
    count: int,
    seed: int,
) -> list[tuple[str, TrainingExample]]:
    picked = [*_by_key(equal, seed), *_by_key(contrastive, seed)][:count]
    return [
        (
            key,
            TrainingExample(
                one.context, one.answer, one.objectives, one.answer, stage="warm_up", kind="copy"
            ),
        )
        for key, one in picked
    ]


def _by_key(
    examples: Sequence[tuple[str, TrainingExample]], seed: int
) -> list[tuple[str, TrainingExample]]:
    again = [(digest(seed, "warm_up", key), example) for key, example in examples]
    return sorted(again, key=lambda keyed: keyed[0])
