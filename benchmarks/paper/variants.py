"""The rows of the tables as data: methods, and FedWon's forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

AGC = 0.16


@dataclass(frozen=True)
class Variant:
    """What a row of a table runs: a method, and for FedWon its form.

    Attributes:
        settings: the part of the configuration that makes it what it is.
        clippings: lambdas of adaptive gradient clipping that tuning may choose from; None: off.
        tried_as: the row whose tuning runs are this one's too, since they have the same settings; "": it has its own.
    """

    settings: Mapping[str, Any]
    clippings: tuple[float | None, ...] = (None, AGC)
    tried_as: str = ""


def _plain(*, clippings: tuple[float | None, ...] = (None, AGC), **model: Any) -> Variant:
    """FedWon by the paper's listing, with so much of the recipe as is named."""
    return Variant({"method": "fedwon", "recipe": "paper", "model": model}, clippings)


def _constant(training: Mapping[str, Any] | None = None, **model: Any) -> Variant:
    """With the ReLU constant and clipping."""
    form = _plain(relu_constant=True, clippings=(AGC,), **model)
    return Variant({**form.settings, "training": dict(training or {})}, form.clippings)


WARMED_UP = ("fedwon", "fedavg", "fedbn")
"""Methods that have a row with a warm-up, `..._warmup`."""


def _warmed_up(method: str) -> Variant:
    """A method whose learning rate rises over the first three rounds."""
    return Variant({"method": method, "training": {"warmup_rounds": 3}})


BASELINES = ("fedavg", "fedprox", "fedavg_gn", "fedavg_ln", "fedbn", "silobn", "fixbn", "standalone")
METHODS = ("fedwon", "fedwon_paper", *BASELINES)
"""The rows of the main tables."""
FORMS: Mapping[str, Variant] = {
    "nothing": _plain(clippings=(None,), ablation={"standardized": False}),
    "agc": _plain(clippings=(AGC,), ablation={"standardized": False}),
    "constant_agc": _constant(ablation={"standardized": False}),
    "ws": _plain(clippings=(None,)),
    "ws_agc": _plain(clippings=(AGC,)),
    "ws_constant": _plain(relu_constant=True, clippings=(None,)),
    "ws_constant_agc": _constant(),
    "no_gain": _constant(ablation={"gain": False}),
    "sent_standardized": _constant({"weights_sent": "standardized"}),
    "linear_dropout": _constant(dropout=0.5),
    "linear_standardized": _constant(linear="standardized"),
    "epochs_4": _constant({"epochs": 4}),
    "epochs_8": _constant({"epochs": 8}),
}

VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "fedwon": Variant({"method": "fedwon"}),
        "fedwon_no_constant": Variant({"method": "fedwon", "model": {"relu_constant": False}}),
        "fedwon_momentum": Variant({"method": "fedwon", "aggregation": {"server_momentum": 0.9}}),
        "fedwon_constant": _plain(relu_constant=True),
        "fedwon_paper": _plain(),
        **{name: Variant({"method": name}) for name in BASELINES},
        **{f"{name}_unclipped": Variant({"method": name}, (None,), tried_as=name) for name in ("fedavg", "fedbn")},
        **{f"{name}_warmup": _warmed_up(name) for name in WARMED_UP},
        **FORMS,
    }
)
"""The rows of all tables by name. `fedwon` has fedwon's own recipe, `fedwon_paper` is the paper's listing, a gain
alone, `fedwon_constant` that with the ReLU constant, and `fedwon_no_constant` the recipe without it. The baselines may
be clipped like FedWon, which their authors did not do; `..._unclipped` are as published, `..._warmup` show whom a
warm-up helps. The forms are the ablation's.
`fedwon_momentum` is in no table: it is there to be tried."""
