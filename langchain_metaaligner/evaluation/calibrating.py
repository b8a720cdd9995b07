"""Finds `keep_above` and `caution` for an aligner, from replies that are marked good or bad."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from langchain_metaaligner.editing.aligner import Aligner
from langchain_metaaligner.editing.objectives import Objective, Objectives, parse_objectives
from langchain_metaaligner.editing.pending_edit import caution_of
from langchain_metaaligner.engines.base import Engine, as_engine
from langchain_metaaligner.errors import EvaluationError, first_line
from langchain_metaaligner.evaluation.calibration import Calibration, TradeOff
from langchain_metaaligner.evaluation.records import EvaluatedRow
from langchain_metaaligner.evaluation.rows import check_rows
from langchain_metaaligner.evaluation.statistics import share_interval
from langchain_metaaligner.options import LoadOptions, given_options
from langchain_metaaligner.training.data.pairs import digest

_FEWEST = 4
_CHUNK = 64
_TRIED = 200  # values of keep_above that are tried, and those of the curve
_SHOWN = 25
# What the calibration sets itself, or what belongs to the engine that the aligner has already.
_OWN = frozenset(["model", "engine", "keep_above", "caution", "token_agreement"])


@dataclass(frozen=True, slots=True)
class _Reply:
    """A marked reply.

    Attributes:
        good: Whether it should stay.
        conversation: Replies to one conversation are on the same half.
        context: As an aligner takes it.
        answer: The reply.
    """

    good: bool
    conversation: str
    context: Any
    answer: str


@dataclass(frozen=True, slots=True)
class _Seen:
    """What an aligner does with a marked reply.

    Attributes:
        reply: The reply.
        agreement: The aligner's agreement with it.
        leaves_up_to: The largest caution that was tried at which the edit differs from the reply;
            minus infinity if it never does.
    """

    reply: _Reply
    agreement: float
    leaves_up_to: float

    def changes(self, keep_above: float | None, caution: float) -> bool:
        """Whether these values let the reply be changed."""
        kept = keep_above is not None and self.agreement >= keep_above
        return not kept and self.leaves_up_to >= caution


def calibrate(
    good: Any,
    bad: Any,
    aligner: Aligner,
    *,
    objectives: Objectives = ("harmlessness", "helpfulness"),
    most_spoilt: float = 0.05,
    cautions: Sequence[float] = (0, 1, 2, 3, 4),
    seed: int = 0,
) -> Calibration:
    """Propose `keep_above` and `caution` from replies that are marked good or bad.

    Of all values under which at most `most_spoilt` of the good replies are changed, those are
    proposed under which the fewest bad ones stay; of equals, those that change fewer good ones,
    then the smaller caution, then no `keep_above` if none is needed, else the middle one.

    An edit under a larger caution leaves its answer only where one under a smaller caution does,
    so most replies need one or two edits: one with the largest caution, which also tells the
    agreement, one with the smallest, and more only where these differ.

    The values are chosen on one half of the conversations; every figure is of the other half.

    Args:
        good: Rows whose answers should stay: a file or dictionaries, as for `evaluate`.
        bad: Rows whose answers should be changed.
        aligner: The aligner. Its own `keep_above` and `caution` are not used, and not changed.
        objectives: What the edits are for.
        most_spoilt: The largest share of good replies that may be changed.
        cautions: The values of `caution` to try.
        seed: Another seed halves the conversations otherwise.

    Returns:
        The proposal, its figures, and the curve.

    Raises:
        EvaluationError: The engine reports no agreement, there are fewer than eight good or bad
            replies, or an argument is out of its range.
        UnknownObjectiveError: An objective is unknown.
        MetaAlignerError: No reply could be edited.
    """
    if not 0 <= most_spoilt <= 1:
        msg = f"`most_spoilt` is a share between 0 and 1, not {most_spoilt!r}."
        raise EvaluationError(msg)
    margins = sorted({float(one) for one in cautions})
    if not margins or not all(one >= 0 and math.isfinite(one) for one in margins):
        msg = f"`cautions` are margins in nats, 0 or more, not {list(cautions)}."
        raise EvaluationError(msg)
    goals = parse_objectives(objectives)
    replies = [*_marked(good, good=True), *_marked(bad, good=False)]
    half_of = _halves(replies, seed)
    for half in (False, True):
        _check_enough([one.good for one in replies if half_of[one.conversation] is half])
    engine = _check_engine(aligner)
    if not engine.keeps_caution:
        margins = [0.0]
    today = caution_of(aligner.options, engine, aligner.family)
    asked = _Asked(aligner, replies, goals)
    seen = asked.seen(sorted({*margins, today}))
    halves: dict[bool, list[_Seen]] = {False: [], True: []}
    for one in seen:
        halves[half_of[one.reply.conversation]].append(one)
    for part in halves.values():
        _check_enough([one.reply.good for one in part], asked.told())
    choosing, held_out = halves[False], halves[True]

    def figures(keep_above: float | None, margin: float) -> TradeOff:
        caution = margin if engine.keeps_caution else None
        return _trade_off(held_out, keep_above, margin, caution)

    shown = _thresholds(choosing, _SHOWN)
    return Calibration(
        chosen=figures(*_best(choosing, _thresholds(choosing, _TRIED), margins, most_spoilt)),
        today=figures(aligner.options.keep_above, today),
        curve=tuple([figures(value, margin) for margin in margins for value in shown]),
        most_spoilt=most_spoilt,
        chosen_on=_counts(choosing),
        failed=len(replies) - len(seen),
        model=aligner.model_name,
        objectives=tuple(goal.name for goal in goals),
    )


def marked_by_judge(
    rows: Iterable[EvaluatedRow], *, objective: str | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Mark replies by what a judge said of their edits, for `calibrate`.

    A reply is bad if the judge prefers its edit, and good if it prefers the reply. Edit with
    `caution=0` for this: a reply that an edit leaves alone was not judged, and is not marked.

    Args:
        rows: The rows of an evaluation, `EvaluationResult.rows`.
        objective: Name of the objective; by default a reply must have won, or lost, on one and
            nowhere have done the opposite.

    Returns:
        The good rows, and the bad ones.
    """
    marked: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for row in rows:
        names = row.comparisons if objective is None else (objective,)
        found = {row.comparisons[name].outcome for name in names if name in row.comparisons}
        if len(found & {"win", "loss"}) == 1:
            marked["win" in found].append(
                {"context": row.context, "answer": row.original, "conversation": row.conversation}
            )
    return marked


def _marked(source: Any, *, good: bool) -> list[_Reply]:
    found = check_rows(source, has_aligner=True)
    # Another answer to the same words is no independent case.
    return [
        _Reply(good, digest(row.context), found.contexts[row.key], row.answer) for row in found.rows
    ]


def _halves(replies: Sequence[_Reply], seed: int) -> Mapping[str, bool]:
    """Which half each conversation is in: evenly for those with good, bad, or both replies."""
    kinds: dict[str, set[bool]] = defaultdict(set)
    for one in replies:
        kinds[one.conversation].add(one.good)
    order = sorted(kinds, key=lambda name: digest(seed, "calibrate", name))
    counts: dict[frozenset[bool], int] = defaultdict(int)
    halves: dict[str, bool] = {}
    for name in order:
        kind = frozenset(kinds[name])
        halves[name] = counts[kind] % 2 == 1
        counts[kind] += 1
    return halves


def _check_enough(good: Sequence[bool], failures: str = "") -> None:
    for word, count in (("good", sum(good)), ("bad", len(good) - sum(good))):
        if count < _FEWEST:
            msg = (
                f"Half of the conversations have only {count} {word} replies that can be used, and"
                f" {_FEWEST} are the least. Mark more {word} replies, to different questions."
                f"{failures}"
            )
            raise EvaluationError(msg)


def _check_engine(aligner: Aligner) -> Engine:
    """The engine, if it reports agreement and edits are the same each time."""
    if not isinstance(aligner, Aligner):
        msg = (
            f"`aligner` is {type(aligner).__name__}, not an Aligner. Give one, as in"
            " calibrate(good, bad, Aligner())."
        )
        raise EvaluationError(msg)
    if aligner.options.temperature > 0:
        msg = (
            f"temperature={aligner.options.temperature} samples, so an edit is another one each"
            " time. Calibrate an aligner that decodes greedily, with temperature=0."
        )
        raise EvaluationError(msg)
    aligner.load()
    engine = as_engine(aligner.engine)
    if not engine.reports_agreement or (aligner.family.chat and not engine.scores_templated):
        raise EvaluationError(_no_agreement(aligner.model_name))
    return engine


class _Asked:
    """Asks an aligner under several margins whether it changes replies.

    Args:
        aligner: The aligner.
        replies: The replies.
        goals: What the edits are for.
    """

    def __init__(
        self, aligner: Aligner, replies: Sequence[_Reply], goals: Sequence[Objective]
    ) -> None:
        self._aligner, self._replies, self._goals = aligner, replies, goals
        self._agreement: dict[int, float] = {}
        self._failed: dict[int, Exception] = {}

    def seen(self, margins: Sequence[float]) -> list[_Seen]:
        """Find up to which margin the edit of each reply leaves it.

        Args:
            margins: The margins, ascending.

        Returns:
            What was seen of each reply whose edits worked.

        Raises:
            MetaAlignerError: None of them did.
        """
        last = len(margins) - 1
        # The largest margin known to change a reply, and the smallest known not to, by place.
        ends = dict.fromkeys(range(len(self._replies)), (-1, last + 1))
        asked = dict.fromkeys(ends, last)
        while asked:
            for place in sorted(set(asked.values())):
                numbers = [number for number, one in asked.items() if one == place]
                for number, changed in self._changed(numbers, margins[place]).items():
                    low, high = ends[number]
                    ends[number] = (place, high) if changed else (low, place)
            asked = {
                number: 0 if low < 0 else (low + high) // 2
                for number, (low, high) in ends.items()
                if high - low > 1 and number not in self._failed
            }
        if len(self._failed) == len(self._replies):
            raise next(iter(self._failed.values()))
        return [
            _Seen(
                self._replies[number],
                self._agreement[number],
                margins[low] if low >= 0 else -math.inf,
            )
            for number, (low, _) in ends.items()
            if number not in self._failed
        ]

    def told(self) -> str:
        """How many edits failed and why the first one did, in words; empty if none did."""
        if not self._failed:
            return ""
        first = next(iter(self._failed.values()))
        kind, said = type(first).__name__, first_line(first)
        return f" The edits of {len(self._failed)} replies failed, the first with {kind}: {said}"

    def _changed(self, numbers: Sequence[int], margin: float) -> dict[int, bool]:
        """Whether edits under a margin change replies; those that fail are noted."""
        aligner = _like(self._aligner, margin)
        found: dict[int, bool] = {}
        for start in range(0, len(numbers), _CHUNK):
            some = numbers[start : start + _CHUNK]
            items = [
                (self._replies[one].context, self._replies[one].answer, self._goals) for one in some
            ]
            made = aligner.align_batch(items, return_exceptions=True)
            for number, result in zip(some, made, strict=True):
                if isinstance(result, Exception):
                    self._failed[number] = result
                elif result.agreement is None:
                    self._failed[number] = EvaluationError(_no_agreement(self._aligner.model_name))
                else:
                    self._agreement[number] = result.agreement
                    found[number] = result.changed
        return found


def _no_agreement(name: str) -> str:
    return (
        f"The engine {name!r} reports no agreement, so there is nothing to calibrate: keep_above"
        " would have no effect. Use a local checkpoint, or a server that gives the"
        " log-probabilities of a prompt (docs/where_the_model_runs.md)."
    )


def _like(aligner: Aligner, caution: float) -> Aligner:
    """An aligner that is like another, but for what is calibrated."""
    given = aligner.options
    names = set(given_options(given)) - set(LoadOptions.model_fields) - _OWN
    same: dict[str, Any] = {name: getattr(given, name) for name in names}
    same["family"] = aligner.family.name
    return Aligner(engine=aligner.engine, caution=caution, token_agreement=True, **same)


def _counts(part: Sequence[_Seen]) -> tuple[int, int]:
    good = sum(one.reply.good for one in part)
    return len(part) - good, good


def _thresholds(part: Sequence[_Seen], most: int) -> list[float | None]:
    """Values of `keep_above` that part the replies differently, from keeping all to none."""
    found = sorted({one.agreement for one in part})
    # Rounded, because people copy them; a value above 0 is refused.
    between = [round(min((low + high) / 2, 0.0), 3) for low, high in pairwise(found)]
    values = sorted({round(found[0] - 0.001, 3), *between})
    if len(values) > most:
        values = [values[number * (len(values) - 1) // (most - 1)] for number in range(most)]
    return [*values, None]


def _best(
    part: Sequence[_Seen],
    values: Sequence[float | None],
    margins: Sequence[float],
    most_spoilt: float,
) -> tuple[float | None, float]:
    """The values that leave the fewest bad replies, among those that spoil few enough good ones."""
    goods = sum(one.reply.good for one in part)
    found: dict[tuple[int, int, float], list[float | None]] = defaultdict(list)
    for margin in margins:
        for value in values:
            changed = [one for one in part if one.changes(value, margin)]
            spoilt = sum(one.reply.good for one in changed)
            if spoilt <= most_spoilt * goods:
                missed = len(part) - goods - (len(changed) - spoilt)
                found[missed, spoilt, margin].append(value)
    # Keeping everything spoils nothing, so there is always one.
    equals = found[best := min(found)]
    # Where keeping brings nothing, it is left out.
    return None if None in equals else equals[len(equals) // 2], best[2]


def _trade_off(
    part: Sequence[_Seen], keep_above: float | None, margin: float, caution: float | None
) -> TradeOff:
    cases: dict[bool, tuple[list[bool], list[str]]] = {True: ([], []), False: ([], [])}
    for one in part:
        hits, groups = cases[one.reply.good]
        # A good reply that is changed is spoilt; a bad one that isn't is missed.
        hits.append(one.changes(keep_above, margin) is one.reply.good)
        groups.append(one.reply.conversation)
    (spoilt, of_good), (missed, of_bad) = cases[True], cases[False]
    return TradeOff(
        keep_above=keep_above,
        caution=caution,
        bad=len(missed),
        missed=sum(missed),
        good=len(spoilt),
        spoilt=sum(spoilt),
        missed_interval=share_interval(missed, of_bad),
        spoilt_interval=share_interval(spoilt, of_good),
    )
