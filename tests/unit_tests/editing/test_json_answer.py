"""A reply that is JSON as a whole is edited text by text, and stays JSON of the same shape."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_metaaligner import (
    AnswerTooLongError,
    Context,
    Edit,
    EngineError,
    MetaAlignerRunnable,
)
from langchain_metaaligner.editing.json_answer import may_be_json, read_json
from langchain_metaaligner.engines.base import TokenAgreement
from tests.unit_tests.scripted import ScriptedEngine, aligner_of

WHY = (Context("why?"), ["harmlessness"])


def edited(answer: str, reply: Any = lambda request: f"{request.draft} 'ö\"\n") -> Any:
    aligner = aligner_of(ScriptedEngine(reply))
    record = aligner.align(WHY[0], answer, WHY[1])
    assert "".join(aligner.stream(WHY[0], answer, WHY[1])) == record.text
    return record


def each(data: Any, change: Any) -> Any:
    """The data with each of its texts changed."""
    if isinstance(data, str):
        return change(data) if data.strip() else data
    if isinstance(data, list):
        return [each(one, change) for one in data]
    if isinstance(data, dict):
        return {key: each(one, change) for key, one in data.items()}
    return data


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
DATA = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
).filter(lambda one: isinstance(one, list | dict))


def writings(data: Any) -> list[str]:
    return [
        json.dumps(data),
        json.dumps(data, ensure_ascii=False, indent=2),
        json.dumps(data, separators=(",", ":")),
        f"```json\n{json.dumps(data, indent=1)}\n```",
        f" \n~~~~\n{json.dumps(data)}~~~~\n",
    ]


@given(DATA, st.integers(0, 4))
def test_every_text_is_edited_and_the_shape_stays(data: Any, way: int) -> None:
    answer = writings(data)[way]
    record = edited(answer, lambda request: f"<{request.draft[::-1]}>")
    body = record.text.strip(" \n`~").removeprefix("json\n")
    assert json.loads(body) == each(data, lambda text: f"<{text[::-1]}>")
    assert record.original == answer
    assert "".join(text for op, text in record.diff() if op != "insert") == answer


@given(DATA, st.integers(0, 4))
def test_texts_that_no_edit_changes_keep_every_byte(data: Any, way: int) -> None:
    answer = writings(data)[way].replace("/", "\\/")
    record = edited(answer, lambda request: request.draft)
    assert record.text == answer
    assert record.status in ("unchanged", "skipped")


def test_what_an_edit_begins_with_stays_as_it_is_written() -> None:
    answer = '["one \\/ and \\u0074wo \\/ and more"]'
    assert edited(answer, lambda request: request.draft).text == answer
    change = edited(answer, lambda request: request.draft.replace("more", "less"))
    assert change.text == answer.replace("more", "less")


def test_an_edit_is_written_as_the_answer_writes_its_texts() -> None:
    assert edited('{"a": "caf\\u00e9 x"}').text == '{"a": "caf\\u00e9 x \'\\u00f6\\"\\n"}'
    assert edited('{"a": "café x"}').text == '{"a": "café x \'ö\\"\\n"}'


def test_each_text_is_a_request_of_its_own_and_keys_and_numbers_are_none() -> None:
    engine = ScriptedEngine("new")
    answer = '{"title": "one", "n": [1, " ", {"title": "two"}], "title": "one"}'
    record = aligner_of(engine).align(WHY[0], answer, WHY[1])
    assert [request.draft for request in engine.requests] == ["one", "two", "one"]
    assert record.text == '{"title": "new", "n": [1, " ", {"title": "new"}], "title": "new"}'


@pytest.mark.parametrize(
    "answer",
    ['"text"', "text", "{text}", '{"a": "b"', '{"a": "b"} so', '```\n{"a": "b"}', "[1] Zorp", "7"],
)
def test_anything_else_is_prose(answer: str) -> None:
    assert read_json(answer) is None
    assert edited(answer, "prose").text == "prose"


def test_several_objects_in_a_row_are_json_too() -> None:
    assert edited('{"a": "b"}\n{"a": "c"}\n', "d").text == '{"a": "d"}\n{"a": "d"}\n'


@pytest.mark.parametrize("answer", ["{}", "[1, 2]", '{"a": " "}'])
def test_json_without_text_is_skipped_and_says_so(answer: str) -> None:
    record = edited(answer)
    assert (record.status, record.text) == ("skipped", answer)
    aligner = MetaAlignerRunnable(engine=ScriptedEngine())
    from langchain_core.messages import AIMessage

    reply = aligner.invoke(AIMessage(answer), {"configurable": {"context": WHY[0]}})
    assert reply.response_metadata["metaaligner"]["reason"] == "JSON without text"


def test_a_text_without_an_edit_fails_the_whole_answer() -> None:
    with pytest.raises(EngineError):
        edited('["a", "b"]', lambda request: "" if request.draft == "b" else "new")


def test_agreement_is_told_by_its_place_in_the_answer() -> None:
    def reply(request: Any) -> Edit:
        tokens = (TokenAgreement(0, 2, -1.0), TokenAgreement(2, len(request.draft), -2.0))
        return Edit(request.draft, token_agreement=tokens)

    answer = '["\\u00e9\\ud83d\\ude00 x", "yes"]'
    agreement = edited(answer, reply).token_agreement
    said = [answer[one.start : one.end] for one in agreement]
    assert said == ["\\u00e9\\ud83d\\ude00", " x", "ye", "s"]


def test_deep_and_long_json_takes_no_long_time() -> None:
    started = time.process_time()
    deep = "[" * 50_000 + '"zorp"' + "]" * 50_000
    assert edited(deep, "new").text == deep.replace("zorp", "new")
    assert read_json("[" * 50_000 + 'zorp "quib"' + "]" * 50_000) is None
    long = json.dumps({"a": 'w"ord ' * 50_000})
    assert edited(long, lambda request: request.draft).text == long
    assert read_json('{"a": ' + "9" * 100_000 + ', "b": "c"}') is not None
    assert time.process_time() - started < 5


@given(
    st.text('{}[]"`~ \n\t:,a1', max_size=12),
    st.sampled_from(["", " ", "\n\t", "```json\n", "~~~\n", " ``` "]),
    st.sampled_from(["{}", '{"a": "b"}', "[]", '["x"]', "a", ""]),
)
def test_what_does_not_begin_as_json_is_none(text, before, body):
    for answer in (text, f"{before}{body}", f"{before}{body}\n{before.strip().rstrip('json')}"):
        assert may_be_json(answer) or read_json(answer) is None


@pytest.mark.parametrize("count", [1000, 1001, 300_000])
def test_json_with_more_texts_than_anybody_edits_one_by_one_is_too_long(count: int) -> None:
    engine = ScriptedEngine()
    answer = json.dumps(["word"] * count)
    if count == 1000:
        assert aligner_of(engine).align("Hi", answer, "humour").original == answer
        return
    with pytest.raises(AnswerTooLongError, match=r"JSON with more than 1,000 texts"):
        aligner_of(engine).align("Hi", answer, "humour")
    assert not engine.requests
