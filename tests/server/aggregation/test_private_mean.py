"""Privacy of whole sites: against Flower's own strategy and a slow twin, and what is kept and told of it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
from hypothesis import given
from hypothesis import strategies as st

from fedwon.common.config import parse
from fedwon.common.errors import StaysRefused
from fedwon.common.flower import host_app
from fedwon.common.noise import normal
from fedwon.common.privacy_settings import SitePrivacyConfig
from fedwon.common.run_config import RunConfig
from fedwon.server import report
from fedwon.server.admission import quarantine
from fedwon.server.aggregation.averaging import Update
from fedwon.server.aggregation.private_mean import private_mean, releases_of
from fedwon.server.runs.privacy_spent import in_words, spent
from fedwon.server.runs.run import Run
from tests.server.aggregation.test_robust import TYPES, made
from tests.server.rounds.test_strategy import start
from tests.server.server_kit import FakeGrid, answering, good_metrics, record, same, shifted, small_run


def asked(noise=1.0, clip=1.0) -> SitePrivacyConfig:
    return SitePrivacyConfig(noise=noise, clip=clip)


def silent(count):
    return np.zeros(count)


def mean_of(updates, starts, rules=None, types=TYPES, draw=silent):
    rules = rules or asked()
    return private_mean(updates, starts, rules, types, rules.clip, draw=draw).record


def flowers(updates, begun, clip, noise=0.0) -> ArrayRecord:
    """What Flower's strategy makes of the same updates."""
    host_app()
    strategy = DifferentialPrivacyServerSideFixedClipping(FedAvg(), noise, clip, len(updates))
    strategy.current_arrays = floating(begun)
    replies = []
    for number, update in enumerate(updates):
        content = RecordDict({"arrays": floating(update.record), "metrics": MetricRecord({"num-examples": 1})})
        asking = Message(RecordDict(), dst_node_id=number + 1, message_type="train")
        replies.append(Message(content, reply_to=asking))
    return strategy.aggregate_train(1, replies)[0]


def floating(arrays) -> ArrayRecord:
    return record(**{name: np.array(arrays[name].numpy()) for name in TYPES})


@pytest.mark.parametrize("clip", [0.1, 2.0, 3.5, 100.0])
def test_without_noise_it_is_what_flower_makes(tmp_path, clip):
    updates, starts = made(5, 3, tmp_path)
    found = mean_of(updates, starts, asked(clip=clip))
    wanted = flowers(updates, starts[0], clip)
    for name in TYPES:
        np.testing.assert_allclose(found[name].numpy(), wanted[name].numpy(), rtol=1e-5, atol=1e-6)


def test_the_noise_is_as_strong_as_flowers():
    big = record(w=np.zeros(200_000, np.float32))
    updates = [Update(f"s{place}", 1, big) for place in range(4)]
    found = mean_of(updates, [big] * 4, asked(3.0, 0.5), {"w": "float32"}, normal)["w"].numpy()
    assert found.std() == pytest.approx(3.0 * 0.5 / 4, rel=0.02)
    assert abs(found.mean()) < 0.01


@given(st.integers(0, 2**31), st.integers(1, 6), st.floats(0.01, 5))
def test_no_site_moves_the_model_further_than_its_share(seed, count, clip):
    updates, starts = made(count, seed)
    with_it = mean_of(updates, starts, asked(clip=clip))
    still = [*updates[1:], Update(updates[0].site, 1, starts[0])]  # the same site, with nothing learned
    without = mean_of(still, starts, asked(clip=clip))
    apart = math.sqrt(
        sum(float(((with_it[name].numpy() - without[name].numpy()).astype(np.float64) ** 2).sum()) for name in TYPES)
    )
    assert apart <= clip / count * (1 + 1e-5) + 1e-6


def test_the_order_does_not_count_and_integers_stay(tmp_path):
    updates, starts = made(4, 1, tmp_path)
    found = mean_of(updates, starts)
    assert same(found, mean_of(updates[::-1], starts))
    assert int(found["n"].numpy()) == 1  # as it was, and not as the first site has it


def test_what_is_not_finite_counts_as_nothing_learned():
    updates, starts = made(3, 1)
    broken = Update("s1", 1, shifted(updates[1].record, math.nan))
    found = mean_of([updates[0], broken, updates[2]], starts)
    still = Update("s1", 1, starts[1])
    assert same(found, mean_of([updates[0], still, updates[2]], starts))


def test_there_is_nothing_to_average():
    with pytest.raises(ValueError, match="needs updates"):
        mean_of([], [])
    updates, starts = made(2, 1)
    with pytest.raises(ValueError, match="and noise"):
        mean_of(updates, starts, SitePrivacyConfig())


class TestABoundThatFollows:
    rules = SitePrivacyConfig(noise=2.0, clip=1.0, quantile=0.5)

    def followed(self, clip, rounds, count=30, draw=silent, scale=1.0):
        begun = record(w=np.zeros(4, np.float32))
        lengths = scale * np.random.default_rng(1).lognormal(size=count)
        updates = [
            Update(f"s{place:02}", 1, record(w=np.float32([size, 0, 0, 0]))) for place, size in enumerate(lengths)
        ]
        for _ in range(rounds):
            clip = private_mean(updates, [begun] * count, self.rules, {"w": "float32"}, clip, draw=draw).clip
        return clip, lengths

    @pytest.mark.parametrize("begun", [0.01, 1.0, 300.0])
    def test_it_ends_at_the_quantile_wherever_it_begins(self, begun):
        clip, lengths = self.followed(begun, 100, count=20)
        assert np.mean(lengths <= clip) == pytest.approx(0.5, abs=0.1)

    def test_one_step_is_the_papers(self):
        clip, lengths = self.followed(1.0, 1)
        assert clip == pytest.approx(math.exp(-0.2 * (np.mean(lengths <= 1.0) - 0.5)))

    def test_with_noise_on_the_count_it_comes_near_where_there_are_many(self):
        clip, lengths = self.followed(1.0, 30, count=80, draw=np.random.default_rng(3).standard_normal)
        assert 0.3 < np.mean(lengths <= clip) < 0.7

    def test_one_round_moves_it_little_whatever_the_count_says(self):
        for drawn in (-1e9, 1e9):
            clip, _ = self.followed(1.0, 1, draw=lambda count, drawn=drawn: np.full(count, drawn))
            assert math.exp(-0.2) < clip < math.exp(0.2)

    def test_sum_and_count_cost_what_noise_costs(self):
        drawn = []
        self.followed(1.0, 1, draw=lambda count: drawn.append(count) or np.ones(count))
        assert drawn == [4, 1]
        begun = record(w=np.zeros(1, np.float32))
        one = private_mean([Update("a", 1, begun)], [begun], self.rules, {"w": "float32"}, 1.0, draw=np.ones)
        of_sum = float(one.record["w"].numpy()[0])  # over a clip of 1
        of_count = 2.0 * math.sqrt(10)
        assert pytest.approx(1 / of_sum**2 + 1 / of_count**2) == 1 / 2.0**2

    def test_a_run_keeps_it(self, private):
        run = private(sites={"noise": 0.001, "quantile": 0.5, "clip": 1000.0})
        start(run, FakeGrid({"a": answering(), "b": answering()}), rounds=2)
        again = Run.open(run.store, run.folder.parent.parent, run.id)
        assert math.exp(-0.4) * 1000 <= again.clip < 1000  # both updates are shorter, so it falls
        assert report.runs(run.store)[0]["privacy"]["sites"]["clip"] == again.clip


def test_two_updates_of_a_site_cost_as_four_rounds():
    assert releases_of([Update(site, 1, record()) for site in "aba"]) == {"a": 4, "b": 1}


def private_run(**privacy) -> RunConfig:
    plain = small_run(rounds=3).model_dump(mode="json", exclude={"aggregation", "admission", "participation"})
    who = {"minimum": 2, "deadline_seconds": 60.0, "pause_seconds": None, "retries": 0}
    return parse(RunConfig, {**plain, "participation": who, "privacy": privacy}, "test")


@pytest.fixture
def private(store, tmp_path):
    def make(**privacy):
        config = private_run(**privacy)
        return Run.create(store, tmp_path, config, config.classes)

    return make


def test_a_run_keeps_and_tells_what_it_cost(private, store):
    run = private(sites={"noise": 2.0, "delta": 1e-4})
    before = run.last()[1]
    grid = FakeGrid({"a": answering(), "b": answering()})
    start(run, grid, rounds=2)
    assert not same(run.last()[1], before)
    grid.behaviours = {"b": answering(), "c": answering()}
    grid.here = ["b", "c"]
    start(run, grid, done=2, rounds=1)
    shown = report.runs(store)[0]
    assert json.loads(json.dumps(shown)) == shown
    (whole,) = shown["privacy"].values()
    rules = run.config.privacy.sites
    assert whole["by_site"] == {"a": rules.epsilon(2), "b": rules.epsilon(3), "c": rules.epsilon(1)}
    assert whole["epsilon"] == rules.epsilon(3)
    (line,) = in_words(run.id, shown["privacy"])
    assert f"of a whole site: epsilon {rules.epsilon(3):.3g} at delta 0.0001" in line


def test_what_sites_say_of_their_images_is_passed_on(private, store):
    def says(epsilon):
        def site(message, name):
            content = answering()(message, name)
            content["metrics"] = MetricRecord(good_metrics(**{"privacy-epsilon": epsilon}))
            return content

        return site

    run = private(examples={"noise": 1.0})
    start(run, FakeGrid({"a": says(1.5), "b": says(2.5)}), rounds=1)
    start(run, FakeGrid({"a": says(3.0), "b": says(2.5)}), done=1, rounds=1)
    told = report.runs(store)[0]["privacy"]["examples"]
    assert (told["epsilon"], told["by_site"]) == (3.0, {"a": 3.0, "b": 2.5})


def test_a_run_without_costs_nothing(make_run, store):
    run = make_run()
    start(run, FakeGrid({"a": answering()}))
    assert report.runs(store)[0]["privacy"] == {} == spent({}, None)


def test_a_refused_update_is_not_let_out(private, store, tmp_path):
    def tripled(message, name):
        content = answering()(message, name)
        content["metrics"] = MetricRecord(good_metrics(1000))
        return content

    run = private(sites={"noise": 1.0})
    behaviours = {"a": answering(), "b": answering()}
    start(run, FakeGrid({**behaviours, "c": answering()}), rounds=1)
    start(run, FakeGrid({**behaviours, "c": tripled}), done=1, rounds=1)
    (row,) = quarantine.listing(store, tmp_path)
    with pytest.raises(StaysRefused, match="promises privacy of whole sites"):
        quarantine.release(store, tmp_path, row["task"])


def test_status_says_it(home, typed):
    config = private_run(sites={"noise": 2.0})
    run = Run.create(home.store, home.folder, config, config.classes)
    run.commit(1, run.last()[1], seconds=1.0, sites=("a",), releases={"a": 1})
    said = f"{run.id}: privacy of a whole site: epsilon {config.privacy.sites.epsilon(1):.3g} at delta 1e-05 (noise 2)"
    assert said in typed("status")
    assert json.loads(typed("status", "--json"))["runs"][0]["privacy"]["sites"]["by_site"].keys() == {"a"}


def test_a_relays_mean_is_refused(private, store):
    def relay(message, name):
        content = answering()(message, name)
        content["metrics"] = MetricRecord(good_metrics(**{"sites-behind": 3}))
        return content

    run = private(sites={"noise": 1.0})
    start(run, FakeGrid({"a": answering(), "b": answering(), "c": relay}), rounds=1)
    assert report.runs(store)[0]["privacy"]["sites"]["by_site"].keys() == {"a", "b"}
