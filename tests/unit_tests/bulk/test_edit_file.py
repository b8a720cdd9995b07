"""A file of replies goes in, and the same rows come out with their edits."""

from __future__ import annotations

import csv
import gzip
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_metaaligner import Aligner, BulkError, Edit, EngineError, UnknownObjectiveError
from langchain_metaaligner.bulk import BulkProgress, edit_file, run, source
from langchain_metaaligner.bulk.folder import locked
from langchain_metaaligner.editing.conversation import log_bare_question
from tests.unit_tests.scripted import ScriptedEngine, question_of


def improved(request: Any) -> str:
    if "boom" in request.draft:
        raise RuntimeError("boom")
    return request.draft.replace("bad", "good")


def aligner(reply: Any = improved, **options: Any) -> Aligner:
    return Aligner(engine=ScriptedEngine(reply), **options)


def edit(source: Path, out: Path | str, **options: Any) -> Any:
    target = source.with_name(out) if isinstance(out, str) else out
    options = {"objectives": "harmlessness", "aligner": aligner(), **options}
    return edit_file(source, target, **options)


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def numbered(path: Path, count: int, **more: Any) -> Path:
    rows = ({"id": i, "question": f"q{i}", "answer": f"bad {i}", **more} for i in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_row_of_jsonl_keeps_every_byte_of_its_columns(tmp_path):
    row = (
        b'{"question": "a\\u00e9\xc3\xa9", "answer":"bad" ,'
        b' "n": 123456789012345678901234567890, "f": 1.10e-7, "x": {"y":[ 1.50,null]}  }'
    )
    given = tmp_path / "a.jsonl"
    given.write_bytes(b"\xef\xbb\xbf" + row + b"\r\n\n" + row)
    summary = edit(given, "out.jsonl")
    first, second = (tmp_path / "out.jsonl").read_bytes().splitlines()
    assert first == second
    assert first.startswith(row[:-3])
    assert json.loads(first)["edited"] == "good"
    assert json.loads(first)["metaaligner"]["status"] == "edited"
    assert (summary.rows, summary.edited, summary.complete) == (2, 2, True)
    assert summary.problems is None
    assert {path.name for path in tmp_path.iterdir()} == {
        *("a.jsonl", "out.jsonl", "out.jsonl.run.json")
    }


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_row_of_csv_keeps_every_byte_and_its_quotes(tmp_path, ending):
    rows = ["id,question,answer", '007,"a ""b"", c",bad', '"8",x,"bad\n\nlines"', "9,x,bad"]
    given = tmp_path / "a.csv"
    given.write_bytes(("\ufeff" + ending.join(rows)).encode())
    edit(given, "out.csv")
    written = (tmp_path / "out.csv").read_bytes().decode()
    assert written.startswith(f"\ufeff{rows[0]},edited,metaaligner{ending}{rows[1]},good,")
    assert f"{ending}{rows[2]}," in written
    assert f"{ending}{rows[3]},good," in written
    with (tmp_path / "out.csv").open(encoding="utf-8-sig", newline="") as read:
        assert [row["edited"] for row in csv.DictReader(read)] == ["good", "good\n\nlines", "good"]


@pytest.mark.parametrize(
    ("begin", "kind"),
    [
        *(("jsonl", "csv"), ("jsonl", "parquet"), ("jsonl", "jsonl.gz")),
        *(("csv", "tsv.gz"), ("tsv.gz", "csv"), ("csv", "parquet"), ("csv.gz", "jsonl")),
        *(("parquet", "csv"), ("parquet", "jsonl"), ("parquet", "parquet")),
    ],
)
def test_each_kind_of_file_becomes_each_other(tmp_path, begin, kind):
    if "parquet" in (begin, kind):
        pytest.importorskip("pyarrow")
    original = numbered(tmp_path / "a.jsonl", 5, text='é, "q"\n\t')
    given = original
    if begin != "jsonl":
        given = tmp_path / f"b.{begin}"
        edit(original, given, prefix="first_")
    out = tmp_path / f"out.{kind}"
    assert edit(given, out, chunk_size=2).edited == 5
    back = tmp_path / "back.jsonl"
    edit(out, back, prefix="again_", columns={"answer": "edited", "question": "question"})
    read = lines_of(back)
    assert [int(row["id"]) for row in read] == [*range(5)]
    assert {(row["text"], row["question"][0]) for row in read} == {('é, "q"\n\t', "q")}
    assert [row["edited"] for row in read] == [f"good {i}" for i in range(5)]


def test_parquet_keeps_the_types_of_its_columns(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pa.table(
        {
            "answer": ["bad"] * 300,
            "question": ["q"] * 300,
            "small": pa.array(range(300), pa.int16()),
            "when": pa.array(range(300), pa.timestamp("us", "UTC")),
            "tags": pa.array([["a", None]] * 300, pa.list_(pa.string())),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=70)
    edit(tmp_path / "a.parquet", "out.parquet", chunk_size=50)
    made = pq.read_table(tmp_path / "out.parquet")
    assert made.select(table.column_names).equals(table)
    assert made["edited"].to_pylist() == ["good"] * 300


def test_a_column_without_one_type_becomes_text_in_parquet(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    mixed = [1, 2.5, "x", None, 10**30, {"a": 1}, [], {}]
    rows = [{"question": "q", "answer": "bad", "any": one, "n": i} for i, one in enumerate(mixed)]
    rows.append({"question": "q", "answer": "bad", "late": True})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    edit(tmp_path / "a.jsonl", "out.parquet")
    made = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert made["any"] == ["1", "2.5", "x", None, str(10**30), '{"a": 1}', "[]", "{}", None]
    assert made["late"] == [None] * 8 + [True]
    assert made["n"] == [*range(8), None]


def test_rows_that_cannot_be_edited_are_all_in_the_other_file(tmp_path):
    rows = [
        b'{"id": 1, "question": "q", "answer": "bad"}',
        b"not json",
        b'["a", "list"]',
        b'{"id": 4, "question": "q", "answer": "boom"}',
        b'{"id": 5, "question": "q"}',
        b'{"id": 6, "answer": "bad"}',
        b'{"id": 7, "question": "q", "answer": "\xff"}',
        b'{"id": 8, "question": "q", "answer": "\x00"}',
        b'{"id": 9, "question": "q", "answer": {"role": "user", "content": "x"}}',
        b'{"id": 10, "question": "q", "answer": "  "}',
        b'{"id": 11, "question": "q", "answer": "' + b"word " * 9000 + b'"}',
        b'{"id": 12, "question": "  ", "answer": "bad"}',
        b'{"id": 13, "question": "q", "answer": "bad"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(rows))
    engine = ScriptedEngine(improved, window=4096)
    used = Aligner(engine=engine)
    summary = edit(tmp_path / "a.jsonl", "out.jsonl", aligner=used)
    assert [row["id"] for row in lines_of(tmp_path / "out.jsonl")] == [1, 10, 13]
    assert summary.failed == {"EngineError": 1, "AnswerTooLongError": 1}
    assert (summary.rows, summary.edited, summary.skipped, summary.bad) == (13, 2, 1, 8)
    assert not summary.complete
    problems = lines_of(summary.problems)
    places = [int(one["place"].partition(":")[2]) for one in problems]
    assert places == [2, 3, 4, 5, 6, 7, 8, 9, 11, 12]
    assert all(one["reason"] for one in problems)
    whole = {one["row"]["id"]: one["row"] for one in problems if "row" in one}
    assert sorted(whole) == [4, 5, 6, 9, 11, 12]
    assert whole[11] == json.loads(rows[10])
    # What failed can be the next source.
    again = edit(
        summary.problems,
        "again.jsonl",
        columns={"answer": "row.answer", "question": "row.question"},
    )
    # The long row fits into an engine without a window.
    assert (again.unchanged, again.failed) == (1, {"EngineError": 1})


def test_one_bad_row_of_csv_is_that_row_alone(tmp_path):
    rows = [
        "question,answer,n",
        "q,bad,1",
        'q,"stray quote,2',
        "q,bad,3",
        'q,"x" y,4',
        "q,bad",
        "q,bad,6,7",
        "q,b\x00ad,8",
        'q,"bad ""9""",9',
    ]
    (tmp_path / "a.csv").write_text("\n".join(rows) + "\n")
    summary = edit(tmp_path / "a.csv", "out.csv")
    with (tmp_path / "out.csv").open(newline="") as read:
        assert [row["n"] for row in csv.DictReader(read)] == ["1", "3", "8", "9"]
    places = [one["place"] for one in lines_of(summary.problems)]
    assert places == [f"a.csv:{line}" for line in (3, 5, 6, 7)]


def test_a_row_of_ten_megabytes_and_one_that_is_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "_LONGEST", 11 * 2**20)
    head = b'{"question":"q","answer":"bad","x":"'
    long = [head + b"x" * (size * 2**20) + b'"}' for size in (10, 12)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*long, head + b'"}']))
    summary = edit(tmp_path / "a.jsonl", "out.jsonl")
    assert (summary.edited, summary.bad) == (2, 1)
    (tmp_path / "a.csv").write_bytes(
        b"question,answer\nq," + b"y" * (12 * 2**20) + b'\n"q\nr",bad\nq,bad\n'
    )
    summary = edit(tmp_path / "a.csv", "out.csv")
    assert (summary.edited, summary.bad) == (2, 1)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", b""), ("a.csv", b""), ("a.csv", b"question,answer\n"), ("a.jsonl", b"\n \r\n")],
)
def test_a_file_without_rows_becomes_one(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    summary = edit(tmp_path / name, f"out{Path(name).suffix}")
    assert summary.rows == 0
    written = (tmp_path / f"out{Path(name).suffix}").read_bytes()
    assert written == (b"question,answer,edited,metaaligner\n" if b"question" in content else b"")


def test_a_half_last_line_is_left_and_rows_that_come_later_too(tmp_path):
    given = numbered(tmp_path / "a.jsonl", 6)
    with given.open("ab") as more:
        more.write(b'{"id": 6, "question": "q", "answer": "ba')

    def grow(_progress: BulkProgress) -> None:
        with given.open("ab") as more:
            more.write(b'd"}\n{"id": 7, "question": "q", "answer": "bad"}\n')

    summary = edit(given, "out.jsonl", chunk_size=2, on_progress=grow)
    assert [row["id"] for row in lines_of(tmp_path / "out.jsonl")] == [*range(6)]
    assert (summary.incomplete, summary.source, summary.problems) == (True, "grown", None)
    assert "not complete yet" in str(summary)
    with pytest.raises(BulkError, match="the source has changed since"):
        edit(given, "out.jsonl")


@pytest.mark.parametrize("end", ["q,ba", 'q,"bad', "q"])
def test_a_half_last_row_of_csv_is_left(tmp_path, end):
    given = tmp_path / "a.csv"
    given.write_text(f"question,answer\nq,bad\n{end}")

    def grow(_progress: BulkProgress) -> None:
        with given.open("a") as more:
            more.write("d\n")

    used = aligner(lambda request: grow(None) or improved(request))
    summary = edit(given, "out.csv", chunk_size=1, aligner=used)
    assert (summary.edited, summary.bad, summary.incomplete) == (1, 0, True)


def test_a_source_that_becomes_shorter_is_said(tmp_path):
    given = numbered(tmp_path / "a.jsonl", 3000)

    def shrink(_progress: BulkProgress) -> None:
        os.truncate(given, 100)

    with pytest.raises(BulkError, match="has become shorter"):
        edit(given, "out.jsonl", chunk_size=2, on_progress=shrink)


class StopError(Exception):
    pass


def stop_after(rows: int) -> Any:
    def stop(progress: BulkProgress) -> None:
        if progress.rows >= rows:
            raise StopError

    return stop


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "jsonl.gz"])
def test_a_run_that_ended_goes_on_where_it_was(tmp_path, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    given = tmp_path / f"a.{kind}"
    edit(numbered(tmp_path / "first.jsonl", 50), given, prefix="first_")
    edit(given, f"whole.{kind}", chunk_size=8)
    seen = ScriptedEngine(improved)
    with pytest.raises(StopError):
        edit(given, f"out.{kind}", chunk_size=8, on_progress=stop_after(24))
    assert not (tmp_path / f"out.{kind}").exists()
    summary = edit(given, f"out.{kind}", chunk_size=8, aligner=Aligner(engine=seen))
    assert (summary.rows, summary.resumed, len(seen.requests)) == (50, 24, 26)
    assert (tmp_path / f"out.{kind}").read_bytes() == (tmp_path / f"whole.{kind}").read_bytes()
    again = Aligner(engine=ScriptedEngine(EngineError("is not asked again")))
    assert edit(given, f"out.{kind}", aligner=again) == summary


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"objectives": "humour"}, "objectives was"),
        ({"columns": {"answer": "id", "question": "question"}}, "columns was"),
        ({"prefix": "new_"}, "prefix was"),
        ({"aligner": aligner(max_new_tokens=7)}, "max_new_tokens was 1024, and is now 7"),
        ({"aligner": aligner(guards=())}, "guards was"),
    ],
)
def test_a_run_that_is_not_the_same_does_not_go_on(tmp_path, options, said):
    given = numbered(tmp_path / "a.jsonl", 9)
    with pytest.raises(StopError):
        edit(given, "out.jsonl", chunk_size=4, on_progress=stop_after(4))
    with pytest.raises(BulkError, match=said):
        edit(given, "out.jsonl", **options)
    edit(given, "out.jsonl")
    with pytest.raises(BulkError, match=said):
        edit(given, "out.jsonl", **options)
    edit(given, "out.jsonl", resume=False, **options)


def test_a_source_may_grow_between_runs_but_not_change(tmp_path):
    given = numbered(tmp_path / "a.jsonl", 9)
    with pytest.raises(StopError):
        edit(given, "out.jsonl", chunk_size=4, on_progress=stop_after(4))
    with given.open("a") as more:
        more.write('{"id": 9, "question": "q", "answer": "bad"}\n')
    other = given.read_bytes().replace(b"bad 1", b"bad 7")
    whole = given.read_bytes()
    given.write_bytes(other)
    with pytest.raises(BulkError, match="begins with other rows"):
        edit(given, "out.jsonl")
    given.write_bytes(whole[:20])
    with pytest.raises(BulkError, match="fewer now"):
        edit(given, "out.jsonl")
    given.write_bytes(whole)
    summary = edit(given, "out.jsonl")
    assert (summary.rows, summary.resumed) == (9, 4)


def test_a_change_far_behind_the_head_is_seen(tmp_path):
    given = numbered(tmp_path / "a.jsonl", 600, pad="x" * 200)
    with pytest.raises(StopError):
        edit(given, "out.jsonl", chunk_size=100, on_progress=stop_after(500))
    given.write_bytes(given.read_bytes().replace(b'"bad 450"', b'"bad 999"'))
    with pytest.raises(BulkError, match="the source was changed, before line 501"):
        edit(given, "out.jsonl")


def test_a_file_that_is_not_a_runs_own_is_not_replaced(tmp_path):
    given = numbered(tmp_path / "a.jsonl", 2)
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(BulkError, match="exists already"):
        edit(given, "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "mine"
    with pytest.raises(BulkError, match="is the source itself"):
        edit(given, "a.jsonl", resume=False)
    assert edit(given, "out.jsonl", resume=False).edited == 2


def test_two_runs_on_one_output_do_not_mix(tmp_path):
    given = numbered(tmp_path / "a.jsonl", 2)
    with locked(tmp_path / "out.jsonl"), pytest.raises(BulkError, match=str(os.getpid())):
        edit(given, "out.jsonl")
    assert edit(given, "out.jsonl").edited == 2
    assert not (tmp_path / "out.jsonl.lock").exists()


@pytest.mark.parametrize("after", [1, 4, 9, 10, 12])
def test_a_disk_that_is_full_loses_nothing(tmp_path, monkeypatch, after):
    given = numbered(tmp_path / "a.jsonl", 12)
    edit(given, "whole.jsonl", chunk_size=2)
    left = after
    sync = os.fsync

    def full(opened: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        sync(opened)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(BulkError, match=r"No space left on device.*kept"):
            edit(given, "out.jsonl", chunk_size=2)
    assert edit(given, "out.jsonl", chunk_size=2).rows == 12
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_journal_that_was_cut_by_a_kill_is_read_to_its_last_whole_line(tmp_path):
    given = numbered(tmp_path / "a.jsonl", 9)
    with pytest.raises(StopError):
        edit(given, "out.jsonl", chunk_size=2, on_progress=stop_after(6))
    journal = tmp_path / "out.jsonl.parts" / "chunks.jsonl"
    os.truncate(journal, journal.stat().st_size - 5)
    with pytest.raises(StopError):
        edit(given, "out.jsonl", chunk_size=1, on_progress=stop_after(6))
    summary = edit(given, "out.jsonl")
    assert (summary.rows, summary.resumed) == (9, 6)
    assert [row["id"] for row in lines_of(tmp_path / "out.jsonl")] == [*range(9)]


def test_a_damaged_shard_is_said(tmp_path):
    given = numbered(tmp_path / "a.jsonl", 9)
    with pytest.raises(StopError):
        edit(given, "out.jsonl", chunk_size=2, on_progress=stop_after(6))
    os.truncate(tmp_path / "out.jsonl.parts" / "00000001.rows", 3)
    with pytest.raises(BulkError, match="not as it was written"):
        edit(given, "out.jsonl")


def test_a_pipe_is_read_once_and_resumed_from_the_disk(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    content = numbered(tmp_path / "a.jsonl", 9).read_bytes()
    feeding = threading.Thread(target=pipe.write_bytes, args=[content])
    feeding.start()
    with pytest.raises(StopError):
        edit(pipe, "out.jsonl", chunk_size=4, on_progress=stop_after(4))
    feeding.join()
    assert edit(pipe, "out.jsonl").rows == 9
    with pytest.raises(BulkError, match="complete already"):
        edit(pipe, "out.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "x"}\n', "Its columns are text"),
        ("a.csv", b"id,text\n1,x\n", "Its columns are id, text"),
        ("a.csv", b"answer,answer\nx,y\n", "two columns of the same name: answer"),
        ("a.csv", b"question,answer,edited\nx,y,z\n", "prefix="),
        ("a.jsonl", b'{"question": "x", "answer": "y", "metaaligner": 1}\n', "prefix="),
        ("a.jsonl", "[1]".encode("utf-16"), "UTF-16"),
        ("a.txt", b"x", "can't be told by its name"),
        ("a.csv", b'"question\n', "header"),
        ("a.jsonl.gz", b"no gzip", "can't be read any further"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"question":"q","answer":"bad"}\n' * 99, mtime=0)[:40],
            "any further",
        ),
        ("a.parquet", b"no parquet", "can't be read as parquet"),
        ("a.jsonl", b'[\n{"question": "x", "answer": "y"}]\n', "one list of JSON"),
        ("a.csv", b"question,answer\rx,y\r", "CR alone"),
    ],
)
def test_a_source_that_cannot_be_edited_is_said(tmp_path, name, content, said):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BulkError, match=said):
        edit(tmp_path / name, "out.jsonl")


def test_what_cannot_be_meant_is_refused(tmp_path):
    given = numbered(tmp_path / "a.jsonl", 2)
    with pytest.raises(BulkError, match="does not exist"):
        edit(tmp_path / "none.jsonl", "out.jsonl")
    with pytest.raises(BulkError, match="is a folder"):
        edit(tmp_path, "out.jsonl")
    with pytest.raises(BulkError, match="is no folder"):
        edit(given, tmp_path / "none" / "out.jsonl")
    with pytest.raises(BulkError, match="batch_size must be at least 1"):
        edit(given, "out.jsonl", batch_size=0)
    with pytest.raises(BulkError, match="have"):
        edit(given, "out.jsonl", columns={"reply_text": "answer"})
    with pytest.raises(UnknownObjectiveError):
        edit(given, "out.jsonl", objectives="no_such_name")
    with pytest.raises(UnknownObjectiveError):
        edit(given, "out.jsonl", objectives="humour", aligner=aligner(family="Aligner"))


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        ({"question": "why?", "answer": "bad"}, "\n\nHuman: why? \n\nAssistant:"),
        ({"query": "why?", "generated_text": "bad"}, "\n\nHuman: why? \n\nAssistant:"),
        ({"prompt": "Human: why? Assistant:", "response": "bad"}, "Human: why? Assistant:"),
        ({"context": "as it is", "answer": "bad"}, "as it is"),
        (
            {"messages": [{"role": "user", "content": "why?"}], "answer": "bad"},
            "\n\nHuman: why? \n\nAssistant:",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "why?"},
                    {"role": "assistant", "content": [{"type": "text", "text": "bad"}]},
                ]
            },
            "\n\nHuman: why? \n\nAssistant:",
        ),
        (
            {"messages": '[{"role": "user", "content": "why?"}]', "answer": "bad"},
            "\n\nHuman: why? \n\nAssistant:",
        ),
    ],
)
def test_rows_are_read_by_the_names_that_people_give(tmp_path, row, asked):
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    engine = ScriptedEngine(improved)
    edit(tmp_path / "a.jsonl", "out.jsonl", aligner=Aligner(engine=engine))
    assert f" | Context: {asked} | Answer: bad | Edit: " in engine.prompts[0]


def test_a_question_of_a_family_for_queries_is_the_query(tmp_path):
    numbered(tmp_path / "a.jsonl", 1)
    engine = ScriptedEngine(improved)
    edit(tmp_path / "a.jsonl", "out.jsonl", aligner=Aligner(engine=engine, family="UltraFeedback"))
    assert " | Query: q0 | Answer: " in engine.prompts[0]


def test_rows_of_like_length_are_edited_together(tmp_path):
    rows = [
        {"question": "q", "answer": " ".join(["bad", *map(str, range(i % 4 * 20))])}
        for i in range(32)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    engine = ScriptedEngine(improved)
    edit(tmp_path / "a.jsonl", "out.jsonl", batch_size=8, aligner=Aligner(engine=engine))
    assert {len({len(one.draft) for one in call}) for call in engine.calls} == {1}
    assert [row["answer"] for row in lines_of(tmp_path / "out.jsonl")] == [
        row["answer"] for row in rows
    ]


def test_what_fails_for_the_moment_is_repeated_and_an_engine_that_is_gone_ends_the_run(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(run, "_WAITS", (0.0, 0.0))
    given = numbered(tmp_path / "a.jsonl", 30)
    tries: dict[str, int] = {}

    def flaky(request: Any) -> Edit:
        tries[request.draft] = tries.get(request.draft, 0) + 1
        number = int(request.draft.split()[1])
        if number >= 20 or tries[request.draft] < 1 + number % 4:
            raise EngineError("The server is busy.", retryable=True)
        return Edit("good")

    with pytest.raises(BulkError, match=r"all failed, 3 times each, with EngineError: The server"):
        edit(given, "out.jsonl", chunk_size=10, batch_size=1, aligner=aligner(flaky))
    summary = edit(given, "out.jsonl", chunk_size=10)
    assert (summary.resumed, summary.rows) == (20, 30)
    assert summary.failed == {"EngineError": 5}  # those that would need a fourth try


def test_the_remaining_time_is_told_by_length_not_by_rows(tmp_path):
    rows = [{"question": "q", "answer": "bad " * (1 if i < 64 else 39)} for i in range(128)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def slow(request: Any) -> str:
        time.sleep(len(request.draft) * 1e-5)
        return request.draft

    seen: list[BulkProgress] = []
    options = {"chunk_size": 16, "batch_size": 4, "max_concurrency": 1}
    edit(
        tmp_path / "a.jsonl", "out.jsonl", aligner=aligner(slow), on_progress=seen.append, **options
    )
    half = next(one for one in seen if one.rows == 64)
    assert half.fraction < 0.35
    assert half.rough
    assert half.remaining is not None
    assert half.remaining > 1.5 * half.seconds
    assert seen[-1].remaining == 0
    assert seen[-1].fraction == 1
    assert "roughly" in str(half)


def test_memory_and_files_stay_small_over_many_rows(tmp_path):
    given = numbered(tmp_path / "a.jsonl", 20_000)

    class Copies:
        most = 0

        def edit(self, requests: Any) -> list[Edit]:
            self.most = max(self.most, len(requests))
            return [Edit(request.draft) for request in requests]

    engine = Copies()
    used = Aligner(engine=engine, guards=())
    summary = edit(given, "out.jsonl", aligner=used, chunk_size=5000, batch_size=500)
    assert (summary.rows, summary.unchanged, engine.most) == (20_000, 20_000, 500)
    with (tmp_path / "out.jsonl").open() as lines:
        assert all(json.loads(line)["id"] == i for i, line in enumerate(lines))


@settings(max_examples=10, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"question": st.text(min_size=1), "answer": st.text(), "more": st.floats() | st.text()}
        ),
        max_size=4,
    )
)
def test_any_text_comes_through(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("any")
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = edit(folder / "a.jsonl", "out.jsonl", aligner=aligner(lambda one: one.draft))
    kept = [row for row in rows if row["question"].strip()]
    made = lines_of(folder / "out.jsonl")
    assert [str(one["more"]) for one in made] == [str(row["more"]) for row in kept]
    assert [one["edited"] for one in made] == [row["answer"] for row in kept]
    assert summary.bad == len(rows) - len(kept)
    edit(folder / "a.jsonl", "out.csv", aligner=aligner(lambda one: one.draft))
    with (folder / "out.csv").open(encoding="utf-8", newline="") as read:
        assert [row["answer"] for row in csv.DictReader(read)] == [
            row["answer"].encode(errors="replace").decode() for row in kept
        ]


def test_a_context_column_that_holds_questions_is_said(tmp_path, caplog):
    log_bare_question.cache_clear()
    (tmp_path / "a.jsonl").write_text('{"context": "why?", "answer": "bad"}')
    edit(tmp_path / "a.jsonl", "out.jsonl")
    assert "give it as messages" in caplog.text
    assert question_of  # the other columns are read as questions, and say nothing


def test_a_run_killed_at_any_step_on_the_disk_can_be_repeated(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill_at(step: int) -> None:
        steps = iter(range(1, 1000))
        for name in ("fsync", "replace", "unlink", "mkdir", "rmdir"):
            real = getattr(os, name)

            def call(*given: Any, _real: Any = real, **options: Any) -> Any:
                if next(steps) >= step:
                    raise Killed
                return _real(*given, **options)

            monkeypatch.setattr(os, name, call)

    given = numbered(tmp_path / "a.jsonl", 3)
    given.write_bytes(given.read_bytes() + b"no row\n")
    edit(given, "whole.jsonl", chunk_size=2)
    for step in range(1, 60):
        out = tmp_path / f"{step}.jsonl"
        kill_at(step)
        try:
            edit(given, out, chunk_size=2)
        except Killed:
            ended = False
        else:
            ended = True
        monkeypatch.undo()
        assert edit(given, out, chunk_size=2).rows == 4
        assert not list(tmp_path.glob(f"{step}.jsonl.parts*"))
        for ending in ("", ".problems.jsonl"):
            made, whole = (tmp_path / f"{name}.jsonl{ending}" for name in (step, "whole"))
            assert made.read_bytes() == whole.read_bytes()
        if ended:
            break
    assert ended


@pytest.mark.parametrize(
    "name", ["out.jsonl.problems.jsonl", "out.jsonl.run.json", "out.jsonl.lock", "out.jsonl.parts"]
)
def test_files_of_somebody_else_beside_the_output_stay(tmp_path, name):
    mine = tmp_path / name
    mine.write_text('{"mine": 1}')
    with pytest.raises(BulkError, match="ove it away"):
        edit(numbered(tmp_path / "a.jsonl", 2), "out.jsonl")
    assert mine.read_text() == '{"mine": 1}'
    assert not (tmp_path / "out.jsonl").exists()


def test_an_output_that_somebody_else_writes_during_the_run_stays(tmp_path):
    given, out = numbered(tmp_path / "a.jsonl", 4), tmp_path / "out.jsonl"
    with pytest.raises(BulkError, match="not of this run"):
        edit(given, out, chunk_size=2, on_progress=lambda _: out.write_text("mine"))
    assert out.read_text() == "mine"
    out.unlink()
    assert edit(given, out).rows == 4


def test_a_wrong_first_call_is_mended_by_the_next(tmp_path):
    given = tmp_path / "a.jsonl"
    given.write_text('{"asked": "q", "said": "bad"}\n')
    with pytest.raises(BulkError, match="Its columns are"):
        edit(given, "out.jsonl")
    assert not list(tmp_path.glob("out*"))
    columns = {"question": "asked", "answer": "said"}
    assert edit(given, "out.jsonl", columns=columns).edited == 1


def test_an_output_that_is_a_link_is_written_where_it_leads(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "out.jsonl"
    link.symlink_to(tmp_path / "disk" / "edits.jsonl")
    edit(numbered(tmp_path / "a.jsonl", 2), link)
    assert link.is_symlink()
    assert len(lines_of(link)) == 2


def test_csv_of_a_spreadsheet_with_semicolons_and_empty_cells_is_read(tmp_path):
    given = tmp_path / "a.csv"
    given.write_text('context;question;answer\n;"a; b?";bad\n')
    assert edit(given, "out.csv").edited == 1
    assert (
        (tmp_path / "out.csv")
        .read_text()
        .startswith('context;question;answer;edited;metaaligner\n;"a; b?";bad;good;')
    )


def test_parquet_with_types_that_few_know_comes_through(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    messages = [
        [
            {"role": "user", "content": "q", "name": None},
            {"role": role, "content": "bad", "name": None},
        ]
        for role in ("assistant", "user", "assistant")
    ]
    table = pa.table({"messages": messages, "view": pa.array(["a", "b", None], pa.string_view())})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert edit(tmp_path / "a.parquet", "out.parquet").edited == 2
    made = parquet.read_table(tmp_path / "out.parquet")
    assert made.column("view").to_pylist() == ["a", None]
    assert made.column("messages").to_pylist() == [messages[0], messages[2]]
