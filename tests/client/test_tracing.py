"""The steps of a task as spans of the site."""

from __future__ import annotations

import pytest
from flwr.app import ConfigRecord, RecordDict
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fedwon.client.tracing import TaskTracer, traced, untraced
from fedwon.client.training import progress
from fedwon.common.errors import BrokenFile
from fedwon.common.spans import Traces
from fedwon.common.traces import span_id, trace_id
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.records import records_to_wire


def offer(kind):
    records = records_to_wire(RecordDict({"config": ConfigRecord({"run": "surface-1", "classes": ["secret class"]})}))
    return pb.Offer(task_id=f"surface-1.r0002.{kind}.press-1", kind=kind, group_id="2", records=records)


@pytest.fixture
def step():
    """Steps, and a function that returns what was sent."""
    kept, moment = InMemorySpanExporter(), [0.0]

    def clock():
        moment[0] += 1.5
        return moment[0]

    traces = Traces(kept, "fedwon-client", "press-1")

    def sent():
        traces._processor.force_flush()
        return kept.get_finished_spans()

    yield TaskTracer(traces, "press-1", clock).step, sent
    traces.close()


def test_steps_join_the_servers_span_of_the_task(step):
    surround, sent = step
    for name in ("fetch", "train", "upload"):
        with surround(offer("train"), name):
            pass
    assert [span.name for span in sent()] == ["fetch", "train", "upload"]
    for span in sent():
        assert span.context.trace_id == trace_id("surface-1")
        assert span.parent.span_id == span_id("surface-1.r0002.train.press-1")
        assert span.end_time - span.start_time == 1_500_000_000
        assert dict(span.attributes) == {"fedwon.run": "surface-1", "fedwon.round": "2", "fedwon.site": "press-1"}
        assert "secret" not in span.to_json()


def test_an_evaluation_is_below_the_run(step):
    surround, sent = step
    with surround(offer("evaluate"), "evaluate"):
        pass
    assert sent()[0].parent.span_id == span_id("surface-1")


@pytest.mark.parametrize(
    ("error", "key", "ok"),
    [(BrokenFile("/srv/secret is damaged"), "fedwon.error", False), (progress.Cancelled(), "fedwon.cancelled", True)],
)
def test_how_a_step_ended(step, error, key, ok):
    surround, sent = step
    with pytest.raises(type(error)), surround(offer("train"), "fetch"):
        raise error
    [span] = sent()
    assert span.status.is_ok == ok
    assert key in span.attributes
    assert "secret" not in span.to_json()


def test_without_a_configuration_nothing_is_done(tmp_path):
    with traced(None, tmp_path) as surround:
        assert surround is untraced
        with surround(offer("train"), "fetch"):
            pass
