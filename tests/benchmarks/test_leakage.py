"""The attack on updates: its measures against slow twins, and that its analytic half finds what it should."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.leaking import inversion
from benchmarks.leaking.inversion import invert, outside, span_of
from benchmarks.leaking.likeness import matched, recognized, ssim
from benchmarks.leaking.picture import SHOWN, draw
from benchmarks.leaking.updates import CASES, Case, Few, task_of, update_of
from fedwon.common.model_file import network


def slow_ssim(one, other):
    """Pixel by pixel, window by window, with reflected edges."""
    reach = round(3.5 * 1.5)
    weights = [math.exp(-(step**2) / (2 * 1.5**2)) for step in range(-reach, reach + 1)]
    weights = [weight / sum(weights) for weight in weights]
    side, total = len(one), 0.0

    def at(image, row, column):
        row, column = ((-place - 1 if place < 0 else min(place, 2 * side - 1 - place)) for place in (row, column))
        return image[row][column]

    for row in range(side):
        for column in range(side):
            sums = np.zeros(5)
            for down, high in enumerate(weights):
                for right, wide in enumerate(weights):
                    a, b = (at(image, row + down - reach, column + right - reach) for image in (one, other))
                    sums += high * wide * np.array([a, b, a * a, b * b, a * b])
            a, b, aa, bb, ab = sums
            top = (2 * a * b + 1e-4) * (2 * (ab - a * b) + 9e-4)
            total += top / ((a * a + b * b + 1e-4) * (aa - a * a + bb - b * b + 9e-4))
    return total / side**2


def test_similarity_is_that_of_the_slow_way():
    rng = np.random.default_rng(0)
    one, other = rng.random((2, 12, 12))
    assert ssim(one, one) == pytest.approx(1)
    assert ssim(one, other) == pytest.approx(slow_ssim(one, other))
    assert ssim(one, 1 - one) < 0


def test_each_image_gets_a_guess_of_its_own():
    images = torch.rand(4, 1, 28, 28) * 2 - 1
    order = [2, 0, 3, 1]
    scores, pairs = matched(images, images[order])
    assert [order[pair] for pair in pairs] == [0, 1, 2, 3]
    assert scores == pytest.approx([1, 1, 1, 1])


def test_an_image_is_recognized_by_what_looks_like_it():
    images = torch.rand(20, 1, 28, 28)
    assert recognized(images[0], 0.5 * images[0] + 0.1 * torch.rand(1, 28, 28), images[1:])
    assert not recognized(images[0], images[5], images[1:])


@pytest.fixture
def secret():
    torch.manual_seed(3)
    return Few(torch.rand(1, 1, 28, 28) * 2 - 1, torch.tensor([4]))


@pytest.mark.parametrize("name", ["1 image, 1 step", "1 image, 1 step, group norm", "1 image, 1 step, int8"])
def test_the_update_of_one_image_spans_what_the_convolutions_made_of_it(name, secret):
    case = CASES[name]
    task = task_of(case, 1)
    model, seen = network(task), []
    model.fc1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(secret.pixels)
    features = seen[0].flatten(1).detach()
    span = span_of(update_of(case, task, secret, 1), 1)
    assert outside(features, span, standardized=not name.endswith("group norm")) < 0.01


def test_noise_hides_the_span(secret):
    case = Case(1, 1, noise=100.0)
    task = task_of(case, 1)
    model, seen = network(task), []
    model.fc1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(secret.pixels)
    assert outside(seen[0].flatten(1), span_of(update_of(case, task, secret, 1), 1), standardized=True) > 0.5


def test_the_attack_comes_nearer(monkeypatch):
    monkeypatch.setattr(inversion, "ITERATIONS", 40)
    case = CASES["1 image, 1 step"]
    task = task_of(case, 1)
    rows = torch.linspace(-1, 1, 28)
    blob = 2 * torch.exp(-8 * ((rows[:, None] - 0.3) ** 2 + (rows - 0.2) ** 2)) - 1
    secret = Few(blob[None, None], torch.tensor([4]))
    update = update_of(case, task, secret, 1)
    found = invert(network(task), update, secret.labels, torch.full((1, 1, 28, 28), -1.0), 1)
    assert found.shape == (1, 1, 28, 28)
    likeness = torch.corrcoef(torch.stack([found.flatten(), blob.flatten()]))[0, 1]
    assert likeness > 0.2, likeness


def test_the_picture_shows_each_image_above_what_was_found_of_it(tmp_path):
    white, black = torch.ones(SHOWN + 2, 1, 28, 28), -torch.ones(SHOWN + 2, 1, 28, 28)
    path = tmp_path / "found.png"
    draw({"a case": (white, black), "another": (black, white)}, {"a case": "50 %", "another": "0 %"}, path)
    sheet = np.asarray(Image.open(path))
    last = sheet[:, -20]  # through the last image of each line
    half = len(last) // 2
    assert (last[5], last[half // 2 + 10]) == (255, 0)
    assert (last[half + 5], last[half + half // 2 + 10]) == (0, 255)
    assert (sheet[:, :300] < 128).any()  # the names
