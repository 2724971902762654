"""Random numbers that nobody can foresee or make again: noise for differential privacy, and who is in a batch.

Everything else random in a run follows from its seed, which the server chose and every site is told. Noise that came
of it could be taken away again by all of them, so this comes from the operating system's cryptographic generator
(`os.urandom`) and is different each time. It is drawn in float64 and added before the sum is rounded to float32, which
takes away most of what the last bits of a floating-point Gaussian tell (Mironov 2012, "On significance of the least
significant bits for differential privacy"), and not provably all of it.

Source: Box and Muller 1958. With 53 random bits no number is beyond 8.6 standard deviations.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Draw = Callable[[int], NDArray[np.float64]]
"""Returns so many independent numbers."""

BLOCK = 2**20
"""Numbers that are made at a time."""
_UNIT = 2.0**-53


def uniform(count: int) -> NDArray[np.float64]:
    """Return `count` numbers from [0, 1), evenly spread."""
    bits = np.frombuffer(os.urandom(8 * count), dtype=np.uint64) >> np.uint64(11)
    return bits.astype(np.float64) * _UNIT


def normal(count: int) -> NDArray[np.float64]:
    """Return `count` standard normal numbers."""
    made = np.empty(count)
    for start in range(0, count, BLOCK):
        part = made[start : start + BLOCK]
        half = (len(part) + 1) // 2
        radius = np.sqrt(-2.0 * np.log1p(-uniform(half)))  # 1 - u is never 0
        angle = 2.0 * np.pi * uniform(half)
        part[:half] = radius * np.cos(angle)
        part[half:] = (radius * np.sin(angle))[: len(part) - half]
    return made
