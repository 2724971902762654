"""The drift alarm: against a slow twin, and what it must and must not say."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise

import numpy as np
import pytest
from flwr.app import MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwon.server import report
from fedwon.server.drift.alarm import CAP, LEAST, LONGEST, SLACK, THRESHOLD, WINDOW, standings, step
from fedwon.server.drift.history import history
from fedwon.server.drift.watch import ALARM, OVER
from fedwon.server.rounds.events import SiteDrifted
from fedwon.server.runs.federating import federate
from fedwon.server.store import AuditRow, Store
from tests.server.server_kit import FakeGrid, good_metrics, rows, shifted, small_run


def twin(trace, threshold=THRESHOLD):
    """The same from the definition: each site by itself, everything computed anew in every round."""
    found = {}
    for site in sorted({site for _, counts in trace for site in counts}):
        base, total, since = [], 0.0, None
        for number, counts in trace:
            if counts.get(site, (0, 0))[1] <= 0:
                continue
            own = value(counts[site])
            others = [value(count) for name, count in counts.items() if name != site and count[1] > 0]
            beside = own - (statistics.median(others) if others else 0.0)
            if since is not None and number - since >= LONGEST:
                base, total, since = [], 0.0, None
            if len(base) < LEAST:
                base.append((own, beside))
                continue
            falls = [fall([one[part] for one in base], (own, beside)[part], counts[site][1]) for part in (0, 1)]
            total = min(max(total + min(*falls, CAP) - SLACK, 0.0), 2 * threshold)
            if total >= threshold or (since is not None and total > threshold / 2):
                since = number if since is None else since
            else:
                since = None
            if total == 0:
                base = [*base, (own, beside)][-WINDOW:]
        found[site] = (total, since)
    return found


def value(count):
    right, examples = count
    return 2 * math.asin(math.sqrt((right + 3 / 8) / (examples + 3 / 4)))


def fall(past, now, examples):
    steps = [later - earlier for earlier, later in pairwise(past)]
    spread = statistics.fmean(one**2 for one in steps) / 2
    return (statistics.fmean(past) - now) / math.sqrt(max(1 / (examples + 0.5), spread) * (1 + 1 / len(past)))


@st.composite
def counts(draw):
    examples = draw(st.integers(0, 300))
    return draw(st.integers(0, examples)), examples


TRACES = st.lists(st.dictionaries(st.sampled_from("abcd"), counts(), max_size=4), max_size=40)


@settings(max_examples=40)
@given(trace=TRACES, threshold=st.floats(1, 20))
def test_it_is_what_its_definition_says(trace, threshold):
    numbered = list(enumerate(trace))
    fast, slow = standings(numbered, threshold), twin(numbered, threshold)
    seen = dict(fast)
    for site, (total, since) in slow.items():
        if site in seen:
            assert seen[site].total == pytest.approx(total, abs=1e-9)
            assert seen[site].since == since
    assert {site for site, (total, _) in slow.items() if total} <= seen.keys()


@settings(max_examples=30)
@given(trace=TRACES)
def test_names_and_order_of_sites_do_not_matter_and_totals_are_bounded(trace):
    numbered = list(enumerate(trace))
    turned = [(number, {f"z-{site}": counts[site] for site in reversed(counts)}) for number, counts in numbered]
    left, right = standings(numbered), standings(turned)
    assert {f"z-{site}": standing for site, standing in left.items()} == right
    assert all(0 <= standing.total <= 2 * THRESHOLD for standing in left.values())


def steady(share, examples=200, rounds=30, sites="abc"):
    return [{site: (round(share * examples), examples) for site in sites} for _ in range(rounds)]


def with_fall(trace, site, onset, share, end=None):
    made = [dict(counts) for counts in trace]
    for counts_of in made[onset:end]:
        examples = counts_of[site][1]
        counts_of[site] = (round(share * examples), examples)
    return made


def alarms(trace, threshold=THRESHOLD):
    found, after = [], {}
    for number, counts_of in enumerate(trace):
        after = step(after, number, counts_of, threshold)
        found += [(site, number) for site, standing in after.items() if standing.since == number]
    return found


def test_a_fall_at_one_line_is_told_soon_and_of_that_line_only():
    [(site, number)] = alarms(with_fall(steady(0.9), "b", 20, 0.6)[:28])
    assert site == "b"
    assert 20 < number <= 23  # one round alone is never enough
    words = standings(list(enumerate(with_fall(steady(0.9), "b", 20, 0.6)[:24])))["b"].words
    assert "from 90 % to 60 %" in words
    assert "since round 2" in words


def test_one_bad_round_is_no_drift():
    assert alarms(with_fall(steady(0.9), "b", 20, 0.2, end=21)) == []


def test_a_model_that_is_worse_for_all_is_no_drift_of_a_line():
    assert alarms([*steady(0.9, rounds=20), *steady(0.6, rounds=10)]) == []


def test_others_that_learn_faster_are_no_drift():
    trace = []
    for number in range(30):
        share = min(0.5 + 0.02 * number, 0.95)
        trace.append({"a": (round(200 * share), 200), "b": (round(200 * share), 200), "c": (100, 200)})
    assert alarms(trace) == []


def test_a_line_that_is_repaired_ends_its_alarm_and_one_that_is_not_becomes_usual():
    trace = with_fall(steady(0.9, rounds=60), "b", 20, 0.6, end=26)
    assert standings(list(enumerate(trace[:26])))["b"].since is not None
    assert standings(list(enumerate(trace[:40])))["b"].since is None
    for_good = with_fall(steady(0.9, rounds=60), "b", 20, 0.6)
    assert len(alarms(for_good)) == 1
    assert standings(list(enumerate(for_good)))["b"].since is None


def test_a_small_line_has_to_fall_further():
    assert alarms(with_fall(steady(0.9, examples=2000), "b", 20, 0.85))
    assert alarms(with_fall(steady(0.9, examples=20), "b", 20, 0.85)) == []


def test_false_alarms_are_as_rare_as_the_configuration_says():
    rng, raised, rounds = np.random.default_rng(3), 0, 0
    for _ in range(12):
        trace = [{f"{site}": (int(rng.binomial(100, 0.85)), 100) for site in range(5)} for _ in range(60)]
        raised, rounds = raised + len(alarms(trace)), rounds + 5 * 60
    assert raised / rounds < 3e-3  # the figure is 1e-3 and below; 3,600 rounds are a small sample


def lines(bad_from, rounds):
    """Sites whose validation images go wrong at one of them, from a round on."""

    def site(message, name):
        number = int(message.metadata.group_id)
        right = 20 if name == "b" and bad_from <= number < bad_from + 3 else 90
        numbers = good_metrics(10, **{"validation-correct": right, "validation-examples": 100})
        moved = shifted(message.content["arrays"], 0.1)
        if message.metadata.message_type == "evaluate":
            numbers |= {f"test-{key}": numbers[f"validation-{key}"] for key in ("correct", "examples", "loss")}
            return RecordDict({"metrics": MetricRecord(numbers)})
        return RecordDict({"arrays": moved, "metrics": MetricRecord(numbers)})

    return FakeGrid(dict.fromkeys("abc", site))


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "fedwon.db")
    yield made
    made.close()


def drifted(store, tmp_path, config, grid=None):
    heard = []
    federate(grid or lines(8, 18), config, store, tmp_path, listeners=[heard.append])
    return [event for event in heard if isinstance(event, SiteDrifted)]


def test_a_run_tells_of_a_drift_and_of_its_end(store, tmp_path):
    first, last = drifted(store, tmp_path, small_run(rounds=18, minimum=3))
    assert (first.site, first.over, last.site, last.over) == ("b", False, "b", True)
    assert "from 90 % to 20 %" in first.text
    audited = [(row.action, row.subject) for row in rows(store, AuditRow) if row.action in {ALARM, OVER}]
    assert audited == [(ALARM, "b"), (OVER, "b")]
    with store.session() as session:
        [run] = report.runs(store)
        assert len(history(session, run["run"])) == 18  # the models that a round began with
    assert run["drift"] == {}  # of a run that is over, nothing is to be done any more


def test_status_says_so_while_it_stands(store, tmp_path):
    config = small_run(rounds=11, minimum=3)
    run_ids = []

    def listen(event):
        if type(event).__name__ == "SiteDrifted":
            run_ids.append(report.runs(store)[0]["drift"])

    federate(lines(8, 11), config, store, tmp_path, listeners=[listen])
    assert [list(found) for found in run_ids] == [["b"]]
    assert "fallen here" in run_ids[0]["b"]


def test_without_the_alarm_nothing_is_told(store, tmp_path):
    config = small_run(rounds=11, minimum=3)
    config = config.model_copy(update={"drift": config.drift.model_copy(update={"alarm": False})})
    assert drifted(store, tmp_path, config) == []
