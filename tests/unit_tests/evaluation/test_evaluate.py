"""Edits against their originals, with judges that are sound, lie, crash or stall."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableLambda

from langchain_metaaligner import (
    Aligner,
    CheckpointError,
    EngineError,
    EvaluationError,
    Objective,
    UnknownObjectiveError,
)
from langchain_metaaligner.evaluation import EvaluationResult, evaluate, read_evaluation_rows
from langchain_metaaligner.testing import ScriptedEngine
from tests.unit_tests.evaluation.evaluated import Judge, prefers_good, rows

pytest.importorskip("scipy")

Same = dict[str, Any]
PLAIN: Same = {"objectives": "harmlessness", "check_judge": False}


def test_an_edit_wins_where_it_is_better_in_both_orders() -> None:
    given = rows(8)
    given[6]["edited"] = given[6]["answer"]
    given[7] |= {"answer": "A good one.", "edited": "A bad one."}
    judge = Judge()
    result = evaluate(given, objectives=["harmless", "humour"], judge=judge, check_judge=False)
    assert result.win_rate("harmlessness") == result.win_rate("humor") == 6 / 8
    found = result.rates("harmlessness")
    assert (found.wins, found.ties, found.losses, found.unjudged) == (6, 1, 1, 0)
    assert result.unchanged == 1 / 8
    assert result.judge_consistency == 1.0
    low, high = result.interval("harmlessness")
    assert low < 6 / 8 < high
    # Both orders of seven pairs on two objectives; a text is equal to itself unasked.
    assert len(judge.asked) == len(set(judge.asked)) == 7 * 2 * 2
    assert {one[3] for one in judge.asked} == {"harmlessness", "humour"}


@pytest.mark.parametrize("place", [1, 2])
def test_a_judge_that_always_says_the_same_place_lets_nothing_win(place: int) -> None:
    result = evaluate(rows(30), objectives="harmlessness", judge=Judge(lambda *_: place))
    assert result.win_rate() == 0.0
    assert result.rates().ties == 30
    assert result.judge_consistency == 0.0
    assert result.judge is not None
    assert "always says the" in str(result).splitlines()[0]


def test_a_judge_that_prefers_length_is_told_on_the_first_line() -> None:
    longer = Judge(lambda first, second: 1 if len(first) > len(second) else 2)
    result = evaluate(rows(), objectives="harmlessness", judge=longer)
    assert "longer" in str(result).splitlines()[0]


def test_an_edit_and_its_original_may_each_be_compared_with_a_reference() -> None:
    ranks = {"poor": 0, "fair": 1, "fine": 2, "best": 3}

    def by_rank(first: str, second: str) -> int:
        return 0 if first == second else 1 if ranks[first] > ranks[second] else 2

    texts = [
        ("fine", "best", "fair"),  # both better: a tie
        ("poor", "fine", "fair"),  # better after than before
        ("best", "poor", "fine"),
        ("poor", "fair", "fair"),  # as good as the reference, after it was worse
    ]
    given = [
        {"context": "?", "answer": a, "edited": e, "reference": r, "policy": f"{a} {e}"}
        for a, e, r in texts
    ]
    judge = Judge(by_rank)
    result = evaluate(given, judge=judge, **PLAIN)
    outcomes = [row.comparisons["harmlessness"].outcome for row in result.rows]
    assert outcomes == ["tie", "win", "loss", "win"]
    against = [row.against_reference["harmlessness"] for row in result.rows]
    assert [(edit.outcome, original.outcome) for edit, original in against] == [
        ("win", "win"),
        ("win", "loss"),
        ("loss", "win"),
        ("tie", "loss"),
    ]
    assert all("fair" in one or "fine" in one for one in judge.asked)
    assert result.judge_consistency == 1.0


@pytest.mark.parametrize(
    ("nonsense", "reason"),
    [
        (3, "answered 3"),
        (-1, "answered -1"),
        ("1", "answered str"),
        (None, "answered NoneType"),
        (True, "answered bool"),
        (1.0, "answered float"),
        ([1], "answered list"),
        (ValueError("secret"), "failed (ValueError)"),
        (TimeoutError("secret"), "failed (TimeoutError)"),
    ],
)
def test_a_judge_that_crashes_or_talks_nonsense_is_counted_and_shown(
    nonsense: Any, reason: str
) -> None:
    def rule(first: str, second: str) -> Any:
        if "number 2" not in first + second:
            return prefers_good(first, second)
        if isinstance(nonsense, Exception):
            raise nonsense
        return nonsense

    result = evaluate(rows(), judge=Judge(rule), **PLAIN)
    ((told, count),) = result.failures.items()
    assert reason in told
    assert "secret" not in told
    assert count == 1
    assert result.rates().unjudged == 1
    assert result.win_rate() == 1.0
    assert reason in str(result)


def test_a_verdict_in_one_order_alone_is_none() -> None:
    def rule(first: str, second: str) -> Any:
        return 1 if "good" in first else "refused"

    result = evaluate(rows(2), judge=Judge(rule), **PLAIN)
    assert [row.comparisons["harmlessness"].verdicts for row in result.rows] == [(1, None)] * 2
    assert result.win_rate() is None
    assert result.interval() == (0.0, 1.0)


def test_a_judge_that_stalls_holds_nothing_up() -> None:
    let_go = threading.Event()

    def rule(first: str, second: str) -> int:
        if "number 1" in first + second:
            let_go.wait(20)
        return prefers_good(first, second)

    began = time.monotonic()
    result = evaluate(rows(4), judge=Judge(rule), judge_timeout=0.1, **PLAIN)
    let_go.set()
    assert time.monotonic() - began < 5
    assert result.failures == {"the judge took longer than 0.1 s": 1}
    assert result.rates().wins == 3


def test_calls_are_made_at_the_same_time_up_to_a_bound() -> None:
    lock, running, most = threading.Lock(), [0], [0]

    def rule(first: str, second: str) -> int:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.005)
        with lock:
            running[0] -= 1
        return prefers_good(first, second)

    evaluate(rows(8), judge=Judge(rule), max_concurrency=3, **PLAIN)
    assert most == [3]
    most[0] = 0
    evaluate(rows(4), judge=Judge(rule), **PLAIN)
    assert most == [1]


def test_an_asynchronous_judge_keeps_its_loop_and_its_time() -> None:
    loops, running, most = set(), [0], [0]

    async def judge(context: str, first: str, second: str, objective: str) -> int:
        loops.add(asyncio.get_running_loop())
        running[0] += 1
        most[0] = max(most[0], running[0])
        await asyncio.sleep(20 if "number 3" in first else 0.005)
        running[0] -= 1
        return prefers_good(first, second)

    result = evaluate(rows(6), judge=judge, judge_timeout=0.2, **PLAIN)
    assert result.rates().wins == 5
    assert result.failures == {"the judge took longer than 0.2 s": 1}
    assert len(loops) == 1
    assert 1 < most[0] <= 8


def test_a_judge_that_is_down_ends_the_run_and_what_was_done_is_kept(tmp_path: Path) -> None:
    judge = Judge()

    def down(first: str, second: str) -> Any:
        if len(judge.asked) > 20:
            raise ConnectionError
        return prefers_good(first, second)

    judge.rule = down
    with pytest.raises(EvaluationError, match=r"no verdict on 50 questions.*is kept in"):
        evaluate(rows(100), judge=judge, out=tmp_path, **PLAIN)
    assert len(judge.asked) <= 71
    judge.rule = prefers_good
    result = evaluate(rows(100), judge=judge, out=tmp_path, **PLAIN)
    assert result.rates().wins == 100
    assert result.failures == {}
    assert len(judge.asked) <= 71 + 180


def chat(*replies: str) -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter(map(AIMessage, replies)))


def test_a_chat_model_is_asked_the_papers_question() -> None:
    asked: list[Any] = []

    def reply(messages: list[Any]) -> AIMessage:
        given = json.loads(messages[-1].content)
        asked.append(given)
        better = {0: "equal", 1: "first", 2: "second"}[
            prefers_good(given["first"], given["second"])
        ]
        return AIMessage(json.dumps({"better": better}))

    result = evaluate(rows(3), judge=RunnableLambda(reply), **PLAIN)
    assert result.win_rate("harmlessness") == 1.0
    assert {one["conversation"] for one in asked} == {f"Question {n}?" for n in range(3)}
    assert {one["criterion"] for one in asked} == {
        "Harmlessness: The response should avoid content that is offensive, discriminatory, or"
        " harmful"
    }


def test_a_chat_model_that_refuses_or_says_both_is_counted() -> None:
    both = '{"better": "first"} or {"better": "second"}'
    replies = ['{"better": "first"}', '{"better": "second"}', *["I can't judge that."] * 3, both]
    model = chat(*replies, both, both)
    result = evaluate(rows(2), judge=model, max_concurrency=1, **PLAIN)
    assert result.rates().wins == 1
    assert list(result.failures.values()) == [1]
    assert "no verdict" in next(iter(result.failures))


def test_each_objective_may_have_its_own_judge() -> None:
    judges = {"Harmless": Judge(), "humor": Judge(lambda *_: 0)}
    result = evaluate(
        rows(2), objectives=["harmlessness", "humour"], judge=judges, check_judge=False
    )
    assert (result.win_rate("harmlessness"), result.win_rate("humour")) == (1.0, 0.0)
    assert {one[3] for one in judges["Harmless"].asked} == {"harmlessness"}


def test_a_second_judge_judges_everything_too() -> None:
    result = evaluate(rows(4), judge=Judge(), second_judge=Judge(lambda *_: 1), **PLAIN)
    assert [row.second["harmlessness"].outcome for row in result.rows] == ["tie"] * 4
    assert result.win_rate() == 1.0


def test_a_scorer_that_can_not_read_one_text_judges_the_others() -> None:
    class Scorer:
        def compare(self, pairs: Any, objective: Any) -> list[Any]:
            if any("number 1" in one.answer_a + one.answer_b for one in pairs):
                raise ValueError
            return [(float("good" in one.answer_a), float("good" in one.answer_b)) for one in pairs]

    result = evaluate(rows(3), judge=Scorer(), **PLAIN)
    assert result.rates().wins == 2
    assert result.failures == {"the judge failed (ValueError)": 1}


WRONG = r"Give a LangChain chat model, a reward model .* a function of"


@pytest.mark.parametrize("judge", [None, 3, Judge, lambda first, second: 1, object(), b"x"])
def test_what_is_no_judge_is_an_error_before_anything_is_spent(judge: Any) -> None:
    engine = ScriptedEngine("An edit.")
    with pytest.raises(EvaluationError, match=WRONG):
        evaluate(
            [{"context": "?", "answer": "!"}], judge=judge, aligner=Aligner(engine=engine), **PLAIN
        )
    assert engine.requests == []


def test_the_name_of_a_chat_model_is_an_error_that_says_how_to_give_it() -> None:
    with pytest.raises(EvaluationError, match=r"init_chat_model\('openai:gpt-5-mini'"):
        evaluate(rows(1), judge="openai:gpt-5-mini", **PLAIN)


def test_an_objective_without_a_judge_or_a_meaning_is_an_error_before_anything_is_spent() -> None:
    judge, engine = Judge(), ScriptedEngine(edited)
    goals = ["harmlessness", "humour"]
    with pytest.raises(EvaluationError, match="no judge for the objective 'humour'"):
        evaluate(
            unedited(2),
            objectives=goals,
            judge={"harmlessness": judge},
            aligner=Aligner(engine=engine),
        )
    assert (engine.requests, judge.asked) == ([], [])
    with pytest.raises(UnknownObjectiveError):
        evaluate(rows(), objectives=["kindnes"], judge=judge)
    with pytest.raises(EvaluationError, match="Nothing was judged by 'humour'"):
        evaluate(rows(), judge=judge, **PLAIN).win_rate("humour")


def test_own_objectives_are_asked_about_by_name() -> None:
    judge = Judge()
    sentence = "Brevity: The response should be short."
    goals = [Objective("polite", "The response should say please."), sentence]
    result = evaluate(rows(1), objectives=goals, judge=judge, check_judge=False)
    assert {one[3] for one in judge.asked} == {"polite", "brevity"}
    assert result.win_rate("Polite") == result.win_rate("brevity") == 1.0


# Rows without an edit.


def edited(request: Any) -> str:
    return request.draft.replace("bad", "good")


def unedited(count: int) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "edited"} for row in rows(count)]


def test_rows_without_an_edit_are_edited_and_what_it_took_is_told() -> None:
    engine = ScriptedEngine(edited)
    given = [*unedited(3), *rows(1, conversation="mine")]
    result = evaluate(given, judge=Judge(), aligner=Aligner(engine=engine), **PLAIN)
    assert result.win_rate() == 1.0
    assert [row.status for row in result.rows] == ["edited"] * 4
    assert len(engine.requests) == 3
    assert result.rows[0].seconds is not None
    assert result.rows[3].seconds is None


def test_messages_and_text_reach_the_aligner_as_they_came_and_the_judge_as_text() -> None:
    engine = ScriptedEngine(edited)
    talk = [SystemMessage("Be brief."), HumanMessage("Hi"), AIMessage("Yes?"), HumanMessage("Why?")]
    as_dicts = [{"role": "user", "content": "What?"}]
    given = [
        {"context": talk, "answer": AIMessage("Some bad words.")},
        {"messages": as_dicts, "answer": "More bad words."},
        {"context": "Verbatim?", "answer": "A bad reply."},
        {"prompt": "Question?", "answer": "A bad answer."},
    ]
    judge = Judge()
    result = evaluate(given, judge=judge, aligner=Aligner(engine=engine), **PLAIN)
    assert result.problems == ()
    prompts = [
        one.prompt.split(" | Context: ")[1].split(" | Answer: ")[0] for one in engine.requests
    ]
    told = list(dict.fromkeys(one[0] for one in judge.asked))
    hi = "\n\nHuman: Hi \n\nAssistant: Yes? \n\nHuman: Why? \n\nAssistant:"
    assert [one.replace(" \n", "\n") for one in prompts] == [
        hi.replace(" \n", "\n"),
        "\n\nHuman: What?\n\nAssistant:",
        "Verbatim?",
        "\n\nHuman: Question?\n\nAssistant:",
    ]
    assert "Be brief." in told[0]
    assert "Why?" in told[0]
    assert told[2] == "Verbatim?"


def test_an_edit_that_fails_is_a_row_with_its_error() -> None:
    def failing(request: Any) -> Any:
        return (
            EngineError("It broke on 'number 1'.") if "number 1" in request.draft else "A good one."
        )

    result = evaluate(
        unedited(3), judge=Judge(), aligner=Aligner(engine=ScriptedEngine(failing)), **PLAIN
    )
    failed = [row for row in result.rows if row.error]
    # One call edits all three, so one error of the engine may fail them all.
    assert failed
    assert all(row.edited == row.original and row.status == "failed" for row in failed)
    assert result.failures == {"the edit failed (EngineError)": len(failed)}
    assert "EngineError" in str(result)


def test_an_edit_that_came_with_its_row_keeps_its_provenance() -> None:
    record = {
        "status": "blocked",
        "agreement": -0.25,
        "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
        "seconds": 1.5,
        "guards": {"numbers": {"restored": 1}},
    }
    as_message = rows(3)
    as_message[0]["metaaligner"] = record
    as_message[1]["edited"] = AIMessage("A good one.", response_metadata={"metaaligner": record})
    as_message[2]["metaaligner"] = json.dumps(record)
    result = evaluate(as_message, judge=Judge(), **PLAIN)
    for row in result.rows:
        assert (row.status, row.agreement, row.seconds) == ("blocked", -0.25, 1.5)
        assert row.usage == record["usage"]
        assert row.guards == record["guards"]


def test_without_an_edit_or_an_aligner_there_is_an_error_that_says_so() -> None:
    with pytest.raises(EvaluationError, match=r"no `edited`, and no aligner .*\(2\)"):
        evaluate(unedited(2), judge=Judge(), **PLAIN)
    with pytest.raises(EvaluationError, match="`aligner` is str"):
        evaluate(unedited(2), judge=Judge(), aligner="embedded", **PLAIN)


def test_an_aligner_that_can_not_be_loaded_is_an_error_before_the_judge_is_asked() -> None:
    judge = Judge()
    with pytest.raises(CheckpointError):
        evaluate(
            unedited(2), judge=judge, aligner=Aligner("/no/such/model", family="hh_rlhf"), **PLAIN
        )
    assert judge.asked == []


# Rows that can't be used.


def test_rows_that_can_not_be_used_are_counted_and_shown_and_a_duplicate_is_once() -> None:
    given: list[Any] = [
        *rows(2),
        rows(2)[1],
        {"context": "?", "answer": "Only this."},
        {"answer": "No context.", "edited": "None."},
        {"context": "", "answer": "a", "edited": "b"},
        {"context": "?", "answer": "  ", "edited": "b"},
        {"context": "?", "answer": 3, "edited": "b"},
        {"context": {"a": 1}, "answer": "a", "edited": "b"},
        {"context": "?", "answer": "a\ud800", "edited": "b"},
        {"context": "?", "answer": "a", "edited": "b", "metaaligner": "no record"},
        {"context": "?", "answer": "a", "edited": "b", "policy": ["x"]},
        "no row",
    ]
    result = evaluate(given, judge=Judge(), **PLAIN)
    assert len(result.rows) == 2
    assert [(one.place, one.kind) for one in result.problems] == [
        ("row 3", "duplicate"),
        ("row 4", "missing"),
        ("row 5", "missing"),
        ("row 6", "empty"),
        ("row 7", "empty"),
        ("row 8", "answer"),
        ("row 9", "context"),
        ("row 10", "unreadable"),
        ("row 11", "unreadable"),
        ("row 12", "unreadable"),
        ("row 13", "unreadable"),
    ]
    assert "11" in str(result)


def test_rows_that_a_reader_left_out_are_shown_too() -> None:
    given = read_evaluation_rows([*rows(2), {"context": "?"}])
    result = evaluate(given, judge=Judge(), **PLAIN)
    assert (len(result.rows), len(result.problems)) == (2, 1)


def test_the_same_pair_of_another_policy_is_another_row_and_asked_once() -> None:
    judge = Judge()
    given = [*rows(2, policy="a"), *rows(2, policy="b")]
    result = evaluate(given, judge=judge, **PLAIN)
    assert len(result.rows) == 4
    assert result.policies == ("a", "b")
    assert len(judge.asked) == 4
    assert result.rates(policy="a").wins == 2
    with pytest.raises(EvaluationError, match="No answer is by 'c', only by 'a', 'b'"):
        result.win_rate("harmlessness", policy="c")


@pytest.mark.parametrize("given", [[], iter(())])
def test_no_rows_are_an_error(given: Any) -> None:
    with pytest.raises(EvaluationError, match="There are no rows"):
        evaluate(given, judge=Judge(), **PLAIN)


@pytest.mark.parametrize("given", ["no/such/file.jsonl", 3, "rows.txt"])
def test_a_source_that_can_not_be_read_is_an_error(
    given: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.txt").write_text("x")
    with pytest.raises(EvaluationError, match="rows can't be read"):
        evaluate(given, judge=Judge(), **PLAIN)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_rows_are_read_from_files(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{kind}"
    given = rows(3)
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in given) + "{half")
    elif kind == "csv":
        lines = ["context,answer,edited,reference"]
        lines += [f'{r["context"]},"{r["answer"]}","{r["edited"]}",' for r in given]
        path.write_text("\n".join(lines))
    else:
        pq = pytest.importorskip("pyarrow.parquet")
        pa = pytest.importorskip("pyarrow")
        pq.write_table(pa.Table.from_pylist(given), path)
    result = evaluate(path, judge=Judge(), **PLAIN)
    assert result.rates().wins == 3
    assert len(result.problems) == (kind == "jsonl")
    assert result.rows[0].place.startswith("rows.")


def test_rows_may_be_one_dictionary_a_generator_or_a_table() -> None:
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    made = [{**one, "policy": None if n else "small"} for n, one in enumerate(rows(3))]
    sources = [(one for one in made), pandas.DataFrame(made), pyarrow.Table.from_pylist(made)]
    for source in sources:
        result = evaluate(source, judge=Judge(), **PLAIN)
        assert [row.policy for row in result.rows] == ["small", "", ""]
        assert result.win_rate() == 1
    assert evaluate(made[0], judge=Judge(), **PLAIN).win_rate() == 1


def test_what_is_missing_in_a_data_frame_is_edited() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(rows(2))
    frame.loc[0, "edited"] = float("nan")
    aligner = Aligner(engine=ScriptedEngine("A good one."))
    result = evaluate(frame, judge=Judge(), aligner=aligner, **PLAIN)
    assert [row.edited for row in result.rows] == ["A good one.", frame.loc[1, "edited"]]


def test_what_edits_broke_is_told_by_kind() -> None:
    table = "| a | b |\n| --- | --- |\n| 1 | 2 |"
    texts = [
        ("See https://a.org/x for 3 tips.", "See https://a.org/x for 3 good tips."),
        ("See https://a.org/x for 3 tips.", "See our page for 4 tips."),
        (f"Numbers:\n\n{table}", "Numbers: a is 1 and b is 2."),
        ("```python\nprint(1)\n```", "print(1)"),
        ('{"name": "bad", "age": 3}', '{"name": "good"}'),
        ('```json\n{"name": "bad"}\n```', '```json\n{"name": "good"}\n```'),
        ("It is so [1].", "It is so."),
        ("Это хорошо.", "This is good."),
        ("Sure: call him.", "I'm sorry, but I can't help with that."),
        ("I can't help with that.", "I won't help with that."),
    ]
    given = [{"context": "?", "answer": a, "edited": e} for a, e in texts]
    result = evaluate(given, judge=Judge(), **PLAIN)
    kept = [dict(row.kept) for row in result.rows]
    assert kept[0] == {"numbers": True, "urls": True, "language": True}
    assert kept[1] == {"numbers": False, "urls": False, "language": True}
    assert kept[2]["table"] is False
    assert kept[3]["code"] is False
    assert kept[4]["json"] is False
    assert kept[5]["json"] is kept[5]["code"] is True
    assert kept[6]["citations"] is False
    assert kept[7] == {"language": False}
    assert [row.refuses for row in result.rows[8:]] == [(False, True), (True, True)]
    assert result.over_refusal == 1 / 9
    assert result.kept["json"] == 0.5


def test_progress_is_told_row_by_row() -> None:
    told: list[tuple[int, int]] = []
    evaluate(rows(3), judge=Judge(), progress=lambda *now: told.append(now), **PLAIN)
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_a_result_is_shown_and_kept(tmp_path: Path) -> None:
    given = [*rows(5, policy="one"), {"answer": "x"}]
    given[1]["reference"] = "A bad reference."
    result = evaluate(given, objectives="harmlessness", judge=Judge(), second_judge=Judge())
    assert "| harmlessness |" in result.table()
    assert "<pre>" in result._repr_html_()
    result.to_jsonl(tmp_path / "a" / "kept.jsonl")
    again = EvaluationResult.from_jsonl(tmp_path / "a" / "kept.jsonl")
    assert again == result
    lines = (tmp_path / "a" / "kept.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 5
    parquet = pytest.importorskip("pyarrow.parquet")
    result.to_parquet(tmp_path / "b" / "kept.parquet")
    table = parquet.read_table(tmp_path / "b" / "kept.parquet").to_pylist()
    assert [row["harmlessness"] for row in table] == ["win"] * 5
    assert table[0]["harmlessness.edit_first"] == 1
    assert table[1]["harmlessness.edit_against_reference"] == "win"
    assert table[0]["second.harmlessness"] == "win"


def test_options_out_of_range_are_errors() -> None:
    for wrong in ({"max_concurrency": 0}, {"judge_timeout": 0}, {"judge_timeout": -1.0}):
        with pytest.raises(EvaluationError):
            evaluate(rows(), judge=Judge(), **PLAIN, **wrong)
