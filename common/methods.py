"""The methods of the paper as data: what each normalizes with and what else sets it apart.

Source: Zhuang and Lyu, FedWon, ICLR 2024; the baselines as in FedBN's code. No method has a code path of its own in
client or server: both read these fields. Methods that keep layers at the site are not here yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

Normalization = Literal["none", "batch", "group", "layer"]
MethodName = Literal["fedwon", "fedavg", "fedprox", "fedavg_gn", "fedavg_ln"]


@dataclass(frozen=True)
class Method:
    """One federated method.

    Attributes:
        normalization: what stands between convolution and activation; "none" means weight-standardized convolutions.
        proximal_mu: strength of the proximal term mu/2 * ||w - w_global||^2 (FedProx), 0 for none.
        minimum_batch: smallest batch that the network can train on; batch norm needs two images.
    """

    normalization: Normalization
    proximal_mu: float = 0.0
    minimum_batch: int = 1


METHODS: MappingProxyType[MethodName, Method] = MappingProxyType(
    {
        "fedwon": Method("none"),
        "fedavg": Method("batch", minimum_batch=2),
        "fedprox": Method("batch", proximal_mu=1e-2, minimum_batch=2),
        "fedavg_gn": Method("group"),
        "fedavg_ln": Method("layer"),
    }
)

if set(METHODS) != set(get_args(MethodName)):  # the type and the table must not drift apart
    raise AssertionError(set(METHODS) ^ set(get_args(MethodName)))
