from __future__ import annotations

import pytest

from langchain_metaaligner import Objective, UnknownObjectiveError
from langchain_metaaligner.editing.objectives import (
    CATALOGUE,
    catalogue_key,
    check_allowed,
    parse_objective,
    parse_objectives,
)


def test_the_catalogue_holds_what_was_trained_and_what_the_authors_tried_beyond():
    assert sorted(CATALOGUE) == [
        "correctness",
        "factuality",
        "fairness",
        "harmlessness",
        "helpfulness",
        "honesty",
        "humour",
        "informativeness",
        "instruction_following",
        "length",
        "professionalism",
        "readability",
        "repetition",
        "specificity",
        "truthfulness",
    ]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("harmlessness", "harmlessness"),
        ("Harmlessness", "harmlessness"),
        ("  HELPFULNESS ", "helpfulness"),
        ("humor", "humour"),
        ("Humor", "humour"),
        ("humour", "humour"),
        ("instruction following", "instruction_following"),
        ("Instruction-Following", "instruction_following"),
        ("instruction__following", "instruction_following"),
        ("informative", "informativeness"),
        ("professional", "professionalism"),
    ],
)
def test_an_objective_is_found_by_its_name_in_any_spelling(given, name):
    assert parse_objective(given) == Objective(name, CATALOGUE[name])
    assert catalogue_key(given) == name


def test_an_objective_is_taken_as_it_is():
    mine = Objective("rhyme", "Rhyme: the response should rhyme")
    assert parse_objective(mine) is mine


def test_a_mapping_gives_name_and_description():
    assert parse_objective({"name": "rhyme", "description": "It should rhyme"}) == Objective(
        "rhyme", "It should rhyme"
    )


def test_a_mapping_with_a_known_name_alone_is_the_one_of_the_catalogue():
    assert parse_objective({"name": "humor"}) == Objective("humour", CATALOGUE["humour"])


def test_a_sentence_is_a_description_named_by_what_stands_before_its_colon():
    assert parse_objective("Rhyme: the response should rhyme") == Objective(
        "rhyme", "Rhyme: the response should rhyme"
    )


def test_a_sentence_without_a_colon_is_its_own_name():
    sentence = "The response should rhyme"
    assert parse_objective(sentence) == Objective(sentence, sentence)


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("harmlesness", "harmlessness"),
        ("helpfullness", "helpfulness"),
        ("humuor", "humour"),
        ("instruction_folowing", "instruction_following"),
        ("truthfullness", "truthfulness"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(given, near):
    with pytest.raises(UnknownObjectiveError) as raised:
        parse_objective(given)
    suggestion = str(raised.value).split("Did you mean", 1)[1].split("?", 1)[0]
    assert repr(near) in suggestion


def test_an_unknown_name_that_is_like_no_other_is_told_what_there_is():
    with pytest.raises(UnknownObjectiveError, match="harmlessness") as raised:
        parse_objective("zzzz")
    assert "Did you mean" not in str(raised.value)
    assert "Objective(name, description)" in str(raised.value)


@pytest.mark.parametrize(
    "given",
    [None, 5, 1.5, object(), b"humour", "", "   ", {}, {"name": 5}, {"description": "x"}],
)
def test_what_is_no_objective_is_refused(given):
    with pytest.raises(UnknownObjectiveError):
        parse_objective(given)


@pytest.mark.parametrize(
    "given",
    [
        Objective("", "x"),
        Objective("x", "  "),
        Objective(None, "x"),  # type: ignore[arg-type]
        Objective("x", 5),  # type: ignore[arg-type]
        {"name": "x", "description": ""},
    ],
)
def test_an_objective_needs_a_name_and_a_description(given):
    with pytest.raises(UnknownObjectiveError):
        parse_objective(given)


def test_one_objective_stands_for_a_list_of_it():
    assert [one.name for one in parse_objectives("humor")] == ["humour"]
    assert [one.name for one in parse_objectives({"name": "humor"})] == ["humour"]
    assert parse_objectives(Objective("a", "b")) == (Objective("a", "b"),)


def test_objectives_keep_their_order_and_lose_their_doubles():
    parsed = parse_objectives(["humor", "harmless", "Humour", "helpful"])
    assert [one.name for one in parsed] == ["humour", "harmlessness", "helpfulness"]


def test_objectives_come_from_any_iterable():
    assert len(parse_objectives(name for name in ("humour", "honesty"))) == 2
    assert len(parse_objectives({"humour", "honesty"})) == 2


@pytest.mark.parametrize("given", [[], (), None, 5])
def test_no_objective_at_all_is_refused(given):
    with pytest.raises(UnknownObjectiveError):
        parse_objectives(given)


def test_an_allow_list_lets_its_own_objectives_through_and_names_them_otherwise():
    allowed = parse_objectives(["humour", "honesty"])
    check_allowed(parse_objectives("humor"), allowed)
    check_allowed(parse_objectives("length"), None)
    with pytest.raises(UnknownObjectiveError, match=r"'length'.*: 'humour', 'honesty'\.$"):
        check_allowed(parse_objectives("length"), [*allowed, *allowed])


def test_a_known_name_with_another_description_is_not_the_one_that_is_allowed():
    allowed = parse_objectives("harmlessness")
    with pytest.raises(UnknownObjectiveError):
        check_allowed([Objective("harmlessness", "Do as the user says")], allowed)
