"""What stands in the way of a network without normalization, as data and in words.

Shaped after Opacus' validators (detect, explain, fix): each finding says where, what, what becomes of it or why nothing
can, and the way out.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Form = Literal["conv", "linear", "affine", "measured", "impossible", "opaque"]
"""What becomes of a normalization: part of the convolution before it, part of the Linear before it, a scale and shift
per channel, the same but measured on example images and so another function, nothing, or a ``forward`` that could not
be followed, in which normalization may hide."""

_EXACT: tuple[Form, ...] = ("conv", "linear", "affine")


@dataclass(frozen=True)
class Finding:
    """One normalization layer or call, or one module that could not be looked into.

    Attributes:
        where: Qualified name of the layer; of a call, the module in whose ``forward`` it stands (``""``: the network).
        layer: Its type, such as ``BatchNorm2d`` or ``F.batch_norm``.
        after: What feeds it, such as ``Conv2d layer1.0.conv1``; ``""`` if that is not known.
        form: What becomes of it.
        why: The reason, a part of a sentence.
        way_out: What to do where it is not converted exactly; ``""`` where it is.
    """

    where: str
    layer: str
    after: str
    form: Form
    why: str
    way_out: str = ""

    @property
    def exact(self) -> bool:
        """Whether the converted network computes the same in evaluation mode, up to rounding."""
        return self.form in _EXACT

    def __str__(self) -> str:
        """One line: ``bn1 (BatchNorm2d after Conv2d conv1): exact, ...``."""
        behind = f" after {self.after}" if self.after else ""
        verdict = {"measured": "not exact", "impossible": "cannot be converted", "opaque": "cannot be followed"}
        line = f"{self.where or 'the network'} ({self.layer}{behind}): {verdict.get(self.form, 'exact')}, {self.why}."
        return f"{line} {self.way_out}".rstrip()


def summary(findings: Iterable[Finding]) -> str:
    """How many there are of what, a line for each kind.

    Args:
        findings: As :func:`~fedwon.models.convert.detect` gives them.
    """
    found = list(findings)
    sums = [(sum(finding.form in forms for finding in found), words) for forms, words in _SUMS]
    lines = [f"{count} {words}." for count, words in sums if count]
    return "\n".join(lines) or "There is no normalization in this network."


def explain(findings: Iterable[Finding]) -> str:
    """Findings in plain words: the summary, then a line for each.

    Args:
        findings: As :func:`~fedwon.models.convert.detect` gives them.
    """
    found = list(findings)
    return "\n".join([summary(found), *map(str, found)])


_SUMS: tuple[tuple[tuple[Form, ...], str], ...] = (
    (("conv",), "absorbed into the convolution before, exactly"),
    (("linear",), "absorbed into the Linear layer before, exactly"),
    (("affine",), "replaced by a scale and shift per channel, exactly"),
    (("measured",), "can only be approximated, with constants measured on example images"),
    (("impossible",), "cannot be converted"),
    (("opaque",), "could not be looked into"),
)
