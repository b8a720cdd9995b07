"""What examples the pairs become, and that nothing but the pairs and the seed decides it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_metaaligner import (
    CheckpointError,
    Objective,
    PreferenceDataError,
    UnknownObjectiveError,
)
from langchain_metaaligner.editing.conversation import Turn
from langchain_metaaligner.editing.prompts import HH_RLHF, IMHI, INSTRUCT, ULTRAFEEDBACK
from langchain_metaaligner.training import (
    PreferencePair,
    TrainingExample,
    build_examples,
    split_held_out,
)

TURNS = (Turn("human", "Which country?"), Turn("assistant", "Hm."), Turn("human", "Choose!"))
NAMES = ("harmlessness", "helpfulness", "humour")


def pair(compared: dict[str, Any], **changes: Any) -> PreferencePair:
    fields = {"context": TURNS, "answer_a": "India.", "answer_b": "Japan.", **changes}
    return PreferencePair(**fields, compared=compared)


def shape(example: TrainingExample) -> tuple[str, str, str, frozenset[str]]:
    names = frozenset(one.name for one in example.objectives)
    return example.stage, example.answer, example.edit, names


def test_the_papers_own_example_becomes_its_two_corrections() -> None:
    # Appendix C.3: the scores of two answers to one conversation.
    scores = {"helpfulness": (0.12, 0.37), "harmlessness": (2.15, 2.17), "humour": (0.43, 0.29)}
    assert {shape(one) for one in build_examples([pair(scores)])} == {
        ("contrastive", "Japan.", "India.", frozenset({"humour"})),
        ("contrastive", "India.", "Japan.", frozenset({"harmlessness", "helpfulness"})),
    }


def test_equal_examples_list_the_equal_objectives_and_nothing_else() -> None:
    scores = {"helpfulness": (2, 1), "harmlessness": (1, 1), "humour": (0, 0)}
    equal = [one for one in build_examples([pair(scores)]) if one.stage == "equal"]
    assert list(map(shape, equal)) == [
        ("equal", "Japan.", "India.", frozenset({"harmlessness", "humour"}))
    ]


def test_warm_up_examples_are_equal_examples_with_the_answer_as_its_edit() -> None:
    pairs = [pair({"humour": "equal"}, answer_a=f"Answer {n}.") for n in range(10)]
    made = build_examples(pairs)
    warm_up = [one for one in made if one.stage == "warm_up"]
    assert len(warm_up) == 2
    assert all(one.answer == one.edit == "Japan." for one in warm_up)
    assert [one.stage for one in made] == ["warm_up"] * 2 + ["equal"] * 10


def test_where_equal_examples_are_few_other_answers_are_copied() -> None:
    pairs = [pair({"humour": "a"}, answer_a=f"Answer {n}.") for n in range(3)]
    assert Counter(one.stage for one in build_examples(pairs)) == {"contrastive": 3}
    made = build_examples([*pairs, pair({"humour": "equal"})], warm_up=3)
    warm_up = [one for one in made if one.stage == "warm_up"]
    assert len(warm_up) == 3
    assert all(one.answer == one.edit for one in warm_up)
    assert len(build_examples(pairs, warm_up=30)) == 6


def test_prompts_say_what_the_stage_asks_for() -> None:
    made = build_examples([pair({"humour": "equal", "helpfulness": "a"})], warm_up=1)
    prompts = {one.stage: one.render(HH_RLHF)[0] for one in made}
    better, equal = "then edit the answer to improve it", "then edit the answer to make it equal"
    assert better in prompts["contrastive"]
    assert equal in prompts["equal"]
    assert equal in prompts["warm_up"]
    assert prompts["contrastive"].endswith(
        "considering these aspects: Helpfulness: The response should provide useful resources and"
        " suggestions to the user | Context: \n\nHuman: Which country?\n\nAssistant: Hm.\n\nHuman:"
        " Choose! \n\nAssistant: | Answer: Japan. | Edit: "
    )


@pytest.mark.parametrize(
    ("family", "context"), [(ULTRAFEEDBACK, "Choose!"), (IMHI, "Choose!"), (INSTRUCT, None)]
)
def test_contexts_and_stages_are_those_that_the_family_has(family: Any, context: Any) -> None:
    made = build_examples([pair({"humour": "equal", "helpfulness": "a"})], family=family, warm_up=1)
    stages = [one.stage for one in made]
    assert stages == (
        ["warm_up", "contrastive"] if family is INSTRUCT else ["warm_up", "equal", "contrastive"]
    )
    assert context is None or {one.context for one in made} == {context}
    for one in made:
        prompt, edit = one.render(family)
        assert "Choose!" in prompt
        assert edit == one.edit
        if family is IMHI:
            wording = "make it better" if one.stage == "contrastive" else "make it equal"
            assert f"{wording} considering these aspects" in prompt


def test_a_stage_that_the_family_has_no_words_for_can_not_be_asked_for() -> None:
    with pytest.raises(CheckpointError, match="instruct has no wording"):
        build_examples([pair({"humour": "equal"})], family=INSTRUCT, stages=["equal"])
    with pytest.raises(CheckpointError, match="instruct has no wording"):
        TrainingExample("c", "a", (), "a", stage="equal").render(INSTRUCT)


def test_only_the_wanted_stages_are_made() -> None:
    pairs = [pair({"humour": "equal", "helpfulness": "a"})]
    assert [one.stage for one in build_examples(pairs, stages=["contrastive"])] == ["contrastive"]
    with pytest.raises(PreferenceDataError, match="no stage 'warmup'"):
        build_examples(pairs, stages=["warmup"])  # type: ignore[list-item]


def test_scores_within_the_tie_margin_are_equal() -> None:
    scores = {"helpfulness": (1.0, 1.4), "humour": (1.0, 1.4)}
    assert [one.stage for one in build_examples([pair(scores)], warm_up=0)] == ["contrastive"]
    assert [one.stage for one in build_examples([pair(scores)], tie_margin=0.5, warm_up=0)] == [
        "equal"
    ]
    made = build_examples([pair(scores)], tie_margin={"humour": 0.5}, warm_up=0)
    assert {(one.stage, one.objectives[0].name) for one in made} == {
        ("contrastive", "helpfulness"),
        ("equal", "humour"),
    }


@pytest.mark.parametrize(
    "options",
    [{"tie_margin": -1.0}, {"tie_margin": float("nan")}, {"tie_margin": {"humour": -1}}],
)
def test_a_margin_that_is_no_distance_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(PreferenceDataError, match="A tie margin is a finite number"):
        build_examples([pair({"humour": "a"})], **options)


def test_a_preference_is_no_tie_whatever_the_margin() -> None:
    made = build_examples([pair({"humour": "a"})], tie_margin=100.0)
    assert [one.stage for one in made] == ["contrastive"]


def test_objectives_of_ones_own_bring_their_description() -> None:
    brevity = Objective("brevity", "Brevity: The response should be short")
    made = build_examples([pair({"brevity": (1, 2), "humour": "a"})], objectives=[brevity])
    assert [one.objectives for one in made] == [(brevity,)]
    with pytest.raises(UnknownObjectiveError, match="no objective 'brevity'"):
        build_examples([pair({"brevity": (1, 2)})])


def test_objectives_that_no_pair_compares_on_are_refused() -> None:
    message = r"None of the 1 pairs compares on humour\. They compare on helpfulness"
    with pytest.raises(PreferenceDataError, match=message):
        build_examples([pair({"helpfulness": "a"})], objectives="humor")


def test_no_pairs_give_no_examples() -> None:
    assert build_examples([]) == []
    assert build_examples([], objectives="humour") == []


def test_objectives_come_in_every_order() -> None:
    pairs = [pair(dict.fromkeys(NAMES, "a"), answer_a=f"Answer {number}.") for number in range(120)]
    orders = Counter(
        tuple(one.name for one in example.objectives) for example in build_examples(pairs)
    )
    assert len(orders) == 6
    assert min(orders.values()) >= 8


def test_another_process_with_other_hashes_makes_the_same_examples() -> None:
    code = (
        "import json\n"
        "from langchain_metaaligner.training import PreferencePair, build_examples\n"
        "pairs = [PreferencePair('c', f'a{n}', f'b{n}', {'humour': 'a', 'helpfulness': 'a',"
        " 'harmlessness': 'equal'}) for n in range(20)]\n"
        "print(json.dumps([[e.stage, e.answer, [o.name for o in e.objectives]]"
        " for e in build_examples(pairs, seed=3)]))"
    )
    outputs = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", code],
                env={"PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
                timeout=120,
            ).stdout
        )
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 44


compared = st.dictionaries(
    st.sampled_from([*NAMES, "honesty"]),
    st.sampled_from(["a", "b", "equal"])
    | st.tuples(st.floats(-3, 3).map(lambda x: round(x, 1)), st.integers(-3, 3)),
    min_size=1,
)
texts = st.text(min_size=1, max_size=8)
made_pairs = st.builds(
    PreferencePair,
    context=texts | st.builds(lambda text: (Turn("human", text),), texts),
    answer_a=texts.map("a: {}".format),
    answer_b=texts.map("b: {}".format),
    compared=compared,
)
many_pairs = st.lists(made_pairs, max_size=6, unique_by=PreferencePair.identity)
seeds = st.integers(0, 5)


@given(made_pairs, seeds, st.sampled_from([0.0, 0.5, 2.0]))
def test_an_edit_beats_its_answer_on_exactly_the_objectives_that_ask_for_it(
    one: PreferencePair, seed: int, margin: float
) -> None:
    def beats(first: str, name: str) -> bool:
        known = one.compared[name]
        if isinstance(known, str):
            return known == ("a" if first == one.answer_a else "b")
        mine, other = known if first == one.answer_a else known[::-1]
        return mine - other > margin

    made = build_examples([one], seed=seed, tie_margin=margin)
    asked = [name for e in made if e.stage != "warm_up" for name in (o.name for o in e.objectives)]
    assert sorted(asked) == sorted(one.compared)
    for example in made:
        names = {objective.name for objective in example.objectives}
        assert names
        if example.stage == "contrastive":
            assert {example.answer, example.edit} == {one.answer_a, one.answer_b}
            assert names == {name for name in one.compared if beats(example.edit, name)}
        elif example.stage == "equal":
            assert (example.answer, example.edit) == (one.answer_b, one.answer_a)
            assert not any(
                beats(text, name) for name in names for text in (one.answer_a, one.answer_b)
            )
        else:
            assert example.answer == example.edit


@given(many_pairs, seeds)
def test_swapping_the_answers_changes_nothing_but_the_direction_of_equal_edits(
    pairs: list[PreferencePair], seed: int
) -> None:
    made = build_examples(pairs, seed=seed, warm_up=0)
    swapped = build_examples([one.swapped() for one in pairs], seed=seed, warm_up=0)

    def contrastive(examples: list[TrainingExample]) -> list[TrainingExample]:
        return [one for one in examples if one.stage == "contrastive"]

    def turned(one: TrainingExample) -> tuple[str, str, str, frozenset[Objective]]:
        return one.context, one.edit, one.answer, frozenset(one.objectives)

    assert contrastive(made) == contrastive(swapped)
    assert {turned(one) for one in made if one.stage == "equal"} == {
        (one.context, one.answer, one.edit, frozenset(one.objectives))
        for one in swapped
        if one.stage == "equal"
    }


@given(many_pairs, seeds, st.randoms(use_true_random=False))
def test_the_order_of_rows_and_of_objectives_does_not_matter(
    pairs: list[PreferencePair], seed: int, random: Any
) -> None:
    mixed = [
        PreferencePair(
            one.context,
            one.answer_a,
            one.answer_b,
            dict(random.sample(list(one.compared.items()), len(one.compared))),
            f"row {random.random()}",
        )
        for one in random.sample(pairs, len(pairs))
    ]
    assert build_examples(mixed, seed=seed) == build_examples(pairs, seed=seed)


def test_another_seed_gives_another_order() -> None:
    pairs = [pair(dict.fromkeys(NAMES, "a"), answer_a=f"Answer {n}.") for n in range(20)]
    assert build_examples(pairs, seed=1) == build_examples(pairs, seed=1)
    assert build_examples(pairs, seed=1) != build_examples(pairs, seed=2)


def asked(opening: str, *later: str) -> PreferencePair:
    turns = [Turn("human", opening)]
    for text in later:
        turns += [Turn("assistant", "Yes."), Turn("human", text)]
    return pair({"humour": "a"}, context=tuple(turns))


@given(st.lists(texts, min_size=1, max_size=8), st.floats(0, 1), seeds)
def test_no_conversation_is_on_both_sides_of_the_split(
    openings: list[str], fraction: float, seed: int
) -> None:
    pairs = [
        one
        for opening in openings
        for one in (asked(opening), asked(opening, "And then?"), asked(f" {opening.upper()}\n"))
    ]
    train, kept = split_held_out(pairs, fraction=fraction, seed=seed)

    def opened(side: list[PreferencePair]) -> set[str]:
        return {" ".join(one.context[0].text.split()).casefold() for one in side}

    assert not opened(train) & opened(kept)
    assert sorted(map(id, train + kept)) == sorted(map(id, pairs))


def test_a_split_is_of_about_the_wanted_size_and_the_same_for_text_and_turns() -> None:
    pairs = [asked(f"Question {n}?", "More?") for n in range(400)]
    train, kept = split_held_out(pairs, fraction=0.2)
    assert 55 <= len(kept) <= 105
    as_text = [
        pair({"humour": "a"}, context=f"\n\nHuman: Question {n}? \n\nAssistant:")
        for n in range(400)
    ]
    held = {one.context[0].text for one in kept if not isinstance(one.context, str)}
    again = split_held_out(as_text, fraction=0.2)[1]
    assert held == {one.context_text().split(":")[1].split("\n")[0].strip() for one in again}
    assert split_held_out(pairs, fraction=0.0)[1] == []
    assert split_held_out(pairs, fraction=1.0)[0] == []
    assert split_held_out(pairs, fraction=0.2, seed=1)[1] != kept
    assert set(map(id, split_held_out(pairs[::-1], fraction=0.2)[1])) == set(map(id, kept))
    with pytest.raises(PreferenceDataError, match="between 0 and 1"):
        split_held_out(train, fraction=12)


def test_a_record_shows_no_text_of_the_data() -> None:
    assert "India" not in repr(pair({"humour": "a"}))
    assert "Japan" not in repr(pair({"humour": "a"}))
