"""What becomes a training example, and what never does."""

from __future__ import annotations

import hashlib
import json
import random
import re
from functools import cache
from pathlib import Path

import pytest

from cookbook.recipes.embedded import damage, examples, later_rounds, sources
from cookbook.recipes.embedded.examples import build
from cookbook.recipes.embedded.forms import MAIN, conversation, sentences
from cookbook.recipes.embedded.sources import Pair, held_out
from cookbook.recipes.embedded.wordings import WORDED, described, example
from langchain_metaaligner.editing.prompts import HH_RLHF
from langchain_metaaligner.training.data.example import TrainingExample
from tests.unit_tests.recipes.pairs import LONG, RISKY

USEFUL = [
    Pair(
        conversation(f"How do I plant row {place} of my tulips?"),
        "Dig a hole of six inches, put the bulb in with its tip up, and cover it with soil. "
        f"Water it once and leave a space of {place + 3} inches to the next bulb. That is all.",
        "No idea.",
    )
    for place in range(60)
]


@cache
def made(seed: int = 7) -> list[TrainingExample]:
    return build(RISKY, USEFUL, seed=seed, copies=40, documentation=3)


def test_the_examples_are_those_that_the_adapter_was_trained_on() -> None:
    # Without documentation: docstrings of the standard library differ between versions of Python.
    digest = hashlib.sha256()
    for e in build(RISKY, USEFUL, seed=7, copies=40, documentation=0):
        goals = [[goal.name, goal.description] for goal in e.objectives]
        row = [e.context, e.answer, goals, e.edit, e.stage, e.kind]
        digest.update(json.dumps(row).encode())
    assert digest.hexdigest() == "01dd9836edfa308e2f3651be2643cb0c235361b57b2ba2e2b1f1ec536927ee2d"


def test_the_same_seed_gives_the_same_examples() -> None:
    assert made() == made.__wrapped__()


def test_another_seed_gives_other_examples() -> None:
    assert made() != made(seed=8)


@cache
def polished(seed: int = 8) -> list[TrainingExample]:
    return later_rounds.build(RISKY, [*USEFUL, *LONG], seed=seed, copies=20)


def test_the_second_round_draws_the_same_kinds_anew_and_copies_more() -> None:
    assert polished() == polished.__wrapped__() != polished(seed=9)
    first, second = examples.counts(made()), examples.counts(polished())
    assert first.keys() - {"cut", "rule"} <= second.keys()
    assert second["harm"] < first["harm"]
    assert second["look"] < first["look"]
    copied = [e for e in polished() if e.kind in ("long", "written", "formal")]
    assert all(e.edit == e.answer for e in copied)
    assert len(copied) > 400
    assert {e.stage for e in polished()} == {"contrastive"}
    asked = [tuple(goal.name for goal in e.objectives) for e in copied]
    assert asked.count(MAIN) > len(copied) / 3


def test_the_last_round_is_mostly_about_safe_questions_that_sound_dangerous() -> None:
    pairs = RISKY, [*USEFUL, *LONG]
    last = examples.counts(
        later_rounds.build(*pairs, seed=9, shares=later_rounds.BALANCE, copies=20)
    )
    second = examples.counts(polished())
    assert last["look"] > second["look"]
    assert all(last.get(kind, 0) <= second[kind] for kind in second if kind != "look")
    assert last["look"] > 0.4 * sum(last.values())


def test_nothing_held_out_is_in_the_second_round() -> None:
    assert not [e.context for e in polished() if held_out(e.context)]
    kept_apart = [p.context for p in [*RISKY, *USEFUL, *LONG] if held_out(p.context)]
    assert kept_apart
    assert not set(kept_apart) & {e.context for e in polished()}


def test_long_replies_of_people_stay_as_they_are() -> None:
    found = [e for e in polished() if e.kind == "long"]
    assert found
    assert all(len(e.answer.split()) >= 85 for e in found)
    assert {e.context for e in found} <= {p.context for p in LONG}


def test_no_held_out_conversation_is_trained_on() -> None:
    kept_apart = [p.context for p in [*RISKY, *USEFUL] if held_out(p.context)]
    assert kept_apart
    assert not set(kept_apart) & {e.context for e in made()}


def test_no_conversation_begins_with_a_question_that_is_held_out() -> None:
    openings = [e.context for e in made()]
    assert [context for context in openings if "\n\nAssistant:" in context[:-12]]
    assert not list(filter(held_out, openings))


def test_a_conversation_is_held_out_or_not_whatever_its_later_turns() -> None:
    for place in range(50):
        opening = f"Question {place}?"
        longer = conversation(opening, "An answer.", "Another question?")
        assert held_out(conversation(opening)) == held_out(longer) == held_out(opening)


def test_probes_are_never_trained_on() -> None:
    asked = {row["ask"] for row in sources.texts("probes")}
    trained = " ".join(e.context for e in made())
    assert not [ask for ask in asked if ask in trained]


def test_a_prompt_has_the_bytes_of_the_hh_rlhf_family() -> None:
    made = example("keep", conversation("Hi"), "Hello.", ("humour", "helpfulness"), "Hello.")
    assert made.render(HH_RLHF) == (
        "You are an assistant to human. You will be provided with a context and an answer. "
        "Consider the context, then edit the answer to improve it considering these aspects: "
        "Humour: The response should be cheerful and amusing; Helpfulness: The response should "
        "provide useful resources and suggestions to the user | Context: \n\nHuman: Hi "
        "\n\nAssistant: | Answer: Hello. | Edit: ",
        "Hello.",
    )


def test_written_refusals_are_keyed_and_hold_no_conversation() -> None:
    for row in sources.texts("refusals"):
        assert set(row) == {"key", "edit"}
        assert re.fullmatch(r"[0-9a-f]{16}", row["key"])
        assert "Human:" not in row["edit"]


# Every file of texts, the fields of its rows, and those that no two rows may share.
FILES = {
    "base_replies": (("ask", "reply"), ("reply",)),
    "facts": (("ask", "answer"), ("ask",)),
    "formal": (("ask", "answer"), ("ask", "answer")),
    "formatted": (("ask", "answer"), ("ask", "answer")),
    "harmful_asks": (("ask", "edit", "area"), ("ask",)),
    "kept_refusals": (("ask", "answer", "kind"), ("ask", "answer")),
    "long_answers": (("ask", "answer"), ("ask", "answer")),
    "lookalikes": (("ask", "answer"), ("ask",)),
    "playful": (("ask", "dry", "humour"), ("ask", "humour")),
    "probes": (("ask", "answer"), ("ask",)),
    "replies": (("ask", "answer"), ("ask", "answer")),
    "refusals": (("key", "edit"), ("key",)),
    "risky": (("ask", "bad", "harmless", "helpful", "humour"), ("ask", "bad", "harmless")),
    "safe": (("ask", "answer"), ("ask",)),
    "targets": (("verbs", "target", "answer"), ("target",)),
    "unseen": (("goal", "ask", "before", "after"), ("before", "after")),
}


@pytest.mark.parametrize("name", FILES)
def test_every_row_of_a_file_has_its_fields_filled_and_no_row_comes_twice(name: str) -> None:
    fields, unique = FILES[name]
    rows = sources.texts(name)
    assert len(rows) >= 26
    shared = [{key: row[key] for key in row if not key.startswith("earlier")} for row in rows]
    assert all(tuple(row) == fields and all(map(str.strip, row.values())) for row in shared)
    for field in unique:
        assert len({row[field] for row in rows}) == len(rows)


def test_every_file_of_texts_is_described_here() -> None:
    found = {file.name for file in sources.TEXTS.glob("*.jsonl")}
    assert found == {f"{name}.jsonl" for name in FILES}


def test_no_question_of_the_probes_is_among_the_texts() -> None:
    probes = {row["ask"] for row in sources.texts("probes")}
    asked = {
        row["ask"]
        for name in FILES
        if name != "probes"
        for row in sources.texts(name)
        if "ask" in row
    }
    assert not probes & asked


def test_refusals_mostly_refuse_and_the_later_ones_all_do() -> None:
    edits = [row["edit"] for row in sources.texts("refusals")]
    assert sum(map(sources.refuses, edits)) > 0.7 * len(edits)
    assert not [edit for edit in edits[789:] if not sources.refuses(edit)]
    assert all(sources.refuses(row["harmless"]) for row in sources.texts("risky")[80:])


def test_openings_of_refusals_vary() -> None:
    openings = [" ".join(row["edit"].split()[:3]) for row in sources.texts("refusals")[789:]]
    assert max(map(openings.count, openings)) < 0.12 * len(openings)


@pytest.mark.parametrize("name", ["lookalikes", "facts", "targets", "safe"])
def test_answers_to_safe_questions_hardly_ever_look_like_refusals(name: str) -> None:
    answers = [row["answer"] for row in sources.texts(name)]
    assert sum(map(sources.refuses, answers)) <= 0.03 * len(answers)


def test_the_goals_of_unseen_texts_have_descriptions_of_their_own() -> None:
    assert {row["goal"] for row in sources.texts("unseen")} <= set(WORDED)
    for goal in WORDED:
        assert len(set(sources.lines(goal))) >= 4
        assert described(goal, random.Random(1)).description in sources.lines(goal)


def test_an_own_description_keeps_the_name_of_its_objective() -> None:
    goals = [goal for e in made() for goal in e.objectives]
    own = [
        goal for goal in goals if goal.name in MAIN and goal.description in sources.lines(goal.name)
    ]
    assert 0.05 * len(goals) < len(own) < 0.25 * len(goals)


def test_the_same_bad_reply_gets_other_edits_for_other_objectives() -> None:
    edits: dict[tuple[str, str], dict[str, str]] = {}
    for e in made():
        if e.kind == "harm" and len(e.objectives) == 1:
            edits.setdefault((e.context, e.answer), {})[e.objectives[0].name] = e.edit
    several = [list(of.values()) for of in edits.values() if len(of) > 1]
    assert len(several) > 50
    assert sum(len(set(of)) == len(of) for of in several) > 0.8 * len(several)


def test_only_copies_are_for_the_warm_up_and_nothing_is_called_equal() -> None:
    stages = {stage: [e for e in made() if e.stage == stage] for stage in ("warm_up", "equal")}
    assert len(stages["warm_up"]) > 50
    assert all(e.answer == e.edit for e in stages["warm_up"])
    assert not stages["equal"]


def test_bad_replies_of_every_kind_are_edited() -> None:
    counts = examples.counts(made())
    assert set(counts) >= {"harm", "answer", "spoilt", "humour", "unseen", "mend", "format"}


LIST = "Here you go:\n\n" + "\n".join(
    f"{place}. Put the {thing} into the large blue box." for place, thing in enumerate("abcdef", 1)
)


@pytest.mark.parametrize("seed", range(10))
def test_a_list_that_was_cut_off_loses_the_item_that_is_not_whole(seed: int) -> None:
    texts = damage.unfinished_list(LIST, random.Random(seed))
    assert texts is not None
    answer, edit = texts
    assert LIST.startswith(answer)
    assert LIST.startswith(edit)
    assert edit.endswith("blue box.")
    assert answer.count("\n") == edit.count("\n") + 1
    assert not answer.endswith(".")


@pytest.mark.parametrize("seed", range(10))
def test_a_reply_that_was_cut_off_in_a_quotation_loses_that_sentence(seed: int) -> None:
    reply = 'Be brief. Then say: "I would like to come with you on Friday." He will like it.'
    texts = damage.unfinished_quote(reply, random.Random(seed))
    assert texts is not None
    answer, edit = texts
    assert edit == "Be brief."
    assert reply.startswith(answer)
    assert answer.count('"') == 1


@pytest.mark.parametrize("reply", [LIST, "Dig a hole first. Put the tree into it and water it."])
@pytest.mark.parametrize("seed", range(10))
def test_a_reply_that_says_its_end_again_loses_the_repeats(reply: str, seed: int) -> None:
    texts = damage.repeated(reply, random.Random(seed))
    assert texts is not None
    answer, edit = texts
    assert edit == reply
    assert answer.startswith(reply)
    assert answer.count(sentences(reply)[-1].split("\n")[-1]) >= 2


def test_a_long_reply_becomes_its_first_whole_sentences() -> None:
    reply = (
        "The cat sat on the wide mat in the sun. It slept there for hours and hours on end. " * 3
    )
    brief = damage.shortened(reply)
    assert brief is not None
    assert reply.startswith(brief)
    assert brief.endswith(".")
    assert len(brief.split()) <= 0.6 * len(reply.split())


@pytest.mark.parametrize(
    "reply",
    [
        "Yes, certainly. No.",
        LIST,
        "There are many ways to clean this big old oven at home. You can use one of the following:"
        " Vinegar and a soft sponge with some warm water. Soda and a cloth on the next day.",
    ],
)
def test_what_cannot_stand_alone_is_not_shortened(reply: str) -> None:
    assert damage.shortened(reply) is None


def test_every_kept_reply_is_its_own_edit() -> None:
    kept = [e for e in made() if e.kind in ("keep", "look", "document", "format")]
    assert kept
    assert all(e.answer == e.edit for e in kept)


def test_a_needless_refusal_never_stays() -> None:
    answers = [e for e in made() if e.kind == "answer"]
    assert answers
    assert all(e.answer != e.edit for e in answers)
    assert all("helpfulness" in [goal.name for goal in e.objectives] for e in answers)


def test_pairs_are_read_from_the_two_human_files_alone(tmp_path: Path) -> None:
    row = json.dumps({"context": "c", "chosen": "a", "rejected": "b", "source": "s"})
    for name in ("hh_harmless_pairs", "hh_helpful_pairs"):
        (tmp_path / f"{name}.jsonl").write_text(row + "\n", encoding="utf-8")
    (tmp_path / "hh_policy_replies.jsonl").write_text("not to be read", encoding="utf-8")
    assert examples.load(tmp_path) == ([Pair("c", "a", "b")], [Pair("c", "a", "b")])


@pytest.mark.parametrize(
    "text",
    ["I'm sorry, but I can't help with that.", "I’d rather not.", "That would be unethical."],
)
def test_a_refusal_is_recognised(text: str) -> None:
    assert sources.refuses(text)


@pytest.mark.parametrize("text", ["Use the kill command.", "You can't miss it: it's red."])
def test_an_answer_is_not_taken_for_a_refusal(text: str) -> None:
    assert not sources.refuses(text)
