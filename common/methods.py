"""The methods of the paper as data: what each normalizes with and what else sets it apart.

Source: Zhuang and Lyu, FedWon, ICLR 2024; the baselines as in FedBN's code. No method has a code path of its own in
client or server: both read these fields. What a site keeps, and why, is in docs/decisions/0012-local-state.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

Normalization = Literal["none", "batch", "group", "layer"]
Keeps = Literal["nothing", "statistics", "normalization", "everything"]
MethodName = Literal["fedwon", "fedavg", "fedprox", "fedavg_gn", "fedavg_ln", "fedbn", "silobn", "fixbn", "standalone"]


@dataclass(frozen=True)
class Method:
    """One federated method.

    Attributes:
        normalization: what stands between convolution and activation; "none" means weight-standardized convolutions.
        proximal_mu: strength of the proximal term mu/2 * ||w - w_global||^2 (FedProx), 0 for none.
        minimum_batch: smallest batch that the network can train on; batch norm needs two images.
        keeps: what stays at a site and is never averaged: nothing, the running statistics of normalization layers,
            those layers whole, or everything. Told by the layers' types (`fedwon.models.local_names`).
        freezes_after: share of the rounds after which normalization layers only use their running statistics; 1 for
            never.
    """

    normalization: Normalization
    proximal_mu: float = 0.0
    minimum_batch: int = 1
    keeps: Keeps = "nothing"
    freezes_after: float = 1.0


METHODS: MappingProxyType[MethodName, Method] = MappingProxyType(
    {
        "fedwon": Method("none"),
        "fedavg": Method("batch", minimum_batch=2),
        "fedprox": Method("batch", proximal_mu=1e-2, minimum_batch=2),
        "fedavg_gn": Method("group"),
        "fedavg_ln": Method("layer"),
        "fedbn": Method("batch", minimum_batch=2, keeps="normalization"),
        "silobn": Method("batch", minimum_batch=2, keeps="statistics"),
        "fixbn": Method("batch", minimum_batch=2, freezes_after=0.5),
        "standalone": Method("batch", minimum_batch=2, keeps="everything"),
    }
)

if set(METHODS) != set(get_args(MethodName)):  # the type and the table must not drift apart
    raise AssertionError(set(METHODS) ^ set(get_args(MethodName)))
