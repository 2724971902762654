"""Faults of cameras and lines: what each does to images, and what the page makes of rows."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import drift
from benchmarks.faulty.cameras import FAULTS, LOST, VANISHED, WRONG
from benchmarks.faulty.page import page
from benchmarks.faulty.rows import FIRST, LAST, METHODS, ROUNDS, SETS, Spec, every

SHAPES = [(40, 28, 28, 3), (40, 56, 56, 1)]


def images(shape=SHAPES[0]):
    rng = np.random.default_rng(2)
    return rng.integers(20, 120, shape, dtype=np.uint8), np.arange(shape[0]) % 4


def changed(fault, age=2, shape=SHAPES[0], seed=1):
    pixels, labels = images(shape)
    return FAULTS[fault].change(pixels, labels, age, np.random.default_rng(seed))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_keeps_shapes_and_types_and_leaves_what_it_was_given(fault, shape):
    pixels, labels = images(shape)
    kept = pixels.copy()
    seen = FAULTS[fault].change(pixels, labels, 0, np.random.default_rng(1))
    assert (seen.images.shape, seen.images.dtype, seen.labels.shape) == (shape, np.uint8, labels.shape)
    assert (pixels == kept).all()
    assert seen.there.any()
    again = FAULTS[fault].change(pixels, labels, 0, np.random.default_rng(1))
    assert (again.images == seen.images).all()
    assert (again.there == seen.there).all()


@pytest.mark.parametrize("fault", ["noise", "dead_pixels", "dead_rows", "vibration", "dust", "new_camera", "exposure"])
def test_what_can_be_seen_changes_images_and_not_labels(fault):
    pixels, labels = images()
    seen = changed(fault)
    assert np.abs(seen.images.astype(int) - pixels).mean() > 3
    assert (seen.labels == labels).all()
    assert seen.there.all()


def test_dead_pixels_and_rows_stay_where_they_are():
    for fault, dead in (("dead_pixels", {0, 255}), ("dead_rows", {0})):
        first, later = changed(fault, age=0).images, changed(fault, age=4).images
        assert (first == later).all()
        stuck = (first == first[:1]).all(axis=(0, 3))
        assert 0 < stuck.mean() < 0.3
        assert {int(value) for value in np.unique(first[:, stuck])} <= dead


@pytest.mark.parametrize("fault", ["white_balance", "exposure", "dust"])
def test_drifts_grow_from_round_to_round(fault):
    pixels, _ = images()
    moved = [np.abs(changed(fault, age).images.astype(int) - pixels).mean() for age in (0, 2, 5)]
    assert moved == sorted(moved)
    assert moved[0] < moved[-1] / 1.5


def test_vibration_smears_along_rows_only():
    pixels = np.zeros((1, 28, 28, 1), np.uint8)
    pixels[0, 14, 14] = 255
    seen = FAULTS["vibration"].change(pixels, np.zeros(1, int), 0, np.random.default_rng(1)).images[0, :, :, 0]
    assert (seen.sum(axis=1) > 0).sum() == 1
    assert 1 < (seen[14] > 0).sum() <= 6


def test_frames_go_missing_in_other_places_each_round_and_no_class_is_lost():
    pixels, labels = np.zeros((400, 8, 8, 1), np.uint8), np.arange(400) % 10
    first, later = (
        FAULTS["missing_frames"].change(pixels, labels, age, np.random.default_rng(1)).there for age in (0, 1)
    )
    assert abs(first.mean() - (1 - LOST)) < 0.1
    assert (first != later).any()
    assert set(labels[first]) == set(range(10))


def test_labels_and_classes():
    pixels, labels = np.zeros((400, 8, 8, 1), np.uint8), np.arange(400) % 4
    wrong = FAULTS["wrong_labels"].change(pixels, labels, 0, np.random.default_rng(1))
    assert abs((wrong.labels != labels).mean() - WRONG * 3 / 4) < 0.08
    gone = FAULTS["vanished_class"].change(pixels, labels, 0, np.random.default_rng(1))
    assert set(gone.labels[gone.there]) == {1, 2, 3} - {VANISHED}


def test_every_row_has_a_configuration_and_a_file_of_its_own():
    specs = list(every())
    assert len({spec.path for spec in specs}) == len(specs) == len(SETS) * len(FAULTS) * len(METHODS) * 3
    for spec in specs[:: len(FAULTS)]:
        assert spec.config().rounds == ROUNDS
    noisy = Spec("digits", "noise", "fedwon", 1)
    assert [noisy.faulty_in(number) for number in (FIRST - 1, FIRST, LAST, LAST + 1)] == [False, True, True, False]
    assert Spec("digits", "new_camera", "fedwon", 1).faulty_in(ROUNDS)


def row(fault, own, others=0.5, **more):
    curves = {"own": own, "others": [others] * ROUNDS}
    names = {"images": "digits", "fault": fault, "method": "fedwon", "seed": 1}
    return {**names, "failed": None, "curves": curves, "seconds": 1.0, **more}


def test_the_page_says_what_a_fault_costs_and_when_the_line_recovers():
    own = [0.6] * FIRST + [0.2] * (LAST - FIRST) + [0.2, 0.59, 0.6] + [0.6] * ROUNDS
    made = page([row("nothing", [0.6] * ROUNDS), row("noise", own[:ROUNDS], others=0.4)])
    [line] = [line for line in made.splitlines() if line.startswith("| noise | fedwon")]
    cells = [cell.strip() for cell in line.split("|")[3:]]
    assert cells[:5] == ["60.0 %", "20.0 %", "60.0 %", "-10.0", "1"]
    assert "| fedwon | 40.0 points | 1 of 1 | 0 | 0 |" in made
    assert "2 of " in made
    assert "**Not run yet:**" in made


def test_the_tables_of_the_alarm_are_made_of_its_figures():
    steady, hit = [{"a": (90, 100), "b": (90, 100)}] * 30, []
    hit = [*steady[:20], *[{"a": (30, 100), "b": (90, 100)}] * 10]
    assert drift.false_alarms([steady], drift.THRESHOLD) == (0, 60)
    tried, delays = drift.found_after([(hit, "a", 20)], drift.THRESHOLD)
    assert (tried, len(delays)) == (1, 1)
    assert delays[0] <= 3
    assert drift.fallen(steady, "a", 0.4, 20, np.random.default_rng(1))[19] == steady[19]


def test_real_traces_are_there():
    traces = list(drift.real())
    assert len(traces) > 100
    assert all(0 <= right <= examples for _, trace in traces for counts in trace for right, examples in counts.values())
