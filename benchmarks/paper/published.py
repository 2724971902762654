"""The paper's published averages over domains, to stand beside ours.

Source: Zhuang and Lyu, ICLR 2024, table 1, as recovered from third parties' notes and reprints (the paper's notes say
which figure comes from where). Per-domain columns of FedBN and FedWon are not known to us.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

Averages = Mapping[str, float]

PUBLISHED: Mapping[str, Averages] = MappingProxyType(
    {
        "digits_five": {
            "standalone": 83.1,
            "fedavg": 86.5,
            "fedprox": 86.5,
            "fedavg_gn": 88.0,
            "fedavg_ln": 87.1,
            "silobn": 86.5,
            "fixbn": 86.5,
            "fedbn": 88.4,
            "fedwon_paper": 88.5,
        },
        "office_caltech_10": {
            "standalone": 66.3,
            "fedavg": 66.3,
            "fedprox": 65.2,
            "fedavg_gn": 70.9,
            "fedavg_ln": 61.8,
            "silobn": 65.8,
            "fixbn": 65.5,
            "fedbn": 71.4,
            "fedwon_paper": 75.6,
        },
    }
)
"""By image set and row, in %."""

NOT_COMPARABLE = (
    "The published averages are not comparable with ours: other samples of the images, and whatever is named as\n"
    "smaller than published; only the order of the rows may be set beside theirs."
)


def published(images: str, variant: str) -> str:
    """A table's cell: the published average, or a dash where none is known."""
    value = PUBLISHED.get(images, {}).get(variant.removesuffix("_unclipped"))
    return "-" if value is None else f"{value:.1f}"
