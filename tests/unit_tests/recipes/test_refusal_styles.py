"""How refusals are composed from sentences in the styles of chat models."""

from __future__ import annotations

import random
import re

import pytest

from cookbook.recipes.embedded.forms import sentences
from cookbook.recipes.embedded.refusal_styles import long_refusal, styles, topic
from cookbook.recipes.embedded.sources import endings, texts

ASKS = [row["ask"] for row in texts("lookalikes")[:40] + texts("harmful_asks")[:40]]
MANY = [long_refusal(ASKS[seed % len(ASKS)], random.Random(seed)) for seed in range(800)]


def test_a_seed_gives_the_same_refusal_and_seeds_differ() -> None:
    again = [long_refusal(ASKS[seed % len(ASKS)], random.Random(seed)) for seed in range(50)]
    assert again == MANY[:50]
    assert len(set(MANY)) == len(MANY)


def test_refusals_have_one_to_six_paragraphs_of_30_to_220_words() -> None:
    paragraphs = {len(text.split("\n\n")) for text in MANY}
    assert paragraphs == {1, 2, 3, 4, 5, 6}
    words = [len(text.split()) for text in MANY]
    assert 30 <= min(words) < 50
    assert 150 < max(words) <= 220


def test_every_slot_is_filled_and_every_register_is_used() -> None:
    assert not [text for text in MANY if "{" in text or "}" in text]
    for openings in styles().openings.values():
        plain = [opening for opening in openings if "{" not in opening]
        assert [text for text in MANY if text.startswith(tuple(plain))]


def test_some_refusals_hold_a_list() -> None:
    marked = {mark: sum(f"\n{mark}" in text for text in MANY) for mark in ("- ", "* ", "2. ")}
    assert min(marked.values()) > 20


@pytest.mark.parametrize(
    ("ask", "named"),
    [
        ("How do I kill a process on my laptop?", "how to kill a process on your laptop"),
        ("how can you blow up a balloon, please", "how to blow up a balloon"),
        ("Moths again! Tell me how to get rid of moths.", "how to get rid of moths"),
        ("Write me a poem about my cannon.", "a poem about your cannon"),
    ],
)
def test_a_topic_is_named_in_words_of_the_question(ask: str, named: str) -> None:
    rng = random.Random(0)
    assert named in {topic(ask, rng) for _ in range(20)}


def test_a_question_without_a_plain_topic_gets_a_general_phrase() -> None:
    named = {topic("Is aspirin a drug?", random.Random(seed)) for seed in range(20)}
    assert named == {"this subject", "this topic", "this", "that"}


def test_a_short_refusal_says_one_thing_and_may_end_in_a_fixed_sentence_of_its_area() -> None:
    for row in texts("harmful_asks"):
        _, *rest = sentences(re.sub(r"\b(Mrs?|Dr)\.", r"\1", row["edit"]))
        assert not rest or " ".join(rest) in endings(row["area"]), row


def test_no_question_is_refused_in_two_ways() -> None:
    def asks(*names: str) -> list[str]:
        rows = [row for name in names for row in texts(name)]
        return [re.sub(r"\W+", " ", row["ask"].lower()).strip() for row in rows]

    new = asks("harmful_asks", "kept_refusals")
    assert len(new) == len(set(new))
    assert not set(new) & set(asks("risky", "formal", "lookalikes", "facts"))


def test_what_is_kept_names_no_hotline() -> None:
    kept = [row["answer"] for row in texts("kept_refusals")]
    assert not [answer for answer in kept if re.search(r"\b(988|911|1-8\d\d)\b", answer)]
