"""What traces and usage counters see of an edit in an agent."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

import pytest
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run
from langsmith import Client
from langsmith.run_helpers import tracing_context

from tests.unit_tests.integrations.middleware.parts import (
    ASKED,
    EDITED,
    RAW,
    Engine,
    agent_of,
    calls_tool,
    final,
)


class Tracer(BaseTracer):
    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Run] = []

    def _persist_run(self, run: Run) -> None:
        self.roots.append(run)

    def all(self) -> list[Run]:
        found, waiting = [], list(self.roots)
        while waiting:
            run = waiting.pop()
            found.append(run)
            waiting += run.child_runs
        return found

    def edits(self) -> list[Run]:
        return [run for run in self.all() if "metaaligner" in (run.tags or [])]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_each_edit_is_one_run_below_the_models_node_with_what_it_was_made_for(is_async: bool):
    class Measured(Engine):
        def stream(self, request: Any) -> Any:
            from langchain_metaaligner import Edit

            pieces = list(super().stream(request))
            yield from pieces
            return Edit("".join(pieces), passes=3, agreement=-0.5)

        def edit(self, requests: Any) -> Any:
            from dataclasses import replace

            return [replace(one, passes=3, agreement=-0.5) for one in super().edit(requests)]

        async def aedit(self, requests: Any) -> Any:
            return self.edit(requests)

    tracer = Tracer()
    agent, config = agent_of(calls_tool(), final(), engine=Measured()), {"callbacks": [tracer]}
    if is_async:
        await agent.ainvoke(ASKED, config)
    else:
        agent.invoke(ASKED, config)

    (edit,) = tracer.edits()
    node = next(run for run in tracer.all() if run.id == edit.parent_run_id)
    assert node.name == "model"
    assert edit.run_type in ("llm", "chat_model")
    assert edit.extra["metadata"]["metaaligner_objectives"] == ["harmlessness"]
    assert edit.extra["metadata"]["metaaligner_model"] == "scripted"
    said = edit.outputs["generations"][0][0]["message"]["kwargs"]["response_metadata"]
    assert said["metaaligner"]["passes"] == 3
    assert said["metaaligner"]["agreement"] == -0.5


def test_tracing_tools_find_the_models_name_and_parameters_of_an_edit():
    tracer = Tracer()
    agent_of(final(), options={"max_new_tokens": 50}).invoke(ASKED, {"callbacks": [tracer]})

    (edit,) = tracer.edits()
    # LangSmith, Langfuse 5.0 (_parse_model_name_from_metadata), and OpenInference 0.1
    # (_model_name, _llm_provider).
    assert edit.extra["metadata"]["ls_model_name"] == "scripted"
    assert edit.extra["metadata"]["ls_provider"] == "metaaligner"
    # Langfuse (_parse_model_parameters), and OpenInference (_invocation_parameters).
    told = edit.extra["invocation_params"]
    assert (told["model"], told["model_name"]) == ("scripted", "scripted")
    assert (told["temperature"], told["max_tokens"]) == (0.0, 50)


def test_langsmiths_run_of_the_middleware_does_not_repeat_the_conversation():
    traced: dict[str, Any] = {}

    class Recorder(Client):
        def create_run(self, name: str, inputs: Any, *args: Any, **kwargs: Any) -> None:
            traced[name] = inputs

    client = Recorder(api_key="none", session=MagicMock(), auto_batch_tracing=False, info={})
    with tracing_context(client=client, enabled=True):
        agent_of(final()).invoke(ASKED)

    assert traced["MetaAlignerMiddleware.wrap_model_call"] == {}
    assert "What now?" in repr(traced["Policy"])


def test_a_failed_edit_is_a_failed_run_in_the_trace():
    tracer = Tracer()
    agent = agent_of(final(), engine=Engine(fail_at=0), options={"on_error": "block"})
    agent.invoke(ASKED, {"callbacks": [tracer]})

    (edit,) = tracer.edits()
    assert "EngineError" in edit.error


def test_traces_hold_the_original_as_the_policys_own_run_does():
    tracer = Tracer()
    agent_of(final()).invoke(ASKED, {"callbacks": [tracer]})

    assert [run.name for run in tracer.all() if RAW in repr(run.outputs)] == ["Policy"]
    assert EDITED in repr(tracer.roots[0].outputs)


def test_usage_counts_the_policy_once_and_the_edit_not_at_all():
    with get_usage_metadata_callback() as counted:
        agent = agent_of(final(response_metadata={"model_name": "policy"}))
        list(agent.stream(ASKED, stream_mode="messages"))

    assert counted.usage_metadata["policy"]["total_tokens"] == 19


def test_a_context_given_by_config_is_in_no_run():
    from langchain_core.messages import HumanMessage

    from langchain_metaaligner import Context

    for context in (Context("secretword"), [HumanMessage("secretword")]):
        tracer = Tracer()
        agent_of(final()).invoke(
            ASKED, {"callbacks": [tracer], "configurable": {"context": context}}
        )
        for run in tracer.all():
            assert "secretword" not in repr((run.extra, run.tags, run.inputs, run.outputs))
