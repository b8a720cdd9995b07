"""The records of edits in production, on their way to evaluations and trainings."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langchain_metaaligner import Alignment, MetaAlignerRunnable, Objective
from langchain_metaaligner.errors import EvaluationError
from langchain_metaaligner.evaluation import EditRecords, read_evaluation_rows
from langchain_metaaligner.evaluation.rows import check_rows
from langchain_metaaligner.training import read_edits
from tests.unit_tests.scripted import Policy, ScriptedEngine

EDIT = Alignment(
    "old", "new", objectives=("harmlessness",), context=(("human", "Why?"),), status="shadow"
)


@pytest.fixture
def records(tmp_path):
    return EditRecords(tmp_path / "edits.jsonl")


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_what_a_chain_in_shadow_mode_records_can_be_judged_accepted_and_learnt(tmp_path):
    records = EditRecords(tmp_path / "logs" / "edits.jsonl", policy="scripted")
    brevity = Objective("brevity", "Brevity: The response should be short.")
    chain = Policy(reply=lambda asked: f"You ask {asked[-1].text}.") | MetaAlignerRunnable(
        [brevity], engine=ScriptedEngine("I see."), apply=False, on_edit=records
    )
    for question in ("one", "two", "three"):
        turns = [HumanMessage("Hi"), AIMessage("Hello"), HumanMessage(question)]
        assert chain.invoke(turns).text == f"You ask {question}."
    # They are rows for `evaluate`, as they are.
    for source in (records, records.path, read_evaluation_rows(records.path)):
        found = check_rows(source, has_aligner=False)
        assert [row.answer[8:-1] for row in found.rows] == ["one", "two", "three"]
        assert {(row.edited, row.policy) for row in found.rows} == {("I see.", "scripted")}
        assert {row.provenance["status"] for row in found.rows} == {"shadow"}
        assert all("Assistant: Hello" in row.context for row in found.rows)
    # Nobody has accepted any: nothing is learnt.
    assert not read_edits(records, objectives=brevity).examples
    first, second, _ = [row["id"] for row in records]
    records.accept(first)
    records.reject(second)
    for source in (records, records.path):
        edits = read_edits(source, objectives=brevity)
        (example,) = edits.examples
        assert (example.answer, example.edit) == ("You ask one.", "I see.")
        assert example.objectives == (brevity,)
        assert not edits.problems
        assert (edits.rejected, edits.undecided) == (1, 1)
        assert "1 rejected, 1 undecided" in edits.report()
    records.accept(second)
    records.reject(first)
    (example,) = read_edits(records.path, objectives=brevity).examples
    assert example.answer == "You ask two."
    # The verdicts are no rows.
    assert len(read_evaluation_rows(records.path)) == 3


@pytest.mark.parametrize(
    ("verdict", "used"),
    [(True, 1), ("TRUE", 1), ("yes", 1), (1, 1), (False, 0), ("no", 0), (None, 0), ("", 0)],
)
def test_people_may_write_their_verdict_into_the_row(records, verdict, used):
    records(EDIT)
    (row,) = lines(records.path)
    assert len(read_edits([{**row, "accepted": verdict}]).examples) == used


def test_a_verdict_that_says_nothing_is_a_problem(records):
    records(EDIT)
    (problem,) = read_edits([{**lines(records.path)[0], "accepted": "maybe"}]).problems
    assert problem.kind == "accepted"


def test_only_a_record_can_be_accepted(records):
    with pytest.raises(EvaluationError, match="no record 'x'"):
        records.accept("x")


def test_a_failure_is_recorded_without_an_edit(records):
    aligner = MetaAlignerRunnable(
        engine=ScriptedEngine(RuntimeError("boom")), on_error="pass", on_edit=records
    )
    aligner.invoke({"messages": [HumanMessage("Why?"), AIMessage("Because.")]})
    (row,) = lines(records.path)
    assert (row["status"], row["original"]) == ("passed", "Because.")
    assert "edited" not in row
    found = read_evaluation_rows([row])
    assert not found
    assert len(found.problems) == 1


def test_redacted_text_reaches_no_file(records):
    records = EditRecords(records.path, redact=lambda text: text.replace("Ann", "[name]"))
    records(
        Alignment("Ann is old", "Ann is wise", context=(("human", "And Ann?"),), error="E: Ann")
    )
    records(Alignment("Ann", "Ann", context="\n\nHuman: Ann \n\nAssistant:"))
    text = records.path.read_text()
    assert "Ann" not in text
    assert text.count("[name]") == 6


@pytest.mark.parametrize("redact", [lambda _: None, lambda _: 1 / 0])
def test_what_could_not_be_redacted_is_not_written(records, redact, caplog):
    records = EditRecords(records.path, redact=redact)
    records(EDIT)
    records(EDIT)
    assert records.path.read_text() == ""
    assert records.lost == 2
    assert caplog.text.count("was not written") == 1


def test_eight_threads_and_three_processes_write_whole_lines(records):
    count, size = 40, 3000
    code = f"""
import sys
from concurrent.futures import ThreadPoolExecutor
from langchain_metaaligner.editing.alignment import Alignment
from langchain_metaaligner.evaluation.edit_records import EditRecords
records = EditRecords({str(records.path)!r}, max_bytes=200_000)
with ThreadPoolExecutor(8) as pool:
    texts = [f"{{sys.argv[1]}}-{{n}} " + "ü" * {size} for n in range({count})]
    list(pool.map(lambda text: records(Alignment(text, "x")), texts))
assert not records.lost
"""
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(one)], env=environment)
        for one in range(3)
    ]
    assert [run.wait(60) for run in runs] == [0, 0, 0]
    files = sorted(records.path.parent.glob("*.jsonl"))
    assert len(files) > 2
    # Whoever has found room just before a file is put aside still writes there: 24 writers.
    assert all(file.stat().st_size <= 200_000 + 24 * 3 * size for file in files)
    found = [row["original"].split()[0] for row in records]
    assert sorted(found) == sorted(f"{one}-{n}" for one in range(3) for n in range(count))


def test_a_forked_process_writes_on(records):
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(records, [EDIT] * 4))
    child = os.fork()
    if not child:
        records(EDIT)
        os._exit(records.lost)
    assert os.waitpid(child, 0)[1] == 0
    assert len(lines(records.path)) == 5


def test_old_files_go_and_the_rest_is_read_in_order(records):
    records = EditRecords(records.path, max_bytes=2000, keep=2)
    for number in range(12):
        records(Alignment(f"{number} " + "x" * 700, "y"))
    assert len(list(records.path.parent.glob("*.jsonl"))) == 3
    found = [int(row["original"].split()[0]) for row in records]
    assert found == list(range(found[0], 12))
    assert 2 < len(found) < 8


def test_a_record_that_is_too_large_is_counted(records, caplog):
    records = EditRecords(records.path, max_bytes=500)
    records(Alignment("x" * 600, "y"))
    assert records.lost == 1
    assert "max_bytes" in caplog.text


def test_a_full_disk_leaves_the_next_line_whole(records, monkeypatch):
    write, full = os.write, [True]

    def first_half(file, data):
        return write(file, data[: len(data) // 2] if full and full.pop() else data)

    monkeypatch.setattr(os, "write", first_half)
    records(EDIT)
    records(EDIT)
    assert records.lost == 1
    assert [row["original"] for row in records] == ["old"]


def test_a_folder_that_vanishes_never_reaches_the_reply(records, tmp_path, caplog):
    aligner = MetaAlignerRunnable(engine=ScriptedEngine("new"), on_edit=records)
    records.path.unlink()
    tmp_path.rmdir()
    reply = aligner.invoke({"messages": [HumanMessage("Why?"), AIMessage("Because.")]})
    assert reply["messages"][-1].text == "new"
    assert records.lost == 1
    tmp_path.mkdir()


def test_half_a_surrogate_pair_is_written_and_read(records):
    records(Alignment("\ud83d", "fine", context="c"))
    assert [row["original"] for row in records] == ["\ud83d"]


def test_only_its_user_reads_the_file(records):
    assert records.path.stat().st_mode & 0o077 == 0


def test_a_pickled_sink_writes_to_the_same_file(records):
    pickle.loads(pickle.dumps(records))(EDIT)
    assert len(lines(records.path)) == 1


@pytest.mark.parametrize(
    ("name", "options"),
    [("edits.txt", {}), ("edits.jsonl", {"max_bytes": 0}), ("edits.jsonl", {"keep": 0})],
)
def test_wrong_arguments_are_refused_when_the_sink_is_made(tmp_path, name, options):
    with pytest.raises(EvaluationError):
        EditRecords(tmp_path / name, **options)


def test_a_file_that_can_t_be_written_is_refused_when_the_sink_is_made():
    with pytest.raises(EvaluationError, match="may write"):
        EditRecords(Path("/proc/none/edits.jsonl"))


def test_a_file_that_another_process_has_just_put_aside_stays(records):
    records = EditRecords(records.path, max_bytes=2000)
    records(EDIT)
    records._put_aside(100)  # decided on when the file was still full
    assert [file.name for file in records.path.parent.glob("*.jsonl")] == ["edits.jsonl"]
