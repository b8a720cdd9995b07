"""What OpenTelemetry is told of edits, whichever face makes them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from langchain_metaaligner import ChatMetaAligner, Context, MetaAlignerRunnable
from langchain_metaaligner.editing import telemetry
from tests.unit_tests.integrations.middleware.parts import (
    ASKED,
    RAW,
    Engine,
    Policy,
    agent_of,
    final,
)

metrics_sdk = pytest.importorskip("opentelemetry.sdk.metrics")
trace_sdk = pytest.importorskip("opentelemetry.sdk.trace")


class Measured(Engine):
    def edit(self, requests: Any) -> Any:
        usage = {"input_tokens": 11, "output_tokens": 3, "total_tokens": 14}
        return [
            replace(one, passes=3, agreement=-0.5, usage=usage) for one in super().edit(requests)
        ]


class Told:
    def __init__(self, spans: Any, reader: Any) -> None:
        self._spans, self._reader = spans, reader

    @property
    def spans(self) -> Any:
        return self._spans.get_finished_spans()

    def points(self, name: str) -> list[Any]:
        data = self._reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = trace_sdk.TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    meters = metrics_sdk.MeterProvider([reader])
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: tracers)
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: meters)
    monkeypatch.setattr(trace, "get_tracer", tracers.get_tracer)
    monkeypatch.setattr(metrics, "get_meter", meters.get_meter)
    telemetry._instruments.cache_clear()
    yield Told(spans, reader)
    telemetry._instruments.cache_clear()


def by_pipe(**options: Any) -> None:
    runnable = MetaAlignerRunnable(["honesty"], **options)
    runnable.invoke(RAW, {"configurable": {"context": Context("What now?")}})


def by_chat_model(**options: Any) -> None:
    ChatMetaAligner(Policy(), ["honesty"], **options).invoke("What now?")


@pytest.mark.parametrize("face", [by_pipe, by_chat_model], ids=["pipe", "chat model"])
def test_each_edit_is_one_span_with_what_it_was_made_for_and_what_it_took(face: Any, told: Told):
    face(engine=Measured())

    (span,) = told.spans
    assert span.name == "chat scripted"
    for name, value in {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "scripted",
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.response.finish_reasons": ("stop",),
        "metaaligner.objectives": ("honesty",),
        "metaaligner.status": "edited",
        "metaaligner.passes": 3,
        "metaaligner.agreement": -0.5,
    }.items():
        assert span.attributes[name] == value
    assert span.end_time >= span.start_time


def test_an_agents_edit_is_told_with_its_tool_calls_left_out(told: Told):
    agent_of(final(), engine=Measured()).invoke(ASKED)

    assert [span.attributes["metaaligner.objectives"] for span in told.spans] == [("harmlessness",)]


def test_edits_are_counted_and_timed_by_model_and_status(told: Told):
    by_chat_model(engine=Measured())
    by_chat_model(engine=Measured())
    by_chat_model(engine=Engine(fail_at=0), on_error="pass")

    counts = {p.attributes["metaaligner.status"]: p.value for p in told.points("metaaligner.edits")}
    assert counts == {"edited": 2, "passed": 1}
    timed = told.points("gen_ai.client.operation.duration")
    assert sum(point.count for point in timed) == 3
    kinds = {
        point.attributes["gen_ai.token.type"]: point.sum
        for point in told.points("gen_ai.client.token.usage")
    }
    assert kinds == {"input": 22, "output": 6}


def test_a_failed_edit_is_a_failed_span_that_names_the_kind_of_error(told: Told):
    by_chat_model(engine=Engine(fail_at=0), on_error="block")

    (span,) = told.spans
    assert not span.status.is_ok
    assert span.attributes["error.type"] == "EngineError"


def test_the_span_stands_below_the_callers_own(told: Told):
    from opentelemetry import trace

    with trace.get_tracer("test").start_as_current_span("request") as request:
        by_chat_model(engine=Measured())

    edit = next(span for span in told.spans if span.name == "chat scripted")
    assert edit.parent.span_id == request.get_span_context().span_id


def test_no_text_of_a_conversation_is_told(told: Told):
    by_chat_model(engine=Measured(), keep_original=True)
    by_chat_model(engine=Engine(fail_at=0), on_error="pass")

    seen = repr([span.to_json() for span in told.spans])
    assert not any(word in seen for word in ("rawword", "editword", "What now"))


def test_a_broken_exporter_does_not_break_the_reply(
    told: Told, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fails(*_: Any) -> None:
        raise RuntimeError("the collector is gone")

    monkeypatch.setattr(telemetry._instruments().duration, "record", fails)
    by_chat_model(engine=Measured())

    assert "could not be reported" in caplog.text


def test_without_opentelemetry_edits_are_made_all_the_same():
    code = """
import sys
sys.modules["opentelemetry"] = None
from langchain_core.language_models import FakeListChatModel
from langchain_metaaligner import ChatMetaAligner
from tests.unit_tests.scripted import ScriptedEngine
model = ChatMetaAligner(FakeListChatModel(responses=["Hello."]), engine=ScriptedEngine())
assert model.invoke("Hi").text == "Hello. (edited)"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
