"""Each way in which a server or the way to it can fail ends in an edit or an error of ours."""

from __future__ import annotations

import os
import threading
import time
import traceback

import pytest

from langchain_metaaligner import (
    Aligner,
    EngineError,
    MetaAlignerError,
    OverloadedError,
    load_engine,
)
from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.engines.completions import http_client
from langchain_metaaligner.errors import may_repeat
from tests.unit_tests.engines.completions.fake_server import REPLY

pytest.importorskip("openai")
pytestmark = pytest.mark.enable_socket

NAME = "MetaAligner-HH-RLHF-7B"
SAID = "My secret is the word Rumpelstilzchen. "
ASKED = ([("human", SAID)], "It is bad now. ", ["harmlessness"])
PASSING = ["429", "500", "502", "503", "reset", "half", "garbage", "in band", "no choices", "abort"]
LASTING = ["400", "404", "422", "html", "401"]


@pytest.fixture
def server(start):
    return start("llama", (NAME,))


@pytest.fixture
def aligner(server):
    with_deadline = Aligner(server.url, timeout=20.0).load()
    yield with_deadline
    with_deadline.close()


@pytest.mark.parametrize("fault", PASSING)
def test_a_failure_that_passes_is_tried_again_and_nothing_is_lost_or_doubled(
    fault, server, aligner
):
    server.faults.append(fault)
    made = aligner.align_batch([ASKED] * 3)
    assert [one.text for one in made] == [REPLY] * 3
    assert len(server.bodies()) == 4


@pytest.mark.parametrize("fault", [*PASSING, *LASTING, "list"])
def test_a_failure_that_stays_is_an_error_that_quotes_nothing(fault, server, aligner):
    server.faults.extend([fault] * 20)
    with pytest.raises(MetaAlignerError) as raised:
        aligner.align(*ASKED)
    assert may_repeat(raised.value) == (fault not in LASTING)
    told = "".join(traceback.format_exception(raised.value))
    assert "Rumpelstilzchen" not in told
    assert isinstance(raised.value, OverloadedError) == (fault in ("429", "503"))
    assert len(server.bodies()) <= 6
    if fault in LASTING:
        assert len(server.bodies()) == 1


def test_what_the_server_quotes_of_a_prompt_is_cut(server):
    engine = load_engine(server.url)
    server.faults.append("400")
    with pytest.raises(EngineError, match="status 400: trouble with") as raised:
        engine.edit([Request(f"Context: {SAID} | Edit: ", SAID)])
    assert "Rumpelstilzchen" not in str(raised.value)
    engine.close()


@pytest.mark.parametrize("fault", sorted({*PASSING} - {"half", "abort"}))
def test_a_stream_that_fails_before_its_first_word_is_tried_again(fault, server, aligner):
    server.faults.append(fault)
    assert "".join(aligner.stream(*ASKED)) == REPLY


def test_half_a_stream_is_an_error_after_its_words(server, aligner):
    server.faults.append("half")
    words: list[str] = []
    with pytest.raises(EngineError) as raised:
        words.extend(aligner.stream(*ASKED))
    assert words == ["It ", "is "]
    assert "Rumpelstilzchen" not in str(raised.value)
    assert len(server.bodies()) == 1


def test_the_server_says_when_to_come_again(server, aligner):
    server.faults.append("429:0.3")
    begun = time.monotonic()
    assert aligner.align(*ASKED).text == REPLY
    assert time.monotonic() - begun >= 0.3


def test_nobody_waits_for_a_server_longer_than_the_deadline(server, aligner):
    server.faults.extend(["429:55"] * 3)
    begun = time.monotonic()
    with pytest.raises(OverloadedError, match="429"):
        aligner.align(*ASKED)
    assert time.monotonic() - begun < 5
    assert len(server.bodies()) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Fri, 01 Jan 2021 00:00:00 GMT"}, 0.0),
        ({"retry-after": "Fri, 01 Jan 2100 00:00:00 GMT"}, 60.0),
        ({"retry-after": "1e9"}, 60.0),
        ({"retry-after": "nan"}, 60.0),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_a_wait_may_be_written_in_each_way(headers, seconds):
    assert http_client._asked_for(headers) == seconds


def test_a_server_that_is_down_is_an_error_at_once_that_may_pass(start):
    server = start("vllm")
    server.close()
    begun = time.monotonic()
    with pytest.raises(EngineError, match=f"{server.port}/v1 failed") as raised:
        Aligner(server.url).load()
    assert raised.value.retryable
    assert time.monotonic() - begun < 5


def test_a_server_that_is_starting_is_waited_for(start):
    server = start("llama", (NAME,))
    server.pages["/v1/models"] = 503
    one = Aligner(server.url)
    threading.Timer(0.05, server.pages.clear).start()
    assert one.align(*ASKED).text == REPLY
    one.close()


def test_a_forked_process_has_connections_of_its_own(server, aligner):
    assert aligner.align(*ASKED).text == REPLY
    child = os.fork()
    if not child:
        status = 1
        try:
            status = int(aligner.align(*ASKED).text != REPLY)
        finally:
            os._exit(status)
    assert aligner.align(*ASKED).text == REPLY
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
