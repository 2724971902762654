"""What release an operator asks for; light, so that the command is read before PyTorch is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LIMIT = 1e-4
"""Largest difference of an output that is taken for rounding, as a share of the largest output."""
LIMIT_INT8 = 0.02
"""Share of images that a quantized model may put into another class than the trained one."""


@dataclass(frozen=True)
class Wish:
    """What release the operator asks for.

    Attributes:
        run: the run's name; None for the newest.
        round: a number, `best` by validation accuracy, or None for the last.
        name: the release's name; None for `<run>-r<round>`.
        images: where images to compare by are; None for built-in or random ones.
        limit: largest difference of an output over the largest output.
        int8: make a quantized model as well.
        limit_int8: share of images that it may put into another class.
    """

    run: str | None = None
    round: int | str | None = None
    name: str | None = None
    images: Path | None = None
    limit: float = LIMIT
    int8: bool = False
    limit_int8: float = LIMIT_INT8
