"""Acceptance gates: what a release must reach on a line's own images before the line uses it.

Classes are parted into defects and good ones. An *escape* is a defective part that the model takes for a good one, and
*overkill* a good part that it takes for a defective one; one defect taken for another is neither, but not accurate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedwon.common.config import Settings
from fedwon.common.errors import ConfigError

Share = Annotated[float, Field(ge=0, le=1)]


class Gates(Settings):
    """What a release must reach on a line's validation images; an empty gate is open."""

    accuracy: Share | None = None
    """Least share of images classified rightly."""
    escape: Share | None = None
    """Largest share of defective parts taken for good ones; needs `defects`."""
    overkill: Share | None = None
    """Largest share of good parts taken for defective ones; needs `defects`."""
    defects: tuple[str, ...] = ()
    """Names of the classes that are defects; all others are good."""
    images: int | None = Field(default=None, ge=1)
    """Fewest validation images that a judgement is passed on."""

    def check(self, classes: Sequence[str]) -> None:
        """Check that the gates go with a release's classes.

        Raises:
            ConfigError: a defect is none of them, all of them are defects, or a gate needs defects and none is named.
        """
        unknown = [name for name in self.defects if name not in classes]
        if unknown:
            raise ConfigError(f"The gates name a defect `{unknown[0]}`, and the classes are {', '.join(classes)}.")
        if self.defects and not set(classes) - set(self.defects):
            raise ConfigError("The gates call every class a defect, so nothing would be good.")
        if not self.defects and (self.escape is not None or self.overkill is not None):
            raise ConfigError("Gates for escape and overkill need the names of the defects (`defects`).")


class Figures(Settings):
    """What a release reached on a line's validation images, as counts."""

    images: int = Field(ge=0)
    """Images looked at."""
    correct: int = Field(ge=0)
    """Classified rightly."""
    defective: int = Field(default=0, ge=0)
    """Of them defective, where defects are named."""
    escaped: int = Field(default=0, ge=0)
    """Defective ones taken for good."""
    good: int = Field(default=0, ge=0)
    """Of them good, where defects are named."""
    overkilled: int = Field(default=0, ge=0)
    """Good ones taken for defective."""

    def as_dict(self) -> dict[str, Any]:
        """Return counts and shares for JSON; a share of nothing is None."""
        return {
            **self.model_dump(),
            "accuracy": _share(self.correct, self.images),
            "escape": _share(self.escaped, self.defective),
            "overkill": _share(self.overkilled, self.good),
        }

    def words(self) -> str:
        """Say the shares in words."""
        rates = {"escape": (self.escaped, self.defective), "overkill": (self.overkilled, self.good)}
        parts = [f"accuracy {_percent(self.correct, self.images)} of {self.images}"]
        return ", ".join(parts + [f"{name} {_percent(*rate)} of {rate[1]}" for name, rate in rates.items() if rate[1]])


def figures(confusion: NDArray[np.int64], classes: Sequence[str], defects: Sequence[str]) -> Figures:
    """Count what the gates ask for.

    Args:
        confusion: images by true class (rows) and by the class that the model gave (columns).
        classes: their names, in order.
        defects: names of the classes that are defects; none where nothing is told apart.
    """
    bad = np.array([name in defects for name in classes])
    told = bool(bad.any())
    return Figures(
        images=int(confusion.sum()),
        correct=int(np.trace(confusion)),
        defective=int(confusion[bad].sum()),
        escaped=int(confusion[bad][:, ~bad].sum()),
        good=int(confusion[~bad].sum()) if told else 0,
        overkilled=int(confusion[~bad][:, bad].sum()) if told else 0,
    )


def shortcomings(gates: Gates, found: Figures) -> list[str]:
    """Return, in words, every gate that the figures do not pass; none where the release is accepted.

    A rate of parts that there are none of passes no gate: what was not seen was not shown.
    """
    said = []
    needed = max(gates.images or 0, int(gates != Gates(defects=gates.defects)))
    if found.images < needed:
        said.append(f"{found.images} validation images, and {needed} are needed")
    if gates.accuracy is not None and found.images and found.correct < gates.accuracy * found.images:
        said.append(f"accuracy {_percent(found.correct, found.images)} below {gates.accuracy:.1%}")
    rates = (
        ("escape", gates.escape, found.escaped, found.defective, "defective"),
        ("overkill", gates.overkill, found.overkilled, found.good, "good"),
    )
    for name, most, count, total, kind in rates:
        if most is not None and not total:
            said.append(f"no {kind} part among the validation images to measure {name} on")
        elif most is not None and count > most * total:
            said.append(f"{name} {_percent(count, total)} above {most:.1%}")
    return said


def _share(count: int, total: int) -> float | None:
    return count / total if total else None


def _percent(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else "-"
