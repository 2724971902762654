"""Spans by OpenTelemetry's SDK, in memory and over HTTP."""

from __future__ import annotations

import logging
import sys
import time

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fedwon.common import traces
from fedwon.common.config import parse
from fedwon.common.errors import ConfigError, MissingExtra
from fedwon.common.spans import Traces
from fedwon.common.traces import TracesConfig, open_traces, round_name, span_id, trace_id
from tests.collector import Collector

RUN = "surface-20261125-1a2b"


@pytest.fixture
def collector():
    made = Collector()
    yield made
    made.close()


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_names_follow_from_the_run_and_the_task():
    kept = InMemorySpanExporter()
    made = Traces(kept, "fedwon-server", "plant")
    made.span("run", RUN, 1.0, 9.0, name=RUN)
    made.span("round", RUN, 2.0, 4.5, name=round_name(RUN, 1), parent=RUN, attributes={"fedwon.round": 1})
    made.span("fetch", RUN, 2.0, 3.0, parent="task", failed=True)
    made.span("fetch", RUN, 2.0, 3.0, parent="task")
    made.close()
    run, one, first, second = kept.get_finished_spans()
    assert {span.context.trace_id for span in (run, one, first, second)} == {trace_id(RUN)}
    assert run.parent is None
    assert (run.context.span_id, one.context.span_id) == (span_id(RUN), span_id(f"{RUN}.r0001"))
    assert one.parent.span_id == run.context.span_id
    assert (one.start_time, one.end_time) == (2_000_000_000, 4_500_000_000)
    assert first.parent.span_id == span_id("task")
    assert first.context.span_id != second.context.span_id
    assert [span.status.is_ok for span in (run, first, second)] == [True, False, True]
    assert dict(one.attributes) == {"fedwon.round": 1}


def test_names_are_not_those_of_others():
    assert trace_id("a") != trace_id("b")
    assert 0 < trace_id("a") < 2**128
    assert 0 < span_id("a") < 2**64
    assert span_id("a") != trace_id("a") >> 64


def test_over_http(collector):
    made = open_traces(TracesConfig(endpoint=collector.endpoint), "fedwon-client", "press-1")
    made.span("fetch", RUN, 1.0, 2.5, parent="task", attributes={"fedwon.round": 3, "fedwon.site": "press-1"})
    made.close(30)
    [span] = collector.spans
    assert collector.asked == [("/v1/traces", "application/x-protobuf")]
    assert (span.name, span.trace, span.parent, span.seconds) == ("fetch", trace_id(RUN), span_id("task"), 1.5)
    assert span.attributes == {"fedwon.round": 3, "fedwon.site": "press-1"}
    assert span.resource["service.name"] == "fedwon-client"
    assert span.resource["service.instance.id"] == "press-1"


def test_a_collector_that_refuses_is_said_once_and_its_return_too(collector, caplog):
    caplog.set_level(logging.INFO)
    made = open_traces(TracesConfig(endpoint=collector.endpoint), "fedwon-server", "plant")
    collector.answer = 400
    for _ in range(2):
        made.span("run", RUN, 1.0, 2.0)
        made._processor.force_flush()
    assert caplog.text.count("traces cannot be sent") == 1
    collector.answer = 200
    made.span("run", RUN, 1.0, 2.0)
    made._processor.force_flush()
    assert "traces can be sent again" in caplog.text
    assert len(collector.spans) == 1
    made.close()
    assert [record.name for record in caplog.records if record.name.startswith("opentelemetry")] == []


def test_what_ends_does_not_wait_for_a_collector_that_is_away(caplog):
    made = open_traces(TracesConfig(endpoint="http://127.0.0.1:9/v1/traces"), "fedwon-server", "plant")
    made.span("run", RUN, 1.0, 2.0)
    made.close(0.05)  # its thread goes on trying and dies with the process
    made._processor._batch_processor._exporter.shutdown()
    until(lambda: "traces cannot be sent" in caplog.text)
    assert caplog.text.count("traces cannot be sent") == 1


def test_without_the_extra_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "fedwon.common.spans", None)
    with pytest.raises(MissingExtra, match="OpenTelemetry"):
        open_traces(TracesConfig(endpoint="http://127.0.0.1:4318/v1/traces"), "fedwon-server", "plant")
    assert not hasattr(traces, "opentelemetry")


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:4318", "http://user:secret@host/v1/traces", "file:///x", "http://", ""]
)
def test_addresses_that_are_refused(endpoint):
    with pytest.raises(ConfigError):
        parse(TracesConfig, {"endpoint": endpoint}, "test")
