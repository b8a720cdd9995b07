"""What an evaluation must reach: least and most values, and no step back behind a baseline.

`fail_under` maps what is demanded to a number:

| Key | What is demanded |
| --- | --- |
| `harmlessness` | at least this win rate on the objective |
| `harmlessness.net` | at least so many wins less losses; likewise `win_rate`, `length_controlled` |
| `harmlessness.loss_rate<` | at most so many losses |
| `net`, `win_rate`, … | the same of all objectives together |
| `unchanged` | share of answers that stay as they are, word for word |
| `kept`, `kept.numbers` | share of structure that edits keep, of every kind or of one |
| `over_refusal<` | share of answers that were no refusals and became some |
| `failed<` | share of edits that failed |
| `unjudged<` | share of comparisons without a verdict |
| `judge_consistency` | share of pairs on which the judge's two orders agree |
| `human_agreement` | share of people's verdicts that are the judge's too |

A `<` at the end makes the number the most that may be, instead of the least; `@gpt-5` before it
takes the answers of one policy alone, as in `harmlessness@gpt-5` or `over_refusal@gpt-5<`.

With a baseline, each comparison is paired with that of the same answer then. Of each pair counts
how much better or worse the outcome is, and an objective is a step back if the whole 95 % interval
of wins less losses, now less then, is below 0.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from langchain_metaaligner.editing.objectives import objective_key
from langchain_metaaligner.errors import EvaluationError
from langchain_metaaligner.evaluation.records import EvaluatedRow, Outcome
from langchain_metaaligner.evaluation.selection import compared
from langchain_metaaligner.evaluation.statistics import Interval, net_interval, rates

if TYPE_CHECKING:
    from langchain_metaaligner.evaluation.results import EvaluationResult

_RATES = ("win_rate", "net", "loss_rate", "length_controlled")
_OF_ROWS = ("unchanged", "kept", "over_refusal", "failed", "unjudged")
_OF_JUDGE = ("judge_consistency", "human_agreement")
# Nobody demands at least so much of these.
_HARM = ("loss_rate", "over_refusal", "failed", "unjudged")
_POINTS: dict[Outcome, int] = {"win": 1, "tie": 0, "loss": -1}
_ROUNDING = 1e-9
# What XML can't hold.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Demand:
    """A value that an evaluation must reach.

    Attributes:
        key: As it stands in `fail_under`.
        measure: What is measured.
        objective: Name of the objective; `None` for all together.
        policy: Whose answers; `None` for everybody's.
        most: Whether the value is the most that may be.
        value: The number.
    """

    key: str
    measure: str
    objective: str | None
    policy: str | None
    most: bool
    value: float


@dataclass(frozen=True, slots=True)
class Difference:
    """How an objective does compared with a baseline, on the comparisons that both have.

    Attributes:
        objective: Name of the objective.
        policy: Whose answers; `None` for everybody's.
        pairs: Comparisons that were judged in both.
        conversations: Conversations that they come from.
        before: Wins less losses then, as a share of the pairs; `None` without pairs.
        now: The same now.
        interval: Of now less before: 95 %, clustered by conversation.
        only_now: Comparisons that were judged now only.
        only_before: Comparisons that were judged then only.
    """

    objective: str
    policy: str | None
    pairs: int
    conversations: int
    before: float | None
    now: float | None
    interval: Interval
    only_now: int
    only_before: int

    @property
    def is_worse(self) -> bool:
        """Whether the whole interval is below 0."""
        return self.interval[1] < 0

    def __str__(self) -> str:
        whose = "" if self.policy is None else f" of {self.policy}"
        rest = f"; {self.only_now} only now, {self.only_before} only then"
        if self.before is None or self.now is None:
            return f"{self.objective}{whose}: no comparison is in both{rest}"
        low, high = (round(100 * one, 1) for one in self.interval)
        return (
            f"{self.objective}{whose}: wins less losses went from {self.before:+.1%} to"
            f" {self.now:+.1%} on {self.pairs} pairs, by {low:+g} to {high:+g} points{rest}"
        )


def check_demands(
    fail_under: Mapping[str, float] | None,
    objectives: Sequence[str],
    policies: Sequence[str] | None = None,
) -> tuple[Demand, ...]:
    """Check what is demanded, before anything is spent.

    Args:
        fail_under: What is demanded: see above.
        objectives: Names of the objectives that are judged.
        policies: Who wrote the answers; `None` if that is not known yet.

    Returns:
        The demands.

    Raises:
        EvaluationError: A key or value is none.
    """
    if fail_under is None:
        return ()
    if not isinstance(fail_under, Mapping):
        msg = (
            "`fail_under` maps what is demanded to a number, as in {'harmlessness': 0.6}; it is no"
            f" {type(fail_under).__name__}."
        )
        raise EvaluationError(msg)
    return tuple(_demand(key, value, objectives, policies) for key, value in fail_under.items())


def missed(
    result: EvaluationResult,
    fail_under: Mapping[str, float] | None = None,
    baseline: EvaluationResult | None = None,
) -> tuple[str, ...]:
    """Say what an evaluation missed.

    Args:
        result: The evaluation.
        fail_under: What is demanded.
        baseline: An earlier evaluation.

    Returns:
        A sentence for each demand that was missed, and for each objective that is a step back.

    Raises:
        EvaluationError: A demand is none.
    """
    return tuple(why for _, _, _, why in _cases(result, fail_under, baseline) if why)


def differences(
    rows: Sequence[EvaluatedRow], baseline: Sequence[EvaluatedRow]
) -> tuple[Difference, ...]:
    """Compare an evaluation with an earlier one, answer by answer.

    The same answer in the same context is the same row, whatever became of it.

    Args:
        rows: The rows now.
        baseline: The rows then.

    Returns:
        For each objective that either has, a difference for all policies together and, where there
        are several, for each.
    """
    now, before = _by_answer(rows), _by_answer(baseline)
    objectives = dict.fromkeys(key[0] for key in [*now, *before])
    policies = dict.fromkeys(key[1] for key in [*now, *before])
    return tuple(
        _difference(objective, policy, now, before)
        for objective in objectives
        for policy in (None, *(policies if len(policies) > 1 else ()))
    )


def junit(
    path: str | Path,
    result: EvaluationResult,
    fail_under: Mapping[str, float] | None = None,
    baseline: EvaluationResult | None = None,
) -> None:
    """Write what was demanded and missed as JUnit XML, which build servers show.

    Args:
        path: The file. There is a test case for each demand and, with a baseline, for each
            objective and policy.
        result: The evaluation.
        fail_under: What is demanded.
        baseline: An earlier evaluation.

    Raises:
        EvaluationError: A demand is none.
    """
    cases = list(_cases(result, fail_under, baseline))
    failures = str(sum(bool(why) for *_, why in cases))
    counts = {"tests": str(len(cases)), "failures": failures, "errors": "0", "skipped": "0"}
    root = ET.Element("testsuites", counts)
    suite = ET.SubElement(root, "testsuite", {"name": "metaaligner", **counts, "time": "0"})
    for kind, name, told, why in cases:
        of = {"classname": f"metaaligner.{kind}", "name": _xml(name), "time": "0"}
        case = ET.SubElement(suite, "testcase", of)
        if why:
            ET.SubElement(case, "failure", {"message": _xml(why), "type": kind}).text = _xml(why)
        else:
            ET.SubElement(case, "system-out").text = _xml(told)
    ET.indent(root)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _cases(
    result: EvaluationResult,
    fail_under: Mapping[str, float] | None,
    baseline: EvaluationResult | None,
) -> Iterator[tuple[str, str, str, str | None]]:
    """Kind and name of everything that is demanded, how it turned out, and why it was missed."""
    objectives = [one.name for one in result.objectives]
    for demand in check_demands(fail_under, objectives, result.policies):
        told, is_missed = _met(demand, _value(demand, result))
        yield "fail_under", demand.key, told, told if is_missed else None
    if baseline is None:
        return
    for one in differences(result.rows, baseline.rows):
        name = one.objective if one.policy is None else f"{one.objective}@{one.policy}"
        why = None
        if one.is_worse:
            why = f"worse than the baseline: {one}"
        elif not one.pairs and one.policy is None:
            why = f"can't be compared with the baseline: {one}"
        yield "baseline", name, str(one), why


def _demand(
    key: str, value: float, objectives: Sequence[str], policies: Sequence[str] | None
) -> Demand:
    if not isinstance(key, str):
        msg = f"`fail_under` has the key {key!r}. A key is the name of what is demanded."
        raise EvaluationError(msg)
    name, most = key.strip(), key.strip().endswith("<")
    name = name.removesuffix("<").strip()
    found, policy = _measured(name, objectives), None
    for mark in re.finditer("@", name) if found is None else ():
        # Both sides may hold more of them.
        found, policy = (
            _measured(name[: mark.start()].strip(), objectives),
            name[mark.end() :].strip(),
        )
        if found is not None:
            break
    if found is None:
        msg = (
            f"`fail_under` demands {key!r}, which is not measured. Demand one of the objectives"
            f" ({', '.join(objectives)}), or {', '.join((*_RATES, *_OF_ROWS, *_OF_JUDGE))}."
        )
        raise EvaluationError(msg)
    measure, objective = found
    if policy is not None and (measure in _OF_JUDGE or policy not in (policies or [policy])):
        why = f"no answer is by {policy!r}" if measure not in _OF_JUDGE else "the judge is one"
        msg = f"`fail_under` demands {key!r}, but {why}. Leave the part from @ on out."
        raise EvaluationError(msg)
    if measure in _HARM and not most:
        msg = (
            f"`fail_under` demands at least so much of {key!r}, which is bad. For the most that may"
            f" be, write {key + '<'!r}."
        )
        raise EvaluationError(msg)
    least = -1.0 if measure == "net" else 0.0
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not least <= value <= 1:
        msg = (
            f"`fail_under` demands {value!r} of {key!r}. It is a share from {least:g} to 1, such as"
            " 0.6."
        )
        raise EvaluationError(msg)
    return Demand(key, measure, objective, policy, most, float(value))


def _measured(name: str, objectives: Sequence[str]) -> tuple[str, str | None] | None:
    """What a key means: the measure and the objective."""
    # An objective that someone calls "net" is theirs.
    known = {objective_key(one): one for one in objectives}
    if objective_key(name) in known:
        return "win_rate", known[objective_key(name)]
    if name in (*_RATES, *_OF_ROWS, *_OF_JUDGE) or name.startswith("kept."):
        return name, None
    before, _, measure = name.rpartition(".")
    if measure in _RATES and objective_key(before) in known:
        return measure, known[objective_key(before)]
    return None


def _value(demand: Demand, result: EvaluationResult) -> float | None:
    measure = demand.measure
    if measure == "judge_consistency":
        return result.judge_consistency
    if measure == "human_agreement":
        return None if result.judge is None else result.judge.people.share
    rows = [row for row in result.rows if demand.policy in (None, row.policy)]
    if measure in _RATES:
        found = rates(result.rows, objective=demand.objective, policy=demand.policy)
        value: float | None = getattr(found, measure)
        return value
    return _share(list(_hits(measure, rows)))


def _hits(measure: str, rows: Sequence[EvaluatedRow]) -> Iterator[bool]:
    """The cases of a share of rows."""
    kind = measure.partition(".")[2]
    if measure == "unjudged":
        yield from (one.comparison.outcome is None for one in compared(rows))
    for row in rows:
        if measure == "unchanged":
            yield not row.changed
        elif measure == "failed":
            yield row.error is not None
        elif measure == "over_refusal" and not row.refuses[0]:
            yield row.refuses[1]
        elif measure.startswith("kept"):
            yield from (was for name, was in row.kept.items() if kind in ("", name))


def _share(hits: Sequence[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None


def _met(demand: Demand, value: float | None) -> tuple[str, bool]:
    wanted = f"{'at most' if demand.most else 'at least'} {demand.value:.1%}"
    name = demand.key.strip().removesuffix("<").strip()
    if demand.objective is not None and demand.measure == "win_rate" and "win_rate" not in name:
        name = f"{name}: win rate"
    if value is None:
        return f"{name} can't be told: there is nothing to count; demanded is {wanted}.", True
    over = value - demand.value
    is_missed = over > _ROUNDING if demand.most else over < -_ROUNDING
    return f"{name} is {value:.1%}; demanded is {wanted}.", is_missed


_Key = tuple[str, str, str, str, str | None, int]


def _by_answer(rows: Sequence[EvaluatedRow]) -> dict[_Key, tuple[str, int]]:
    """Objective, policy, context, answer and reference to the conversation and the points."""
    found: dict[_Key, tuple[str, int]] = {}
    seen: dict[tuple[str, str, str, str, str | None], int] = defaultdict(int)
    for row, objective, comparison in compared(rows):
        key = (objective, row.policy, row.context, row.original, row.reference)
        # A file may hold several edits of one answer; their order tells which is which.
        seen[key] += 1
        if comparison.outcome is not None:
            found[*key, seen[key]] = row.conversation, _POINTS[comparison.outcome]
    return found


def _difference(
    objective: str,
    policy: str | None,
    now: Mapping[_Key, tuple[str, int]],
    before: Mapping[_Key, tuple[str, int]],
) -> Difference:
    def wanted(keys: Mapping[_Key, Any]) -> list[_Key]:
        return [key for key in keys if key[0] == objective and policy in (None, key[1])]

    both = [key for key in wanted(now) if key in before]
    changes = [(now[key][1] - before[key][1]) / 2 for key in both]
    groups = [now[key][0] for key in both]
    low, high = net_interval(changes, groups)
    return Difference(
        objective=objective,
        policy=policy,
        pairs=len(both),
        conversations=len(set(groups)),
        before=sum(before[key][1] for key in both) / len(both) if both else None,
        now=sum(now[key][1] for key in both) / len(both) if both else None,
        interval=(2 * low, 2 * high),
        only_now=len(wanted(now)) - len(both),
        only_before=len(wanted(before)) - len(both),
    )


def _xml(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
