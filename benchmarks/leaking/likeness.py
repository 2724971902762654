"""How much of an image was found: structural similarity, and whether it is recognized among others."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def ssim(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Structural similarity of two images (S, S) with values from 0 to 1; Gaussian windows of 1.5 pixels."""
    first, second = 0.01**2, 0.03**2
    blur = lambda image: gaussian_filter(image, 1.5, truncate=3.5)  # noqa: E731
    mean_one, mean_other = blur(one), blur(other)
    spread = blur(one * one) - mean_one**2, blur(other * other) - mean_other**2
    shared = blur(one * other) - mean_one * mean_other
    top = (2 * mean_one * mean_other + first) * (2 * shared + second)
    return float((top / ((mean_one**2 + mean_other**2 + first) * (spread[0] + spread[1] + second))).mean())


def matched(originals: Tensor, guesses: Tensor) -> tuple[list[float], list[int]]:
    """The SSIM of each image to the guess that is its own when each has one; and which that is."""
    shown = [((pixels[:, 0].double() + 1) / 2).numpy() for pixels in (originals, guesses)]
    table = np.array([[ssim(one, other) for other in shown[1]] for one in shown[0]])
    rows, columns = linear_sum_assignment(-table)
    return [float(table[row, column]) for row, column in zip(rows, columns, strict=True)], list(columns)


def recognized(image: Tensor, found: Tensor, others: Tensor) -> bool:
    """Whether what was found goes better with the image than with any of the others, by correlation."""
    flat = torch.cat([image[None], others]).flatten(1)
    likeness = torch.corrcoef(torch.cat([found.flatten()[None], flat]))[0, 1:]
    return int(likeness.argmax()) == 0
