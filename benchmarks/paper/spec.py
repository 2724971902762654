"""What tells one run from another, and where its files lie."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from benchmarks.paper.protocol import Protocol
from benchmarks.paper.protocols import PROTOCOLS
from benchmarks.paper.sets import CACHE, ROOT
from benchmarks.paper.variants import VARIANTS
from fedwon.common.config import merged, parse
from fedwon.common.run_config import BEFORE_CODECS, RunConfig

RESULTS = ROOT / "benchmarks" / "results" / "paper"
_TRIAL = re.compile(r"-r\d+-seed\d+$")
"""As `Spec.key` ends where a spec has rounds of its own."""


@dataclass(frozen=True)
class Spec:
    """What tells one run from another.

    Attributes:
        protocol: a key of `PROTOCOLS`.
        variant: a key of `VARIANTS`.
        batch: images a step.
        lr: learning rate.
        clipping: lambda of adaptive gradient clipping; None: off.
        seed: the run's.
        rounds: rounds; 0: the protocol's. Tuning runs are shorter.
    """

    protocol: str
    variant: str
    batch: int
    lr: float
    clipping: float | None
    seed: int
    rounds: int = 0

    @property
    def plan(self) -> Protocol:
        """The protocol."""
        return PROTOCOLS[self.protocol]

    @property
    def key(self) -> str:
        """Name of the run's files."""
        clipping = "off" if self.clipping is None else f"{self.clipping:g}"
        rounds = f"-r{self.rounds}" if self.rounds else ""
        return f"{self.variant}-b{self.batch}-lr{self.lr:g}-c{clipping}{rounds}-seed{self.seed}"

    @property
    def config(self) -> RunConfig:
        """The run's configuration, as an operator would write it.

        Raises:
            ConfigError: the protocol's settings do not fit.
        """
        own = {
            "name": self.protocol.replace("_", "-"),
            "seed": self.seed,
            "rounds": self.rounds or self.plan.rounds,
            "training": {"batch_size": self.batch, "lr": self.lr, "clipping": self.clipping},
            "aggregation": {"weights": "uniform"},
            "traffic": BEFORE_CODECS["traffic"],  # what codecs cost is another table
        }
        return parse(
            RunConfig, merged(self.plan.settings, VARIANTS[self.variant].settings, own), f"protocol {self.protocol}"
        )


def result_path(spec: Spec, results: Path = RESULTS) -> Path:
    """Where the result of a run is kept; tuning runs apart from the others."""
    return results / spec.protocol / ("tuning" if spec.rounds else "runs") / f"{spec.key}.json"


def is_trial(key: str) -> bool:
    """Whether a key is that of a tuning run, which is short and was never meant to be a model for others."""
    return _TRIAL.search(key) is not None


def run_folder(spec: Spec, checkpoints: Path = CACHE) -> Path:
    """Where a run's model, database and what stays at its sites lie."""
    return checkpoints / "runs" / spec.protocol / spec.key
