"""What a checkpointer keeps, over interrupts, resumptions and turns."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
from langchain.agents.middleware import AgentMiddleware, wrap_model_call
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from langchain_metaaligner import EngineError
from tests.unit_tests.integrations.middleware.parts import (
    ASKED,
    EDITED,
    RAW,
    Engine,
    Policy,
    agent_of,
    calls_tool,
    final,
)

CONFIG = {"configurable": {"thread_id": "1"}}
BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


async def run(agent: Any, given: Any, *, is_async: bool, how: str = "invoke") -> None:
    if how == "stream" and is_async:
        async for _ in agent.astream(given, CONFIG, stream_mode="messages"):
            pass
    elif how == "stream":
        list(agent.stream(given, CONFIG, stream_mode="messages"))
    elif is_async:
        await agent.ainvoke(given, CONFIG)
    else:
        agent.invoke(given, CONFIG)


@BOTH
@pytest.mark.parametrize("how", ["invoke", "stream"])
async def test_the_history_holds_the_edit_once_under_the_replys_id(how: str, is_async: bool):
    agent = agent_of(calls_tool(), final(id="r1"), checkpointer=InMemorySaver())
    await run(agent, ASKED, is_async=is_async, how=how)

    messages = agent.get_state(CONFIG).values["messages"]
    assert [(one.id, one.text) for one in messages if one.id == "r1"] == [("r1", EDITED)]
    history = repr(list(agent.get_state_history(CONFIG)))
    assert "rawword" not in history


@BOTH
async def test_the_next_turn_reads_what_the_user_read(is_async: bool):
    engine, policy = Engine(), Policy(replies=[final(id="r1"), final(id="r2")])
    agent = agent_of(policy=policy, engine=engine, checkpointer=InMemorySaver())
    await run(agent, ASKED, is_async=is_async)
    await run(agent, {"messages": [("human", "And then?")]}, is_async=is_async)

    assert EDITED in repr(policy.asked[1])
    assert "rawword" not in repr(policy.asked[1])
    context = engine.requests[1].prompt.split(" | Answer: ")[0]
    assert EDITED in context
    assert "rawword" not in context


@BOTH
async def test_an_interrupt_in_a_tool_and_its_resumption_end_in_one_edit(is_async: bool):
    @tool
    def ask_human(city: str) -> str:
        """Ask a human."""
        return str(interrupt("which?"))

    engine = Engine()
    reply = AIMessage("", tool_calls=[{"name": "ask_human", "args": {"city": "x"}, "id": "c1"}])
    agent = agent_of(
        reply, final(id="r1"), engine=engine, tools=[ask_human], checkpointer=InMemorySaver()
    )
    await run(agent, ASKED, is_async=is_async)
    assert engine.requests == []
    await run(agent, Command(resume="Rome"), is_async=is_async, how="stream")

    messages = agent.get_state(CONFIG).values["messages"]
    assert [one.text for one in messages if one.id == "r1"] == [EDITED]
    assert len(engine.requests) == 1


@pytest.mark.parametrize("place", ["before", "after"])
def test_an_interrupt_around_the_models_call_passes_through_and_ends_in_one_edit(place: str):
    @wrap_model_call
    def asks_first(request, handler):
        interrupt("may I?")
        return handler(request)

    agent = agent_of(final(id="r1"), checkpointer=InMemorySaver(), **{place: [asks_first]})
    paused = agent.invoke(ASKED, CONFIG)
    assert paused["__interrupt__"]
    agent.invoke(Command(resume=True), CONFIG)

    messages = agent.get_state(CONFIG).values["messages"]
    assert [one.text for one in messages] == ["What now?", EDITED]


@BOTH
@pytest.mark.parametrize("how", ["invoke", "stream"])
async def test_of_an_edit_that_fails_nothing_is_stored(how: str, is_async: bool):
    agent = agent_of(final(), engine=Engine(fail_at=7), checkpointer=InMemorySaver())
    with pytest.raises(EngineError):
        await run(agent, ASKED, is_async=is_async, how=how)

    assert [one.text for one in agent.get_state(CONFIG).values["messages"]] == ["What now?"]
    assert RAW not in repr(list(agent.get_state_history(CONFIG)))


def test_a_run_whose_edit_failed_can_be_resumed():
    engine = Engine(fail_at=7)
    agent = agent_of(final(), engine=engine, checkpointer=InMemorySaver())
    with pytest.raises(EngineError):
        agent.invoke(ASKED, CONFIG)
    engine.fail_at = None

    assert agent.invoke(None, CONFIG)["messages"][-1].text == EDITED


def test_provenance_comes_back_from_a_checkpoint_as_it_was():
    agent = agent_of(final(), checkpointer=InMemorySaver())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = agent.invoke(ASKED, CONFIG)["messages"][-1].response_metadata["metaaligner"]
        kept = agent.get_state(CONFIG).values["messages"][-1].response_metadata["metaaligner"]

    assert kept == told
    assert json.loads(json.dumps(kept)) == kept


def test_messages_removed_and_replayed_by_time_travel_are_edited_again_once():
    agent = agent_of(final(id="r1"), checkpointer=InMemorySaver())
    agent.invoke(ASKED, CONFIG)
    before_model = next(
        one for one in agent.get_state_history(CONFIG) if one.next and "model" in one.next
    )
    state = agent.invoke(None, before_model.config)

    assert [one.text for one in state["messages"] if one.id == "r1"] == [EDITED]


def test_state_of_other_middleware_is_kept_beside_the_edit():
    from langchain.agents.middleware import AgentState

    class Counted(AgentState):
        count: int

    class Counts(AgentMiddleware):
        state_schema = Counted

        def before_model(self, state, runtime):
            return {"count": state.get("count", 0) + 1}

    state = agent_of(calls_tool(), final(), before=[Counts()]).invoke(ASKED)

    assert state["count"] == 2
    assert state["messages"][-1].text == EDITED
