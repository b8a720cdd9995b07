"""Rows for evaluations, from the forms in which replies are kept elsewhere."""

from __future__ import annotations

import csv
import json

import pytest
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, HumanMessage, messages_to_dict

from langchain_metaaligner.errors import EvaluationError
from langchain_metaaligner.evaluation import read_evaluation_rows
from langchain_metaaligner.evaluation.rows import check_rows

HH = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: And now?\n\nAssistant:"
ASKED = [{"role": "user", "content": "Why?"}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "Because."}]


def only(source, **options):
    found = read_evaluation_rows(source if isinstance(source, list) else [source], **options)
    assert not found.problems, found.report()
    assert not check_rows(list(found), has_aligner=True).problems
    (row,) = found
    return row


def test_of_hh_rlhf_the_rejected_reply_is_edited():
    row = only({"chosen": f"{HH} Good.", "rejected": f"{HH} Bad."})
    assert row["answer"] == "Bad."
    assert row["context"].endswith("And now? \n\nAssistant:")


def test_of_pairs_the_good_replies_can_be_asked_for_and_be_the_reference():
    given = {"prompt": "Why?", "chosen": "Good.", "rejected": "Bad."}
    assert only(given, answers="good")["answer"] == "Good."
    assert len(read_evaluation_rows([given], answers="both")) == 2
    row = only(given, references=True)
    assert (row["answer"], row["reference"], row["context"]) == ("Bad.", "Good.", ASKED)


def test_of_trl_s_pairs_the_shared_messages_are_the_context():
    bad = [*ASKED, {"role": "assistant", "content": "No."}]
    row = only({"chosen": ANSWERED, "rejected": bad})
    assert (row["context"], row["answer"]) == (ASKED, "No.")


def rated(text, rating, model):
    names = ("instruction_following", "honesty", "truthfulness", "helpfulness")
    notes = {name: {"Rating": rating} for name in names}
    return {"response": text, "model": model, "annotations": notes}


def test_of_ultrafeedback_all_but_the_best_rated_are_edited():
    given = {
        "instruction": "Why?",
        "completions": [rated("so", "3", "a"), rated("best", "5", "b"), rated("?", "N/A", "c")],
    }
    rows = read_evaluation_rows([given], references=True)
    assert [(row["answer"], row["policy"]) for row in rows] == [("so", "a"), ("?", "c")]
    assert {row["reference"] for row in rows} == {"best"}
    assert only(given, answers="good")["answer"] == "best"


def test_of_helpsteer_s_edits_the_person_s_edit_is_the_edit_or_the_reference():
    given = {"context": ASKED, "original_response": "A", "edited_response": "B", "domain": "x"}
    row = only(given)
    assert (row["answer"], row["edited"]) == ("A", "B")
    assert "reference" not in row
    row = only(given, references=True)
    assert (row["answer"], row["reference"]) == ("A", "B")
    assert "edited" not in row


def test_the_authors_files_are_read_with_the_policy_s_name(tmp_path):
    path = tmp_path / "Claude-3.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["query", "goldens", "generated_text"])
        writer.writerow([HH, "gold", "a reply"])
        writer.writerow(["Why?", "gold", "another"])
        writer.writerow(["Why?", "gold", ""])
    found = read_evaluation_rows(path)
    assert [row["context"] for row in found] == [HH, ASKED]
    assert {row["policy"] for row in found} == {"Claude-3"}
    assert [one.place for one in found.problems] == ["Claude-3.csv:12"]
    edited = {"query": "Why?", "goldens": "g", "origin_responses": "o", "aligned_responses": "a"}
    row = only(edited, policy="p", references=True)
    assert (row["answer"], row["edited"], row["reference"], row["policy"]) == ("o", "a", "g", "p")


LANGCHAIN, BECAUSE = dumpd(HumanMessage("Why?")), dumpd(AIMessage("Because."))
RUNS = {
    "an example": {"inputs": {"question": "Why?"}, "outputs": {"answer": "Because."}},
    "an example without outputs": {
        "inputs": {"question": "Why?"}, "outputs": None, "reference_outputs": {"a": "Because."},
    },
    "an experiment's table": {"inputs.q": "Why?", "outputs.a": "Because.", "reference.a": "Gold."},
    "JSON in a CSV": {
        "inputs": json.dumps({"messages": ASKED}), "outputs": json.dumps({"output": "Because."}),
    },
    "a model's run": {
        "run_type": "llm",
        "inputs": {"messages": [[LANGCHAIN]]},
        "outputs": {"generations": [[{"text": "Because.", "message": BECAUSE}]]},
    },
    "a model's run with blocks": {
        "run_type": "llm",
        "inputs": {"messages": [messages_to_dict([HumanMessage("Why?")])]},
        "outputs": {
            "generations": [[{"message": dumpd(AIMessage([{"type": "text", "text": "Because."}]))}]]
        },
    },
    "a wrapped client's run": {
        "inputs": {"messages": ASKED, "model": "m"},
        "outputs": {"choices": [{"message": ANSWERED[1]}]},
    },
    "an agent's run": {
        "run_type": "chain",
        "inputs": {"input": {"messages": ASKED}},
        "outputs": {"messages": ANSWERED},
    },
    "a state without a question": {"inputs": {}, "outputs": {"messages": ANSWERED}},
    "pairs of role and text": {
        "inputs": {"messages": [["human", "Why?"]]}, "outputs": {"output": ["ai", "Because."]},
    },
}  # fmt: skip


@pytest.mark.parametrize("form", RUNS)
def test_langsmith_s_exports_are_read_in_every_form(form):
    row = only(RUNS[form], format="langsmith")
    assert (row["context"], row["answer"]) == (ASKED, "Because.")


def test_a_reference_of_langsmith_is_used_when_asked_for():
    row = only(RUNS["an experiment's table"], references=True)
    assert row["reference"] == "Gold."


def test_the_reply_of_a_trace_counts_once():
    model = {**RUNS["a model's run"], "id": "2", "trace_id": "1", "extra": {
        "metadata": {"ls_model_name": "gpt", "thread_id": "t"}}}  # fmt: skip
    chain = {**RUNS["an agent's run"], "id": "1", "trace_id": "1"}
    inner = {**chain, "id": "4", "trace_id": "4", "parent_run_id": "3"}
    tool = {"run_type": "tool", "inputs": {"input": "x"}, "outputs": {"output": "y"}}
    failed = {"run_type": "llm", "inputs": {"input": "x"}, "error": "boom", "outputs": None}
    found = read_evaluation_rows([chain, model, inner, tool, failed])
    (row,) = found
    assert (row["policy"], row["conversation"]) == ("gpt", "t")
    assert [one.place for one in found.problems] == ["row 1", "row 3", "row 4", "row 5"]


def test_the_format_is_asked_for_where_columns_don_t_tell_it():
    with pytest.raises(EvaluationError, match=r"fits none.*format="):
        read_evaluation_rows([{"a": 1}])
    with pytest.raises(EvaluationError, match="rows, pairs"):
        read_evaluation_rows([{"context": "c", "answer": "a", "chosen": "b", "rejected": "d"}])
    with pytest.raises(EvaluationError, match="completions"):
        read_evaluation_rows([{"context": "c"}], format="parquet")


def test_unusable_rows_are_told_with_their_places_and_without_their_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    good, empty = '{"context": "c", "answer": "secret"}', '{"context": "", "answer": "x"}'
    path.write_text(f"{good}\n{{broken\n{empty}\n7")
    found = read_evaluation_rows(path)
    assert len(found) == 1
    assert [one.place.partition(":")[2] for one in found.problems] == ["2", "3", "4"]
    assert "secret" not in found.report()
    assert "1 rows for evaluation from 4 read as 'rows', 3 problems" in found.report()


def test_a_file_that_isn_t_there_is_an_evaluation_error(tmp_path):
    with pytest.raises(EvaluationError, match="no file"):
        read_evaluation_rows(tmp_path / "none.jsonl")
