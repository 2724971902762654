"""What is compared with what: each protocol as data.

Source of the protocols: FedBN's code as the paper's notes give it (743 and 62 images a site, one local epoch, plain SGD
whose state starts anew each round, sites weighed alike). Where two cores do not allow the published size, `cut` says
what was made smaller; it is printed above the protocol's table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from benchmarks.paper.sets import TEST_SHARE

SMALL_BATCH = 2
DIGIT_DOMAINS = ("mnist", "mnist_m", "svhn", "synth_like", "usps")

VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "fedwon": {"method": "fedwon", "model": {"relu_constant": True}},
        "fedwon_paper": {"method": "fedwon"},
        **{
            name: {"method": name}
            for name in ("fedavg", "fedprox", "fedavg_gn", "fedavg_ln", "fedbn", "silobn", "fixbn", "standalone")
        },
    }
)
"""What a row of a table runs: a method, and for FedWon its form. `fedwon_paper` is the listing, a gain alone."""


@dataclass(frozen=True)
class Protocol:
    """One comparison.

    Attributes:
        images: folder of the set below `FEDWON_DATA`.
        domains: the domains that take part; empty for all.
        settings: the run's configuration without method, seed, batch size, lr and clipping.
        rows: variant to the batch sizes that it is run at.
        rounds: rounds of a run.
        tune_rounds: rounds of a tuning run; half of them at batches of one or two, which take far more steps a round.
        seeds: seeds of the runs; tuning uses another.
        test_every: rounds between evaluations on test images, so that the best round by validation can be scored; 0:
            the last round only.
        test_share: share of the images set aside for testing, where the set comes without test images.
        metric: "accuracy", or "balanced" (mean recall over classes).
        selection: which round is reported.
        cut: what is smaller than published.
    """

    images: str
    rows: Mapping[str, tuple[int, ...]]
    rounds: int
    tune_rounds: int
    domains: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (1, 2, 3)
    test_every: int = 0
    test_share: float = TEST_SHARE
    metric: Literal["accuracy", "balanced"] = "accuracy"
    selection: Literal["last", "best"] = "last"
    cut: str = ""

    def tuning_rounds(self, batch: int) -> int:
        """Rounds of a tuning run at a batch size."""
        return max(self.tune_rounds // 2, 1) if batch <= SMALL_BATCH else self.tune_rounds


def _rows(batch: int, *names: str) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(names, (batch,))


_FOUR = ("fedwon", "fedavg", "fedavg_gn", "fedbn")

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "digits": Protocol(
            "digits_five",
            domains=DIGIT_DOMAINS,
            rounds=40,
            tune_rounds=10,
            settings={
                "model": {"name": "digit_cnn", "width": 0.5},
                "images": {"max_train": 743, "validation_fraction": 0.05},
            },
            rows={
                **_rows(32, *VARIANTS),
                "fedwon": (1, 2, 32),
                "fedwon_paper": (1, 2, 32),
                "fedavg_gn": (1, 2, 32),
                "fedavg_ln": (1, 2, 32),
                "fedavg": (2, 32),
                "fedbn": (2, 32),
            },
            cut="digit_cnn at half width, 40 rounds in place of 100",
        ),
        "office": Protocol(
            "office_caltech_10",
            rounds=100,
            tune_rounds=30,
            settings={
                "model": {"name": "alexnet", "width": 0.5},
                "images": {"size": 128, "max_train": 62, "mean": [0.0], "std": [1.0]},
            },
            rows={**_rows(32, *_FOUR, "fedwon_paper"), "fedwon": (1, 2, 32), "fedbn": (2, 32)},
            test_every=5,
            selection="best",
            cut="alexnet at half width, 128 px in place of 256, 100 rounds in place of 300, no flips and turns",
        ),
        "pacs": Protocol(
            "pacs",
            rounds=40,
            tune_rounds=10,
            settings={
                "model": {"name": "resnet18", "width": 0.5},
                "images": {"size": 64, "max_train": 500, "validation_fraction": 0.1},
            },
            rows=_rows(16, *_FOUR, "fedwon_paper"),
            test_every=5,
            selection="best",
            cut="64 px, resnet18 at half width, 500 training images a site",
        ),
        "magnetic_tile": Protocol(
            "magnetic_tile",
            rounds=40,
            tune_rounds=15,
            settings={
                "images": {"size": 64, "channels": 1},
                "model": {"name": "digit_cnn", "width": 0.25},
                "training": {"epochs": 3},  # an epoch of 70 images is nine steps
            },
            rows={**_rows(8, *_FOUR, "fedwon_paper"), "fedwon": (1, 8), "fedwon_paper": (1, 8)},
            seeds=(1, 2, 3, 4, 5),
            test_every=5,
            test_share=0.5,  # some defects have four images a line: a fifth of them would decide nothing
            metric="balanced",
            selection="best",
        ),
    }
)
"""The protocols by name."""


def merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Lay nested settings over one another; later ones win."""
    result: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            known = result.get(key)
            result[key] = merged(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return result
