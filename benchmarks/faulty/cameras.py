"""What goes wrong with a camera and on a line, each as a small pure function of images.

A fault takes a site's images and labels as they are, how many rounds it has lasted, and random numbers that are the
same in each round (a dead pixel stays where it is), and returns what the site then has. Images are uint8 (N, H, W, C);
which of them are still there comes back as a mask, for frames that never arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
NOISE = 60.0
"""Standard deviation in grey levels of 255."""
DEAD = 0.05
"""Share of pixels."""
ROWS = 0.15
"""Share of rows."""
LOST = 0.6
"""Share of frames that do not arrive."""
WRONG = 0.5
"""Share of labels."""
GROWS = 6
"""Rounds in which a drift reaches its full size."""


class Seen(NamedTuple):
    """What a site has: images, their labels, and which of its frames are there."""

    images: Images
    labels: Labels
    there: NDArray[np.bool_]


Change = Callable[[Images, Labels, int, np.random.Generator], Seen]


@dataclass(frozen=True)
class Fault:
    """One way to go wrong.

    Attributes:
        words: what it is, for the page.
        change: makes it.
        lasts: it stays from its first round on; else it is repaired.
        visible: test images of the line show it too; where not, only what the site learns from is wrong.
    """

    words: str
    change: Change
    lasts: bool = False
    visible: bool = True


def _all(images: Images, labels: Labels) -> Seen:
    return Seen(images, labels, np.ones(len(images), dtype=np.bool_))


def _levels(values: NDArray[Any]) -> Images:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def nothing(images: Images, labels: Labels, age: int, rng: np.random.Generator) -> Seen:
    """No fault: what the others are compared with."""
    del age, rng
    return _all(images, labels)


def noise(images: Images, labels: Labels, age: int, rng: np.random.Generator) -> Seen:
    """Every pixel is off by its own normal error, as with a failing amplifier or too short an exposure."""
    del age
    return _all(_levels(images + rng.normal(0, NOISE, images.shape)), labels)


def dead_pixels(images: Images, labels: Labels, age: int, rng: np.random.Generator) -> Seen:
    """The same pixels are black or white in every image."""
    del age
    chosen, white = rng.random(images.shape[1:3]) < DEAD, rng.random(images.shape[1:3]) < 0.5
    made = images.copy()
    made[:, chosen] = np.where(white[chosen], 255, 0)[None, :, None]
    return _all(made, labels)


def dead_rows(images: Images, labels: Labels, age: int, rng: np.random.Generator) -> Seen:
    """The same rows of the sensor are black in every image."""
    del age
    made = images.copy()
    made[:, rng.permutation(images.shape[1])[: max(1, round(ROWS * images.shape[1]))]] = 0
    return _all(made, labels)


def white_balance(images: Images, labels: Labels, age: int, rng: np.random.Generator) -> Seen:
    """Red grows and blue fades from round to round, as a lamp ages; a grey image becomes darker."""
    del rng
    share = min(age + 1, GROWS) / GROWS
    gains = np.array([1 + 0.8 * share, 1.0, 1 - 0.7 * share])
    return _all(_levels(images * (gains if images.shape[3] == 3 else gains[2:])), labels)


def exposure(images: Images, labels: Labels, age: int, rng: np.random.Generator) -> Seen:
    """Images become brighter from round to round, until most of them is white."""
    del rng
    return _all(_levels(images * (1 + 3 * min(age + 1, GROWS) / GROWS)), labels)


def vibration(images: Images, labels: Labels, age: int, rng: np.random.Generator) -> Seen:
    """Each image is smeared along its rows, by up to a fifth of its width."""
    del age
    longest = max(3, images.shape[2] // 5)
    made = np.empty_like(images)
    for index, length in enumerate(rng.integers(longest // 2, longest + 1, len(images))):
        shifted = [np.roll(images[index].astype(np.float64), step - length // 2, axis=1) for step in range(length)]
        made[index] = _levels(np.mean(shifted, axis=0))
    return _all(made, labels)


def dust(images: Images, labels: Labels, age: int, rng: np.random.Generator) -> Seen:
    """Soft dark spots on the lens, in the same places, a few more from round to round."""
    height, width = images.shape[1:3]
    rows, columns = np.mgrid[:height, :width]
    light = np.ones((height, width))
    for row, column, size in rng.random((4 + 2 * min(age, GROWS), 3)):
        distance = np.square(rows - row * height) + np.square(columns - column * width)
        light *= 1 - 0.9 * np.exp(-distance / (2 * np.square((0.04 + 0.06 * size) * width)))
    return _all(_levels(images * light[None, :, :, None]), labels)


def missing_frames(images: Images, labels: Labels, age: int, rng: np.random.Generator) -> Seen:
    """Most frames never arrive: others in each round; of each class one at least does."""
    there = np.random.default_rng([int(rng.integers(2**31)), age]).random(len(images)) >= LOST
    for label in np.unique(labels):
        there[np.flatnonzero(labels == label)[:2]] = True
    return Seen(images, labels, there)


def new_camera(images: Images, labels: Labels, age: int, rng: np.random.Generator) -> Seen:
    """Another camera: hung upside down and nearer, with a darker curve and colder colours. It stays."""
    del age, rng
    height, width = images.shape[1:3]
    top, left = max(1, height // 12), max(1, width // 12)
    near = images[:, top : height - top, left : width - left]
    rows = np.linspace(0, near.shape[1] - 1, height).round().astype(int)
    columns = np.linspace(0, near.shape[2] - 1, width).round().astype(int)
    turned = near[:, rows[::-1]][:, :, columns[::-1]]
    tint = np.array([0.7, 0.9, 1.15]) if images.shape[3] == 3 else np.ones(1)
    return _all(_levels(255 * np.power(turned / 255, 1.8) * tint), labels)


def wrong_labels(images: Images, labels: Labels, age: int, rng: np.random.Generator) -> Seen:
    """Every second label is drawn at random from the classes that the site has."""
    del age
    wrong = rng.random(len(labels)) < WRONG
    return _all(images, np.where(wrong, rng.choice(np.unique(labels), len(labels)), labels))


def without(label: int) -> Change:
    """A class of which no image comes any more."""

    def _vanished(images: Images, labels: Labels, age: int, rng: np.random.Generator) -> Seen:
        del age, rng
        return Seen(images, labels, labels != label)

    return _vanished


VANISHED, NEW = 0, 1
"""Places of the two classes in a set's list of classes, from its end: the rarest kinds of defect come last."""
FAULTS: Mapping[str, Fault] = {
    "nothing": Fault("no fault, for comparison", nothing),
    "noise": Fault(f"every pixel off by a normal error of {NOISE:.0f} levels", noise),
    "dead_pixels": Fault(f"{DEAD:.0%} of the pixels stuck at black or white", dead_pixels),
    "dead_rows": Fault(f"{ROWS:.0%} of the sensor's rows black", dead_rows),
    "white_balance": Fault("red grows and blue fades over six rounds", white_balance),
    "exposure": Fault("images become up to four times as bright over six rounds", exposure),
    "vibration": Fault("each image smeared along its rows, by up to a fifth of its width", vibration),
    "dust": Fault("soft dark spots on the lens, more from round to round", dust),
    "missing_frames": Fault(f"{LOST:.0%} of the frames never arrive", missing_frames, visible=False),
    "new_camera": Fault("the camera is replaced: upside down, nearer, darker, colder", new_camera, lasts=True),
    "wrong_labels": Fault(f"{WRONG:.0%} of the labels drawn at random", wrong_labels, visible=False),
    "vanished_class": Fault("no image of one class comes any more", without(VANISHED), lasts=True, visible=False),
    "new_class": Fault("a class that no site had appears at this one", nothing, lasts=True, visible=False),
}
