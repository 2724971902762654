"""The built-in set: real handwritten digits as four production lines would photograph them.

scikit-learn ships 1,797 digits of 8x8 pixels (the test part of UCI "Optical Recognition of Handwritten Digits",
E. Alpaydin and C. Kaynak, 1998, CC BY 4.0). Each of them goes to exactly one of four lines, and each line shows its
digits through its own camera, light and material, as a factory's lines differ:

* ``paper``: dark ink on bright, slightly warm paper, straight from above. Nearly the original.
* ``backlight``: dark silhouettes before a bluish lamp that fades towards the corners (vignette); the camera hangs a
  little to the left of the part and sees it smaller.
* ``metal``: embossed in brushed metal, so a stroke has no tone of its own: its flank towards the lamp is bright, the
  other one dark (relief shading), over horizontal brush marks and a specular gradient.
* ``tilted``: bright strokes on dark rubber in orange light, a camera that looks from the side (turned by 24 degrees,
  with perspective), a soft lens and a noisy sensor.

What a line does to its images is the same in every one of them but for small seeded jitter; see `_LINES` for the
figures. All of it follows from one fixed seed, and nothing is downloaded.

The lines share no digit, and each has fixed training, validation and test parts, stratified by class. A network that
has learned one line alone fails on others, which is what federated learning across domains is about. Test accuracy in
percent of `digit_cnn` (width 0.25, 20 epochs at batch size 8, mean of seeds 1 to 3), rows trained on one line alone:

=========  =====  =========  =====  ======
alone on   paper  backlight  metal  tilted
=========  =====  =========  =====  ======
paper         94         86     31       4
backlight     86         98     50       4
metal         33         53     96       7
tilted         1          2      8      95
=========  =====  =========  =====  ======

`tests/client/images/test_digits.py` holds the shift and what a federation of ten rounds reaches.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedwon.common.errors import DataMissing, MissingExtra

SIZE = 28
"""Height and width of a rendered image in pixels."""

SHARES: Mapping[str, float] = MappingProxyType({"test": 0.25, "validation": 0.10})
"""Shares of a line's images; the rest is for training."""

_SEED = 20240507
_FILE = "sklearn/datasets/data/digits.csv.gz"
"""The original digits in scikit-learn: a row each of 64 levels of ink and the label."""
_INK_LEVELS = 16
_MARGIN = 1

Floats = NDArray[np.float64]


class Digits(NamedTuple):
    """One part of a line: `images` uint8 (N, 28, 28, 3) and `labels` int64 (N), 0 to 9."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class _View:
    """Where a line's camera is: what it does to the geometry of all its images."""

    turn: float = 0.0
    """Rotation in degrees, counter-clockwise."""
    jitter: float = 3.0
    """Standard deviation of the rotation from part to part, in degrees."""
    zoom: float = 1.0
    """Size of the digit relative to the paper line."""
    shift: tuple[float, float] = (0.0, 0.0)
    """Offset to the right and down, as a share of half the image."""
    perspective: float = 0.0
    """How much faster the right side recedes; 0 is a view from above."""


Paint = Callable[[Floats, np.random.Generator], Floats]
"""Turns ink (N, 28, 28) in [0, 1] into colours (N, 28, 28, 3), nominally in [0, 1]."""


def line_names() -> tuple[str, ...]:
    """Names of the four lines, in the order in which the digits are dealt to them."""
    return tuple(_LINES)


@cache
def load_line(name: str) -> Mapping[str, Digits]:
    """Render one line.

    Args:
        name: one of `line_names()`.

    Returns:
        Its parts `train`, `validation` and `test`, read-only.

    Raises:
        DataMissing: there is no line of that name.
        MissingExtra: scikit-learn is not installed.
    """
    number = _number(name)
    grey, labels = _source()
    view, paint = _LINES[name]
    parts = _deal(labels)[number]
    own = np.concatenate(list(parts.values()))
    rng = np.random.default_rng([_SEED, number])
    images = _to_bytes(paint(_photograph(grey[own], view, rng), rng))
    ends = np.cumsum([len(rows) for rows in parts.values()])[:-1]
    rendered = zip(parts, np.split(images, ends), np.split(labels[own], ends), strict=True)
    return MappingProxyType({part: Digits(_frozen(pixels), _frozen(digits)) for part, pixels, digits in rendered})


def line_labels(name: str) -> Mapping[str, NDArray[np.int64]]:
    """The labels of a line's images by part, without rendering them.

    Raises:
        DataMissing: there is no line of that name.
        MissingExtra: scikit-learn is not installed.
    """
    number = _number(name)
    _, labels = _source()
    return {part: labels[rows] for part, rows in _deal(labels)[number].items()}


def _number(name: str) -> int:
    if name not in _LINES:
        raise DataMissing(
            f"The built-in set has no line `{name}`.", hint=f"Its lines are {', '.join(line_names())}: `digits:paper`."
        )
    return line_names().index(name)


def _source() -> tuple[Floats, NDArray[np.int64]]:
    """The original digits: ink (1797, 8, 8) in [0, 1] and labels."""
    try:
        package = distribution("scikit-learn")
    except PackageNotFoundError:
        raise MissingExtra(
            "The built-in digits come with scikit-learn, which is not installed.", hint="pip install 'fedwon[digits]'"
        ) from None
    # its file is read as it lies there: to load the package itself takes a second and 80 MB
    with gzip.open(str(package.locate_file(_FILE)), "rt", encoding="ascii") as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.int64)
    return rows[:, :-1].reshape(-1, 8, 8) / _INK_LEVELS, rows[:, -1]


def _deal(labels: NDArray[np.int64]) -> list[dict[str, NDArray[np.intp]]]:
    """Deal the digits to the lines and their parts, class by class: rows of the source for each line and part."""
    rng = np.random.default_rng(_SEED)
    dealt: list[dict[str, list[NDArray[np.intp]]]] = [{"train": [], "validation": [], "test": []} for _ in _LINES]
    for digit in range(10):
        rows = rng.permutation(np.flatnonzero(labels == digit))
        for number, parts in enumerate(dealt):
            # the remainder of the division goes to another line at each class
            own = rows[(number + digit) % len(dealt) :: len(dealt)]
            test, val = (round(share * len(own)) for share in SHARES.values())
            parts["test"].append(own[:test])
            parts["validation"].append(own[test : test + val])
            parts["train"].append(own[test + val :])
    return [{part: np.concatenate(rows) for part, rows in parts.items()} for parts in dealt]


def _photograph(ink: Floats, view: _View, rng: np.random.Generator) -> Floats:
    """Look at digits (N, 8, 8) from a camera's place: (N, 28, 28), by bicubic interpolation of the turned plane."""
    import torch  # a site counts its images before torch is loaded
    from torch.nn.functional import grid_sample

    padded = torch.from_numpy(np.pad(ink, ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN))))
    centres = (np.arange(SIZE) + 0.5) * 2 / SIZE - 1
    y, x = np.meshgrid(centres - view.shift[1], centres - view.shift[0], indexing="ij")
    depth = 1 + view.perspective * x
    turns = np.deg2rad(view.turn + view.jitter * rng.standard_normal(len(ink)))[:, None, None]
    u = (np.cos(turns) * x - np.sin(turns) * y) / (view.zoom * depth)
    v = (np.sin(turns) * x + np.cos(turns) * y) / (view.zoom * depth)
    grid = torch.from_numpy(np.stack([u, v], axis=-1))
    seen = grid_sample(padded[:, None], grid, mode="bicubic", padding_mode="zeros", align_corners=False)
    photographs: Floats = np.clip(seen[:, 0].numpy(), 0.0, 1.0)
    return photographs


def _paper(ink: Floats, rng: np.random.Generator) -> Floats:
    paper, dark = np.array([0.93, 0.91, 0.84]), np.array([0.12, 0.12, 0.18])
    return _between(paper, dark, ink) + 0.02 * rng.standard_normal((*ink.shape, 1))


def _backlight(ink: Floats, rng: np.random.Generator) -> Floats:
    lamp, silhouette = np.array([0.72, 0.90, 1.00]), np.array([0.06, 0.08, 0.16])
    vignette = 1 - 0.30 * _radius()[..., None] ** 2
    return _between(lamp, silhouette, ink) * vignette + 0.03 * rng.standard_normal((*ink.shape, 1))


def _metal(ink: Floats, rng: np.random.Generator) -> Floats:
    soft = _blur(ink, 0.8)
    flank = np.gradient(soft, axis=1) + np.gradient(soft, axis=2)  # the lamp stands at the upper left
    brush = _blur(rng.standard_normal(ink.shape), 3.0, axis=2) * 0.12
    sheen = 0.62 + 0.22 * np.linspace(1, -1, SIZE)[None, :, None] * rng.uniform(0.6, 1.0, (len(ink), 1, 1))
    grey = sheen + brush + 2.2 * flank
    tint = np.array([0.95, 1.0, 1.03])
    metal: Floats = grey[..., None] * tint + 0.02 * rng.standard_normal((*ink.shape, 1))
    return metal


def _tilted(ink: Floats, rng: np.random.Generator) -> Floats:
    rubber, orange = np.array([0.22, 0.16, 0.20]), np.array([0.98, 0.55, 0.15])
    gain = rng.uniform(0.8, 1.0, (len(ink), 1, 1, 1))
    return _between(rubber, orange, _blur(ink, 0.7)) * gain + 0.05 * rng.standard_normal((*ink.shape, 3))


_LINES: Mapping[str, tuple[_View, Paint]] = MappingProxyType(
    {
        "paper": (_View(), _paper),
        "backlight": (_View(zoom=0.95, shift=(0.1, 0.0)), _backlight),
        "metal": (_View(jitter=2.0), _metal),
        "tilted": (_View(turn=24.0, zoom=0.95, perspective=0.25), _tilted),
    }
)


def _between(background: Floats, ink_colour: Floats, ink: Floats) -> Floats:
    """Mix two colours (3) by ink (N, 28, 28)."""
    return background + ink[..., None] * (ink_colour - background)


def _radius() -> Floats:
    """Distance from the middle (28, 28), 1 at the middle of each side."""
    centres = np.linspace(-1, 1, SIZE)
    return np.hypot(centres[:, None], centres[None, :])


def _blur(images: Floats, sigma: float, axis: int | None = None) -> Floats:
    """Gaussian blur of images (N, 28, 28) along one axis or both; sigma in pixels, borders repeated."""
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for along in (1, 2) if axis is None else (axis,):
        pad = [(0, 0), (0, 0), (0, 0)]
        pad[along] = (reach, reach)
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(images, pad, mode="edge"), len(kernel), axis=along)
        images = windows @ kernel
    return images


def _to_bytes(colours: Floats) -> NDArray[np.uint8]:
    return np.rint(np.clip(colours, 0.0, 1.0) * 255).astype(np.uint8)


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Guard what `load_line` remembers against its callers."""
    array.flags.writeable = False
    return array
