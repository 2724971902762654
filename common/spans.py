"""Spans in OpenTelemetry's form, sent as OTLP over HTTP; only this module imports its packages (extra `otel`)."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Mapping, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context
from opentelemetry.trace.status import Status, StatusCode

from fedwon.common.traces import span_id, trace_id
from fedwon.common.version import VERSION

logger = logging.getLogger(__name__)

Attribute = str | bool | int | float
NANO = 10**9
SEND_SECONDS = 10.0
END_SECONDS = 2.0
"""How long a process that ends waits for what is not sent yet."""


def exporter_to(endpoint: str) -> SpanExporter:
    """Return what sends spans to a collector."""
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it says each failure; `_SaidOnce` the first one
    return OTLPSpanExporter(endpoint=endpoint, timeout=SEND_SECONDS)


class Traces:
    """Sends spans, in a thread of its own; what cannot be sent is dropped, and said once.

    Args:
        exporter: where they go.
        service: who makes them: "fedwon-server" or "fedwon-client".
        instance: which one: the federation's or the site's name.
    """

    def __init__(self, exporter: SpanExporter, service: str, instance: str) -> None:
        own = {"service.name": service, "service.version": VERSION, "service.instance.id": instance}
        self._names, self._lock = _Names(), threading.Lock()
        self._processor = BatchSpanProcessor(_SaidOnce(exporter))
        provider = TracerProvider(
            sampler=ALWAYS_ON, resource=Resource(own), shutdown_on_exit=False, id_generator=self._names
        )
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("fedwon", VERSION)

    def span(
        self,
        title: str,
        run: str,
        began: float,
        ended: float,
        *,
        name: str | None = None,
        parent: str | None = None,
        failed: bool = False,
        attributes: Mapping[str, Attribute] | None = None,
    ) -> None:
        """Send a span; returns at once.

        Args:
            title: what it is called.
            run: whose trace it is in.
            began: seconds since 1970.
            ended: likewise.
            name: of a run, round or task that it is the span of; without one it gets a random id.
            parent: name of the run, round or task that it belongs to.
            failed: whether what it is about went wrong.
            attributes: more about it; never anything secret, nor what people at a site have written.
        """
        trace, context = trace_id(run), None
        if parent is not None:
            above = SpanContext(trace, span_id(parent), is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
            context = set_span_in_context(NonRecordingSpan(above))
        with self._lock:
            self._names.next = (trace, secrets.randbits(64) or 1 if name is None else span_id(name))
            made = self._tracer.start_span(title, context, attributes=attributes, start_time=round(began * NANO))
        if failed:
            made.set_status(Status(StatusCode.ERROR))
        made.end(round(ended * NANO))

    def close(self, seconds: float = END_SECONDS) -> None:
        """Send what is left, for at most so many seconds."""
        ending = threading.Thread(target=self._processor.shutdown, name="traces-end", daemon=True)
        ending.start()
        ending.join(seconds)


class _Names(IdGenerator):
    """Gives the next span the names that it is to have."""

    next = (1, 1)

    def generate_trace_id(self) -> int:
        """Return the trace that the next span is in."""
        return self.next[0]

    def generate_span_id(self) -> int:
        """Return what the next span is called."""
        return self.next[1]


class _SaidOnce(SpanExporter):
    """Says an exporter's failures once, and its recovery."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter, self._failing = exporter, False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; never raises."""
        try:
            done = self._exporter.export(spans)
        except Exception:  # noqa: BLE001  # whatever a library does, the work goes on
            done = SpanExportResult.FAILURE
        failed = done is not SpanExportResult.SUCCESS
        if failed and not self._failing:
            logger.warning("traces cannot be sent; they are dropped until it works. The work goes on.")
        elif self._failing and not failed:
            logger.info("traces can be sent again")
        self._failing = failed
        return done

    def shutdown(self) -> None:
        """End."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Wait until what was given is sent."""
        return self._exporter.force_flush(timeout_millis)
