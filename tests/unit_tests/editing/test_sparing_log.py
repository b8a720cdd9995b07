from __future__ import annotations

import copy
import logging
import pickle
import threading

import pytest

from langchain_metaaligner.editing import sparing_log
from langchain_metaaligner.editing.sparing_log import SparingLog

LOGGER = logging.getLogger(__name__)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(sparing_log.time, "monotonic", lambda: now[0])
    return now


def test_one_message_of_a_kind_is_logged_a_minute_with_a_count_of_the_others(clock, caplog):
    log = SparingLog(LOGGER)
    for place in range(1000):
        log.tell("a", f"a {place}")
    log.tell("b", "b 0")
    assert [one.getMessage() for one in caplog.records] == ["a 0", "b 0"]
    clock[0] += 60
    log.tell("a", "a later")
    log.tell("b", "b later", error=ValueError("why"))
    assert [one.getMessage() for one in caplog.records[2:]] == [
        "a later (999 more like this were not logged)",
        "b later",
    ]
    assert [one.levelname for one in caplog.records[2:]] == ["WARNING", "ERROR"]
    assert "ValueError: why" in caplog.text


def test_any_number_of_kinds_takes_little_memory():
    log = SparingLog(LOGGER)
    for place in range(5000):
        log.tell(str(place), "a message")
    assert len(log._kinds) <= sparing_log._KINDS


def test_threads_lose_no_count(clock, caplog):
    log = SparingLog(LOGGER)
    threads = [
        threading.Thread(target=lambda: [log.tell("a", "a") for _ in range(200)]) for _ in range(4)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    clock[0] += 61
    log.tell("a", "a")
    assert "(799 more like this were not logged)" in caplog.records[-1].getMessage()


def test_a_copy_logs_to_the_same_place(caplog):
    for again in (
        pickle.loads(pickle.dumps(SparingLog(LOGGER))),
        copy.deepcopy(SparingLog(LOGGER)),
    ):
        again.tell("a", "a copy")
    assert caplog.text.count("a copy") == 2
