"""Rounds with masked updates over a grid without wires: the model is the plain mean, or there is none."""

from __future__ import annotations

import numpy as np
import pytest

from fedwon.common.errors import TooFewUpdates
from fedwon.common.secagg.fixed_point import FixedPoint
from fedwon.server.events import RoundCommitted, SiteFailed
from fedwon.server.runs import Run
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
    """The model moved by the sum of the fixed-point numbers, in whole numbers of Python's."""
    numbers = FixedPoint(clip, seated)
    weights = {site: min(count, largest) / largest for site, count in images.items()}
    made = {}
    for name, array in model.items():
        start = array.numpy()
        totals = [0] * start.size
        for site, weight in weights.items():
            difference = moved(model, site)[name].numpy().astype(np.float64) - start.astype(np.float64)
            words = numbers.encode(difference.reshape(-1), weight).view(np.int32).tolist()
            totals = [total + word for total, word in zip(totals, words, strict=True)]
        factor = numbers.step * (1 / sum(weights.values()))
        mean = np.array([total * factor for total in totals]).reshape(start.shape)
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


def test_a_sum_that_could_not_be_opened_is_asked_for_in_a_new_sitting(secured):
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
    assert_same(run.last()[1], plain_mean(first, IMAGES, 6))
    trainings = [name for name in asked if ".train-" in name]
    assert len(trainings) == len(set(trainings)) == 12  # other tasks in the new sitting
