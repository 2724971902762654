"""What is compared with what: each protocol as data.

Source of the protocols: FedBN's code as the paper's notes give it (743 and 62 images a site, one local epoch, plain SGD
whose state starts anew each round, sites weighed alike). Where two cores do not allow the published size, `cut` says
what was made smaller; it is printed above the protocol's table.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from benchmarks.paper.partitions import DomainASite, LabelSkew, SitesADomain
from benchmarks.paper.protocol import Protocol
from benchmarks.paper.variants import FORMS, METHODS, WARMED_UP
from fedwon.common.config import merged

DIGIT_DOMAINS = ("mnist", "mnist_m", "svhn", "synth_like", "usps")


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
        cut=f"{_SMALL_CUT}, 20 rounds, two seeds",
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
        rows={"fedwon": (1, 4), "fedavg": (4, 16), "fedbn": (4, 16)},
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


def _label_skew_cifar(alpha: float | None) -> Protocol:
    return Protocol(
        "cifar10",
        absent=True,
        partition=LabelSkew(10, alpha),
        tuned_as="" if alpha == _MIDDLE_ALPHA else f"label_skew_cifar10_{_MIDDLE_ALPHA:g}",
        rounds=100,
        tune_rounds=20,
        settings={
            "model": {"name": "mobilenet_v2"},
            "images": {"size": 32, "validation_fraction": 0.05},
            "training": {"schedule": "cosine", "augmentation": {"flip_horizontal": True}},
        },
        rows=_rows(32, "fedwon", "fedwon_paper", "fedavg", "fedavg_gn", "fedavg_ln", "fixbn"),
        cut="the published number of sites and rounds is not known; 10 and 100 are ours",
    )


def _published_size(images: str, **given: Any) -> Protocol:
    """A set that cannot be had here, at the size that FedBN's code or FLamby gives it: for who can fetch it."""
    settings = {"training": {"augmentation": {"flip_horizontal": True, "turn_degrees": 30.0}}}
    return Protocol(
        images,
        main=True,
        absent=True,
        settings=merged(settings, given.pop("settings")),
        rows=_rows(given.pop("batch"), *METHODS),
        test_every=10,
        selection="best",
        **given,
    )


_MIDDLE_SHARE, _MIDDLE_ALPHA = 0.2, 0.5
_ALPHAS = (0.1, 0.5, 1.0, None)
PACS_DOMAINS = ("art_painting", "cartoon", "photo", "sketch")
_PACS = {
    "model": {"name": "resnet18", "width": 0.25},
    "images": {"size": 64, "max_train": 300, "validation_fraction": 0.1},
    "training": {"schedule": "cosine", "augmentation": {"flip_horizontal": True, "turn_degrees": 15.0}},
}
_PACS_CUT = "64 px, resnet18 at a quarter of its width, 300 training images a site"
_FOUR = ("fedwon", "fedavg", "fedavg_gn", "fedbn")


def _tiles(*names: str, settings: Mapping[str, Any] = MappingProxyType({}), **given: Any) -> Protocol:
    """Magnetic tiles under six exposures.

    Args:
        names: the rows.
        settings: what is other than in the plain comparison.
        given: rounds, seeds and the like.
    """
    plain = {
        "images": {"size": 64, "channels": 1},
        "model": {"name": "digit_cnn", "width": 0.25},
        "training": {"epochs": 3},  # an epoch of 70 images is nine steps
    }
    return Protocol(
        "magnetic_tile",
        main=not settings,
        settings=merged(plain, settings),
        rows=_rows(8, *names),
        test_every=5,
        test_share=0.5,  # some defects have four images a line: a fifth of them would decide nothing
        metric="balanced",
        selection="best",
        cut="64 px, digit_cnn at a quarter of its width; the set is not the paper's",
        **given,
    )


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "digits": Protocol(
            "digits_five",
            main=True,
            domains=DIGIT_DOMAINS,
            rounds=40,
            tune_rounds=10,
            settings={
                "model": {"name": "digit_cnn", "width": 0.5},
                "images": {"max_train": 743, "validation_fraction": 0.05},
            },
            rows={
                "fedwon": (8, 32),
                "fedwon_constant": (1, 2, 32),
                "fedwon_no_constant": (32,),
                "fedwon_paper": (32,),
                "fedavg": (32,),
                "fedavg_unclipped": (32,),
                "fedavg_gn": (32,),
                "fedbn": (2, 32),
                "fedbn_unclipped": (32,),
            },
            cut="digit_cnn at half width, 40 rounds in place of 100; the other methods and small batches: digits_small",
        ),
        "digits_small": Protocol(
            "digits_five",
            domains=DIGIT_DOMAINS,
            rounds=20,
            tune_rounds=20,
            settings=_SMALL,
            rows={
                **_rows(32, *METHODS, "fedwon_constant", "fedwon_no_constant"),
                **_rows(32, *(f"{name}_warmup" for name in WARMED_UP)),
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
            main=True,
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
            cut="alexnet at a quarter of its width, 128 px in place of 256, 60 rounds in place of 300; a "
            "fifth of the images here is for validation",
        ),
        "pacs": Protocol(
            "pacs",
            main=True,
            rounds=20,
            tune_rounds=8,
            settings=_PACS,
            rows={
                **_rows(16, *_FOUR, "fedwon_paper", "fedavg_unclipped", "fedbn_unclipped"),
                "fedwon": (2, 4, 16),
                **dict.fromkeys(("fedavg", "fedbn"), (4, 8, 16)),
            },
            test_every=10,
            selection="best",
            cut=_PACS_CUT,
        ),
        "magnetic_tile": _tiles(
            "fedwon",
            "fedwon_constant",
            "fedwon_paper",
            "fedavg",
            "fedavg_gn",
            "fedbn",
            rounds=40,
            tune_rounds=15,
            seeds=(1, 2, 3, 4, 5),
        ),
        "magnetic_tile_each": _tiles(
            "fedwon",
            "fedavg",
            "fedbn",
            settings={"images": {"standardize": "each"}, "training": {"schedule": "cosine"}},
            rounds=20,
            tune_rounds=10,
        ),
        "magnetic_tile_mirrored": _tiles(
            "fedwon",
            "fedavg",
            "fedbn",
            settings={"training": {"augmentation": {"flip_horizontal": True, "flip_vertical": True}}},
            tuned_as="magnetic_tile",
            rounds=60,
            tune_rounds=15,
            seeds=(1,),  # FedWon and FedBN both ended well below the same seed of the plain table: not followed up
        ),
        "ablation": Protocol(
            "digits_five",
            domains=DIGIT_DOMAINS,
            rounds=12,
            tune_rounds=6,
            settings=_SMALL,
            rows={name: (32,) if name.startswith("epochs") else (1, 2, 32) for name in FORMS},
            seeds=(1, 2),
            ours="ws_constant_agc",
            cut=f"{_SMALL_CUT}, 12 rounds, two seeds; the gain and the weights sent only with all the rest",
        ),
        **{f"digits_without_{name}": _digits_without(name) for name in DIGIT_DOMAINS},
        **{f"pacs_without_{name}": _pacs_without(name) for name in PACS_DOMAINS},
        **{f"cross_device_{share:g}": _cross_device(share) for share in (0.1, 0.2, 0.5)},
        **{f"label_skew_{alpha or 'iid'}": _label_skew(alpha) for alpha in _ALPHAS},
        **{f"label_skew_cifar10_{alpha or 'iid'}": _label_skew_cifar(alpha) for alpha in _ALPHAS},
        "domainnet": _published_size(
            "domainnet",
            settings={
                "model": {"name": "alexnet"},
                "images": {"size": 256, "max_train": 105, "mean": [0.0], "std": [1.0]},
            },
            batch=32,
            rounds=300,
            tune_rounds=60,
        ),
        "fed_isic2019": _published_size(
            "fed_isic2019",
            settings={"model": {"name": "efficientnet_b0"}, "images": {"size": 200, "validation_fraction": 0.1}},
            batch=64,
            rounds=50,
            tune_rounds=10,
            metric="balanced",
            cut="network and rounds are FLamby's and a third party's, the paper's are not known",
        ),
    }
)
"""The protocols by name."""
