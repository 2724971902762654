"""The paired interval, against a slow simulation of what it claims to cover."""

import math

import numpy as np
import pytest

from fedwon.server.comparison.paired import paired
from fedwon.server.comparison.scoring import right_images
from tests.server.comparison.lines_kit import score


def test_bits_come_back_as_they_were():
    bits = np.random.default_rng(1).random(13) < 0.5
    assert right_images(score(bits, [5, 8])).tolist() == bits.tolist()


def test_difference_is_that_of_the_mean_accuracies():
    first = [{"a": score([1, 1, 0, 1], [2, 2]), "b": score([1, 0], [1, 1])}]
    second = [{"a": score([1, 0, 0, 0], [2, 2]), "b": score([1, 1], [1, 1])}]
    found = paired(first, second, "accuracy")
    assert found.mean == pytest.approx(((3 - 1) / 4 + (1 - 2) / 2) / 2)
    assert math.isinf(found.high), "one seed says nothing of other seeds"
    assert found.verdict == "undecided"


def test_balanced_difference_weighs_classes_alike():
    first = [{"a": score([1] * 9 + [0], [9, 1])}] * 2
    second = [{"a": score([0] * 9 + [1], [9, 1])}] * 2
    assert paired(first, second, "balanced").mean == pytest.approx(0)
    assert paired(first, second, "accuracy").mean == pytest.approx(0.8)


def test_rows_with_other_seeds_are_refused():
    with pytest.raises(ValueError, match="same seeds"):
        paired([{"a": score([1], [1])}], [], "accuracy")


def test_interval_covers_the_true_difference_as_often_as_it_says():
    rng = np.random.default_rng(3)
    covered, trials, images, truth = 0, 300, 200, 0.1
    for _ in range(trials):
        rows = ([], [])
        hardness = rng.random(images)
        for _ in range(3):
            wobble = rng.normal(0, 0.02, 2)
            rows[0].append({"a": score(hardness < 0.6 + truth + wobble[0], [images // 2, images // 2])})
            rows[1].append({"a": score(hardness < 0.6 + wobble[1], [images // 2, images // 2])})
        found = paired(*rows, "accuracy")
        covered += found.low <= truth <= found.high
    assert covered / trials >= 0.94


def test_a_class_with_a_single_image_is_not_taken_for_certain():
    many = [1, 0, 1, 0, 1, 1]
    first, second = score([*many, 1], [6, 1]), score([0, 1, 0, 0, 1, 0, 0], [6, 1])
    found = paired([{"a": first}] * 2, [{"a": second}] * 2, "balanced")
    change = np.array([*many, 1.0]) - np.array([0, 1, 0, 0, 1, 0, 0])
    expected = 1.96 * math.sqrt((change[:6].var(ddof=1) / 6 + change.var(ddof=1)) / 4)
    assert found.by_images == pytest.approx(expected, rel=1e-3)
    assert found.by_seeds == 0
