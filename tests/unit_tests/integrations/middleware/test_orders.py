"""The aligner beside LangChain's own middleware and other people's, before it and after it."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents.middleware import (
    AgentMiddleware,
    ContextEditingMiddleware,
    HumanInTheLoopMiddleware,
    ModelCallLimitMiddleware,
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
    PIIMiddleware,
    SummarizationMiddleware,
    ToolCallLimitMiddleware,
    ToolRetryMiddleware,
    after_model,
    wrap_model_call,
)
from langchain.agents.middleware.types import ExtendedModelResponse, ModelResponse
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from langchain_metaaligner import EngineError
from tests.unit_tests.integrations.middleware.consumers import (
    TELLING_WAYS,
    Way,
    texts_by_id,
)
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

PLACES = pytest.mark.parametrize("place", ["before", "after"])
ALL_MODES = TELLING_WAYS[:2]


class Custom(AgentMiddleware):
    """Marks the answer, in and out."""

    def wrap_model_call(self, request, handler):
        response = handler(request.override(messages=[*request.messages, HumanMessage("Shortly.")]))
        return self._marked(response)

    async def awrap_model_call(self, request, handler):
        messages = [*request.messages, HumanMessage("Shortly.")]
        return self._marked(await handler(request.override(messages=messages)))

    def _marked(self, response: Any) -> Any:
        reply = response.result[0]
        marked = reply.model_copy(update={"additional_kwargs": {"saw_raw": reply.text == RAW}})
        return ModelResponse(
            result=[marked, *response.result[1:]], structured_response=response.structured_response
        )


def others() -> dict[str, Any]:
    return {
        "pii": PIIMiddleware("email", strategy="redact", apply_to_output=True),
        "summary": SummarizationMiddleware(
            Policy(replies=[AIMessage("A summary.")]), trigger=("messages", 99)
        ),
        "retry": ModelRetryMiddleware(max_retries=1, initial_delay=0.0),
        "fallback": ModelFallbackMiddleware(Policy(replies=[final()])),
        "model limit": ModelCallLimitMiddleware(run_limit=9),
        "tool limit": ToolCallLimitMiddleware(run_limit=9),
        "tool retry": ToolRetryMiddleware(max_retries=1, initial_delay=0.0),
        "context editing": ContextEditingMiddleware(),
        "custom": Custom(),
    }


@pytest.mark.parametrize("way", ALL_MODES, ids=lambda way: way.name)
def test_with_everything_before_it_nothing_leaks(way: Way):
    parts = way.seen(agent_of(calls_tool(), final(), before=list(others().values())), ASKED)

    assert "rawword" not in repr(parts)


@pytest.mark.parametrize("way", ALL_MODES, ids=lambda way: way.name)
def test_with_everything_behind_it_nothing_leaks(way: Way):
    # The custom one copies what it sees into the state, on purpose.
    rest = {name: one for name, one in others().items() if name != "custom"}
    parts = way.seen(agent_of(calls_tool(), final(), after=list(rest.values())), ASKED)

    assert "rawword" not in repr(parts)


@pytest.mark.parametrize("name", list(others()))
def test_each_other_middleware_leaves_the_edit_whole_in_state_and_stream(name: str):
    for place, way in zip(("before", "after"), ALL_MODES, strict=True):
        agent = agent_of(calls_tool(), final(), **{place: [others()[name]]})
        parts = way.seen(agent, ASKED)
        texts = ["".join(pieces) for pieces in texts_by_id(parts).values()]
        assert texts.count(EDITED) == 1, place
        assert RAW not in texts, place
        agent = agent_of(calls_tool(), final(), **{place: [others()[name]]})
        assert agent.invoke(ASKED)["messages"][-1].text == EDITED, place


@PLACES
async def test_pii_is_redacted_in_the_edited_answer_and_in_what_the_aligner_reads(place: str):
    engine = Engine("Write to someone@example.com")
    pii = PIIMiddleware("email", strategy="redact", apply_to_input=True, apply_to_output=True)
    agent = agent_of(final(), engine=engine, **{place: [pii]})

    given = {"messages": [("human", "I am me@example.com")]}
    answer = (await agent.ainvoke(given))["messages"][-1]

    assert answer.text == "Write to [REDACTED_EMAIL]"
    assert "me@example.com" not in engine.requests[0].prompt


@PLACES
def test_after_a_summary_the_aligner_reads_the_summary(place: str):
    engine = Engine()
    summary = SummarizationMiddleware(
        Policy(replies=[AIMessage("They spoke of owls.")]),
        trigger=("messages", 3),
        keep=("messages", 1),
    )
    given = {"messages": [("human", "Owls?"), ("ai", "Yes, owls."), ("human", "And now?")]}
    agent_of(final(), engine=engine, **{place: [summary]}).invoke(given)

    assert "They spoke of owls." in engine.requests[0].prompt
    assert "And now?" in engine.requests[0].prompt
    assert "Yes, owls." not in engine.requests[0].prompt


@PLACES
def test_a_retry_of_the_model_ends_in_one_edit(place: str):
    engine = Engine()
    retry = ModelRetryMiddleware(max_retries=2, initial_delay=0.0)
    agent = agent_of(OSError("gone"), final(), engine=engine, **{place: [retry]})

    assert agent.invoke(ASKED)["messages"][-1].text == EDITED
    assert len(engine.requests) == 1


def test_a_retry_around_the_aligner_also_repeats_a_failed_edit_with_a_new_reply():
    class FailsOnce(Engine):
        def stream(self, request):
            if not self.requests:
                self.requests.append(request)
                raise OSError("gone")
            return super().stream(request)

    policy = Policy(replies=[final()])
    retry = ModelRetryMiddleware(max_retries=1, initial_delay=0.0)

    answer = agent_of(policy=policy, engine=FailsOnce(), before=[retry]).invoke(ASKED)
    assert answer["messages"][-1].text == EDITED
    assert len(policy.asked) == 2


def test_a_retry_inside_the_aligner_leaves_a_failed_edit_to_the_error_policy():
    policy = Policy(replies=[final()])
    retry = ModelRetryMiddleware(max_retries=1, initial_delay=0.0)
    agent = agent_of(policy=policy, engine=Engine(fail_at=0), after=[retry])

    with pytest.raises(EngineError):
        agent.invoke(ASKED)
    assert len(policy.asked) == 1


@PLACES
def test_the_reply_of_a_fallback_model_is_edited_and_hushed_too(place: str):
    for way in ALL_MODES:
        fallback = ModelFallbackMiddleware(Policy(replies=[final("rawword90 rawword91")]))
        agent = agent_of(OSError("gone"), **{place: [fallback]})
        parts = way.seen(agent, ASKED)
        assert "rawword" not in repr(parts), way.name
        assert EDITED in ["".join(one) for one in texts_by_id(parts).values()], way.name


@PLACES
def test_a_limit_counts_the_models_calls_and_not_the_edits(place: str):
    limit = ModelCallLimitMiddleware(run_limit=2, exit_behavior="error")
    agent = agent_of(calls_tool(), final(), **{place: [limit]})

    assert agent.invoke(ASKED)["messages"][-1].text == EDITED


@PLACES
def test_the_notice_of_a_limit_is_not_edited(place: str):
    engine = Engine()
    limit = ModelCallLimitMiddleware(run_limit=1, exit_behavior="end")
    agent = agent_of(calls_tool(), final(), engine=engine, **{place: [limit]})

    assert "limit" in agent.invoke(ASKED)["messages"][-1].text
    assert engine.requests == []


@PLACES
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_a_call_that_a_human_rejects_is_never_made_and_the_last_answer_edited(
    place, is_async
):
    made: list[str] = []

    from langchain_core.tools import tool

    @tool
    def transfer(amount: int) -> str:
        """Transfer money."""
        made.append(str(amount))
        return "done"

    human = HumanInTheLoopMiddleware(interrupt_on={"transfer": True})
    agent = agent_of(
        calls_tool("transfer", amount=7),
        final(id="last"),
        tools=[transfer],
        checkpointer=InMemorySaver(),
        **{place: [human]},
    )
    config = {"configurable": {"thread_id": "1"}}
    rejected = [{"type": "reject", "message": "no"}, {"type": "reject", "message": "no"}]
    resume = Command(resume={"decisions": rejected})
    if is_async:
        paused = await agent.ainvoke(ASKED, config)
        state = await agent.ainvoke(resume, config)
    else:
        paused = agent.invoke(ASKED, config)
        state = agent.invoke(resume, config)

    assert paused["__interrupt__"]
    assert made == []
    assert [one.id for one in state["messages"]].count("last") == 1
    assert state["messages"][-1].text == EDITED


@PLACES
def test_a_call_that_a_human_approves_is_made_as_the_model_wrote_it(place: str):
    human = HumanInTheLoopMiddleware(interrupt_on={"weather": True})
    agent = agent_of(calls_tool(), final(), checkpointer=InMemorySaver(), **{place: [human]})
    config = {"configurable": {"thread_id": "1"}}
    agent.invoke(ASKED, config)
    state = agent.invoke(
        Command(resume={"decisions": [{"type": "approve"}, {"type": "approve"}]}), config
    )

    results = [one.content for one in state["messages"] if isinstance(one, ToolMessage)]
    assert results == ["sunny in Rome", "sunny in Oslo"]
    assert state["messages"][-1].text == EDITED


def test_a_middleware_before_the_aligner_sees_the_edit_and_one_behind_it_the_reply():
    saw_outside = agent_of(final(), before=[Custom()]).invoke(ASKED)["messages"][-1]
    saw_inside = agent_of(final(), after=[Custom()]).invoke(ASKED)["messages"][-1]

    assert saw_outside.additional_kwargs == {"saw_raw": False}
    assert saw_inside.additional_kwargs == {"saw_raw": True}


@PLACES
def test_what_other_middleware_overrides_of_a_request_survives(place: str):
    policy = Policy(replies=[final()])
    agent_of(policy=policy, **{place: [Custom()]}).invoke(ASKED)

    assert policy.asked[0][-1].content == "Shortly."


def test_the_aligner_reads_what_middleware_before_it_made_of_the_conversation():
    before, behind = Engine(), Engine()
    agent_of(final(), engine=before, before=[Custom()]).invoke(ASKED)
    agent_of(final(), engine=behind, after=[Custom()]).invoke(ASKED)

    assert "Shortly." in before.requests[0].prompt
    assert "Shortly." not in behind.requests[0].prompt


@PLACES
def test_a_command_of_another_middleware_is_carried_out(place: str):
    @wrap_model_call
    def with_command(request, handler):
        update = Command(update={"messages": [HumanMessage("Noted.", id="noted")]})
        return ExtendedModelResponse(model_response=handler(request), command=update)

    messages = agent_of(final(id="r"), **{place: [with_command]}).invoke(ASKED)["messages"]

    assert [one.text for one in messages if one.id == "r"] == [EDITED]
    assert "noted" in [one.id for one in messages]


def test_a_cache_before_the_aligner_keeps_edits_and_one_behind_it_replies():
    def cache(kept: list[Any]) -> Any:
        @wrap_model_call
        def caching(request, handler):
            if not kept:
                kept.append(handler(request))
            return kept[0]

        return caching

    for place, keeps, edits in (("before", EDITED, 1), ("after", RAW, 2)):
        engine, kept = Engine(), []
        agent = agent_of(final(), engine=engine, **{place: [cache(kept)]})
        answers = [agent.invoke(ASKED)["messages"][-1].text for _ in range(2)]
        assert answers == [EDITED, EDITED]
        assert kept[0].result[0].text == keeps
        assert len(engine.requests) == edits


@PLACES
def test_a_hook_after_the_model_sees_the_edit(place: str):
    seen: list[str] = []

    @after_model
    def look(state, runtime):
        seen.append(state["messages"][-1].text)

    agent_of(final(), **{place: [look]}).invoke(ASKED)

    assert seen == [EDITED]
