"""The paper's figures stand beside ours only where the protocol is the paper's main one."""

from __future__ import annotations

from types import SimpleNamespace

from benchmarks.paper.protocols import PROTOCOLS
from benchmarks.paper.report import _beside


def beside(protocol: str, variant: str, batch: int) -> str:
    return _beside(PROTOCOLS[protocol], SimpleNamespace(variant=variant, batch=batch))


def test_where_they_stand():
    assert beside("digits", "fedbn", 32) == "88.4"
    assert beside("digits", "fedbn_unclipped", 32) == "88.4"
    assert beside("office", "fedavg", 32) == "66.3"


def test_where_they_do_not():
    assert beside("digits", "fedbn", 2) == "-"  # published for batches of 32
    assert beside("label_skew_0.5", "fedavg", 32) == "-"  # MNIST alone
    assert beside("digits_without_svhn", "fedavg", 32) == "-"
    assert beside("cross_device_0.2", "fedavg", 4) == "-"
    assert beside("pacs", "fedavg", 16) == "-"  # not in the paper
