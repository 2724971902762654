"""Tiny made-up lines, scores and outcomes."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
from PIL import Image

from fedwon.server.comparison.paired import Difference


def picture(kind: int, shade: int, rng: np.random.Generator, size: int = 16) -> np.ndarray:
    """A bright bar, upright for one class and lying for the other, on a line's own background."""
    image = np.full((size, size), shade, dtype=np.float64) + rng.normal(0, 4, (size, size))
    place = rng.integers(4, size - 6)
    bar = (slice(None), slice(place, place + 3)) if kind else (slice(place, place + 3), slice(None))
    image[bar] += 70
    return np.clip(image, 0, 255).astype(np.uint8)


def make_line(
    folder: Path, shade: int, count: int, classes: tuple[str, ...] = ("good", "scratch"), seed: int = 0
) -> None:
    """Write `count` images of each class."""
    rng = np.random.default_rng(seed)
    for kind, name in enumerate(classes):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(picture(kind, shade, rng)).save(place / f"{number:03d}.png")


def make_lines(root: Path, lines: int = 3, count: int = 24) -> Path:
    """Write a folder of lines, each darker than the last."""
    for number in range(lines):
        make_line(root / f"line-{number}", 150 - 50 * number, count, seed=number)
    return root


def score(right: list[int], sizes: list[int]) -> dict[str, object]:
    """What `scoring.counts` keeps of these bits, class by class."""
    bits = np.asarray(right, dtype=bool)
    ends = np.cumsum(sizes)
    return {
        "correct": int(bits.sum()),
        "examples": len(bits),
        "class_correct": [int(bits[end - size : end].sum()) for size, end in zip(sizes, ends, strict=True)],
        "class_examples": list(sizes),
        "right": base64.b64encode(np.packbits(bits).tobytes()).decode(),
    }


def change(mean: float, half: float, seeds: int = 4, by_images: float | None = None) -> Difference:
    """A difference with an interval, in points."""
    images = half if by_images is None else by_images
    seeds_half = max(half**2 - images**2, 0) ** 0.5
    return Difference(mean / 100, (mean - half) / 100, (mean + half) / 100, seeds, images / 100, seeds_half / 100)
