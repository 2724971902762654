"""The paper's published figures, to stand beside ours.

Source: Zhuang and Lyu, ICLR 2024: table 1 (averages), table 2 (small batches) and the label skew table, as recovered
from third parties' notes and reprints; domain by domain the baselines alone, as reprinted in FedStein. The domains'
columns of FedBN and FedWon are not known to us, nor is any figure of the cross-device runs, the ablation or an unseen
domain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

Figures = Mapping[str, float]

AVERAGES: Mapping[str, Figures] = MappingProxyType(
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
        "domainnet": {
            "standalone": 42.9,
            "fedavg": 40.0,
            "fedprox": 40.2,
            "fedavg_gn": 41.1,
            "fedavg_ln": 36.7,
            "silobn": 40.8,
            "fixbn": 40.3,
            "fedbn": 46.8,
            "fedwon_paper": 51.1,
        },
    }
)
"""Means over the domains by image set and row, in %."""

SMALL_BATCHES: Mapping[str, Mapping[tuple[str, int], Figures]] = MappingProxyType(
    {
        "office_caltech_10": {
            ("fedwon_paper", 1): {"amazon": 66.7, "caltech": 55.1, "dslr": 96.9, "webcam": 89.8},
            ("fedwon_paper", 2): {"amazon": 66.2, "caltech": 54.7, "dslr": 93.8, "webcam": 89.8},
            ("fedbn", 2): {"amazon": 59.4, "caltech": 48.0, "dslr": 96.9, "webcam": 86.4},
        }
    }
)
"""By image set, row and batch size: domain by domain, in %."""

_BASELINES = ("standalone", "fedavg", "fedprox", "fedavg_gn", "fedavg_ln", "silobn", "fixbn")
BY_DOMAIN: Mapping[str, Mapping[str, tuple[float, ...]]] = MappingProxyType(
    {
        "digits_five": {
            "mnist": (94.4, 96.2, 96.4, 96.4, 96.4, 96.2, 96.3),
            "mnist_m": (77.0, 82.5, 83.1, 83.7, 82.2, 83.1, 83.0),
            "svhn": (67.1, 71.6, 71.0, 76.9, 75.2, 71.3, 71.3),
            "synth_digits": (80.3, 86.0, 85.9, 85.6, 85.6, 86.0, 84.8),
            "usps": (95.4, 96.3, 96.1, 96.6, 96.4, 96.0, 96.1),
        },
        "office_caltech_10": {
            "amazon": (54.5, 61.8, 59.9, 60.8, 55.0, 60.8, 59.2),
            "caltech": (40.2, 44.9, 44.0, 50.8, 41.3, 44.4, 44.0),
            "dslr": (81.3, 77.1, 76.0, 88.5, 79.2, 76.0, 79.2),
            "webcam": (89.3, 81.4, 80.8, 83.6, 71.8, 81.9, 79.6),
        },
        "domainnet": {
            "clipart": (42.7, 48.9, 51.1, 45.4, 42.7, 51.8, 49.2),
            "infograph": (24.0, 26.5, 24.1, 21.1, 23.6, 25.0, 24.5),
            "painting": (34.2, 37.7, 37.3, 35.4, 35.3, 36.4, 38.2),
            "quickdraw": (70.9, 44.5, 46.1, 57.2, 46.0, 45.9, 46.3),
            "real": (51.2, 46.8, 45.5, 50.7, 43.9, 47.7, 46.2),
            "sketch": (33.5, 35.7, 37.5, 36.5, 28.9, 38.0, 37.4),
        },
    }
)
"""By image set and domain: the figures of `_BASELINES`, in %."""

LABEL_SKEW: Mapping[float | None, Figures] = MappingProxyType(
    {
        0.1: {"fedavg": 36.0, "fedavg_gn": 21.5, "fedavg_ln": 23.3, "fixbn": 34.7, "fedwon_paper": 41.9},
        0.5: {"fedavg": 61.1, "fedavg_gn": 51.8, "fedavg_ln": 57.9, "fixbn": 61.2, "fedwon_paper": 70.7},
        1.0: {"fedavg": 64.5, "fedavg_gn": 58.8, "fedavg_ln": 61.8, "fixbn": 64.1, "fedwon_paper": 72.8},
        None: {"fedavg": 75.0, "fedavg_gn": 65.3, "fedavg_ln": 69.2, "fixbn": 75.4, "fedwon_paper": 75.7},
    }
)
"""CIFAR-10 with MobileNetV2, by the Dirichlet distribution's concentration (None: IID), in %."""

NOT_COMPARABLE = (
    "The published figures are not comparable with ours: other samples of the images, and whatever is named as\n"
    "smaller than published; only the order of the rows may be set beside theirs."
)
_KNOWN = "Published (not comparable with ours: other samples of the images, and what is named above), in %:"
_SKEWED = "Published for CIFAR-10 and MobileNetV2 (not comparable with ours: other images, another network), in %:"


def published_average(images: str, variant: str, batch: int | None = None) -> str:
    """A table's cell: the published average, or a dash where none is known.

    Args:
        images: image set.
        variant: a row of our tables.
        batch: images a step, where it is a small one; None: the paper's usual one.
    """
    variant = variant.removesuffix("_unclipped")
    if batch is None:
        value = AVERAGES.get(images, {}).get(variant)
    else:
        domains = SMALL_BATCHES.get(images, {}).get((variant, batch))
        value = None if domains is None else sum(domains.values()) / len(domains)
    return "-" if value is None else f"{value:.1f}"


def published_table(images: str) -> list[str]:
    """What is published of an image set, as Markdown: a row a method; nothing where nothing is known."""
    if images not in BY_DOMAIN:
        return []
    domains = BY_DOMAIN[images]
    heads = ["method", "batch", *domains, "mean"]
    return [_KNOWN, "", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *_rows(images, domains)]


def _rows(images: str, domains: Mapping[str, tuple[float, ...]]) -> Iterator[str]:
    for method, mean in AVERAGES[images].items():
        place = _BASELINES.index(method) if method in _BASELINES else None
        cells = ["not known" if place is None else f"{values[place]:.1f}" for values in domains.values()]
        yield f"| {method} | not known | {' | '.join(cells)} | **{mean:.1f}** |"
    for (method, batch), figures in SMALL_BATCHES.get(images, {}).items():
        cells = [f"{figures[domain]:.1f}" for domain in domains]
        yield f"| {method} | {batch} | {' | '.join(cells)} | **{published_average(images, method, batch)}** |"


def published_skew(alpha: float | None) -> list[str]:
    """What is published of label skew at a concentration, as Markdown."""
    figures = LABEL_SKEW[alpha]
    cells = (f"{value:.1f}" for value in figures.values())
    return [_SKEWED, "", f"| {' | '.join(figures)} |", f"|{'---|' * len(figures)}", f"| {' | '.join(cells)} |"]
