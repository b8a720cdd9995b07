"""A model that has edited in one process edits in its forks, and rests when the process ends."""

from __future__ import annotations

import asyncio
import threading

import pytest

from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.errors import EngineError
from tests.unit_tests.engines.test_processes import in_child

SHORT = Request("the answer | Edit: ", max_new_tokens=4)


def test_a_child_edits_with_the_parents_weights_in_threads_and_tasks(engine):
    async def tasks():
        (edit,) = await engine.aedit([SHORT])
        return edit.text, "".join([piece async for piece in engine.astream(SHORT)])

    text = engine.edit([SHORT])[0].text
    assert asyncio.run(tasks()) == (text, text)
    assert in_child(lambda: (engine.edit([SHORT])[0].text, *asyncio.run(tasks()))) == str(
        (text, text, text)
    )


def test_a_child_that_is_forked_during_a_pass_edits_and_so_does_its_parent(engine, passes):
    alone = engine.edit([SHORT])[0].text
    passes.gate.clear()
    passes.began.clear()
    made = []
    other = threading.Thread(target=lambda: made.extend(engine.edit([SHORT])))
    other.start()
    assert passes.began.wait(30)
    threading.Timer(0.05, passes.gate.set).start()
    assert in_child(lambda: asyncio.run(engine.aedit([SHORT]))[0].text) == alone
    other.join()
    assert made[0].text == alone


def test_when_the_process_ends_the_running_pass_is_the_last(engine, passes):
    scheduler = engine.scheduler
    passes.gate.clear()
    passes.began.clear()
    failed = []

    def edit():
        try:
            engine.edit([Request("hello world | Edit: ", max_new_tokens=200)])
        except BaseException as error:
            failed.append(error)

    caller = threading.Thread(target=edit)
    caller.start()
    assert passes.began.wait(30)
    scheduler.end()
    passes.gate.set()
    scheduler.join()
    caller.join(30)
    assert not scheduler.stats.has_thread
    assert passes.count == 1
    assert failed
    with pytest.raises(EngineError, match="ending"):
        engine.edit([SHORT])


def test_a_task_whose_loop_was_closed_gives_its_place_back(engine, passes):
    passes.gate.clear()
    passes.began.clear()
    loop = asyncio.new_event_loop()
    task = loop.create_task(engine.aedit([Request("hello world | Edit: ", max_new_tokens=200)]))
    loop.run_until_complete(asyncio.sleep(0))
    while not passes.began.is_set():
        loop.run_until_complete(asyncio.sleep(0.001))
    loop.close()
    passes.gate.set()
    assert engine.edit([SHORT])[0].passes == 4
    assert engine.stats.calls == 0
    assert passes.count <= 1 + 4
    task._log_destroy_pending = False
