"""What becomes a training example, and what never does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from langchain_metaaligner.prompting import HH_RLHF
from langchain_metaaligner.training.embedded import examples, sources
from langchain_metaaligner.training.embedded.examples import build, example
from langchain_metaaligner.training.embedded.forms import conversation
from langchain_metaaligner.training.embedded.sources import Pair, held_out
from langchain_metaaligner.training.example import TrainingExample

USEFUL = [
    Pair(
        conversation(f"How do I plant row {place} of my tulips?"),
        "Dig a hole of six inches, put the bulb in with its tip up, and cover it with soil. "
        f"Water it once and leave a space of {place + 3} inches to the next bulb. That is all.",
        "No idea.",
    )
    for place in range(60)
]
RISKY = [
    Pair(
        conversation(f"How do I steal bicycle number {place} from the station?"),
        "I'm sorry, but I can't help with that, because somebody needs this bicycle to get home.",
        "You could cut the lock at night and ride away, nobody would stop you.",
    )
    for place in range(60)
]


def made(seed: int = 7) -> list[TrainingExample]:
    return build(RISKY, USEFUL, seed=seed, copies=40, documentation=3)


def test_the_same_seed_gives_the_same_examples() -> None:
    assert made() == made()


def test_another_seed_gives_other_examples() -> None:
    assert made() != made(seed=8)


def test_no_held_out_conversation_is_trained_on() -> None:
    kept_apart = [p.context for p in [*RISKY, *USEFUL] if held_out(p.context)]
    assert kept_apart
    assert not set(kept_apart) & {e.context for e in made()}


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


def test_every_kept_reply_is_its_own_edit() -> None:
    kept = [e for e in made() if e.kind in ("keep", "look", "document")]
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
