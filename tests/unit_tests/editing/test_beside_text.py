"""What a person reads or hears beside the text of a reply has a reason for being left alone."""

from __future__ import annotations

import time

import pytest
from langchain_core.messages import AIMessage

from langchain_metaaligner.editing.beside_text import reason_beside_text, reason_without_text


def nested(block, depth):
    for _ in range(depth):
        block = {"type": "layer", "content": [block]}
    return block


PLAIN = {"mime_type": "text/plain"}


@pytest.mark.parametrize(
    ("content", "beside", "reason"),
    [
        ([{"type": "refusal", "refusal": "I refuse."}], {}, "refusal"),
        ([{"type": "non_standard", "value": {"type": "refusal", "refusal": "I"}}], {}, "refusal"),
        ("", {"refusal": "I refuse."}, "refusal"),
        ("", {"audio": {"id": "1", "transcript": "zorp"}}, "audio"),
        ([{"type": "audio", "base64": "AAAA", "transcript": "zorp"}], {}, "audio"),
        ([{"type": "audio", "url": "x", "extras": {"transcript": "zorp"}}], {}, "audio"),
        ([{"type": "card", "body": {"lines": ["zorp quib"]}}], {}, "block of type card"),
        ([{"refusal": "I refuse."}], {}, "refusal"),
        ([{"type": "json", "json": {"a": "zorp quib"}}], {}, "block of type json"),
        ([{"type": "card", "body": "好的我明白了"}], {}, "block of type card"),
        ([{"type": "text", "text": "", "content": "zorp quib"}], {}, "block of type text"),
        ([nested({"type": "text", "text": "zorp quib"}, 9)], {}, "block of type layer"),
        ([nested({"type": "text", "text": "zorp"}, 99)], {}, "block of type layer"),
        ([{"type": "image", "url": "x", "alt": "zorp quib"}], {}, "block of type image"),
        ([{"type": "video", "url": "x", "transcript": "zorp quib"}], {}, "block of type video"),
        ([{"type": "text-plain", "base64": "AAAA", **PLAIN}], {}, "block of type text-plain"),
        ([{"type": "file", "url": "data:text/csv,a%20b"}], {}, "block of type file"),
        ([{"type": "document", "source": {"data": "a", **PLAIN}}], {}, "block of type document"),
        ([{"type": "file", "url": "https://a.example/我的文件.pdf"}], {}, None),
        ([{"type": "file", "filename": "my own file.pdf", "base64": "AAAA"}], {}, None),
        ([{"type": "image", "url": "x"}, {"type": "thinking", "thinking": "a b"}], {}, None),
        ("", {"refusal": None, "reasoning_content": "a b"}, None),
    ],
)
def test_what_a_person_reads_or_hears_without_text_has_a_reason(content, beside, reason):
    assert reason_without_text(AIMessage(content, additional_kwargs=beside)) == reason
    # Beside a text that is edited, a recording goes.
    if content:
        message = AIMessage(["text", *content], additional_kwargs=beside)
        assert reason_beside_text(message) == reason


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ({"type": "card", "text": "a", "body": "zorp quib"}, "block of type card"),
        ({"type": "card", "text": "a", "content": [{"text": "zorp quib"}]}, "block of type card"),
        ({"type": "message", "content": ["a", {"type": "refusal", "refusal": "I do not."}]}, ...),
        ({"type": "message", "content": ["a", {"type": "thinking", "thinking": "a b"}]}, None),
        ({"type": "text", "text": "a b", "annotations": [{"title": "A b"}], "index": 0}, None),
        ({"type": "text", "text": {"value": "a b"}, "extras": {"signature": "S"}}, None),
        ({"type": "text-plain", "text": "a", **PLAIN}, None),
        ({"type": "text", "text": "a", "reasoning": "a b", "args": '{"a": "b"}'}, None),
        ({"type": "image", "url": "x", "extras": {"revised_prompt": "a b"}}, None),
    ],
)
def test_what_stands_beside_the_text_of_a_block_has_a_reason(block, reason):
    reason = "block of type message" if reason is ... else reason
    assert reason_beside_text(AIMessage([block])) == reason


def test_nothing_is_left_alone_of_a_refusal_that_is_text():
    refused = AIMessage(["a", {"type": "refusal", "refusal": "I refuse."}])
    assert reason_beside_text(refused, refusals=True) is None
    beside = AIMessage("a", additional_kwargs={"refusal": "I refuse."})
    assert (reason_beside_text(beside), reason_beside_text(beside, refusals=True)) == (
        "refusal",
        None,
    )


def test_a_picture_is_not_read_and_many_texts_in_a_block_are_looked_at_once() -> None:
    many = {"type": "message", "content": [{"type": "text", "text": "a b"}] * 20_000}
    picture = "iVBORw0KGgo" * 1_000_000
    blocks = [
        many,
        {"type": "image", "base64": picture},
        {"type": "image", "source": {"type": "base64", "data": picture}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
    ]
    started = time.process_time()
    assert reason_beside_text(AIMessage(blocks)) is None
    assert time.process_time() - started < 2
    card = {"type": "card", "data": "zorp quib"}
    assert reason_beside_text(AIMessage([card])) == "block of type card"
