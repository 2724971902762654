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

from benchmarks.paper.partitions import DomainASite, LabelSkew, Partition, SitesADomain
from benchmarks.paper.sets import TEST_SHARE
from benchmarks.paper.variants import FORMS, METHODS
from fedwon.common.config import merged

SMALL_BATCH = 2
DIGIT_DOMAINS = ("mnist", "mnist_m", "svhn", "synth_like", "usps")

RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
FINE_RATES = (0.01, 0.03, 0.1, 0.3, 0.6, 1.0)
SMALL_BATCH_RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
"""Learning rates of tuning, the same for all methods of a protocol. Where the rate falls over the rounds, higher ones
are worth a closer look."""


@dataclass(frozen=True)
class Protocol:
    """One comparison.

    Attributes:
        images: folder of the set below `FEDWON_DATA`.
        domains: the domains that take part; empty for all.
        partition: how the domains become sites.
        group: protocols of one group share a table, in which each brings its unseen domain.
        tuned_as: the protocol whose learning rates and clippings are taken over; "": it has its own.
        settings: the run's configuration without method, seed, batch size, lr and clipping.
        rows: variant to the batch sizes that it is run at.
        rounds: rounds of a run.
        tune_rounds: rounds of a tuning run; half of them at batches of one or two, which take far more steps a round.
        seeds: seeds of the runs; tuning uses another.
        test_every: rounds between evaluations on test images, so that the best round by validation can be scored; 0:
            the last round only.
        test_share: share of the images set aside for testing, where the set comes without test images.
        ours: the row that the others are compared with.
        metric: "accuracy", or "balanced" (mean recall over classes).
        selection: which round is reported.
        cut: what is smaller than published.
    """

    images: str
    rows: Mapping[str, tuple[int, ...]]
    rounds: int
    tune_rounds: int
    domains: tuple[str, ...] = ()
    partition: Partition = field(default_factory=DomainASite)
    group: str = ""
    tuned_as: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (1, 2, 3)
    test_every: int = 0
    test_share: float = TEST_SHARE
    ours: str = "fedwon"
    metric: Literal["accuracy", "balanced"] = "accuracy"
    selection: Literal["last", "best"] = "last"
    cut: str = ""

    def tuning_rounds(self, batch: int) -> int:
        """Rounds of a tuning run at a batch size."""
        return max(self.tune_rounds // 2, 1) if batch <= SMALL_BATCH else self.tune_rounds

    def rates(self, batch: int) -> tuple[float, ...]:
        """The learning rates that tuning may choose from at a batch size."""
        if batch <= SMALL_BATCH:
            return SMALL_BATCH_RATES
        return FINE_RATES if self.settings.get("training", {}).get("schedule") == "cosine" else RATES


def _rows(batch: int, *names: str) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(names, (batch,))


_SMALL = {
    "model": {"name": "digit_cnn", "width": 0.25},
    "images": {"max_train": 300, "validation_fraction": 0.05},
    "training": {"schedule": "cosine"},
}
_SMALL_CUT = "digit_cnn at a quarter of its width, 300 images a site"


def _digits_without(domain: str) -> Protocol:
    return Protocol(
        "digits_five",
        domains=DIGIT_DOMAINS,
        partition=DomainASite(without=domain),
        group="unseen_digits",
        tuned_as="digits_small",
        rounds=20,
        tune_rounds=8,
        settings=_SMALL,
        rows=_rows(32, "fedwon", "fedavg", "fedbn"),
        seeds=(1, 2),
        cut=f"{_SMALL_CUT}, 20 rounds",
    )


def _pacs_without(domain: str) -> Protocol:
    return Protocol(
        "pacs",
        partition=DomainASite(without=domain),
        group="unseen_pacs",
        tuned_as="pacs",
        rounds=20,
        tune_rounds=8,
        settings=_PACS,
        rows=_rows(16, "fedwon", "fedavg", "fedbn"),
        seeds=(1, 2),
        cut=_PACS_CUT,
    )


def _cross_device(share: float) -> Protocol:
    return Protocol(
        "digits_five",
        domains=DIGIT_DOMAINS,
        partition=SitesADomain(20),
        tuned_as="" if share == _MIDDLE_SHARE else f"cross_device_{_MIDDLE_SHARE:g}",
        rounds=20,
        tune_rounds=8,
        settings={
            "model": {"name": "digit_cnn", "width": 0.25},
            "images": {"max_train": 100, "validation_fraction": 0.1},
            "participation": {"fraction": share},
            "training": {"schedule": "cosine"},
        },
        rows={"fedwon": (1, 4), "fedavg": (4,), "fedbn": (4,)},
        cut="digit_cnn at a quarter of its width, 100 images a site, 20 rounds",
    )


def _label_skew(alpha: float | None) -> Protocol:
    return Protocol(
        "digits_five",
        domains=("mnist",),
        partition=LabelSkew(10, alpha),
        tuned_as="" if alpha == _MIDDLE_ALPHA else f"label_skew_{_MIDDLE_ALPHA:g}",
        rounds=20,
        tune_rounds=8,
        settings={
            "model": {"name": "digit_cnn", "width": 0.25},
            "images": {"max_train": 100, "validation_fraction": 0.1},
            "training": {"schedule": "cosine"},
        },
        rows=_rows(32, "fedwon", "fedavg", "fedavg_gn"),
        cut="MNIST in place of CIFAR-10, which cannot be had here; 10 sites of 100 images",
    )


_MIDDLE_SHARE, _MIDDLE_ALPHA = 0.2, 0.5
PACS_DOMAINS = ("art_painting", "cartoon", "photo", "sketch")
_PACS = {
    "model": {"name": "resnet18", "width": 0.25},
    "images": {"size": 64, "max_train": 300, "validation_fraction": 0.1},
    "training": {"schedule": "cosine", "augmentation": {"flip_horizontal": True, "turn_degrees": 15.0}},
}
_PACS_CUT = "64 px, resnet18 at a quarter of its width, 300 training images a site"
_FOUR = ("fedwon", "fedavg", "fedavg_gn", "fedbn")


def _tiles(rounds: int, tune_rounds: int, seeds: tuple[int, ...], **images: Any) -> Protocol:
    return Protocol(
        "magnetic_tile",
        rounds=rounds,
        tune_rounds=tune_rounds,
        settings={
            "images": {"size": 64, "channels": 1, **images},
            "model": {"name": "digit_cnn", "width": 0.25},
            # an epoch of 70 images is nine steps
            "training": {"epochs": 3, **({"schedule": "cosine"} if images else {})},
        },
        rows=_rows(8, "fedwon", "fedwon_constant", "fedavg", "fedavg_gn", "fedbn"),
        seeds=seeds,
        test_every=5,
        test_share=0.5,  # some defects have four images a line: a fifth of them would decide nothing
        metric="balanced",
        selection="best",
    )


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
                "fedwon": (32,),
                "fedwon_constant": (1, 2, 32),
                "fedwon_paper": (32,),
                "fedavg": (32,),
                "fedavg_unclipped": (32,),
                "fedavg_gn": (32,),
                "fedbn": (2, 32),
                "fedbn_unclipped": (32,),
            },
            cut="digit_cnn at half width, 40 rounds in place of 100",
        ),
        "digits_small": Protocol(
            "digits_five",
            domains=DIGIT_DOMAINS,
            rounds=20,
            tune_rounds=20,
            settings=_SMALL,
            rows={
                **_rows(32, *METHODS),
                **dict.fromkeys(("fedwon", "fedavg_gn", "fedavg_ln"), (1, 2, 32)),
                **dict.fromkeys(("fedavg", "fedbn"), (2, 32)),
            },
            cut=f"{_SMALL_CUT}, 20 rounds in place of 100",
        ),
        "digits_many": Protocol(
            "digits_five",
            domains=DIGIT_DOMAINS,
            tuned_as="digits_small",
            rounds=10,
            tune_rounds=20,
            settings=merged(_SMALL, {"images": {"max_train": 3000}}),
            rows=_rows(32, "fedwon", "fedavg", "fedbn"),
            cut="digit_cnn at a quarter of its width, 10 rounds; ten times the images of digits_small, by its settings",
        ),
        "office": Protocol(
            "office_caltech_10",
            rounds=60,
            tune_rounds=30,
            settings={
                "model": {"name": "alexnet", "width": 0.25},
                "images": {"size": 128, "max_train": 62, "mean": [0.0], "std": [1.0]},
                "training": {
                    "augmentation": {"flip_horizontal": True, "turn_degrees": 30.0},
                    "schedule": "cosine",
                },
            },
            rows={
                **_rows(32, *_FOUR, "fedwon_constant", "fedwon_paper", "fedavg_unclipped", "fedbn_unclipped"),
                "fedwon": (1, 2, 8, 32),
                "fedavg": (8, 32),
                "fedbn": (2, 8, 32),
            },
            test_every=10,
            selection="best",
            cut="alexnet at a quarter of its width, 128 px in place of 256, 60 rounds in place of 300",
        ),
        "pacs": Protocol(
            "pacs",
            rounds=20,
            tune_rounds=8,
            settings=_PACS,
            rows=_rows(16, *_FOUR, "fedavg_unclipped", "fedbn_unclipped"),
            test_every=10,
            selection="best",
            cut=_PACS_CUT,
        ),
        "magnetic_tile": _tiles(40, 15, (1, 2, 3, 4, 5)),
        "magnetic_tile_each": _tiles(20, 10, (1, 2, 3), standardize="each"),
        "ablation": Protocol(
            "digits_five",
            domains=DIGIT_DOMAINS,
            rounds=12,
            tune_rounds=6,
            settings=_SMALL,
            rows={name: (32,) if name.startswith("epochs") else (1, 2, 32) for name in FORMS},
            seeds=(1, 2),
            ours="ws_constant_agc",
            cut=f"{_SMALL_CUT}, 12 rounds",
        ),
        **{f"digits_without_{name}": _digits_without(name) for name in DIGIT_DOMAINS},
        **{f"pacs_without_{name}": _pacs_without(name) for name in PACS_DOMAINS},
        **{f"cross_device_{share:g}": _cross_device(share) for share in (0.1, 0.2, 0.5)},
        **{f"label_skew_{alpha or 'iid'}": _label_skew(alpha) for alpha in (0.1, 0.5, 1.0, None)},
    }
)
"""The protocols by name."""
