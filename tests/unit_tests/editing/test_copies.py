"""Copies of a text that was changed are found wherever they are, and nothing else is."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from langchain_metaaligner.editing.copies import GONE, Copies

# Words of the text before the edit, and words that are in no text.
OLD = ["Zorp", "quib", "flum", "drax", "vosk"]
OTHER = ["stop", "gpt-x", "default", "us-east-1", "fp_1", "n'a", "10%"]

PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        st.sampled_from([*OTHER, OLD[0]]),
        st.lists(st.sampled_from(OTHER), max_size=3).map(" ".join),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["a", "b", "stop_reason", "z y"]), inner, max_size=3),
    ),
    max_leaves=8,
)


@dataclass
class Said:
    body: Any


class Parsed(BaseModel):
    body: Any


def in_pieces(text: str) -> list[str]:
    return [text[start : start + 3] for start in range(0, len(text), 3)]


# Each holds a copy of a text of several words, in the form of some provider or of none.
FORMS: dict[str, Any] = {
    "whole": lambda text: text,
    "in a sentence": "He said: {}, and left.".format,
    "in lower case": str.lower,
    "with other spaces": lambda text: text.replace(" ", "\n\n"),
    "in JSON": lambda text: json.dumps({"choices": [{"text": text.replace(" ", "\n")}]}),
    "in a query": lambda text: f"https://a.example/?q={text.replace(' ', '%20')}",
    "in HTML": lambda text: f"<p>{text.replace(' ', '&nbsp;')}</p>",
    "as words": str.split,
    "as tokens": in_pieces,
    "as tokens with odds": lambda text: [{"t": one, "p": -0.1} for one in in_pieces(text)],
    "as pairs of token and id": lambda text: [[one] for one in in_pieces(text)],
    "as tokens and odds": lambda text: [(one, -0.1) for one in in_pieces(text)],
    "as tokens with their marks": lambda text: [f"\u0120{one}" for one in text.split()],
    "as parts of words": lambda text: [
        part for word in text.split() for part in (word[:2], f"##{word[2:]}")
    ],
    "as keys with odds": lambda text: {f" {one}": -0.1 for one in text.split()},
    "as keys that look like names": lambda text: dict.fromkeys(text.split(), -0.1),
    "as what is likeliest": lambda text: [{"so": -3.0, one: -0.1} for one in text.split()],
    "as what is told first": lambda text: [{one: {"p": 1}, "so": {}} for one in text.split()],
    "by place": lambda text: {str(place): one for place, one in enumerate(text.split())},
    "as tokens in JSON": lambda text: json.dumps([{"t": one} for one in in_pieces(text)]),
    "in a record": lambda text: "".join(f'data: {{"t": "{one}"}}\n' for one in in_pieces(text)),
    "in a record of events": lambda text: "".join(
        f'event: delta\ndata: {{"t": "{one}"}}\n\n' for one in in_pieces(text)
    ),
    "in an indented record": lambda text: "\n".join(
        f' \n  {{"t": "{one}"}}' for one in in_pieces(text)
    ),
    "in values without a line": lambda text: "".join(
        json.dumps({"t": f"{one}\u2028"}, ensure_ascii=False) for one in text.split()
    ),
    "in events without JSON": lambda text: "".join(
        f"data: {one}\n\n" for one in [*in_pieces(text), "[DONE]"]
    ),
    "in a record with kinds": lambda text: "".join(
        f"0:{json.dumps(one)}\n" for one in in_pieces(text)
    ),
    "in one string of tokens": lambda text: "\u0120".join(["", *text.split()]),
    "as a slug": lambda text: text.replace(" ", "_"),
    "in Markdown": lambda text: " ".join(f"_{one}_" for one in text.split()),
    "in a path": lambda text: f"https://a.example/{text.replace(' ', '%20')}.mp3",
    "as keys of a list": lambda text: [{f" {one}": -0.1} for one in text.split()],
    "as chunks": lambda text: [
        {"choices": [{"delta": {"t": one}}], "n": 1} for one in in_pieces(text)
    ],
    "as objects": lambda text: [Said(one) for one in in_pieces(text)],
    "in tags": lambda text: "".join(f"<w>{one}</w>" for one in text.split()),
    "in a data address": lambda text: (
        f"data:text/plain;base64,{base64.urlsafe_b64encode(text.encode()).decode().rstrip('=')}"
    ),
    "as bytes": str.encode,
    "as numbers": lambda text: list(text.encode()),
    "as the bytes of tokens": lambda text: [{"b": list(one.encode())} for one in in_pieces(text)],
    "in an object": Said,
    "in a model": lambda text: Parsed(body=[{"x": text}]),
    "in a namespace": lambda text: SimpleNamespace(inner=Said(text)),
    "in an error": ValueError,
    "as Base64": lambda text: base64.b64encode(text.encode()).decode(),
    "as a key": lambda text: {text: 0.5},
    "in a tuple": lambda text: (text,),
}


def copies(edited: str = "All new words now") -> Copies:
    return Copies(" ".join(OLD), edited)


@given(
    PLAIN,
    st.sampled_from(sorted(FORMS)),
    st.integers(0, len(OLD) - 2),
    st.integers(2, len(OLD)),
    st.lists(st.sampled_from(["a", "raw", "x-y", "content"]), max_size=4),
)
def test_of_metadata_that_holds_a_copy_only_the_copy_goes(
    plain: Any, form: str, start: int, length: int, path: list[str]
) -> None:
    planted: Any = FORMS[form](" ".join(OLD[start : start + length]))
    expected: dict[str, Any] = {"plain": plain}
    for depth, key in enumerate(path):
        planted = {key: planted, "kept": 1}
        rest = {"kept": 1} if not depth else {key: expected["planted"], "kept": 1}
        expected["planted"] = rest
    assert copies().left_of({"plain": plain, "planted": planted}) == expected


@pytest.mark.parametrize("form", FORMS)
def test_a_copy_goes_whatever_its_form(form: str) -> None:
    said: Any = FORMS[form](" ".join(OLD))
    assert copies().left_of({"a": said, "b": [1, {"c": said}]}) == {"b": [1]}


@given(PLAIN)
def test_metadata_without_a_copy_stays_the_same_object(plain: Any) -> None:
    assert copies().left(plain) is plain


def test_numbers_with_names_that_stand_in_the_text_too_stay() -> None:
    counts = {"input": 1, "output": 2, "total": 3}
    for numbers in (counts, [counts, {**counts, "output": 5}]):
        assert Copies("Zorp: input output", "New").left_of({"a": numbers}) == {"a": numbers}


def test_a_token_that_looks_like_a_name_does_not_spare_the_others() -> None:
    code = Copies("def my_func here", "New")
    assert code.left({" de": -0.1, "f my": -0.1, "_func": -0.1}) is GONE
    assert code.left({"de": -0.1, "f": -0.2, "_my_func": -0.1, "here": -0.1}) is not GONE
    assert code.left({"def": -0.1, "my_func": -0.2}) is GONE
    assert code.left({"def": 5, "my": 9, "func": 7}) is GONE


@pytest.mark.parametrize(
    "counts",
    [
        {"prompt": 3, "completion": 5},
        {"queue": 0.1, "total": 0.5},
        {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
    ],
)
def test_counts_stay_though_the_text_names_them_in_a_row(counts: dict[str, Any]) -> None:
    found = Copies(f"The keys are {' '.join(counts)}.", "New")
    assert found.left_of({"usage": counts}) == {"usage": counts}


@pytest.mark.parametrize(
    "record",
    [
        {"context": ["faq.md"], "conversation_id": "c"},
        {"logprobs": {"top": 5}, "parsed": True, "id": "resp_1"},
        {"annotations": [{"start_index": 0, "end_index": 4}]},
        {"tokens": ["faq"], "text_offset": [0, 3]},
    ],
)
def test_of_a_record_only_a_copy_counts(record: Any) -> None:
    for written in (json.dumps(record), f"event: done\ndata: {json.dumps(record)}\n\n"):
        assert copies().left_of({"raw": written}) == {"raw": written}
        held = {"raw": written.replace("{", '{"said": "Zorp quib", ', 1)}
        assert copies().left_of(held) == {}


def test_the_text_as_the_numbers_of_its_tokens_goes_from_a_record_too() -> None:
    ids = {"output_token_ids": [5, 9000]}
    assert copies().left_of({"raw": json.dumps(ids), "n": 1}) == {"n": 1}
    read = {"context": ["faq.md", "rules.md"]}
    assert copies().left_of(read) == read


def test_what_the_edit_holds_too_is_no_copy() -> None:
    left = copies("Zorp quib flum, and all is well.").left_of({"a": "Zorp quib", "b": "drax vosk"})
    assert left == {"a": "Zorp quib"}


def test_a_change_of_punctuation_or_case_leaves_no_whole_copy() -> None:
    assert Copies("Zorp quib.", "Zorp quib!").left({"a": "Zorp quib."}) is GONE
    assert Copies("zorp quib", "ZORP QUIB").left({"a": "zorp quib"}) is GONE
    assert Copies("a b a", "b a b").left("a b a") is GONE


def test_a_copy_in_another_case_is_a_copy() -> None:
    assert Copies("Zorp Quib flum", "New").left_of({"a": "ZORP QUIB", "b": 1}) == {"b": 1}


@pytest.mark.parametrize("text", ["好的我明白了谢谢", "ขอบคุณมากครับผม"])
def test_a_script_without_spaces_has_copies_too(text: str) -> None:
    found = Copies(text, "Something else.")
    assert found.left({"a": f"«{text[:6]}»", "b": "好"}) == {"b": "好"}


def test_a_text_of_one_word_is_found_where_it_stands_alone() -> None:
    left = Copies("Certainly", "No").left_of({"a": "Certainly", "b": "Certainly not.", "c": "no"})
    assert left == {"b": "Certainly not.", "c": "no"}
    assert Copies("stop", "No").left_of({"finish_reason": "stop"}) == {"finish_reason": "stop"}


@pytest.mark.parametrize(
    "odds",
    [
        {"logprobs": {"content": [{"token": "Z"}]}},
        {"logprobs": {"tokens": ["Z"], "token_logprobs": [-1.0], "top_logprobs": [{"Z": -1.0}]}},
        {"logprobs_result": {"chosen_candidates": [{"token": "Z"}]}},
        {"top_logprobs": [{"Z": -1.0}]},
        {"token_ids": [5, 9000]},
        {"output_token_ids": [5, 9000]},
        {"context": [5, 9000]},
        {"parsed": {"a": "Z"}},
    ],
)
def test_what_says_each_token_goes_by_its_name(odds: Any) -> None:
    assert copies().left_of({**odds, "logprobs_used": True}) == {"logprobs_used": True}


NAMES = {
    "model_name": "Zorp-quib",
    "finish_reason": "drax-vosk",
    "id": "zorp.quib",
    "systemFingerprint": "fp_1",
    "messageId": "zorp.quib",
    "service_tier": "default",
    "url": "https://a.example/Zorp-quib",
    "sources": ["https://a.example/Zorp-quib"],
    "avg_logprobs": -0.5,
    "usage": {"tokens": {"input": 1.0}},
    "logprobs": None,
}


def test_names_addresses_and_numbers_stay() -> None:
    assert copies().left_of(NAMES) == NAMES


def test_a_copy_under_the_name_of_an_address_or_of_a_kind_goes() -> None:
    data = base64.b64encode(b"Zorp quib").decode()
    given = {"url": "https://a.example/?q=Zorp%20quib", "reason": "Zorp quib", "id": "1"}
    given.update(name=data, uri=f"data:text/plain;base64,{data}")
    assert copies().left_of(given) == {"id": "1"}
    assert Copies("好的我明白了谢谢", "New").left_of({"reason": "好的我明白了谢谢"}) == {}


def test_thoughts_and_tool_calls_stay_beside_an_edit() -> None:
    beside = {
        "reasoning_content": "Zorp quib",
        "reasoning": {"summary": [{"text": "Zorp quib"}]},
        "tool_calls": [{"function": {"arguments": '{"q": "Zorp quib"}'}}],
    }
    assert copies().left_of(beside) == beside


@pytest.mark.parametrize(
    "stored",
    [{"id": "resp_1"}, {"response_id": "x"}, {"conversation_id": "x"}, {"id": "interactions/x"}],
)
def test_the_way_back_to_the_stored_reply_goes(stored: Any) -> None:
    assert copies().left_of({**stored, "request_id": "req_1"}) == {"request_id": "req_1"}


def test_objects_that_contain_each_other_and_deep_nesting_come_to_an_end() -> None:
    one, other = SimpleNamespace(), SimpleNamespace(said="fine")
    one.other, other.one = other, one
    assert copies().left(one) is one
    other.said = "Zorp quib"
    assert copies().left({"x": one}) is GONE
    deep: Any = "Zorp quib"
    for _ in range(900):
        deep = [deep]
    assert copies().left_of({"a": deep, "b": 1}) == {"b": 1}


def test_the_search_is_linear() -> None:
    text = " ".join(f"word{number}" for number in range(100_000))
    found = Copies(text, text.upper())
    started = time.process_time()
    assert found.left({"a": text, "b": list(text.encode()), "c": "x " * 300_000}) == {
        "c": "x " * 300_000
    }
    assert time.process_time() - started < 5


@pytest.mark.parametrize("line", ["data: x\n", "data: ", '{"a": 1}', " ", '"a"\n', "x: [", "\n"])
def test_a_record_is_read_in_time_with_its_length(line: str) -> None:
    started = time.process_time()
    assert copies().left({"a": line * 20_000, "b": line}) == {"a": line * 20_000, "b": line}
    assert time.process_time() - started < 2
