"""Training images changed at random: what may change, by how much, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedwon.client.images.augmentation import augmentation
from fedwon.common.task_settings import AugmentationConfig


def augmented(images: Tensor, seed: int = 0, **settings: object) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return augmentation(AugmentationConfig(**settings))(images)


def corner() -> Tensor:
    """64 images (2, 5, 5) with one bright pixel, in the upper left corner."""
    images = torch.zeros(64, 2, 5, 5)
    images[:, :, 0, 0] = 1
    return images


def brightest(images: Tensor) -> set[tuple[int, int]]:
    return {divmod(int(image[0].argmax()), 5) for image in images}


def test_nothing_changes_and_nothing_is_drawn_by_default() -> None:
    images = torch.randn(3, 1, 8, 8)
    with torch.random.fork_rng():
        before = torch.get_rng_state()
        assert augmentation(AugmentationConfig())(images) is images
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("settings", "places"),
    [
        ({"flip_horizontal": True}, {(0, 0), (0, 4)}),
        ({"flip_vertical": True}, {(0, 0), (4, 0)}),
        ({"flip_horizontal": True, "flip_vertical": True}, {(0, 0), (0, 4), (4, 0), (4, 4)}),
    ],
)
def test_each_image_is_mirrored_by_itself(settings: dict[str, object], places: set[tuple[int, int]]) -> None:
    assert brightest(augmented(corner(), **settings)) == places


def test_a_turn_stays_within_its_limit_and_fills_with_the_mean() -> None:
    line = torch.zeros(64, 1, 33, 33)
    line[:, :, 16, 20:] = 1  # points right from the centre
    turned = augmented(line, turn_degrees=30)
    rows, columns = torch.meshgrid(torch.arange(33) - 16.0, torch.arange(33) - 16.0, indexing="ij")
    weight = turned[:, 0]
    angles = torch.rad2deg(torch.atan2((weight * rows).sum((1, 2)), (weight * columns).sum((1, 2))))
    assert 20 < angles.abs().max() <= 31
    assert angles.min() < -5
    assert angles.max() > 5
    ones = augmented(torch.ones(8, 1, 16, 16), turn_degrees=30)
    assert ones.min() == 0
    assert ones[:, :, 8, 8].min() > 0.99


def test_the_same_seed_draws_the_same() -> None:
    images = torch.randn(8, 3, 12, 12)
    settings = {"flip_horizontal": True, "turn_degrees": 30.0}
    assert torch.equal(augmented(images, 1, **settings), augmented(images, 1, **settings))
    assert not torch.equal(augmented(images, 1, **settings), augmented(images, 2, **settings))
