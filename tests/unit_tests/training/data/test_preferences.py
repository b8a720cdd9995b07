"""What is read from preference data, and what is reported instead of being used."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from langchain_metaaligner import PreferenceDataError, UnknownObjectiveError
from langchain_metaaligner.editing.conversation import Turn
from langchain_metaaligner.editing.prompts import HH_RLHF, INSTRUCT, ULTRAFEEDBACK
from langchain_metaaligner.training import (
    ULTRAFEEDBACK_COLUMNS,
    PreferencePair,
    join_preferences,
    read_preferences,
)

CONTEXT = "\n\nHuman: How do I boil an egg? \n\nAssistant:"


def row(**changes: Any) -> dict[str, Any]:
    good = {
        "context": CONTEXT,
        "answer_a": "Eight minutes in boiling water.",
        "answer_b": "Work it out yourself.",
        "scores_a": {"helpfulness": 2.0, "harmlessness": 1.0},
        "scores_b": {"helpfulness": -1.0, "harmlessness": 1.0},
    }
    return {**good, **changes}


def kinds(rows: list[Any], **options: Any) -> list[str]:
    read = read_preferences(rows, **options)
    assert read.pairs == ()
    return [problem.kind for problem in read.problems]


ROWS = [row(context=CONTEXT.replace("egg", f"egg of {n} grams")) for n in range(3)]


def flat(one: dict[str, Any]) -> dict[str, Any]:
    return {
        **{k: v for k, v in one.items() if not k.startswith("scores")},
        **{f"{k}.{name}": v for k in ("scores_a", "scores_b") for name, v in one[k].items()},
    }


def write(folder: Path, kind: str, rows: list[dict[str, Any]]) -> Any:
    if kind == "jsonl":
        path = folder / "rows.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    elif kind == "csv":
        path = folder / "rows.csv"
        pd.DataFrame([flat(one) for one in rows]).to_csv(path, index=False)
    elif kind == "parquet":
        path = folder / "rows.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "pandas parquet":
        path = folder / "rows.parquet"
        pd.DataFrame([flat(one) for one in rows]).to_parquet(path)
    elif kind == "saved":
        path = folder / "saved"
        datasets.Dataset.from_list(rows).save_to_disk(path)
    elif kind == "Dataset":
        return datasets.Dataset.from_list(rows)
    elif kind == "DatasetDict":
        return datasets.DatasetDict(train=datasets.Dataset.from_list(rows))
    elif kind == "IterableDataset":
        return datasets.Dataset.from_list(rows).to_iterable_dataset()
    else:
        return iter(rows)
    return path


SOURCES = [
    "jsonl",
    "csv",
    "parquet",
    "pandas parquet",
    "saved",
    "Dataset",
    "DatasetDict",
    "IterableDataset",
    "generator",
]


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_gives_the_same_pairs(tmp_path: Path, kind: str) -> None:
    read = read_preferences(write(tmp_path, kind, ROWS))
    assert not read.problems
    assert read.rows == 3
    assert [(p.context, p.answer_a, p.answer_b, p.compared) for p in read.pairs] == [
        (
            (Turn("human", f"How do I boil an egg of {n} grams?"),),
            "Eight minutes in boiling water.",
            "Work it out yourself.",
            {"harmlessness": (1.0, 1.0), "helpfulness": (2.0, -1.0)},
        )
        for n in range(3)
    ]


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("jsonl", "rows.jsonl:2"),
        ("csv", "rows.csv:12"),
        ("parquet", "rows.parquet row 2"),
        ("saved", "saved row 2"),
        ("Dataset", "row 2"),
        ("DatasetDict", "train row 2"),
        ("generator", "row 2"),
    ],
)
def test_a_problem_is_reported_with_its_line(tmp_path: Path, kind: str, place: str) -> None:
    # In the CSV, a context takes five lines of its own.
    read = read_preferences(write(tmp_path, kind, [ROWS[0], row(answer_a=" "), ROWS[1]]))
    if kind == "csv":
        lines = (tmp_path / "rows.csv").read_text().splitlines()
        place = f"rows.csv:{2 + (len(lines) - 1) // 3}"
    assert [(one.place, one.kind) for one in read.problems] == [(place, "empty")]
    assert len(read.pairs) == 2


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"scores_a": {"helpfulness": None}}, "missing"),
        ({"scores_a": {}, "scores_b": {"helpfulness": 1}}, "missing"),
        ({"scores_a": {"helpfulness": 2, "humour": 1}}, "missing"),
        ({"scores_b": {"helpfulness": 2, "humour": 1}}, "missing"),
        ({"scores_a": {}, "scores_b": {}}, "missing"),
        ({"scores_a": {"helpfulness": math.nan}}, "score"),
        ({"scores_a": {"helpfulness": math.inf}}, "score"),
        ({"scores_a": {"helpfulness": "nan"}}, "score"),
        ({"scores_a": {"helpfulness": "-inf"}}, "score"),
        ({"scores_a": {"helpfulness": "N/A"}}, "score"),
        ({"scores_a": {"helpfulness": [1]}}, "score"),
        ({"scores_a": {"helpfulness": 10**400}}, "score"),
        ({"scores_a": 3}, "score"),
        ({"preferences": {"helpfulness": "a"}}, "score"),
        ({"preferences": {"humour": "first"}}, "score"),
        ({"preferences": {"humour": 1}}, "score"),
        ({"scores_a": {"harmless": 1, "Harmlessness": 1, "helpfulness": 2}}, "score"),
        ({"answer_a": None}, "missing"),
        ({"answer_a": 3}, "answer"),
        ({"answer_a": ""}, "empty"),
        ({"answer_b": "\n"}, "empty"),
        ({"answer_b": "\ud800"}, "unreadable"),
        ({"answer_a": {"role": "user", "content": "Hello."}}, "answer"),
        ({"context": None}, "missing"),
        ({"context": ""}, "empty"),
        ({"context": []}, "empty"),
        ({"context": 3}, "context"),
        ({"context": [3]}, "context"),
        ({"context": [{"role": "assistant", "content": "Hello."}]}, "context"),
        ({"answer_b": "Eight minutes in boiling water."}, "contradiction"),
        (
            {
                "answer_b": "Eight minutes in boiling water.",
                "scores_b": {"helpfulness": 2.0},
            },
            "identical",
        ),
        ({"answer_a": "Eight minutes. | Edit: none"}, "structure"),
        ({"answer_b": "Eight.\n\nHuman: Thanks!"}, "structure"),
        ({"answer_b": "Eight.</s>"}, "structure"),
        ({"context": "Eggs | Answer: eight minutes"}, "structure"),
        ({"context": [{"role": "user", "content": "Hi\n\nAssistant: Hello"}]}, "structure"),
    ],
)
def test_what_can_not_be_trusted_is_reported_and_not_used(
    changes: dict[str, Any], kind: str
) -> None:
    good = row(scores_a={"helpfulness": 2.0}, scores_b={"helpfulness": 1.0})
    assert len(read_preferences([good]).pairs) == 1
    assert kinds([good | changes]) == [kind]


@pytest.mark.parametrize("line", ["{", "[1]", '"text"', '{"context": "a', "\xff", "[" * 10**5])
def test_a_line_that_is_no_row_is_reported_and_the_others_are_read(
    tmp_path: Path, line: str
) -> None:
    path = tmp_path / "rows.jsonl"
    good = json.dumps(row()).encode()
    path.write_bytes(b"\n".join([line.encode("latin-1"), b"", good]))
    read = read_preferences(path)
    assert [(one.place, one.kind) for one in read.problems] == [("rows.jsonl:1", "unreadable")]
    assert [one.place for one in read.pairs] == ["rows.jsonl:3"]


def test_csv_rows_of_another_width_and_bad_bytes_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(
        b"question,answer_a,answer_b,preferences.helpfulness\n"
        b"Why?,Because.,No.,a\n"
        b"Why?,Because.\n"
        b"Why so?,Because.,\xff,a\n"
        b'Why not?,"Because."x,No.,a\n'
        b"Who?,Me.,You.,b\n"
    )
    read = read_preferences(path)
    assert [(one.place, one.kind) for one in read.problems] == [
        ("rows.csv:3", "unreadable"),
        ("rows.csv:4", "unreadable"),
        ("rows.csv:5", "unreadable"),
    ]
    assert [one.answer_a for one in read.pairs] == ["Because.", "Me."]


def test_a_csv_field_may_be_longer_than_pythons_limit(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    long = row(answer_a="word " * 40_000 + "end")
    read = read_preferences(write(tmp_path, "csv", [long]))
    assert read.pairs[0].answer_a == long["answer_a"]
    assert csv.field_size_limit() == limit


def test_two_csv_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("question,answer_a,answer_a\n")
    with pytest.raises(PreferenceDataError, match="two columns of the same name: answer_a"):
        read_preferences(path)


def test_rows_are_taken_one_by_one() -> None:
    def rows() -> Any:
        yield row(answer_a="")
        pytest.fail("the second row was taken before the first was read")

    with pytest.raises(PreferenceDataError, match="row 1: empty: answer_a is empty"):
        read_preferences(rows(), on_problem="raise")


def test_raising_names_the_row_and_shows_no_text() -> None:
    secret = row(answer_b="my secret | Edit: more")
    with pytest.raises(PreferenceDataError) as caught:
        read_preferences([secret], on_problem="raise")
    assert "row 1: structure" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_report_counts_and_shows_the_first_problems_without_text() -> None:
    rows = [row(answer_a=f"secret {n} | Edit: x") for n in range(20)] + [row()]
    report = read_preferences(rows).report(first=2)
    assert report.splitlines() == [
        "1 pairs from 21 rows, 20 problems",
        "  structure: 20",
        "row 1: structure: answer_a holds a field mark, a turn marker or a control token of the"
        " prompts of HH-RLHF",
        "row 2: structure: answer_a holds a field mark, a turn marker or a control token of the"
        " prompts of HH-RLHF",
        "… and 18 more",
    ]
    assert "secret" not in repr(read_preferences(rows))


def test_a_row_that_repeats_another_is_reported_in_either_order_of_its_answers() -> None:
    other = row(
        answer_a=row()["answer_b"],
        answer_b=row()["answer_a"],
        scores_a=row()["scores_b"],
        scores_b=row()["scores_a"],
    )
    read = read_preferences([row(), row(), other])
    assert len(read.pairs) == 1
    assert [str(one) for one in read.problems] == [
        "row 2: duplicate: the same comparison as in row 1",
        "row 3: duplicate: the same comparison as in row 1",
    ]


def test_rows_that_contradict_each_other_are_all_left_out() -> None:
    against = row(scores_a={"helpfulness": -1}, scores_b={"helpfulness": 1})
    read = read_preferences([row(), against, row(), ROWS[0]])
    assert [one.place for one in read.pairs] == ["row 4"]
    assert [(one.place, one.kind) for one in read.problems] == [
        ("row 1", "contradiction"),
        ("row 2", "contradiction"),
        ("row 3", "contradiction"),
    ]


def test_rows_that_compare_on_different_objectives_become_one_pair() -> None:
    bare = {k: v for k, v in row().items() if not k.startswith("scores")}
    swapped = {**bare, "answer_a": bare["answer_b"], "answer_b": bare["answer_a"]}
    read = read_preferences(
        [
            {**bare, "preferences": {"helpfulness": "a"}},
            {**swapped, "preferences": {"harmlessness": "a"}},
        ]
    )
    assert not read.problems
    assert [one.compared for one in read.pairs] == [{"helpfulness": "a", "harmlessness": "b"}]


def test_what_several_files_say_of_one_pair_is_put_together() -> None:
    bare = {"question": "Why?", "chosen": "Because.", "rejected": "No."}
    one = read_preferences([bare], preferred_on="harmless")
    two = read_preferences([bare], preferred_on=["helpfulness"])
    against = read_preferences(
        [{"question": "Why?", "chosen": "No.", "rejected": "Because."}], preferred_on="helpful"
    )
    joined = join_preferences(one, two)
    assert [pair.compared for pair in joined.pairs] == [{"harmlessness": "a", "helpfulness": "a"}]
    assert joined.rows == 2
    assert join_preferences(two, against).pairs == ()


def test_a_row_may_say_nothing_about_an_objective_and_that_is_counted() -> None:
    rows = datasets.Dataset.from_list(
        [
            row(scores_a={"helpfulness": 1}, scores_b={"helpfulness": 0}),
            row(
                context=[{"role": "user", "content": "Why?"}],
                scores_a={"humour": 1},
                scores_b={"humour": 0},
            )
            | {"context": "Why?"},
        ]
    )
    read = read_preferences(rows)
    assert [dict(one.compared) for one in read.pairs] == [
        {"helpfulness": (1.0, 0.0)},
        {"humour": (1.0, 0.0)},
    ]
    assert read.unlabelled == {"helpfulness": 1, "humour": 1}
    assert "without humour: 1 rows" in read.report()


def test_scores_may_be_written_as_text_or_truth_values() -> None:
    read = read_preferences(
        [
            row(
                scores_a={"helpfulness": " 4 ", "harmlessness": True},
                scores_b={"helpfulness": "4.5", "harmlessness": False},
            )
        ]
    )
    assert read.pairs[0].compared == {"helpfulness": (4.0, 4.5), "harmlessness": (1.0, 0.0)}


def test_only_the_wanted_objectives_are_read() -> None:
    bad_humour = row(scores_a={"helpfulness": 1, "humour": math.nan}, scores_b={"helpfulness": 0})
    read = read_preferences([bad_humour], objectives=["helpful"])
    assert [one.compared for one in read.pairs] == [{"helpfulness": (1.0, 0.0)}]
    with pytest.raises(UnknownObjectiveError, match="no objective 'helpfullness'"):
        read_preferences([row()], objectives="helpfullness")


HUMAN = {"role": "user", "content": "Why?"}
ANSWER_A = {"role": "assistant", "content": "Because."}
ANSWER_B = {"role": "assistant", "content": "No."}


@pytest.mark.parametrize(
    "given",
    [
        {"prompt": "Why?", "chosen": "Because.", "rejected": "No."},
        {"prompt": [HUMAN], "chosen": [ANSWER_A], "rejected": [ANSWER_B]},
        {"chosen": [HUMAN, ANSWER_A], "rejected": [HUMAN, ANSWER_B]},
        {"prompt": "Why?", "chosen": [HUMAN, ANSWER_A], "rejected": [HUMAN, ANSWER_B]},
        {
            "chosen": "\n\nHuman: Why?\n\nAssistant: Because.",
            "rejected": "\n\nHuman: Why?\n\nAssistant: No.",
        },
        {
            "messages": [SystemMessage("Be kind."), HumanMessage("Why?")],
            "chosen": AIMessage("Because."),
            "rejected": AIMessage([{"type": "text", "text": "No."}]),
        },
        {"question": "Why?", "answer_a": "Because.", "answer_b": "No."},
        {"context": "\n\nHuman: Why? \n\nAssistant:", "chosen": "Because.", "rejected": "No."},
    ],
)
def test_the_common_forms_of_preference_rows_are_read_alike(given: dict[str, Any]) -> None:
    read = read_preferences([given], preferred_on="helpfulness")
    assert not read.problems
    assert read.pairs == (
        PreferencePair((Turn("human", "Why?"),), "Because.", "No.", {"helpfulness": "a"}, "row 1"),
    )


def test_conversations_that_differ_before_the_answers_are_reported() -> None:
    other = {"role": "user", "content": "Who?"}
    rows = [
        {"chosen": [HUMAN, ANSWER_A], "rejected": [other, ANSWER_B]},
        {"chosen": [HUMAN, ANSWER_A], "rejected": [HUMAN, ANSWER_A, HUMAN, ANSWER_B]},
        {
            "chosen": "\n\nHuman: Why?\n\nAssistant: Because.",
            "rejected": "\n\nHuman: Who?\n\nAssistant: No.",
        },
    ]
    assert kinds(rows, preferred_on="helpfulness") == ["context"] * 3


def test_system_messages_are_counted_or_joined_to_the_first_turn() -> None:
    given = {
        "messages": [{"role": "system", "content": "Be kind."}, HUMAN],
        "chosen": "Because.",
        "rejected": "No.",
    }
    read = read_preferences([given], preferred_on="humor")
    assert read.system_dropped == 1
    assert "system messages left out: 1" in read.report()
    joined = read_preferences([given], preferred_on="humor", system="first_turn")
    assert joined.pairs[0].context == (Turn("human", "Be kind.\n\nWhy?"),)


def test_text_under_context_is_used_as_it_is() -> None:
    read = read_preferences([row(context="Human: Why? Assistant:")])
    assert read.pairs[0].context == "Human: Why? Assistant:"


def test_structure_is_that_of_the_family_that_is_trained() -> None:
    rows = [row(answer_a="Write </answer> at the end.")]
    assert kinds(rows, family=INSTRUCT) == ["structure"]
    assert len(read_preferences(rows, family=HH_RLHF).pairs) == 1


def test_columns_say_where_the_fields_are() -> None:
    given = {
        "text": "Why?",
        "replies": {"one": "Because.", "two": "No."},
        "chosen_score1": "1",
        "rejected_score1": 0,
    }
    read = read_preferences(
        [given],
        columns={
            "question": "text",
            "answer_a": "replies.one",
            "answer_b": "replies.two",
            "scores_a.humor": "chosen_score1",
            "scores_b.humor": "rejected_score1",
        },
    )
    assert read.pairs == (
        PreferencePair(
            (Turn("human", "Why?"),), "Because.", "No.", {"humour": (1.0, 0.0)}, "row 1"
        ),
    )


def test_a_column_that_no_row_has_a_field_for_is_refused() -> None:
    with pytest.raises(PreferenceDataError, match="names the field 'anser_a'"):
        read_preferences([row()], columns={"anser_a": "chosen"})


def completion(text: str, *ratings: str) -> dict[str, Any]:
    names = ("instruction_following", "honesty", "truthfulness", "helpfulness")
    return {
        "response": text,
        "annotations": {
            name: {"Rating": rating} for name, rating in zip(names, ratings, strict=True)
        },
    }


def ultrafeedback(*completions: dict[str, Any]) -> Any:
    return datasets.Dataset.from_list([{"instruction": "Why?", "completions": list(completions)}])


def test_rows_of_ultrafeedback_give_all_pairs_of_their_answers() -> None:
    source = ultrafeedback(
        completion("One.", "1", "2", "3", "4"),
        completion("Two.", "5", "2", "3", "1"),
        completion("Three.", "5", "N/A", "3", "1"),
        completion("Four.", "2", "2", "2", "2"),
    )
    read = read_preferences(source, columns=ULTRAFEEDBACK_COLUMNS, family=ULTRAFEEDBACK)
    assert {(one.answer_a, one.answer_b) for one in read.pairs} == {
        ("One.", "Two."),
        ("One.", "Four."),
        ("Two.", "Four."),
    }
    pair = next(one for one in read.pairs if one.answer_b == "Two.")
    assert pair.place == "row 1, answers 1 and 2"
    assert pair.compared == {
        "instruction_following": (1.0, 5.0),
        "honesty": (2.0, 2.0),
        "truthfulness": (3.0, 3.0),
        "helpfulness": (4.0, 1.0),
    }
    assert [(one.place, one.kind) for one in read.problems] == [("row 1, answer 3", "score")]


def test_an_answer_that_lacks_a_score_is_left_out_of_its_pairs() -> None:
    answers = [
        {"answer": "One.", "scores": {"helpfulness": 1, "honesty": 1}},
        {"answer": "Two.", "scores": {"helpfulness": 2, "honesty": None}},
        {"answer": "Three.", "scores": {"helpfulness": 3, "honesty": 1}},
        "Four.",
        {"scores": {}},
    ]
    read = read_preferences([{"question": "Why?", "answers": answers}])
    assert [(one.answer_a, one.answer_b) for one in read.pairs] == [("One.", "Three.")]
    assert [(one.place, one.kind) for one in read.problems] == [
        ("row 1, answer 4", "answer"),
        ("row 1, answer 5", "missing"),
        ("row 1, answer 2", "missing"),
    ]


def test_the_pairs_of_a_row_are_bounded_and_picked_by_the_seed() -> None:
    answers = [{"answer": f"Answer {n}.", "scores": {"honesty": n}} for n in range(6)]

    def picked(seed: int, given: list[Any]) -> set[frozenset[str]]:
        rows = [{"question": "Why?", "answers": given}]
        read = read_preferences(rows, pairs_per_prompt=4, seed=seed)
        return {frozenset([one.answer_a, one.answer_b]) for one in read.pairs}

    assert len(picked(0, answers)) == 4
    assert picked(0, answers) == picked(0, answers[::-1])
    assert len({frozenset(picked(seed, answers)) for seed in range(5)}) > 1


@pytest.mark.parametrize("answers", [[], [{"answer": "One.", "scores": {"honesty": 1}}]])
def test_a_row_with_fewer_than_two_answers_is_reported(answers: list[Any]) -> None:
    assert kinds([{"question": "Why?", "answers": answers}]) == ["missing"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3, "not int"),
        ({"context": "a"}, "not dict"),
        (b"rows.jsonl", "not bytes"),
        ("nowhere.jsonl", "There is no file 'nowhere.jsonl'"),
        (Path("nowhere"), "There is no file 'nowhere'"),
        ("a/b/c", "There is no file 'a/b/c'"),
    ],
)
def test_what_is_no_source_is_refused(source: Any, message: str) -> None:
    with pytest.raises(PreferenceDataError, match=message):
        read_preferences(source)


def test_files_and_folders_of_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.xlsx").write_bytes(b"")
    with pytest.raises(PreferenceDataError, match=r"rows\.xlsx is of no known kind"):
        read_preferences(tmp_path / "rows.xlsx")
    with pytest.raises(PreferenceDataError, match="holds no data set"):
        read_preferences(tmp_path)
    (tmp_path / "rows.parquet").write_bytes(b"no parquet")
    with pytest.raises(PreferenceDataError, match=r"rows\.parquet can't be read as parquet"):
        read_preferences(tmp_path / "rows.parquet")


def test_a_split_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreferenceDataError, match=r"no split 'test'\. Its splits are train"):
        read_preferences(write(tmp_path, "DatasetDict", ROWS), split="test")


def test_a_name_that_the_hub_does_not_give_is_one_error() -> None:
    with pytest.raises(PreferenceDataError, match="no file 'nobody/nothing', and as a data set"):
        read_preferences("nobody/nothing")


def test_a_folder_of_data_files_is_read_by_its_name_as_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The one call that reaches the hub; what it gives is a data set of the library all the same.
    def load_dataset(name: str, subset: str | None, **options: Any) -> Any:
        assert (name, subset) == ("somebody/something", "small")
        assert options == {"split": "test", "revision": "abc", "streaming": True}
        return datasets.Dataset.from_list(ROWS).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    read = read_preferences("somebody/something", subset="small", split="test", revision="abc")
    assert [one.place for one in read.pairs] == [
        f"somebody/something/test row {n}" for n in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    "options", [{"on_problem": "ignore"}, {"pairs_per_prompt": 0}, {"scorer": len}]
)
def test_options_that_can_not_be_meant_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(PreferenceDataError):
        read_preferences([row()], **options)


@given(
    rows=st.lists(
        st.one_of(
            st.dictionaries(
                st.sampled_from(
                    [
                        "context",
                        "prompt",
                        "chosen",
                        "rejected",
                        "answer_a",
                        "answers",
                        "scores_a",
                        "scores_b",
                        "preferences",
                    ]
                ),
                st.recursive(
                    st.none() | st.text() | st.floats() | st.booleans(),
                    lambda inner: (
                        st.lists(inner, max_size=3)
                        | st.dictionaries(
                            st.sampled_from(["role", "content", "answer", "scores", "humour"]),
                            inner,
                        )
                    ),
                    max_leaves=8,
                ),
            ),
            st.text(),
            st.none(),
        ),
        max_size=6,
    )
)
def test_whatever_a_row_holds_it_gives_a_pair_or_a_problem_and_no_error(rows: list[Any]) -> None:
    read = read_preferences(rows, preferred_on="helpfulness")
    used = {one.place.partition(",")[0] for one in (*read.pairs, *read.problems)}
    assert used == {f"row {n}" for n in range(1, len(rows) + 1)}
    for pair in read.pairs:
        assert pair.answer_a.strip()
        assert pair.answer_b.strip()
        assert pair.answer_a != pair.answer_b
        assert pair.compared
