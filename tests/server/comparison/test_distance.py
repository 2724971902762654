"""How far apart: nothing for two draws of one line, everything for lines of another light, nothing for another mix."""

import numpy as np
import pytest

from fedwon.server.comparison.distance import distances, features, pair_distance
from tests.server.comparison.lines_kit import picture


def drawn(shade, counts, seed):
    rng = np.random.default_rng(seed)
    kinds = [kind for kind, count in enumerate(counts) for _ in range(count)]
    images = [picture(kind, shade, rng)[None] for kind in kinds]
    return features(images), [str(kind) for kind in kinds]


def test_two_draws_of_one_line_are_hardly_apart():
    assert pair_distance(*drawn(100, (150, 150), 1), *drawn(100, (150, 150), 2)) < 0.4


def test_lines_of_another_light_are_as_far_apart_as_can_be():
    assert pair_distance(*drawn(40, (60, 60), 1), *drawn(160, (60, 60), 2)) == pytest.approx(2, abs=0.05)


def test_another_mix_of_classes_is_no_distance():
    assert pair_distance(*drawn(100, (180, 40), 1), *drawn(100, (40, 180), 2)) < 0.7


def test_lines_without_a_common_class_have_no_distance():
    first, _ = drawn(100, (20, 0), 1)
    second, _ = drawn(100, (20, 0), 2)
    assert pair_distance(first, ["a"] * 20, second, ["b"] * 20) is None


def test_every_pair_is_measured():
    lines = {name: drawn(shade, (20, 20), shade) for name, shade in (("a", 50), ("b", 100), ("c", 150))}
    found = distances({name: x for name, (x, _) in lines.items()}, {name: kinds for name, (_, kinds) in lines.items()})
    assert [(pair.first, pair.second) for pair in found] == [("a", "b"), ("a", "c"), ("b", "c")]


@pytest.mark.parametrize("size", [8, 12, 28, 48])
def test_features_are_means_of_cells(size):
    image = np.random.default_rng(size).integers(0, 256, (3, size, size)).astype(np.uint8)
    found = features([image])[0]
    grey = image.mean(axis=0) / 255
    edges = np.linspace(0, size, 9).round().astype(int)
    cells = [grey[edges[i] : edges[i + 1], edges[j] : edges[j + 1]].mean() for i in range(8) for j in range(8)]
    assert found[:64] == pytest.approx(np.array(cells))
    assert found[64:66] == pytest.approx([grey.mean(), grey.std()])
