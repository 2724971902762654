"""A run's events as spans."""

from __future__ import annotations

from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fedwon.common.config import parse
from fedwon.common.spans import Traces
from fedwon.common.traces import round_name, span_id, trace_id
from fedwon.server.config import ServerConfig
from fedwon.server.rounds.events import RoundCommitted, RoundStarted, RunEnded, RunStarted, SiteAnswered, SiteFailed
from fedwon.server.runs.run import Run
from fedwon.server.tracing import RunTracer, traced, traces_of
from tests.server.server_kit import CLASSES, make_home, small_run

KEYS = {
    *("fedwon.run", "fedwon.round", "fedwon.site", "fedwon.sites", "fedwon.state"),
    *("fedwon.bytes.down", "fedwon.bytes.up", "fedwon.images", "fedwon.work.seconds"),
}
SECRET = "token-3f9a /srv/images/customer-7"


@pytest.fixture
def home(tmp_path):
    made = make_home(tmp_path / "server")
    yield made
    made.store.close()


@pytest.fixture
def heard(home):
    """A run whose events take a second each, and what it sent."""
    run = Run.create(home.store, home.folder, small_run(), CLASSES)
    kept, moment = InMemorySpanExporter(), [1000.0]

    def clock():
        moment[0] += 1
        return moment[0]

    traces = Traces(kept, "fedwon-server", "plant")
    tracer = RunTracer(traces, home.store, clock)

    def tell(*events):
        for event in events:
            tracer(event)
        traces._processor.force_flush()
        return {(span.name, span.attributes.get("fedwon.site")): span for span in kept.get_finished_spans()}

    yield run.id, tell
    traces.close()


def answered(number, site, model_round, metrics=None):
    return SiteAnswered(number, site, metrics or {"num-examples": 30.0}, model_round, 0.5, 100, 10)


def test_run_rounds_and_tasks(heard):
    run, tell = heard
    spans = tell(
        RunStarted(run, 2, 0, ("a", "b")),
        RoundStarted(1, ("a", "b")),
        answered(1, "a", 0),
        SiteFailed(1, "b", SECRET),
        RoundCommitted(1, 2.0, Path("x"), ("a",)),
        RunEnded(run, "finished", "", None),
    )
    whole, one, good, bad = spans["run", None], spans["round", None], spans["task", "a"], spans["task", "b"]
    assert {span.context.trace_id for span in spans.values()} == {trace_id(run)}
    assert whole.parent is None
    assert one.parent.span_id == whole.context.span_id == span_id(run)
    assert good.parent.span_id == bad.parent.span_id == one.context.span_id == span_id(round_name(run, 1))
    assert good.context.span_id == span_id(f"{run}.r0001.train.a")
    assert (good.end_time - good.start_time, bad.end_time - bad.start_time) == (10**9, 2 * 10**9)
    assert one.end_time - one.start_time == 3 * 10**9
    assert (good.status.is_ok, bad.status.is_ok) == (True, False)
    assert good.attributes["fedwon.bytes.down"] == 100
    assert whole.attributes["fedwon.state"] == "finished"


def test_nothing_but_known_names_and_numbers_leaves(heard):
    run, tell = heard
    spans = tell(
        RunStarted(run, 2, 0, ("a",)),
        RoundStarted(1, ("a",)),
        SiteFailed(1, "a", SECRET),
        RoundCommitted(1, 2.0, Path(SECRET), ("a",)),
        RunEnded(run, "failed", SECRET, None),
    )
    assert len(spans) == 3
    for span in spans.values():
        assert span.attributes.keys() <= KEYS
        assert "token" not in span.to_json()
        assert "customer" not in span.to_json()
        names = {"service.name", "service.version", "service.instance.id"}
        assert span.resource.attributes.keys() <= names


def test_an_update_that_is_late_is_of_the_round_that_asked(heard):
    run, tell = heard
    spans = tell(
        RunStarted(run, 3, 0, ("a",)),
        RoundStarted(1, ("a",)),
        RoundCommitted(1, 1.0, Path("x"), ()),
        RoundStarted(2, ("a",)),
        answered(2, "a", 0),
    )
    late = spans["task", "a"]
    assert late.context.span_id == span_id(f"{run}.r0001.train.a")
    assert late.parent.span_id == span_id(round_name(run, 1))
    assert late.end_time - late.start_time == 3 * 10**9


def test_a_strange_number_stops_nothing(heard, caplog):
    run, tell = heard
    start = RunStarted(run, 3, 0, ("a",)), RoundStarted(1, ("a",))
    spans = tell(*start, *[answered(1, "a", 0, {"num-examples": float("nan")})] * 2, RunStarted("no run", 1, 0, ()))
    assert spans == {}
    assert caplog.text.count("a span could not be made") == 1


def test_nothing_is_loaded_or_sent_unless_it_is_named(home):
    assert traces_of(home) is None
    with traced(None, home.store) as listeners:
        assert listeners == []
    home.config = parse(ServerConfig, {"traces": {"endpoint": "http://127.0.0.1:9/v1/traces"}}, "test")
    traces = traces_of(home)
    with traced(traces, home.store) as listeners:
        assert len(listeners) == 1
