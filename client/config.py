"""client.yaml: what one site decides for itself."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from fedwon.client.limits import LimitsConfig
from fedwon.client.link.schedule import ScheduleConfig
from fedwon.common.config import Settings, flatten
from fedwon.common.gates import Gates
from fedwon.common.privacy_settings import DELTA, Delta
from fedwon.common.traces import TracesConfig

ADDRESS = r"^[^\s:/]+:\d{1,5}$|^\[[0-9a-fA-F:]+\]:\d{1,5}$"
"""`host:port`, or `[address]:port` for IPv6."""
LEDGER = "privacy.json"
"""File in a site's folder: what private training has cost."""
OPENED_SUMS = "opened-sums.json"
"""File in a site's folder: which sums of masked updates it has helped to open."""


class DataConfig(Settings):
    """Where a site's images are."""

    path: str
    """A folder `<class>/*.jpg|png|...` (or with `train/`, `val/`, `test/` above the classes), an `.npz` file with
    `images` and `labels`, or `digits:NAME` for a line of the built-in set. Relative paths start at client.yaml."""
    test: str | None = None
    """Images that are never trained on, in one of the same forms; empty: `test/` in the folder, if it is there."""
    cache_mb: int = Field(default=512, ge=0)
    """Decoded and resized images are kept in memory up to so many megabytes."""


class SitePrivacyRules(Settings):
    """What this site asks of training on its images: differential privacy ([privacy](privacy.md))."""

    least_noise: float | None = Field(default=None, gt=0)
    """A task with a lower noise multiplier, or with none, is given back; empty: any."""
    most_epsilon: float | None = Field(default=None, gt=0)
    """What all runs together may cost at this site, at `delta`. A task that would cost more is given back, and so is
    one without noise. Empty: no limit."""
    delta: Delta = DELTA
    """Delta of `most_epsilon`; well below 1 over the site's images."""
    ledger: str | None = None
    """File in which the site keeps what was spent; relative paths start at client.yaml. Empty: `privacy.json`; in a
    simulation: none."""


class SiteConfig(Settings):
    """How a site works, whatever brings it its tasks: fedwon's link, a simulation, or Flower's own SuperNode."""

    data: DataConfig
    """The site's images."""
    batch_size: int | None = Field(default=None, ge=1, le=4096)
    """This site's own batch size, for a box with little memory; empty: what the server says."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of PyTorch; empty: all cores. The same number gives the same bits."""
    circle: str | None = None
    """A file with a secret that the sites of the federation share and its server does not have: this site then masks
    its updates (docs/secure-aggregation.md) among sites that know it. Its owner alone may read it (0600). Empty:
    among all."""
    opened_sums: str | None = None
    """File in which the site keeps which sums of masked updates it has helped to open
    ([secure aggregation](secure-aggregation.md)); relative paths start at client.yaml. Empty: `opened-sums.json`; in a
    simulation: none."""
    privacy: SitePrivacyRules = SitePrivacyRules()
    """What this site asks of training on its images."""

    def for_node(self, site: str, base: Path) -> dict[str, bool | int | float | str]:
        """Return what Flower hands a ClientApp about its node: these settings, flat.

        Args:
            site: the site's name.
            base: folder that relative paths start at.
        """
        own = SiteConfig.model_validate(self.model_dump(include=set(SiteConfig.model_fields)))
        return {"site": site, "base": str(base), **flatten(own)}


class LinkConfig(Settings):
    """How a client finds its server, whatever it is for: a site, or a relay, which is one to its parent."""

    server: str = Field(pattern=ADDRESS)
    """Address of the server, `host:port`."""
    memory_mb: int | None = Field(default=None, ge=64)
    """Megabytes of memory that the client may take; a task that needs more fails with a reason. Empty: what the
    control group, the container or the machine has."""

    def for_node(self, site: str, base: Path) -> dict[str, bool | int | float | str]:
        """Return what Flower hands an app about its node; see `SiteConfig.for_node`."""
        return {"site": site, "base": str(base)}


class ClientConfig(SiteConfig, LinkConfig):
    """client.yaml: a site of a fedwon server."""

    nice: int = Field(default=0, ge=0, le=19)
    """How far the client stands back where processors are short: 0 as any process, 19 behind all others (`nice`)."""
    metrics: str | None = Field(default=None, pattern=ADDRESS)
    """Where `/metrics` of this box is served for Prometheus, such as `127.0.0.1:8473`; whoever reaches that may read
    it. Empty: nowhere ([operation](operation.md#metrics))."""
    traces: TracesConfig | None = None
    """Where traces of this site's tasks are sent; they join the server's. Empty: nowhere."""
    schedule: ScheduleConfig = ScheduleConfig()
    """When this site may work."""
    limits: LimitsConfig = LimitsConfig()
    """What this site lets the server ask of it; a task beyond it is given back with the reason."""
    gates: Gates = Gates()
    """What a release must reach here before the line uses it, besides what the operator asks for."""

    def for_node(self, site: str, base: Path) -> dict[str, bool | int | float | str]:
        """Return what Flower hands an app about its node; a site of a server keeps what it must not forget in files."""
        return {"privacy.ledger": LEDGER, "opened_sums": OPENED_SUMS, **super().for_node(site, base)}
