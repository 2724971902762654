"""Updates as whole numbers modulo 2**32, so that masks cancel to the last bit and the order of adding does not matter.

A number v between -bound and +bound becomes round(v / step), and one site's numbers are so small that those of all
sites together stay within 31 bits and a sign: the sum of the encodings, read as a signed number, is the plain sum.

The mean is weighted at the sites: each multiplies its difference by its weight over the largest one before it is
encoded, and the weights stay in the open, for without them the server cannot divide. A coordinate of the mean is then
off by at most step / 2 x sites x largest weight / sum of weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedwon.common.secagg.masking import Words

BLOCK = 2**16
MOST_SITES = 2**16


@dataclass(frozen=True)
class FixedPoint:
    """How numbers are written.

    Attributes:
        bound: largest magnitude; what is beyond counts as that much.
        sites: most sites whose numbers are added up.

    Raises:
        ValueError: no positive bound, or sites that are none or too many.
    """

    bound: float
    sites: int

    def __post_init__(self) -> None:
        if not (0 < self.bound < float("inf") and 1 <= self.sites <= MOST_SITES):
            raise ValueError(f"numbers up to {self.bound} of {self.sites} sites cannot be added up")

    @property
    def levels(self) -> int:
        """Largest whole number that one site may send."""
        return (2**31 - 1) // self.sites

    @property
    def step(self) -> float:
        """What a difference of one stands for."""
        return self.bound / self.levels

    def encode(self, values: NDArray[np.floating], factor: float = 1.0) -> Words:
        """Write numbers.

        Args:
            values: flat, finite.
            factor: each is multiplied by it first.

        Returns:
            Flat whole numbers modulo 2**32.
        """
        words = np.empty(values.size, dtype=np.uint32)
        scale = factor / self.step
        for start in range(0, values.size, BLOCK):
            scaled = values[start : start + BLOCK].astype(np.float64) * scale
            np.clip(np.rint(scaled, out=scaled), -self.levels, self.levels, out=scaled)
            words[start : start + BLOCK] = scaled.astype(np.int32).view(np.uint32)
        return words

    def decode(self, total: Words, factor: float = 1.0) -> NDArray[np.float64]:
        """Read a sum of what sites wrote; each number is multiplied by `factor`."""
        return total.view(np.int32).astype(np.float64) * (self.step * factor)
