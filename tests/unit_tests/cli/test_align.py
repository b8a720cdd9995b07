"""`metaaligner align`: from arguments, from stdin, and in a dialogue."""

from __future__ import annotations

import io
import json
from itertools import count, islice

import pytest
from rich.console import Console

from langchain_metaaligner import Aligner
from langchain_metaaligner.cli.dialogue import Dialogue
from langchain_metaaligner.cli.rows import read_rows
from langchain_metaaligner.testing import ScriptedEngine
from tests.unit_tests.cli.engines import ENGINE, kind

WITH = ("align", "--engine", ENGINE)


def test_into_a_pipe_the_edited_text_alone_is_written(metaaligner):
    done = metaaligner(*WITH, "-q", "May I?", "-a", "No,\nstupid.")
    assert (done.code, done.out, done.err) == (0, "No,\nkind.\n", "")


def test_json_has_the_texts_and_the_record(metaaligner):
    done = metaaligner(*WITH, "-q", "May I?", "-a", "stupid \ud800", "-o", "humour", "--json")
    record = json.loads(done.out)
    assert record["question"] == "May I?"
    assert record["edited"] == "kind \ud800"
    assert record["metaaligner"]["objectives"] == ["humour"]
    assert record["metaaligner"]["status"] == "edited"


@pytest.mark.parametrize("text", ['{"answer": "stupid"}', "two\n\nstupid lines", "[1]", "-"])
def test_the_missing_one_of_question_and_answer_is_read_word_for_word(metaaligner, text):
    done = metaaligner(*WITH, "-q", "May I?", stdin=f"{text}\n")
    assert done.out == text.replace("stupid", "kind") + "\n"
    metaaligner(*WITH, "-a", "No.", stdin=f"{text}\n")
    assert text in kind.requests[-1].prompt


ROWS = [
    {"question": "a?", "answer": "stupid a"},
    {"messages": [{"role": "user", "content": "b?"}, {"role": "assistant", "content": "stupid b"}]},
    {"context": "\n\nHuman: c?\n\nAssistant:", "answer": "stupid c", "id": 7},
]


@pytest.mark.parametrize(
    "written",
    [
        "\n".join(map(json.dumps, ROWS)),
        "\n\n".join(map(json.dumps, ROWS)) + "\n",
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
    ],
)
def test_rows_of_any_form_of_json_keep_their_columns(metaaligner, written):
    done = metaaligner(*WITH, "--json", stdin=written)
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [one["edited"] for one in found] == ["kind a", "kind b", "kind c"]
    assert found[2]["id"] == 7
    assert done.code == 0


def test_rows_that_fail_are_reported_and_the_others_are_done(metaaligner):
    rows = [ROWS[0], {"question": "?"}, 7, {"question": "?", "answer": "fail"}, ROWS[2]]
    lines = [*map(json.dumps, rows), "{"]
    done = metaaligner(*WITH, stdin="\n".join(lines))
    assert done.code == 4
    assert done.out == "kind a\nkind c\n"
    assert [line.partition(": Not edited: ")[0] for line in done.err.splitlines()] == ["error"] * 4
    assert "--dtype float32" in done.err
    record = json.loads(metaaligner(*WITH, "--json", stdin=lines[3]).out)
    assert record["edited"] is None
    assert record["error"].startswith("EngineError: ")


def test_where_every_row_fails_the_exit_code_is_that_of_an_error(metaaligner):
    assert metaaligner(*WITH, stdin='{"question": "?"}').code == 1


def test_rows_are_read_as_they_come():
    endless = (json.dumps({"question": "?", "answer": str(number)}) for number in count())
    assert [one.answer for one in islice(read_rows(endless), 3)] == ["0", "1", "2"]


@pytest.mark.parametrize("stdin", ["What is this?", "", b"\xff\xfe"])
def test_a_stdin_without_rows_says_what_is_expected(metaaligner, stdin):
    done = metaaligner(*WITH, stdin=stdin)
    assert done.code in (1, 2)
    assert done.out == ""
    assert len(done.err.splitlines()) == 1


def test_flags_reach_the_aligner(metaaligner):
    metaaligner(*WITH, "-q", "?", "-a", "stupid 1 2", "--max-new-tokens", 77, "--temperature", 0.5)
    assert (kind.requests[-1].max_new_tokens, kind.requests[-1].temperature) == (77, 0.5)


def dialogue(*lines: str, engine: ScriptedEngine = kind) -> str:
    """What a dialogue shows to somebody who writes these lines and then Ctrl-D."""
    left = iter(lines)

    def read(prompt: str) -> str:
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    out = io.StringIO()
    shown = Console(file=out, width=60)
    Dialogue(Aligner(engine=engine), ["humour"], out=shown, read=read).run()
    return out.getvalue()


def test_a_dialogue_goes_on_with_what_was_edited():
    shown = dialogue("May I?", "", "No, stupid.", "", "Why?", "", "Because.", "")
    assert "No, [-stupid-]{+kind+}." in shown
    assert "unchanged in" in shown
    turns = ["Human: May I?", "Assistant: No, kind.", "Human: Why?"]
    prompt = kind.requests[-1].prompt
    assert [prompt.index(turn) for turn in turns] == sorted(map(prompt.index, turns))


def test_a_text_in_marks_keeps_its_empty_lines():
    dialogue("", "One", "two", "", '"""', "First.", "", "Last, stupid.", '"""')
    assert kind.requests[-1].draft == "First.\n\nLast, stupid."
    assert "One\ntwo" in kind.requests[-1].prompt


def test_a_turn_that_fails_is_no_part_of_the_conversation(capsys):
    dialogue("Bad?", "", "fail", "", "Good?", "", "stupid", "")
    assert "error: The engine failed" in capsys.readouterr().err
    assert "Bad?" not in kind.requests[-1].prompt


def test_a_reply_can_do_nothing_to_the_terminal():
    shown = dialogue("?", "", "\x1b]0;title\x07 \x9b2J [bold]stupid[/bold] :smile:", "")
    assert "\N{SYMBOL FOR ESCAPE}]0;title\N{SYMBOL FOR BELL}" in shown
    assert "[bold]" in shown
    assert ":smile:" in shown
    assert not any(one in shown for one in "\x1b\x07\x9b")
