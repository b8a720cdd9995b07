"""Work that nobody waits for any more ends with the step under way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from tests.unit_tests.integrations.middleware.parts import ASKED, Engine, agent_of, final

CONFIG = {"configurable": {"thread_id": "1"}}
WAIT = 30


class Endless(Engine):
    """Makes words for as long as it is asked for more."""

    most = 10**9

    def stream(self, request: Any) -> Iterator[str]:
        self.running += 1
        self.freed.clear()
        try:
            for step in range(self.most):
                self.steps += 1
                self.stepped.set()
                yield f" word{step}"
        finally:
            self.running -= 1
            self.freed.set()


@pytest.mark.parametrize("mode", ["messages", "values"])
async def test_cancelling_a_task_that_reads_an_agent_stops_the_engine(mode: str):
    engine = Endless()
    agent = agent_of(final(), engine=engine)

    async def read() -> None:
        async for _ in agent.astream(ASKED, stream_mode=mode):
            pass

    task = asyncio.create_task(read())
    assert await asyncio.to_thread(engine.stepped.wait, WAIT)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await asyncio.to_thread(engine.freed.wait, WAIT)
    assert engine.running == 0


async def test_closing_the_stream_of_an_agent_stops_the_engine_and_nothing_is_half_stored():
    engine = Endless()
    agent = agent_of(final(), engine=engine, checkpointer=InMemorySaver())
    stream = agent.astream(ASKED, CONFIG, stream_mode="messages")
    await anext(stream)
    await stream.aclose()

    assert await asyncio.to_thread(engine.freed.wait, WAIT)
    assert engine.running == 0
    kept = await agent.aget_state(CONFIG)
    assert [one.text for one in kept.values["messages"]] == ["What now?"]
    assert "word0" not in repr([one async for one in agent.aget_state_history(CONFIG)])


async def test_a_consumer_that_stops_reading_stops_the_engine():
    engine = Endless()
    async for _ in agent_of(final(), engine=engine).astream(ASKED, stream_mode="messages"):
        break

    assert await asyncio.to_thread(engine.freed.wait, WAIT)
    assert engine.running == 0


async def test_closing_a_stream_of_events_stops_the_engine():
    engine = Endless()
    stream = agent_of(final(), engine=engine).astream_events(ASKED, version="v2")
    async for event in stream:
        if event["event"] == "on_chat_model_stream" and "word3" in repr(event["data"]):
            break
    await stream.aclose()

    assert await asyncio.to_thread(engine.freed.wait, WAIT)
    assert engine.running == 0


@pytest.mark.parametrize("mode", ["messages", "values"])
async def test_a_graph_whose_time_is_up_stops_the_engine(mode: str):
    engine = Endless()
    agent = agent_of(final(), engine=engine)
    agent.step_timeout = 0.1
    with pytest.raises(TimeoutError):
        async for _ in agent.astream(ASKED, stream_mode=mode):
            pass

    assert await asyncio.to_thread(engine.freed.wait, WAIT)
    assert engine.running == 0


async def test_the_next_run_of_an_agent_works_after_one_was_closed():
    engine = Endless()
    agent = agent_of(final(), engine=engine)
    stream = agent.astream(ASKED, stream_mode="messages")
    await anext(stream)
    await stream.aclose()
    engine.most = 3

    state = await agent.ainvoke(ASKED)
    assert state["messages"][-1].text == " word0 word1 word2"
