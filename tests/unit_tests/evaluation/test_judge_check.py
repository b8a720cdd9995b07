"""A judge that is not worth it is told on the first line of the report, and by what."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence

import pytest
from pydantic import TypeAdapter

from langchain_metaaligner import EvaluationError, Objective
from langchain_metaaligner.evaluation.human_pairs import read_human_pairs
from langchain_metaaligner.evaluation.judge_check import JudgeCheck, check_judge
from langchain_metaaligner.evaluation.records import Comparison, EvaluatedRow, Outcome

pytest.importorskip("scipy")

Function = Callable[[str, str, str, str], int]

GOOD = [
    "Boil the egg for six minutes. Cool it under the tap. Peel it from the blunt end.",
    "The train leaves at nine. Buy the ticket on board. Sit in the last carriage.",
    "Water the fern twice a week. Keep it out of the sun. Turn the pot now and then.",
    "Save the file before you close it. The old version stays in the history folder.",
    "Paris is the capital of France. It lies on the Seine, and has two million people.",
]
BAD = [
    "Just guess how long an egg needs, who cares about eggs anyway? You ask odd questions, and I"
    " have no time for them today or on any other day of this long and dull week.",
    "No idea, ask somebody else.",
    "Ferns are plants, and plants are green, and green is a colour that many people like a lot, so"
    " there is much to be said about ferns, but I will not say it here and now.",
    "Files are stupid.",
    "The capital of France is Lyon, of course, as everybody knows who has ever looked at a map.",
]


def pairs(count: int = 40) -> list[dict[str, object]]:
    return [
        {
            "context": f"\n\nHuman: Question {number}?\n\nAssistant:",
            "chosen": f"{GOOD[number % 5]} Number {number} is done.",
            "rejected": f"{BAD[number % 5]} So much for number {number}.",
        }
        for number in range(count)
    ]


def good(text: str) -> bool:
    return any(text.startswith(one) for one in GOOD)


def sound(context: str, first: str, second: str, objective: str) -> int:
    """Knows good texts, and finds the shorter better where both are."""
    one, other = good(first), good(second)
    if one != other:
        return 1 if one else 2
    if len(first) == len(second):
        return 0
    return 1 if len(first) < len(second) else 2


def first(context: str, first: str, second: str, objective: str) -> int:
    return 1


def second(context: str, first: str, second: str, objective: str) -> int:
    return 2


def longer(context: str, first: str, second: str, objective: str) -> int:
    return 0 if len(first) == len(second) else 1 if len(first) > len(second) else 2


def neither(context: str, first: str, second: str, objective: str) -> int:
    return 0


def right_on(share: float) -> Function:
    """Agrees with people on a share of the pairs, in either order alike."""

    def judge(context: str, first: str, second: str, objective: str) -> int:
        number = re.search(r"Question (\d+)", context)
        said = sound(context, first, second, objective)
        if number and int(number[1]) % 100 >= share * 100 and good(first) != good(second):
            return 3 - said
        return said

    return judge


def check(judge: object, **options: object) -> JudgeCheck:
    options = {"objectives": "helpfulness", "human_pairs": pairs(), **options}
    return check_judge(judge, **options)  # type: ignore[arg-type]


def test_a_sound_judge_looks_sound() -> None:
    found = check(sound)
    assert found.faults == ()
    assert found.is_sound
    assert found.first_line() == (
        "The judge looks sound: it agrees with people on 100 % of 40 pairs, where a coin has 50 %,"
        " agrees with itself in the other order on 100 % of 40 pairs and does not favour the longer"
        " text or a place."
    )
    assert found.people_kappa == 1
    assert found.first_place.share == 0.5


@pytest.mark.parametrize(
    ("judge", "told"),
    [
        (first, "it always says the first, whichever text that is"),
        (second, "it always says the second, whichever text that is"),
        (longer, "it prefers the longer text: the same answer, padded, on 100 % of 20 pairs"),
        (right_on(0.59), "it agrees with people on 59 % of 100 pairs, where a coin has 50 %"),
        (neither, "it agrees with people on 50 % of 100 pairs, where a coin has 50 %"),
    ],
)
def test_what_is_wrong_with_a_judge_stands_on_the_first_line(judge: Function, told: str) -> None:
    found = check(judge, human_pairs=pairs(100))
    assert not found.is_sound
    assert found.first_line().startswith(f"Don't rely on this judge: {told}")


def test_a_judge_that_finds_shuffled_words_equal_is_not_said_to_prefer_them() -> None:
    # On harmlessness they may well be.
    found = check(neither)
    assert found.garbage.of == 0
    assert found.same_text.share == 1


def test_a_coin_is_told_by_everything_that_it_does() -> None:
    rng = random.Random(5)
    found = check(lambda c, a, b, o: rng.choice([1, 2]), human_pairs=pairs(100))
    line = found.first_line()
    assert "agrees with people on" in line
    assert "agrees with itself in the other order on only" in line
    assert "prefers text to its own words, shuffled, on only" in line
    assert "finds a text as good as itself on only" in line


def test_the_packages_pairs_tell_a_judge_that_likes_length_or_a_place() -> None:
    assert "prefers the longer text" in check(longer, human_pairs=None).first_line()
    found = check(first, human_pairs=None)
    assert "always says the first" in found.first_line()
    assert found.packaged
    assert found.people.of == 40
    assert found.people.share == 0.5


def row(number: int, said: tuple[int, int], other: Outcome | None = None) -> EvaluatedRow:
    outcomes: dict[tuple[int, int], Outcome] = {(1, 2): "win", (2, 1): "loss"}
    outcome = outcomes.get(said, "tie")
    return EvaluatedRow(
        key=str(number),
        place="",
        conversation=str(number),
        policy="",
        context=f"Question {number}",
        original=BAD[number % 5],
        edited=f"{GOOD[number % 5]} {number}",
        status="edited",
        comparisons={"helpfulness": Comparison(outcome, said)},
        second={} if other is None else {"helpfulness": Comparison(other, (0, 0))},
    )


def test_what_a_judge_said_of_the_rows_tells_how_steady_it_is() -> None:
    steady = [row(number, (1, 2)) for number in range(50)]
    unsteady = [row(number, (1, 1) if number % 2 else (1, 2)) for number in range(50)]
    assert check(sound, rows=steady).consistency.of == 50
    found = check(sound, rows=unsteady)
    assert found.consistency.share == 0.5
    assert "agrees with itself in the other order on only 50 % of 50 pairs" in found.first_line()
    assert "favours (in" in found.first_line() or found.first_place.interval[0] <= 0.55


def test_texts_of_the_rows_are_planted() -> None:
    asked: list[str] = []

    def judge(context: str, first: str, second: str, objective: str) -> int:
        asked.append(context)
        return sound(context, first, second, objective)

    check(judge, rows=[row(number, (1, 2)) for number in range(90)])
    planted = [one for one in asked if "Human" not in one]
    assert len(set(planted)) == 20
    assert len(planted) == 20 * 5


@pytest.mark.parametrize(("rows", "most"), [(1, 46), (10, 46), (60, 121), (500, 181)])
def test_the_check_asks_about_as_much_as_the_rows_did(rows: int, most: int) -> None:
    asked: list[str] = []

    def judge(context: str, first: str, second: str, objective: str) -> int:
        asked.append(context)
        return longer(context, first, second, objective)

    found = check(judge, human_pairs=None, rows=[row(n, (1, 2)) for n in range(rows)])
    assert most - 10 < len(asked) <= most
    assert "prefers the longer text" in found.first_line()
    assert found.people.share == 0.5  # of the pairs that are asked, half have the shorter as better


def test_few_pairs_neither_accuse_a_judge_nor_prove_it_sound() -> None:
    some = check(right_on(8 / 100), human_pairs=pairs(10))
    assert (some.people.of, some.people.share) == (10, 0.8)
    assert some.faults == ()
    assert some.first_line().startswith(
        "No fault shows in the judge, but 10 pairs don't prove it sound: it agrees with people on"
        " 80 % of 10 pairs, where a coin has 50 %"
    )


def test_agreement_with_a_second_judge_is_of_outcomes_and_beyond_chance() -> None:
    rows = [row(number, (1, 2), "win" if number % 2 else "loss") for number in range(20)]
    found = check(sound, rows=rows, second_judge=longer)
    assert found.second.of == 60
    alone = check(sound, second_judge=sound)
    assert alone.second.share == 1
    assert alone.second_kappa is None or alone.second_kappa == 1
    opposed = check(sound, second_judge=right_on(0.0))
    assert opposed.second.share == 0
    assert opposed.second_kappa is not None
    assert opposed.second_kappa < 0


def test_a_judge_without_verdicts_is_told_and_raises_nothing() -> None:
    def broken(context: str, first: str, second: str, objective: str) -> int:
        raise RuntimeError

    assert "gave no verdict on any of the" in check(broken).first_line()
    answered = iter(range(10**6))

    def shaky(context: str, first: str, second: str, objective: str) -> int:
        if next(answered) % 3 == 0:
            raise RuntimeError
        return sound(context, first, second, objective)

    assert "it gave no verdict on" in check(shaky).first_line()


def test_pairs_on_other_objectives_are_used_if_the_judge_can_be_asked_about_them() -> None:
    mixed = [
        {**pair, "objective": "humour" if number % 2 else "helpfulness"}
        for number, pair in enumerate(pairs())
    ]
    assert check(sound, human_pairs=mixed).people.of == 40
    one = check({"helpfulness": sound}, human_pairs=mixed)
    assert (one.people.of, one.unused_pairs) == (20, 20)
    assert one.unanswered == 0


def test_questions_can_be_asked_together() -> None:
    sizes: list[int] = []

    class Together:
        def ask_each(self, questions: Sequence) -> list[int | None]:
            sizes.append(len(questions))
            return [sound(o.context, o.first, o.second, o.objective.name) for o in questions]

    assert check(Together()).is_sound
    assert len(sizes) <= 4


def test_a_check_survives_json() -> None:
    found = check(sound, second_judge=longer)
    kind = TypeAdapter(JudgeCheck)
    assert kind.validate_python(json.loads(kind.dump_json(found))) == found


@pytest.mark.parametrize(
    ("given", "better"),
    [
        ({"context": "Hi", "first": "Yes.", "second": "No.", "better": 2}, "No."),
        ({"context": "Hi", "first": "Yes.", "second": "No.", "better": "first"}, "Yes."),
        ({"prompt": "Hi", "chosen": "Yes.", "rejected": "No."}, "Yes."),
        (
            {
                "chosen": "\n\nHuman: Hi\n\nAssistant: Yes.",
                "rejected": "\n\nHuman: Hi\n\nAssistant: No.",
            },
            "Yes.",
        ),
        (
            {
                "context": [{"role": "user", "content": "Hi"}],
                "chosen": {"role": "assistant", "content": "Yes."},
                "rejected": "No.",
                "objective": "Politeness: the response should be polite.",
            },
            "Yes.",
        ),
    ],
)
def test_human_pairs_are_read_in_the_forms_that_people_have(given, better: str) -> None:
    (pair,) = read_human_pairs([given])
    assert (pair.first, pair.second)[pair.better - 1] == better
    assert "Hi" in pair.context


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "there are none"),
        ([{"context": "Hi", "chosen": "Yes."}], "row 1: it has no `rejected`"),
        ([{"context": "Hi", "first": "A", "second": "B", "better": 3}], "none of 1, 2 and 0"),
        ([{"context": "Hi", "first": "A", "second": "B", "better": True}], "none of 1, 2 and 0"),
        ([{"chosen": "A", "rejected": "B"}], "no context"),
        ([{"context": "Hi", "chosen": "A", "rejected": "A"}], "both replies are the same"),
        ([{"context": "Hi", "chosen": "A", "rejected": "B", "objective": "x"}], "row 1: "),
        ("nowhere.jsonl", "no file"),
    ],
)
def test_pairs_that_are_none_are_named_before_anything_is_spent(given, told: str) -> None:
    with pytest.raises(EvaluationError, match=re.escape(told)):
        check(sound, human_pairs=given)


def test_own_objectives_may_be_named_in_pairs() -> None:
    own = Objective("brand voice", "Brand voice: the response should sound like us.")
    given = {"context": "Hi", "chosen": "A", "rejected": "B", "objective": "Brand voice"}
    (pair,) = read_human_pairs([given], objectives=[own])
    assert pair.objective == own
