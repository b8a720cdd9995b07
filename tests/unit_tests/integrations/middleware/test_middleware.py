"""What the middleware edits, towards what, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import AutoStrategy, ProviderStrategy, ToolStrategy
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from pydantic import BaseModel, ConfigDict, ValidationError

from langchain_metaaligner import (
    Aligner,
    Context,
    LeakError,
    MetaAlignerMiddleware,
    MetaAlignerRunnable,
    Objective,
    UnknownObjectiveError,
)
from tests.unit_tests.integrations.middleware.consumers import TELLING_WAYS, streamed, texts_by_id
from tests.unit_tests.integrations.middleware.parts import (
    ASKED,
    EDITED,
    RAW,
    Engine,
    Policy,
    agent_of,
    calls_tool,
    final,
    weather,
)

BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


async def run(agent: Any, *, is_async: bool = False, given: Any = ASKED, **options: Any) -> Any:
    if is_async:
        return await agent.ainvoke(given, **options)
    return agent.invoke(given, **options)


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    degrees: int


@BOTH
async def test_the_final_answer_is_edited_and_keeps_its_id_usage_and_metadata(is_async: bool):
    reply = final(id="r1", response_metadata={"model_name": "m"}, additional_kwargs={"k": 1})
    answer = (await run(agent_of(reply), is_async=is_async))["messages"][-1]

    assert answer.text == EDITED
    assert answer.id == "r1"
    assert answer.usage_metadata == reply.usage_metadata
    assert answer.additional_kwargs == {"k": 1}
    assert answer.response_metadata["model_name"] == "m"
    assert answer.response_metadata["metaaligner"]["objectives"] == ["harmlessness"]


@BOTH
async def test_a_reply_that_calls_tools_passes_with_text_ids_order_and_signatures(is_async: bool):
    engine, reply = Engine(), calls_tool().model_copy(update={"id": "t1"})
    messages = (await run(agent_of(reply, final(), engine=engine), is_async=is_async))["messages"]

    passed = messages[1]
    assert passed == reply
    assert [one.tool_call_id for one in messages if isinstance(one, ToolMessage)] == [
        "call_1",
        "call_2",
    ]
    assert len(engine.requests) == 1


@BOTH
async def test_text_beside_tool_calls_is_edited_where_that_is_asked_for(is_async: bool):
    agent = agent_of(calls_tool(), final(), options={"edit_tool_text": True})
    messages = (await run(agent, is_async=is_async))["messages"]

    assert messages[1].text == EDITED
    assert messages[1].tool_calls == calls_tool().tool_calls
    assert messages[1].content[0] == {"type": "reasoning", "reasoning": "why", "signature": "s1"}
    assert messages[-1].text == EDITED


def test_edited_text_beside_tool_calls_is_streamed_together_with_them():
    for way in (streamed("messages", is_async=False), *TELLING_WAYS):
        agent = agent_of(calls_tool(), final(), options={"edit_tool_text": True})
        parts = way.seen(agent, ASKED)
        assert "toolword" not in repr(parts), way.name
        pieces = next(iter(texts_by_id(parts).values()))
        assert "".join(pieces) == EDITED, way.name
        assert len(pieces) >= 50, way.name
        if way.name == "stream, messages":
            calls = [call for part in parts for call in getattr(part[0], "tool_calls", ())]
            assert calls == calls_tool().tool_calls


@BOTH
async def test_an_answer_without_text_is_left_as_it_is(is_async: bool):
    engine = Engine()
    agent = agent_of(final("  "), engine=engine)

    answer = (await run(agent, is_async=is_async))["messages"][-1]

    assert answer.text == "  "
    assert "metaaligner" not in answer.response_metadata
    assert engine.requests == []


@pytest.mark.parametrize(
    ("strategy", "reply"),
    [
        (
            ToolStrategy(Weather),
            AIMessage(
                "Here it is.",
                tool_calls=[{"name": "Weather", "args": {"city": "Rome", "degrees": 3}, "id": "c"}],
            ),
        ),
        (ProviderStrategy(Weather), AIMessage('{"city": "Rome", "degrees": 3}')),
        (
            AutoStrategy(Weather),
            AIMessage(
                "Here it is.",
                tool_calls=[{"name": "Weather", "args": {"city": "Rome", "degrees": 3}, "id": "c"}],
            ),
        ),
    ],
    ids=["tool", "provider", "auto"],
)
@BOTH
async def test_structured_answers_are_left_alone(strategy: Any, reply: AIMessage, is_async: bool):
    engine = Engine()
    agent = agent_of(calls_tool(), reply, engine=engine, response_format=strategy)

    state = await run(agent, is_async=is_async)

    assert state["structured_response"] == Weather(city="Rome", degrees=3)
    assert (
        next(one for one in state["messages"][2:] if isinstance(one, AIMessage)).text == reply.text
    )
    assert engine.requests == []


@BOTH
async def test_a_provider_whose_profile_has_structured_output_keeps_its_json(is_async: bool):
    engine = Engine()
    policy = Policy(
        replies=[AIMessage('{"city": "Rome", "degrees": 3}')], profile={"structured_output": True}
    )
    agent = agent_of(policy=policy, engine=engine, response_format=Weather)

    state = await run(agent, is_async=is_async)

    assert state["structured_response"] == Weather(city="Rome", degrees=3)
    assert state["messages"][-1].text == '{"city": "Rome", "degrees": 3}'
    assert engine.requests == []


@BOTH
async def test_the_context_is_the_conversation_with_tool_results(is_async: bool):
    engine = Engine()
    given = {"messages": [("human", "One?"), ("ai", "Two."), ("human", "Three?")]}
    await run(agent_of(calls_tool(), final(), engine=engine), is_async=is_async, given=given)

    (request,) = engine.requests
    for said in ("One?", "Two.", "Three?", "[tool weather] sunny in Rome"):
        assert said in request.prompt
    assert request.draft == RAW


def test_the_system_prompt_is_left_out_and_counted_or_joined_as_the_option_says():
    engine = Engine()
    answer = agent_of(final(), engine=engine, system_prompt="Be a pirate.").invoke(ASKED)
    agent_of(
        final(), engine=engine, system_prompt="Be a pirate.", options={"system": "first_turn"}
    ).invoke(ASKED)

    assert "pirate" not in engine.requests[0].prompt
    assert answer["messages"][-1].response_metadata["metaaligner"]["dropped"] == {"system": 1}
    assert "Be a pirate." in engine.requests[1].prompt


def test_a_context_given_by_config_takes_the_place_of_the_conversation():
    engine = Engine()
    agent_of(final(), engine=engine).invoke(
        ASKED, {"configurable": {"context": Context("Something else?")}}
    )

    assert "Something else?" in engine.requests[0].prompt
    assert "What now?" not in engine.requests[0].prompt


@BOTH
async def test_objectives_that_can_be_read_only_once_are_read_once(is_async: bool):
    config = {"configurable": {"objectives": (one for one in ["honesty"])}}
    answer = (await run(agent_of(final()), is_async=is_async, config=config))["messages"][-1]
    assert answer.response_metadata["metaaligner"]["objectives"] == ["honesty"]


@dataclass
class DataContext:
    objectives: list[Any] = field(default_factory=list)


class ModelContext(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    objectives: list[Any] | None = None


@pytest.mark.parametrize(
    ("schema", "context"),
    [
        (DataContext, DataContext(["honesty"])),
        (ModelContext, ModelContext(objectives=["honesty"])),
        (DataContext, DataContext([Objective("honesty", "tell the truth")])),
        (dict, {"objectives": ["honesty"]}),
        (dict, {"objectives": "honesty"}),
    ],
    ids=["dataclass", "pydantic", "an objective", "dict", "a bare name"],
)
@BOTH
async def test_objectives_come_from_the_runs_context(schema: Any, context: Any, is_async: bool):
    agent = agent_of(calls_tool(), final(), context_schema=schema)
    answer = (await run(agent, is_async=is_async, context=context))["messages"][-1]

    assert answer.response_metadata["metaaligner"]["objectives"] == ["honesty"]


@pytest.mark.parametrize(
    ("schema", "context"),
    [
        (DataContext, DataContext()),
        (ModelContext, ModelContext()),
        (dict, {"user": "x"}),
        (None, None),
    ],
    ids=["dataclass", "pydantic", "dict", "none"],
)
def test_a_context_that_asks_for_nothing_leaves_the_aligners_own_objectives(schema, context):
    agent = agent_of(final(), context_schema=schema)
    answer = agent.invoke(ASKED, context=context)["messages"][-1]

    assert answer.response_metadata["metaaligner"]["objectives"] == ["harmlessness"]


@BOTH
async def test_objectives_come_from_the_config(is_async: bool):
    config = {"configurable": {"objectives": ["honesty", "Answer in verse."]}}
    answer = (await run(agent_of(final()), is_async=is_async, config=config))["messages"][-1]

    names = answer.response_metadata["metaaligner"]["objectives"]
    assert names[0] == "honesty"
    assert len(names) == 2


def test_objectives_given_by_with_config_reach_the_agent_in_a_graph_and_a_retry():
    agent = agent_of(final()).with_config(configurable={"objectives": ["honesty"]})
    around = RunnableLambda(lambda state: state) | agent.with_retry() | RunnableLambda(lambda s: s)

    answer = around.invoke(ASKED)["messages"][-1]

    assert answer.response_metadata["metaaligner"]["objectives"] == ["honesty"]


def test_what_the_context_asks_for_goes_before_the_config():
    agent = agent_of(final(), context_schema=dict)
    answer = agent.invoke(
        ASKED,
        {"configurable": {"objectives": ["honesty"]}},
        context={"objectives": ["fairness"]},
    )["messages"][-1]

    assert answer.response_metadata["metaaligner"]["objectives"] == ["fairness"]


@pytest.mark.parametrize("on_error", ["raise", "pass", "block"])
@BOTH
async def test_unknown_objectives_are_told_before_the_model_runs(on_error: str, is_async: bool):
    policy = Policy(replies=[calls_tool(), final()])
    agent = agent_of(policy=policy, options={"on_error": on_error})

    with pytest.raises(UnknownObjectiveError):
        await run(
            agent, is_async=is_async, config={"configurable": {"objectives": ["hrmlessness"]}}
        )
    assert policy.asked == []


def test_objectives_off_the_allow_list_are_refused():
    agent = agent_of(final(), options={"allow_objectives": ["honesty"]})

    agent.invoke(ASKED, {"configurable": {"objectives": ["honesty"]}})
    with pytest.raises(UnknownObjectiveError):
        agent.invoke(ASKED, {"configurable": {"objectives": ["fairness"]}})


def test_a_blocked_answer_ends_the_run_after_one_call_of_the_engine():
    engine, policy = Engine(fail_at=0), Policy(replies=[final()])
    agent = agent_of(policy=policy, engine=engine, options={"on_error": "block"})

    agent.invoke(ASKED)

    assert len(engine.requests) == 1
    assert len(policy.asked) == 1


def test_a_blocked_answer_is_streamed_whole_and_nothing_of_the_original():
    for way in TELLING_WAYS:
        blocking = {"on_error": "block", "block_message": "Not now."}
        parts = way.seen(agent_of(final(), engine=Engine(fail_at=0), options=blocking), ASKED)
        assert "rawword" not in repr(parts), way.name
        assert ["Not now."] in texts_by_id(parts).values(), way.name


@BOTH
async def test_shadow_mode_returns_the_original_streams_it_live_and_reports_the_edit(is_async):
    seen: list[Any] = []
    agent = agent_of(calls_tool(), final(), options={"apply": False, "on_edit": seen.append})

    answer = (await run(agent, is_async=is_async))["messages"][-1]
    assert answer.text == RAW
    assert answer.response_metadata["metaaligner"]["status"] == "shadow"
    assert [(one.status, one.original, one.text) for one in seen] == [("shadow", RAW, EDITED)]

    agent = agent_of(final(), options={"apply": False})
    texts = texts_by_id(list(agent.stream(ASKED, stream_mode="messages"))).values()
    (live,) = [pieces for pieces in texts if "".join(pieces) == RAW]
    assert len(live) >= len(RAW.split())
    assert "editword" not in repr(texts)


def test_shadow_mode_hides_every_failure_from_the_user():
    agent = agent_of(final(), engine=Engine(fail_at=0), options={"apply": False})
    config = {"configurable": {"objectives": ["no such thing"]}}

    for given in ({}, config):
        answer = agent.invoke(ASKED, given)["messages"][-1]
        assert answer.text == RAW
        assert answer.response_metadata["metaaligner"]["status"] == "passed"


def test_the_hook_gets_the_whole_record_and_cannot_break_the_answer():
    seen: list[Any] = []

    def hook(alignment: Any) -> None:
        seen.append(alignment)
        raise RuntimeError("the queue is full")

    answer = agent_of(final(), options={"on_edit": hook}).invoke(ASKED)["messages"][-1]

    assert answer.text == EDITED
    assert seen[0].original == RAW
    assert seen[0].diff()


def test_the_message_carries_its_original_only_where_that_is_asked_for():
    shown = agent_of(final()).invoke(ASKED)["messages"][-1].response_metadata["metaaligner"]
    assert "rawword" not in repr(shown)

    agent = agent_of(final(), options={"keep_original": True})
    kept = agent.invoke(ASKED)["messages"][-1].response_metadata["metaaligner"]
    assert kept["original"] == RAW


def test_an_answer_that_leaked_is_refused_unless_leaks_are_ignored():
    from langchain.agents.middleware import wrap_model_call
    from langchain.agents.middleware.types import ModelResponse
    from langchain_core.runnables.config import var_child_runnable_config

    outside: list[Any] = []

    @wrap_model_call(name="around")
    def around(request, handler):
        outside.append(var_child_runnable_config.get())
        return handler(request)

    @wrap_model_call(name="leaking")
    def leaking(request, handler):
        # What no middleware should do: it runs the model under another run's config.
        reply = request.model.invoke(request.messages, {**outside[-1], "tags": ["mine"]})
        return ModelResponse(result=[reply])

    def agent(**options: Any) -> Any:
        return agent_of(final(), before=[around], after=[leaking], options=options)

    with pytest.raises(LeakError, match="hushed"):
        list(agent(on_error="pass").stream(ASKED, stream_mode="messages"))
    assert list(agent(on_leak="ignore").stream(ASKED, stream_mode="messages"))


def test_a_step_behind_an_agent_finds_the_policys_conversation_and_not_the_edits():
    engine = Engine("editword90")
    behind = MetaAlignerRunnable(["readability"], engine=engine)
    chain = agent_of(final()) | (lambda state: state["messages"][-1]) | behind

    chain.invoke(ASKED, {"callbacks": [BaseCallbackHandler()]})

    assert "What now?" in engine.requests[0].prompt
    assert "Edit the reply" not in engine.requests[0].prompt


def test_several_agents_share_one_aligner():
    engine = Engine()
    aligner = Aligner(engine=engine)
    first = create_agent(Policy(), middleware=[MetaAlignerMiddleware(aligner=aligner)])
    second = create_agent(Policy(), middleware=[MetaAlignerMiddleware(aligner=aligner)])

    first.invoke(ASKED)
    second.invoke(ASKED)

    assert len(engine.requests) == 2


def test_options_are_checked_when_the_middleware_is_made():
    with pytest.raises(UnknownObjectiveError):
        MetaAlignerMiddleware(["hrmlessness"])
    with pytest.raises(ValidationError, match="on_eror"):
        MetaAlignerMiddleware(on_eror="pass")


def test_the_middleware_loads_and_closes_its_engine():
    class Counting(Engine):
        loaded = 0

        def load(self) -> None:
            self.loaded += 1

    engine = Counting()
    middleware = MetaAlignerMiddleware(engine=engine)

    assert middleware.load() is middleware
    assert engine.loaded == 1
    middleware.close()


def test_the_config_is_readable_in_middleware_on_both_sides():
    from langchain.agents.middleware import AgentMiddleware
    from langgraph.config import get_config

    seen: list[str] = []

    class Looks(AgentMiddleware):
        def wrap_model_call(self, request, handler):
            seen.append(get_config()["configurable"]["mine"])
            return handler(request)

    class LooksToo(Looks):
        pass

    agent_of(final(), before=[Looks()], after=[LooksToo()]).invoke(
        ASKED, {"configurable": {"mine": "here"}}
    )

    assert seen == ["here", "here"]


def test_a_list_of_human_blocks_and_a_system_message_object_are_read(request):
    engine = Engine()
    given = {"messages": [HumanMessage([{"type": "text", "text": "What now?"}])]}
    agent_of(final(), engine=engine, system_prompt=SystemMessage("Be kind.")).invoke(given)

    assert "Human: What now?" in engine.requests[0].prompt


def test_reasoning_before_the_final_answer_stays_where_it_is():
    blocks = [
        {"type": "reasoning", "reasoning": "hm", "signature": "s"},
        {"type": "text", "text": RAW},
    ]
    answer = agent_of(AIMessage(blocks)).invoke(ASKED)["messages"][-1]

    assert answer.content == [blocks[0], {"type": "text", "text": EDITED}]


def test_a_batch_of_runs_is_edited_each_by_its_own_config():
    configs = [{"configurable": {"objectives": [one]}} for one in ("honesty", "fairness")]
    states = agent_of(final()).batch([ASKED, ASKED], configs)

    names = [one["messages"][-1].response_metadata["metaaligner"]["objectives"] for one in states]
    assert names == [["honesty"], ["fairness"]]


def test_tools_of_the_agent_are_still_called():
    messages = agent_of(calls_tool(), final(), tools=[weather]).invoke(ASKED)["messages"]

    assert [one.content for one in messages if isinstance(one, ToolMessage)] == [
        "sunny in Rome",
        "sunny in Oslo",
    ]


def test_without_langchain_one_line_says_what_to_install():
    code = """
import sys
sys.modules["langchain"] = None
import langchain_metaaligner
from langchain_metaaligner import ChatMetaAligner
try:
    langchain_metaaligner.MetaAlignerMiddleware
except ImportError as error:
    assert "pip install 'langchain-metaaligner[agents]'" in str(error), error
else:
    raise SystemExit("it was there")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
