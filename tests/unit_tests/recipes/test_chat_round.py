"""The fourth round of the recipe: replies and refusals as chat models write them."""

from __future__ import annotations

import hashlib
import json
import random
import re
from functools import cache

import pytest

from cookbook.recipes.embedded import base_replies, chat_round, sources
from cookbook.recipes.embedded.forms import MAIN
from cookbook.recipes.embedded.sources import held_out
from langchain_metaaligner.training.data.example import TrainingExample
from tests.unit_tests.recipes.pairs import LONG, RISKY


@cache
def made() -> list[TrainingExample]:
    return chat_round.build(RISKY, LONG)


def of(*kinds: str) -> list[TrainingExample]:
    return [example for example in made() if example.kind in kinds]


def asked(example: TrainingExample) -> str:
    return example.context.rpartition("\n\nHuman: ")[2].removesuffix("\n\nAssistant:").strip()


def names(example: TrainingExample) -> tuple[str, ...]:
    return tuple(goal.name for goal in example.objectives)


def harmful() -> set[str]:
    return {row["ask"] for name in ("harmful_asks", "risky") for row in sources.texts(name)}


def test_the_examples_are_those_that_the_adapter_was_trained_on() -> None:
    # Without documentation: docstrings of the standard library differ between versions of Python.
    digest = hashlib.sha256()
    for e in chat_round.build(RISKY, LONG, limit=400, documentation=0):
        goals = [[goal.name, goal.description] for goal in e.objectives]
        digest.update(json.dumps([e.context, e.answer, goals, e.edit, e.stage, e.kind]).encode())
    assert digest.hexdigest() == "6c410374041dd50ac7ce4b1a1b8fb16b8ec93c93db627d42e3cc364407794f75"


def test_the_same_seed_gives_the_same_examples_and_a_limit_draws_from_them() -> None:
    assert made() == made.__wrapped__()
    few = chat_round.build(RISKY, LONG, limit=100)
    assert len(few) == 100
    assert {e.answer for e in few} <= {e.answer for e in made()}


def test_nothing_held_out_and_no_probe_is_trained_on() -> None:
    assert not [e.context for e in made() if held_out(e.context)]
    trained = " ".join(e.context for e in made())
    assert not [row["ask"] for row in sources.texts("probes") if row["ask"] in trained]


def test_half_of_the_examples_are_copies() -> None:
    copies = [e for e in made() if e.answer == e.edit]
    assert 0.45 < len(copies) / len(made()) < 0.7


def test_what_the_base_wrote_stays_after_safe_questions_and_goes_after_harmful_ones() -> None:
    written = {row["reply"] for row in sources.texts("base_replies")}
    kept, left = set(), set()
    for e in made():
        if e.answer in written:
            (kept if e.answer == e.edit else left).add(asked(e))
    assert len(kept) > 100
    assert len(left) > 200
    assert not kept & harmful()
    assert left <= harmful()


def test_a_beginning_is_treated_as_the_whole_reply_is() -> None:
    begun = of("begun")
    stay = [e for e in begun if e.answer == e.edit]
    assert 0.2 < len(stay) / len(begun) < 0.7
    assert not {asked(e) for e in stay} & harmful()
    assert {asked(e) for e in begun if e.answer != e.edit} <= harmful()


def test_right_and_needless_refusals_of_all_lengths_differ_in_the_question_alone() -> None:
    needless = [e for e in of("answer") if e.answer != e.edit]
    right = of("refused")
    assert all(e.answer == e.edit for e in right)
    assert all("helpfulness" in names(e) for e in needless)
    for found in (needless, right):
        long = [e for e in found if len(e.answer.split()) > 60]
        assert len(long) / len(found) > 0.2
        assert sum(names(e) == (MAIN[1],) for e in found) > 0.2 * len(found)
    safe = {asked(e) for e in needless}
    assert not safe & harmful()


def test_a_refusal_says_one_thing_and_stops() -> None:
    edits = [e.edit for e in of("harm", "begun") if e.answer != e.edit]
    assert sum(len(edit.split()) for edit in edits) / len(edits) < 25
    fixed = {ending for endings in sources.lines("endings").values() for ending in endings}
    ends = [re.split(r"(?<=[.!?]) ", edit)[-1] for edit in edits if ". " in edit]
    assert sum(end in fixed or end in chat_round.ENDINGS for end in ends) > 0.5 * len(ends)


def test_no_edit_brings_a_crisis_line_that_the_reply_did_not_have() -> None:
    assert not [e for e in made() if e.answer != e.edit and chat_round.CRISIS.search(e.edit)]


def test_the_same_harmful_reply_gets_other_edits_for_other_objectives() -> None:
    edits: dict[tuple[str, str], set[str]] = {}
    for e in of("harm"):
        if len(e.objectives) == 1:
            edits.setdefault((asked(e), names(e)[0]), set()).add(e.edit)
    both = [ask for ask, goal in edits if goal == MAIN[0] and (ask, MAIN[1]) in edits]
    assert len(both) > 30
    other = [ask for ask in both if edits[ask, MAIN[0]] != edits[ask, MAIN[1]]]
    assert len(other) > 0.7 * len(both)


def test_for_helpfulness_the_offer_comes_first() -> None:
    refusal = "I can't help with a fake ticket. I can explain what the law says."
    wanted = "I can explain what the law says, but I can't help with a fake ticket."
    assert chat_round.offering(refusal, "") == wanted
    bare = chat_round.offering("That would be theft.", "I can help you borrow one.")
    assert bare == "That would be theft. I can help you borrow one."


@pytest.mark.parametrize("seed", range(20))
def test_a_beginning_ends_behind_a_sentence_or_a_line(seed: int) -> None:
    reply = "Here are two ways to do it:\n\n1. Take the bus at noon.\n2. Walk there. It's far."
    cut = chat_round.beginning(reply, random.Random(seed))
    assert cut in {
        "Here are two ways to do it:",
        "Here are two ways to do it:\n\n1. Take the bus at noon.",
        "Here are two ways to do it:\n\n1. Take the bus at noon.\n2. Walk there.",
    }


def test_a_reply_of_one_sentence_has_no_beginning() -> None:
    assert chat_round.beginning("Take the bus at noon.", random.Random(1)) is None


@pytest.mark.parametrize(
    ("reply", "finished", "kept"),
    [
        ("Take the bus. Then walk", False, "Take the bus."),
        ("Two ways:\n\n1. Take the bus.\n2.", False, "Two ways:\n\n1. Take the bus."),
        ("Two ways:\n- the bus\n- a lo", False, "Two ways:\n- the bus"),
        (" Take the bus ", True, "Take the bus"),
    ],
)
def test_an_unfinished_reply_of_the_base_loses_its_end(
    reply: str, finished: bool, kept: str
) -> None:
    assert base_replies.whole(reply, finished=finished) == kept


@pytest.mark.parametrize(
    "reply",
    [
        "Too short.",
        "I'm sorry, but I can't help you with this request today, my friend.",
        "word " * 171,
        "As an AI language model, I have no car that I could drive for you.",
        "and again " * 20,
    ],
)
def test_a_reply_that_teaches_nothing_is_left_out(reply: str) -> None:
    assert not base_replies.usable(reply)


def test_the_replies_of_the_base_that_were_kept_are_usable() -> None:
    rows = sources.texts("base_replies")
    assert sum(base_replies.usable(row["reply"]) for row in rows) > 0.99 * len(rows)


def test_a_request_to_the_base_is_the_same_every_time_and_begins_the_reply() -> None:
    opening, body = base_replies.request("How do I juggle?", 1)
    assert (opening, body) == base_replies.request("How do I juggle?", 1)
    assert body["prompt"].endswith(f"<|im_start|>assistant\n{opening}")
    assert base_replies.request("How do I juggle?", 2)[1]["seed"] != body["seed"]
