"""What is read from edits that people made, and what is reported instead of being used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_metaaligner import PreferenceDataError, UnknownObjectiveError
from langchain_metaaligner.editing.prompts import HH_RLHF, ULTRAFEEDBACK
from langchain_metaaligner.training import Edits, read_edits, split_held_out

ASKED = [
    {"role": "user", "content": "How long do eggs boil?"},
    {"role": "assistant", "content": "Hard or soft?"},
    {"role": "user", "content": "Hard."},
]
CONTEXT = (
    "\n\nHuman: How long do eggs boil?\n\nAssistant: Hard or soft?\n\nHuman: Hard. \n\nAssistant:"
)


def row(**changes: Any) -> dict[str, Any]:
    good = {
        "context": ASKED,
        "original_response": "A while.",
        "edited_response": "Ten minutes.",
        "feedback": ["It is vague."],
        "change_summary": "Gave the time.",
    }
    return {**good, **changes}


def read(*rows: Any, **options: Any) -> Edits:
    return read_edits(rows, **{"objectives": "helpfulness", **options})


def kinds(*rows: Any, **options: Any) -> list[str]:
    found = read(*rows, **options)
    assert found.examples == ()
    return [problem.kind for problem in found.problems]


def test_an_edit_becomes_an_example_in_the_words_of_the_aligner() -> None:
    (example,) = read(row()).examples
    assert (example.context, example.answer, example.edit) == (CONTEXT, "A while.", "Ten minutes.")
    assert [goal.name for goal in example.objectives] == ["helpfulness"]
    assert (example.stage, example.kind) == ("contrastive", "edit")


@pytest.mark.parametrize(
    "names",
    [("original", "edited"), ("original_response", "edited_response"), ("answer", "edit")],
)
def test_the_usual_names_of_both_texts_are_known(names: tuple[str, str]) -> None:
    (example,) = read({"prompt": "Hi", names[0]: "Go.", names[1]: "Hello!"}).examples
    assert (example.answer, example.edit) == ("Go.", "Hello!")
    assert example.context == "\n\nHuman: Hi \n\nAssistant:"


def test_other_names_are_mapped_also_into_nested_fields() -> None:
    given = {"ask": "Hi", "texts": {"before": "Go.", "after": "Hello!"}, "why": "harmlessness"}
    columns = {
        "question": "ask",
        "original": "texts.before",
        "edited": "texts.after",
        "objectives": "why",
    }
    (example,) = read(given, columns=columns).examples
    assert (example.answer, example.edit) == ("Go.", "Hello!")
    assert [goal.name for goal in example.objectives] == ["harmlessness"]


def test_a_column_that_edits_do_not_have_is_refused() -> None:
    with pytest.raises(PreferenceDataError, match=r"'scores_a\.humour'.*original, edited"):
        read(row(), columns={"scores_a.humour": "x"})


def test_a_text_that_was_left_as_it_was_becomes_a_copy() -> None:
    found = read(row(edited_response="A while."), row())
    assert [example.kind for example in found.examples] == ["copy", "edit"]
    assert found.report().startswith("1 edits and 1 copies from 2 rows, 0 problems")


def test_a_row_may_say_what_its_edit_was_for() -> None:
    kind = "Kindness: the reply is kind"
    found = read(row(objectives=["humor", kind]), row(), seed=3)
    first, second = ([goal.name for goal in example.objectives] for example in found.examples)
    assert sorted(first) == ["humour", "kindness"]
    assert second == ["helpfulness"]


def test_the_order_of_the_objectives_varies_by_row_and_not_by_run() -> None:
    rows = [row(original_response=f"About {n}.") for n in range(40)]
    options = {"objectives": ["helpfulness", "humour"]}
    orders = [example.objectives for example in read(*rows, **options).examples]
    assert len(set(orders)) == 2
    assert orders == [e.objectives for e in read(*reversed(rows), **options).examples][::-1]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"original_response": None}, "missing"),
        ({"edited_response": None}, "missing"),
        ({"edited_response": "  "}, "empty"),
        ({"original_response": 7}, "answer"),
        ({"context": None}, "missing"),
        ({"context": []}, "empty"),
        ({"context": ASKED[:2]}, "context"),
        ({"edited_response": "Yes. \n\nHuman: And?"}, "structure"),
        ({"edited_response": "bad \ud800 text"}, "unreadable"),
        ({"objectives": ["helpfullness"]}, "objectives"),
    ],
)
def test_a_row_that_cannot_be_used_is_reported_with_its_kind(
    changes: dict[str, Any], kind: str
) -> None:
    assert kinds(row(**changes)) == [kind]


def test_rows_without_objectives_need_some() -> None:
    assert kinds(row(), objectives=None) == ["objectives"]
    with pytest.raises(UnknownObjectiveError):
        read(row(), objectives="helpfullness")


def test_the_same_edit_twice_is_used_once_and_other_edits_of_a_text_are_all_used() -> None:
    found = read(row(), row(), row(edited_response="Nine minutes."), row(objectives="humour"))
    assert [example.edit for example in found.examples] == [
        "Ten minutes.",
        "Nine minutes.",
        "Ten minutes.",
    ]
    assert [str(problem) for problem in found.problems] == [
        "row 2: duplicate: the same edit as in row 1"
    ]


def test_problems_name_the_line_and_hold_no_text(tmp_path: Path) -> None:
    file = tmp_path / "edits.jsonl"
    lines = [json.dumps(row(edited_response="")), "{secret", json.dumps(row())]
    file.write_text("\n".join(lines), encoding="utf-8")
    found = read_edits(file, objectives="helpfulness")
    assert len(found.examples) == 1
    assert [(p.place, p.kind) for p in found.problems] == [
        ("edits.jsonl:1", "empty"),
        ("edits.jsonl:2", "unreadable"),
    ]
    assert "secret" not in found.report()
    assert "minutes" not in repr(found)
    with pytest.raises(PreferenceDataError, match=r"edits\.jsonl:1"):
        read_edits(file, objectives="helpfulness", on_problem="raise")


def test_a_wrong_way_to_treat_problems_is_refused() -> None:
    with pytest.raises(PreferenceDataError, match="'skip' or 'raise'"):
        read(row(), on_problem="ignore")


def test_system_messages_are_left_out_and_counted_or_joined() -> None:
    told = row(context=[{"role": "system", "content": "Be brief."}, *ASKED])
    found = read(told)
    assert found.system_dropped == 1
    assert found.examples[0].context == CONTEXT
    assert "Be brief." in read(told, system="first_turn").examples[0].context


def test_the_context_is_written_as_the_family_writes_it() -> None:
    for family in (HH_RLHF, ULTRAFEEDBACK):
        (example,) = read(row(context=None, prompt="Hi"), family=family).examples
        prompt, edit = example.render(family)
        asked = family.render(example.context, "A while.", example.objectives).text
        assert (prompt, edit) == (asked, "Ten minutes.")


def test_examples_are_held_out_by_conversation() -> None:
    rows = [{"prompt": f"Ask {n // 2}", "original": f"A{n}", "edited": f"B{n}"} for n in range(80)]
    train, kept = split_held_out(read(*rows).examples, fraction=0.3)
    assert len(train) + len(kept) == 80
    assert train
    assert kept
    assert not {e.context for e in train} & {e.context for e in kept}


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_text_is_used_unchanged_or_reported(original: str, edited: str) -> None:
    found = read({"prompt": "Hi", "original": original, "edited": edited})
    if found.examples:
        (example,) = found.examples
        assert (example.answer, example.edit) == (original, edited)
    else:
        (problem,) = found.problems
        assert problem.kind in ("empty", "structure", "unreadable")
