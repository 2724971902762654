"""Rounds with masked updates over a grid without wires: the model is the plain mean, or there is none."""

from __future__ import annotations

from itertools import pairwise
from unittest.mock import Mock

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedwon.common.errors import NotASum, TooFewUpdates
from fedwon.common.files import write_private
from fedwon.common.secagg.fixed_point import FixedPoint
from fedwon.common.secagg.stages import SECURE
from fedwon.server.rounds.events import RoundCommitted, RunPaused, SiteFailed
from fedwon.server.runs.run import Run
from fedwon.server.secure import kept_sitting
from fedwon.server.secure.sitting import Sitting
from fedwon.server.secure.strategy import SecureFedWon
from tests.server.secure.secure_kit import STAGES, Sites, moved, secure_run

IMAGES = {f"s{number}": 10 * number for number in range(1, 7)}


@pytest.fixture
def secured(store, tmp_path):
    """Begins a run of these sites and returns it, the strategy and what was told."""

    def make(grid, **settings):
        config, told = secure_run(**settings), []
        run = Run.create(store, tmp_path, config, config.classes, [told.append])
        return run, SecureFedWon(run, grid), told

    return make


def start(run, strategy, grid, rounds=1):
    return strategy.start(grid, run.last()[1], num_rounds=rounds, timeout=5)


def plain_mean(model, images, seated, *, clip=100.0, largest=60.0):
    """The model moved by the sum of the fixed-point numbers, in whole numbers of 64 bits."""
    numbers = FixedPoint(clip, seated)
    weights = {site: min(count, largest) / largest for site, count in images.items()}
    made = {}
    for name, array in model.items():
        start = array.numpy()
        total = np.zeros(start.size, dtype=np.int64)
        for site, weight in weights.items():
            difference = moved(model, site)[name].numpy().astype(np.float64) - start.astype(np.float64)
            total += numbers.encode(difference.reshape(-1), weight).view(np.int32)
        mean = (total * (numbers.step * (1 / sum(weights.values())))).reshape(start.shape)
        made[name] = (start + mean).astype(start.dtype)
    return made


def assert_same(record, expected):
    assert list(record) == list(expected)
    for name, values in expected.items():
        assert record[name].numpy().tobytes() == values.tobytes(), name


def sites_of(told):
    return next(event.sites for event in told if isinstance(event, RoundCommitted))


def test_nobody_lost(secured):
    grid = Sites(IMAGES)
    run, strategy, told = secured(grid)
    first = run.last()[1]
    expected = plain_mean(first, IMAGES, 6)
    start(run, strategy, grid)
    assert_same(run.last()[1], expected)
    assert sites_of(told) == tuple(IMAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_any_third_lost_at_any_step(secured, stage):
    grid = Sites(IMAGES)
    run, strategy, told = secured(grid)
    first, lost = run.last()[1], ["s2", "s5"]
    grid.lost = {stage: lost}
    start(run, strategy, grid)
    counted = IMAGES if stage == STAGES[3] else {name: IMAGES[name] for name in IMAGES if name not in lost}
    seated = 4 if stage in STAGES[:2] else 6
    largest = 60.0
    assert_same(run.last()[1], plain_mean(first, counted, seated, largest=largest))
    assert sites_of(told) == tuple(counted)
    failed = {event.site for event in told if isinstance(event, SiteFailed)}
    assert failed == set(lost)


def test_the_server_is_told_no_update(secured):
    grid = Sites(IMAGES)
    run, strategy, _ = secured(grid)
    files = {}

    def keep(message, name):
        content = Sites._answer(grid, message, name)
        if message.metadata.message_type == "train":
            files[name] = {key: array.numpy().copy() for key, array in content["arrays"].items()}
        return content

    grid.behaviours = dict.fromkeys(IMAGES, keep)
    start(run, strategy, grid)
    for site, arrays in files.items():
        for values in arrays.values():
            if values.size > 500:  # of small numbers the upper bits would all be alike
                upper = (values.reshape(-1).view(np.uint32) >> 24).astype(np.float64)
                assert abs(upper.mean() - 127.5) < 6 * 73.9 / values.size**0.5, site


def test_more_than_half_lost_is_asked_for_again_and_then_told(secured):
    grid = Sites(IMAGES)
    run, strategy, _ = secured(grid)
    grid.lost = {"train": ["s1", "s2", "s3"]}
    with pytest.raises(TooFewUpdates, match=r"sites that must help to take a mask of s\d off, 3 are left"):
        start(run, strategy, grid)
    assert run.last()[0] == 0


def test_a_sum_that_could_not_be_opened_is_asked_for_in_a_new_sitting_of_those_who_did_not_help(secured):
    grid = Sites(IMAGES)
    run, strategy, _ = secured(grid, retries=1)
    first = run.last()[1]
    asked: list[str] = []

    def site(message, name):
        """Half of them are silent when the first sitting is to be opened."""
        asked.append(message.metadata.message_id)
        first_sitting = asked[0].split("setup-")[1].split(".")[0]
        opening = message.metadata.message_type == STAGES[3] and first_sitting in message.metadata.message_id
        return None if opening and name in {"s1", "s2", "s3"} else Sites._answer(grid, message, name)

    grid.behaviours = dict.fromkeys(IMAGES, site)
    start(run, strategy, grid)
    left = {name: IMAGES[name] for name in ("s1", "s2", "s3")}
    assert_same(run.last()[1], plain_mean(first, left, 3, largest=30.0))
    trainings = [name for name in asked if ".train-" in name]
    assert len(trainings) == len(set(trainings)) == 9  # other tasks in the new sitting


def test_without_enough_others_the_round_is_not_asked_for_again(secured):
    grid = Sites(IMAGES)
    run, strategy, _ = secured(grid, retries=2, minimum=4, quorum=4)
    grid.lost = {STAGES[3]: ["s1", "s2", "s3"]}
    with pytest.raises(TooFewUpdates, match=r"cannot be asked for again with s4, s5, s6: they have helped to open"):
        start(run, strategy, grid)
    trained = [message for message in grid.messages if message.metadata.message_type == "train"]
    assert len(trained) == 6


@pytest.mark.parametrize("point", ["openings", "masks"])
def test_after_a_crash_the_round_goes_on_in_its_sitting(secured, monkeypatch, point):
    """Also where all sites have given their shares away, which none does twice for one round."""
    grid = Sites(IMAGES)
    run, strategy, _ = secured(grid)
    first = run.last()[1]
    with monkeypatch.context() as crashing:
        crashing.setattr(Sitting, point, Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            start(run, strategy, grid)
    before = len(grid.messages)
    start(run, SecureFedWon(run, grid), grid)
    assert_same(run.last()[1], plain_mean(first, IMAGES, 6))
    later = {message.metadata.message_type for message in grid.messages[before:]}
    assert later <= {STAGES[3]}  # nobody shared or trained again
    assert not list(run.spool.iterdir())


def test_after_a_crash_the_sum_is_of_the_same_updates_or_there_is_none(secured, monkeypatch):
    grid = Sites(IMAGES)
    run, strategy, _ = secured(grid, retries=1)
    first = run.last()[1]
    grid.lost = {"train": ["s6"]}
    with monkeypatch.context() as crashing:
        crashing.setattr(Sitting, "masks", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            start(run, strategy, grid)
    grid.lost = {"train": ["s2"]}  # s6, which was said to be lost, is back; s2, which counts, is away
    with pytest.raises(TooFewUpdates, match="the updates of s2 are in it already, and are not here any more"):
        start(run, SecureFedWon(run, grid), grid)
    grid.lost = {}
    start(run, SecureFedWon(run, grid), grid)
    assert_same(run.last()[1], plain_mean(first, {name: IMAGES[name] for name in IMAGES if name != "s6"}, 6))


def test_a_sitting_that_cannot_be_read_or_is_of_another_round_is_not_gone_on_with(secured):
    grid = Sites(IMAGES)
    run, strategy, told = secured(grid)
    (run.spool / kept_sitting.FILE).write_text("{")
    assert kept_sitting.kept(run.spool, 1) is None
    start(run, strategy, grid)
    assert sites_of(told) == tuple(IMAGES)
    strategy._close_sum(1, ())
    assert kept_sitting.kept(run.spool, 1) is not None
    assert kept_sitting.kept(run.spool, 2) is None


def meddling(grid, site, change):
    """Let one site change what it uploads."""

    def answer(message, name):
        content = Sites._answer(grid, message, name)
        return change(content) if name == site and message.metadata.message_type == "train" else content

    grid.behaviours = dict.fromkeys(grid.images, answer)


def test_numbers_beyond_the_norm_are_seen_in_the_sum_and_the_model_is_untouched(secured):
    def noise(content):
        arrays = ArrayRecord()
        rng = np.random.default_rng(1)
        for name, array in content["arrays"].items():
            arrays[name] = Array(ndarray=rng.integers(-(2**31), 2**31, array.shape, dtype=np.int32))
        return RecordDict({**content, "arrays": arrays})

    grid = Sites(IMAGES)
    run, strategy, _ = secured(grid)
    meddling(grid, "s4", noise)
    with pytest.raises(NotASum, match="a site sent something else, and which one nobody can tell"):
        start(run, strategy, grid)
    assert run.last()[0] == 0


def test_a_plain_update_does_not_get_into_the_sum(secured):
    def plain(content):
        arrays = ArrayRecord()
        for name, array in content["arrays"].items():
            arrays[name] = Array(ndarray=array.numpy().astype(np.float32))
        return RecordDict({**content, "arrays": arrays})

    grid = Sites(IMAGES)
    run, strategy, told = secured(grid)
    first = run.last()[1]
    meddling(grid, "s4", plain)
    start(run, strategy, grid)
    assert_same(run.last()[1], plain_mean(first, {name: IMAGES[name] for name in IMAGES if name != "s4"}, 6))
    assert "is float32, the global model's is int32" in next(e.reason for e in told if isinstance(e, SiteFailed))


def test_a_site_that_declares_more_images_than_it_has_is_left_out_like_one_that_is_lost(secured):
    def boast(content):
        return RecordDict({**content, "metrics": MetricRecord({**content["metrics"], "num-examples": 10**6})})

    grid = Sites(IMAGES)
    run, strategy, _ = secured(grid)
    first = run.last()[1]
    meddling(grid, "s6", boast)
    start(run, strategy, grid)
    assert_same(run.last()[1], plain_mean(first, {name: IMAGES[name] for name in IMAGES if name != "s6"}, 6))


def test_a_site_that_was_lost_for_a_moment_is_asked_again(secured):
    grid = Sites(IMAGES)
    run, strategy, told = secured(grid)
    grid.lost = {"train!": {"s1", "s2", "s3", "s4"}, "query.secagg_unmask!": {"s2", "s3", "s5"}}
    start(run, strategy, grid)
    assert sites_of(told) == tuple(IMAGES)


def test_silent_sites_are_asked_again_where_some_of_the_shares_are_false(secured):
    grid = Sites(IMAGES)
    run, strategy, told = secured(grid)

    def forge(message, name):
        content = Sites._answer(grid, message, name)
        if name in {"s1", "s2"} and message.metadata.message_type == STAGES[3]:
            answer = dict(content[SECURE])
            forged = [share[:-1] + bytes([share[-1] ^ 1]) for share in answer["counted_shares"]]
            return RecordDict({SECURE: ConfigRecord({**answer, "counted_shares": forged})})
        return content

    grid.behaviours = dict.fromkeys(IMAGES, forge)
    grid.lost = {"query.secagg_unmask!": {"s6"}}  # of the five that answer three are true, and four are needed
    start(run, strategy, grid)
    assert sites_of(told) == tuple(IMAGES)


def test_sites_of_two_circles_do_not_mask_with_one_another(secured, tmp_path):
    for name in ("one", "other"):
        write_private(tmp_path / name, f"the secret of circle {name}".encode())
    circle = {site: str(tmp_path / ("other" if site == "s6" else "one")) for site in IMAGES}
    grid = Sites(IMAGES, circle)
    run, strategy, told = secured(grid)
    with pytest.raises(TooFewUpdates, match="0 sites could agree on masks"):
        start(run, strategy, grid)
    reasons = {event.site: event.reason for event in told if isinstance(event, SiteFailed)}
    assert "do not know the secret of this circle (`circle` in client.yaml): s6." in reasons["s1"]


def test_a_random_graph_of_few_neighbours(secured):
    grid = Sites(IMAGES)
    run, strategy, _ = secured(grid, secure={"neighbours": 4})
    first = run.last()[1]
    grid.lost = {"train": ["s3"]}
    start(run, strategy, grid)
    assert_same(run.last()[1], plain_mean(first, {name: IMAGES[name] for name in IMAGES if name != "s3"}, 6))


def test_a_share_of_the_sites_in_each_round(secured):
    grid = Sites(IMAGES)
    run, strategy, told = secured(grid, fraction=0.5, minimum=6)
    start(run, strategy, grid, rounds=2)
    counted = [event.sites for event in told if isinstance(event, RoundCommitted)]
    assert [len(sites) for sites in counted] == [3, 3]
    assert counted[0] != counted[1]
    assert all({*earlier} == {*later} for earlier, later in pairwise(grid.asked[:4]))  # all stages of a round


def test_sites_that_are_away_are_waited_for_and_the_round_goes_on(secured):
    class Returning(Sites):
        def wait_for_arrival(self, seconds):
            self.said.append(("paused", seconds))
            self.lost = {}
            return True

    grid = Returning(IMAGES)
    run, _, told = secured(grid, pause_seconds=1.0, retries=0)
    for done, stage in enumerate((STAGES[0], STAGES[2], STAGES[3])):
        grid.lost = {stage: ["s1", "s2", "s3", "s4"]}
        start(run, SecureFedWon(run, grid, done), grid)
    counted = [event.sites for event in told if isinstance(event, RoundCommitted)]
    assert counted == [tuple(IMAGES)] * 3
    assert grid.said.count(("paused", 1.0)) == 3
    reasons = [event.reason for event in told if isinstance(event, RunPaused)]
    assert "0 sites could agree on masks, of 3 needed" in reasons[0]
    assert "The sum cannot be opened" in reasons[1]
    assert "The sum cannot be opened" in reasons[2]


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ({"a": 10, "b": 20, "c": 30}, 30.0),
        ({"a": 10, "b": 10, "c": 10**6}, 100.0),  # `weight_cap` medians
        ({"a": 0, "b": 0, "c": 0}, 2.0**20),
    ],
)
def test_up_to_what_images_count_as_weight(secured, images, expected):
    grid = Sites(images)
    _, strategy, _ = secured(grid)
    assert strategy._largest_weight(list(images)) == expected
