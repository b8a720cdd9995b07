"""The fifth round of the recipe: the default's objectives, long harm, short true answers."""

from __future__ import annotations

import hashlib
import json
import random
import re
from functools import cache

import pytest

from cookbook.recipes.embedded import chat_round, fifth_round, sources
from cookbook.recipes.embedded.forms import MAIN
from cookbook.recipes.embedded.general_answers import answers, general_answer, plain, subject
from cookbook.recipes.embedded.sources import held_out, refuses
from langchain_metaaligner.training.data.example import TrainingExample
from tests.unit_tests.recipes.pairs import LONG, RISKY


@cache
def made() -> list[TrainingExample]:
    return fifth_round.build(RISKY, LONG)


def of(*kinds: str) -> list[TrainingExample]:
    return [example for example in made() if example.kind in kinds]


def asked(example: TrainingExample) -> str:
    return example.context.rpartition("\n\nHuman: ")[2].removesuffix("\n\nAssistant:").strip()


def names(example: TrainingExample) -> tuple[str, ...]:
    return tuple(goal.name for goal in example.objectives)


def harmful() -> set[str]:
    files = ("harmful_asks", "risky", "kept_refusals", "formal")
    return {row["ask"] for name in files for row in sources.texts(name)}


def written() -> list[TrainingExample]:
    """The examples of harm and the copies that were made for this round."""
    return of("harm", "begun", "look", "long", "task", "dialogue", "base")


def test_the_examples_are_those_that_the_adapter_was_trained_on() -> None:
    # Without documentation: docstrings of the standard library differ between versions of Python.
    digest = hashlib.sha256()
    for e in fifth_round.build(RISKY, LONG, limit=400, documentation=0):
        goals = [[goal.name, goal.description] for goal in e.objectives]
        digest.update(json.dumps([e.context, e.answer, goals, e.edit, e.stage, e.kind]).encode())
    assert digest.hexdigest() == "110bfe1a0a97d8bfa463f8cb63061fb1da186561d42e8ac77d10660c4b3b7882"


def test_the_same_seed_gives_the_same_examples() -> None:
    assert made() == made.__wrapped__()


def test_nothing_held_out_and_no_probe_is_trained_on() -> None:
    assert not [e.context for e in made() if held_out(e.context)]
    trained = " ".join(e.context for e in made())
    assert not [row["ask"] for row in sources.texts("probes") if row["ask"] in trained]


@pytest.mark.parametrize("goals", [(MAIN[0],), MAIN[:2], MAIN])
def test_no_set_of_objectives_means_a_copy(goals: tuple[str, ...]) -> None:
    found = [e for e in written() if names(e) == goals]
    changed = sum(e.answer != e.edit for e in found) / len(found)
    assert 0.15 < changed < 0.5


def test_a_chat_models_frame_means_neither_harm_nor_a_copy() -> None:
    lines = {line for kind in fifth_round.frames() for line in kind}
    found = [e for e in written() if lines & set(re.split(r"\n\n", e.answer))]
    assert len(found) > 150
    assert 0.3 < sum(e.answer == e.edit for e in found) / len(found) < 0.7
    assert {asked(e) for e in found if e.answer != e.edit} <= harmful()
    assert not {asked(e) for e in found if e.answer == e.edit} & harmful()


def test_a_frame_keeps_what_it_stands_around() -> None:
    text = fifth_round.framed(["Take the bus.", "Or walk."], random.Random(3))
    assert text.index("Take the bus.") < text.index("Or walk.")
    assert len(text) > len("Take the bus.\n\nOr walk.")


def test_needless_refusals_become_short_answers_most_of_which_state_no_facts() -> None:
    found = of("answer")
    assert all("helpfulness" in names(e) for e in found)
    assert not {asked(e) for e in found} & harmful()
    assert max(len(e.edit.split()) for e in found) <= 45
    assert not [e.edit for e in found if refuses(e.edit)]
    advice = [line for lines in answers().advice.values() for line in lines]
    general = [e for e in found if e.edit.endswith(tuple(advice))]
    assert 0.6 < len(general) / len(found) < 0.95
    assert not [e.edit for e in found if e not in general and re.search(r"\d", e.edit)]


@pytest.mark.parametrize(
    ("ask", "about", "has"),
    [
        ("How do I kill my laptop's hung process?", "computer", "kill your laptop's hung process"),
        ("What does 'killer app' mean?", "words", "what 'killer app' means"),
        ("Where can I shoot pool?", "shop", "shoot pool"),
        ("write me a poem about a shark attack", "story", "a poem about a shark attack"),
        ("Can I take two of these pills?", "health", "ask"),
        ("Why?", "other", "."),
    ],
)
def test_a_general_answer_names_what_was_asked_and_fits_its_subject(
    ask: str, about: str, has: str
) -> None:
    assert subject(ask) == about
    for seed in range(20):
        answer = general_answer(ask, random.Random(seed))
        assert not re.search(r"[{}]|\b(my|me|I've)\b", answer)
        assert not refuses(answer)
    assert any(has in general_answer(ask, random.Random(seed)) for seed in range(20))


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("Warm it slowly. Then stir. It takes long.", "Warm it slowly. Then stir."),
        ("Warm it to 90 degrees.", None),
        ("Ask the people of Riga.", None),
        ('It\'s called "roux".', None),
        ("word " * 31 + ".", None),
    ],
)
def test_what_a_small_model_would_invent_is_no_plain_answer(answer: str, kept: str | None) -> None:
    assert plain(answer) == kept


def test_for_helpfulness_a_refusal_always_has_another_form() -> None:
    offer = "I can help you borrow one."
    bare = fifth_round.helpful_refusal("I can't help you steal it.", offer)
    assert bare == "I can help you borrow one, but I can't help you steal it."
    assert fifth_round.helpful_refusal("That is theft.", offer) == f"{offer} That is theft."
    own = "I won't do it. I'd lend you mine."
    assert fifth_round.helpful_refusal(own, offer) == "I'd lend you mine, but I won't do it."


def test_no_edit_brings_a_crisis_line_that_the_reply_did_not_have() -> None:
    assert not [e for e in made() if e.answer != e.edit and chat_round.CRISIS.search(e.edit)]


def test_dialogues_are_read_with_all_their_turns() -> None:
    turns, answer = sources.dialogues()[0]
    assert len(turns) % 2 == 1
    assert answer
    assert all(len(turns) >= 3 for turns, _ in sources.dialogues())
