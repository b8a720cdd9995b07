"""Spans and metrics of edits for OpenTelemetry, if its API is installed.

Names follow OpenTelemetry's conventions for generative models, as in LangChain's own exporter;
names that the conventions lack begin with `metaaligner.`. The text of a conversation, an answer or
an edit is never reported.
"""

from __future__ import annotations

import functools
import logging
import time
from typing import TYPE_CHECKING, Any

from langchain_metaaligner.editing.sparing_log import SparingLog

if TYPE_CHECKING:
    from langchain_metaaligner.editing.alignment import Alignment

_SCOPE = "langchain_metaaligner"
_OPERATION = "chat"

_log = SparingLog(logging.getLogger(__name__))


def record(alignment: Alignment) -> None:
    """Report a finished edit to OpenTelemetry; does nothing if it is not installed.

    Args:
        alignment: The record of the edit.
    """
    instruments = _instruments()
    if instruments is None or not instruments.heard():
        return
    try:
        _record(instruments, alignment)
    except Exception as error:  # noqa: BLE001 - whatever it is, the reply is unaffected
        message = "An edit could not be reported to OpenTelemetry; the reply is unaffected"
        _log.tell(type(error).__name__, message, error=error)


def _record(instruments: _Instruments, alignment: Alignment) -> None:
    ended = time.time_ns()
    told = _attributes(alignment)
    span = instruments.tracer.start_span(
        f"{_OPERATION} {alignment.model}",
        kind=instruments.client,
        start_time=ended - round(alignment.seconds * 1e9),
        attributes={**told, **_of_this_edit(alignment)},
    )
    if alignment.error is not None:
        span.set_status(instruments.error)
    span.end(ended)
    instruments.duration.record(alignment.seconds, told)
    instruments.edits.add(1, told)
    for kind in ("input", "output"):
        if (count := (alignment.usage or {}).get(f"{kind}_tokens")) is not None:
            instruments.tokens.record(count, {**told, "gen_ai.token.type": kind})
    if alignment.agreement is not None:
        instruments.agreement.record(alignment.agreement, told)


def _attributes(alignment: Alignment) -> dict[str, Any]:
    told: dict[str, Any] = {
        "gen_ai.operation.name": _OPERATION,
        "gen_ai.provider.name": "metaaligner",
        "gen_ai.request.model": alignment.model,
        "metaaligner.status": alignment.status,
    }
    if alignment.error is not None:
        told["error.type"] = alignment.error.partition(":")[0]
    return told


def _of_this_edit(alignment: Alignment) -> dict[str, Any]:
    usage = alignment.usage or {}
    told: dict[str, Any] = {
        "langsmith.span.kind": "llm",
        "gen_ai.usage.input_tokens": usage.get("input_tokens"),
        "gen_ai.usage.output_tokens": usage.get("output_tokens"),
        # Only on the span: objectives may be free sentences, and as an attribute of a metric each
        # would start a new time series.
        "metaaligner.objectives": alignment.objectives,
        "metaaligner.family": alignment.family,
        "metaaligner.changed": alignment.changed,
        "metaaligner.passes": alignment.passes,
        "metaaligner.agreement": alignment.agreement,
    }
    if alignment.finish_reason is not None:
        told["gen_ai.response.finish_reasons"] = [alignment.finish_reason]
    return {name: value for name, value in told.items() if value is not None}


class _Instruments:
    """The tracer and the metrics that edits are reported to."""

    def __init__(self) -> None:
        from opentelemetry import metrics, trace

        self._tracers, self._meters = trace.get_tracer_provider, metrics.get_meter_provider
        meter = metrics.get_meter(_SCOPE)
        self.tracer = trace.get_tracer(_SCOPE)
        self.client = trace.SpanKind.CLIENT
        self.error = trace.StatusCode.ERROR
        self.duration = meter.create_histogram(
            "gen_ai.client.operation.duration", "s", "Duration of edits."
        )
        self.tokens = meter.create_histogram(
            "gen_ai.client.token.usage", "{token}", "Tokens that edits used."
        )
        self.edits = meter.create_counter(
            "metaaligner.edits", "{edit}", "Replies that an aligner was asked to edit."
        )
        self.agreement = meter.create_histogram(
            "metaaligner.agreement", "1", "Mean log-probability of the original per token."
        )

    def heard(self) -> bool:
        """Whether a provider is set; without one, the API's proxies discard everything."""
        return "Proxy" not in type(self._tracers()).__name__ or (
            "Proxy" not in type(self._meters()).__name__
        )


@functools.cache
def _instruments() -> _Instruments | None:
    # These instruments also work with a provider that is set later.
    try:
        return _Instruments()
    except ImportError:
        return None
