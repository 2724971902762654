"""What happens in a run, as values, and who listens: the live table, the log, later the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunStarted:
    """A run begins or goes on after `done` rounds."""

    run: str
    rounds: int
    done: int
    sites: Sequence[str]


@dataclass(frozen=True)
class RoundStarted:
    """Tasks went out to these sites."""

    number: int
    sites: Sequence[str]


@dataclass(frozen=True)
class SiteAnswered:
    """A site's answer was accepted.

    Attributes:
        model_round: the round of the global model that `metrics` starting with "validation" or "test" speak of.
        bytes_down: bytes that the site fetched.
        bytes_up: bytes that it sent.
    """

    number: int
    site: str
    metrics: Mapping[str, float]
    model_round: int
    seconds: float
    bytes_down: int
    bytes_up: int


@dataclass(frozen=True)
class SiteFailed:
    """A site's answer is missing, failed or was refused."""

    number: int
    site: str
    reason: str


@dataclass(frozen=True)
class SiteNoted:
    """A site says something about its images that its people should look at; told when it is new."""

    site: str
    text: str


@dataclass(frozen=True)
class SiteDrifted:
    """A line does worse than it did, and the others do not; or no longer so (`over`)."""

    site: str
    text: str
    over: bool


@dataclass(frozen=True)
class RoundCommitted:
    """A new global model stands on the disk."""

    number: int
    seconds: float
    path: Path
    sites: Sequence[str]


@dataclass(frozen=True)
class RunPaused:
    """The run waits for sites; it goes on by itself."""

    run: str
    reason: str


@dataclass(frozen=True)
class RunEnded:
    """The run is over.

    Attributes:
        state: "finished", "stopped" or "failed".
    """

    run: str
    state: str
    reason: str
    model: Path | None


Event = (
    RunStarted
    | RoundStarted
    | SiteAnswered
    | SiteFailed
    | SiteNoted
    | SiteDrifted
    | RoundCommitted
    | RunPaused
    | RunEnded
)
Listener = Callable[[Event], None]
