"""Settings of how a round goes: who takes part, how models travel, what is kept of it, and when a line has drifted."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedwon.common.codec import Down, Up
from fedwon.common.config import Settings

Unit = Annotated[float, Field(gt=0, le=1)]


class ParticipationConfig(Settings):
    """Which sites take part in a round and how long it waits for them."""

    minimum: int = Field(default=2, ge=1)
    """A round starts when so many sites are connected."""
    fraction: Unit = 1.0
    """Share C of the connected sites that train in a round, drawn with the run's seed; at least one."""
    quorum: int | None = Field(default=None, ge=1)
    """Answers that a round needs to count (k of n); empty: as many as `minimum`. Never more than were asked."""
    patience_seconds: float | None = Field(default=None, ge=0)
    """How long to wait for the others once the quorum has answered; empty: until the deadline."""
    deadline_seconds: float = Field(default=3600, gt=0)
    """Longest time from the first task handed out to the end of the round."""
    away_seconds: float | None = Field(default=300, ge=0)
    """A site that was asked and has had no connection for so long is not waited for any more; empty: until the
    deadline."""
    late_rounds: int = Field(default=0, ge=0)
    """An update that misses its round still counts in one of so many rounds after it, with less weight
    (`aggregation.staleness`); 0: it is refused, and the site is asked for the round that is open."""
    retries: int = Field(default=2, ge=0)
    """How often a round with too few answers is repeated before the run pauses."""
    pause_seconds: float | None = Field(default=600, gt=0)
    """How long the run then pauses; a site that connects ends the pause. Then the round is asked for again, also of
    the sites that came meanwhile. Empty: no pause, the server ends with an error, and `--resume` goes on."""


class TrafficConfig(Settings):
    """How models travel; docs/codecs.md says which codec is for what."""

    up: Up = "int8"
    """Updates, from the sites: `plain` float32; `fp32` packed without loss; or their difference to the global model as
    `bf16`, `fp16`, `int8` with stochastic rounding, or only its largest twentieth (`topk`). Of the last two, what was
    left out is added to the site's next update. A site of an older version sends `plain`."""
    down: Down = "int8"
    """The global model, to the sites: whole and `plain`, or its difference to the one before, which sites hold.
    Where that is lossy, the model that counts is the one that the sites get."""


class RetentionConfig(Settings):
    """What the server keeps of a run on its disk."""

    rounds: int | None = Field(default=5, ge=2)
    """Models of so many rounds are kept, the newest ones, and the best one by validation accuracy; empty: all.
    Manifests of all rounds are kept."""
    history: int | None = Field(default=1000, ge=10)
    """What each site was asked and what it measured is kept of so many rounds, the newest ones, of a tenth as many at
    even distances before, and of rounds whose model is kept: the database stops growing at about 2 kB x sites x rounds.
    Empty: all."""
    refused: int = Field(default=20, ge=1)
    """Refused updates that are kept for inspection, the newest ones."""
    refused_mb: int = Field(default=1000, ge=0)
    """Megabytes that refused updates may take; the newest one is kept whatever its size."""


class DriftConfig(Settings):
    """When a line is said to have drifted away from the model; docs/faults.md measures it.

    A line's accuracy of the incoming model is compared with its own past and with the other lines.
    """

    alarm: bool = True
    """Raise it. Nothing else follows: the line's updates go on counting."""
    threshold: float = Field(default=5.0, ge=1, le=100)
    """Sum of falls, in standard deviations, at which it is raised. At 5 fewer than one round of a site in a thousand
    raises it falsely."""
