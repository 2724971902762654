"""What one comparison is: image set, sites, network, rounds, rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from benchmarks.paper.partitions import DomainASite, Partition
from benchmarks.paper.sets import TEST_SHARE

SMALL_BATCH = 2
STAND_INS: Mapping[str, str] = MappingProxyType({"synth_like": "synth_digits"})
"""Domains that stand in for one that cannot be had everywhere; where only the real one is there, it is taken."""

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
        main: the one that stands for its image set; others of the same set are beside it.
        absent: its images cannot be had where the committed results were made.
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
    main: bool = False
    absent: bool = False

    def on(self, present: Collection[str]) -> Protocol:
        """This protocol on the domains that a folder has: each stand-in gives way to what it stands for, if need be.

        Args:
            present: names of the folder's domains.
        """
        real = {name: STAND_INS.get(name, name) if name not in present else name for name in self.domains}
        partition = self.partition
        if isinstance(partition, DomainASite):
            partition = DomainASite(without=real.get(partition.without, partition.without))
        return replace(self, domains=tuple(real.values()), partition=partition)

    def tuning_rounds(self, batch: int) -> int:
        """Rounds of a tuning run at a batch size."""
        return max(self.tune_rounds // 2, 1) if batch <= SMALL_BATCH else self.tune_rounds

    def rates(self, batch: int) -> tuple[float, ...]:
        """The learning rates that tuning may choose from at a batch size."""
        if batch <= SMALL_BATCH:
            return SMALL_BATCH_RATES
        return FINE_RATES if self.settings.get("training", {}).get("schedule") == "cosine" else RATES
