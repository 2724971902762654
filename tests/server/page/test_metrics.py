"""What Prometheus reads, and that dashboard and alerts ask for nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from fedwon.server.rounds.site_grid import Traffic
from fedwon.server.runs.run import Run
from tests.server.page.browsing import ELSEWHERE, Browser, enrol
from tests.server.server_kit import CLASSES, small_run

ROOT = Path(__file__).resolve().parents[3]
NAME = re.compile(r"\bfedwon_\w+")
CLIENTS = {
    f"fedwon_client_{name}" for name in ("info", "connected", "task_steps", "task_steps_done", "certificate_seconds")
}
HOSTILE = 'a"} 1\nfedwon_info{version="x'


def read(reply):
    assert reply.status_code == 200
    families = {family.name: family for family in text_string_to_metric_families(reply.text)}
    return {
        name: {tuple(sample.labels[key] for key in sorted(sample.labels)): sample.value for sample in family.samples}
        for name, family in families.items()
    }


@pytest.fixture
def federation(home):
    enrol(home, "a", {"good": {"train": 5, "validation": 2}}, days=10)
    enrol(home, "b")
    run = Run.create(home.store, home.folder, small_run(rounds=5), CLASSES)
    run.measured(1, "a", {"validation-correct": 3, "validation-examples": 4, "validation-loss": 0.5})
    for number in (1, 2):
        run.sent(f"t{number}", number, "a", "train")
    run.settled("t1", "averaged", cost=Traffic(100, 20, 3.0))
    run.settled("t2", "refused", reason="x", cost=Traffic(50, 5, 1.0))
    run.commit(1, run.last()[1], seconds=2.5, sites=())
    return run


def test_the_figures(browser, federation):
    found = read(browser.get("/metrics"))
    assert found["fedwon_site_state"]["a", "connected"] == 1
    assert found["fedwon_site_state"]["b", "never"] == 1
    assert sum(found["fedwon_site_state"].values()) == 2
    assert found["fedwon_site_accuracy_ratio"] == {("validation", "a"): 0.75}
    assert found["fedwon_site_images"] == {("a",): 7}
    assert found["fedwon_site_certificate_seconds"]["a",] == pytest.approx(864000, abs=9000)
    assert found["fedwon_site_tasks"] == {("a", "averaged"): 1, ("a", "refused"): 1}
    assert found["fedwon_site_bytes"] == {("down", "a"): 150, ("up", "a"): 25}
    assert found["fedwon_site_work_seconds"] == {("a",): 4}
    assert found["fedwon_run_rounds_committed"] == {(federation.id,): 1}
    assert found["fedwon_run_state"][federation.id, "running"] == 1
    assert found["fedwon_round_seconds"] == {(): 2.5}


def test_a_name_cannot_forge_a_figure(browser, home):
    enrol(home, HOSTILE, {"good": {"train": 5}})
    found = read(browser.get("/metrics"))
    assert found["fedwon_info"] == {("federation", "0.1.0"): 1}
    assert found["fedwon_site_images"] == {(HOSTILE,): 5}


def test_elsewhere_it_is_not_for_everybody(home):
    outsider = Browser(home, tls=True, client=ELSEWHERE)
    assert outsider.get("/metrics", headers={"accept": "*/*"}).status_code == 401


def test_dashboard_alerts_and_the_page_speak_of_metrics_that_there_are(browser, federation):
    there = set(read(browser.get("/metrics")))
    dashboard = (ROOT / "deploy" / "grafana" / "fedwon.json").read_text()
    rules = (ROOT / "deploy" / "prometheus" / "fedwon.rules.yml").read_text()
    expressions = [target["expr"] for panel in json.loads(dashboard)["panels"] for target in panel["targets"]]
    alerts = [rule["expr"] for group in yaml.safe_load(rules)["groups"] for rule in group["rules"]]
    asked = {name for text in (*expressions, *alerts) for name in NAME.findall(text)}
    assert asked - there == set()
    assert there - asked == {"fedwon_info", "fedwon_run_rounds"}  # nothing is measured for nobody
    table = (ROOT / "docs" / "operation.md").read_text()
    assert set(re.findall(r"`(fedwon_\w+)", table)) - {"fedwon_site_"} == there | CLIENTS


def test_the_label_values_of_dashboard_and_alerts_are_those_of_the_figures(browser, federation):
    found = read(browser.get("/metrics"))
    states = {value for name in ("fedwon_site_state", "fedwon_run_state") for key in found[name] for value in key}
    states |= {"refused", "failed", "late"}
    for path in ("grafana/fedwon.json", "prometheus/fedwon.rules.yml"):
        text = (ROOT / "deploy" / path).read_text().replace("\\", "")
        for named in re.findall(r'state=~?"([^"]+)"', text):
            assert set(named.split("|")) <= states, named
