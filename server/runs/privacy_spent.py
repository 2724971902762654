"""What a run has cost in privacy so far: kept with the run, told by `status`, the page and releases.

Of whole sites the server counts itself, a site's rounds one by one. Of single images each site counts on its own
disk, and what it says it has spent in this run is passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedwon.common.config import parse
from fedwon.common.privacy_settings import PrivacyConfig, SitePrivacyConfig
from fedwon.server.store import RunRow

EPSILON = "privacy-epsilon"
"""What a site calls its number."""
RELEASES, TOLD, CLIP = "releases", "told", "clip"


def clip_of(row: RunRow, asked: SitePrivacyConfig) -> float:
    """Return the bound of a run's next round."""
    return float((row.privacy or {}).get(CLIP, asked.clip))


def add_round(row: RunRow, releases: Mapping[str, int], told: Mapping[str, float], clip: float | None = None) -> None:
    """Note a round that was committed.

    Args:
        row: the run's.
        releases: by site, how often its update is in the new model; a relay's sites are behind its own name.
        told: by site, epsilon of its images in this run as it says.
        clip: the next round's bound, where there is one.
    """
    if not (releases or told):
        return
    before = row.privacy or {}
    counts = dict(before.get(RELEASES, {}))
    for site, count in releases.items():
        counts[site] = counts.get(site, 0) + count
    new = {RELEASES: counts, TOLD: {**before.get(TOLD, {}), **told}}
    row.privacy = new if clip is None else {**new, CLIP: clip}  # a new one, for changes inside are not seen


def spent(config: Mapping[str, Any], kept: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Return what a run has cost, as plain values.

    Args:
        config: the run's, as stored.
        kept: what `add_round` noted.

    Returns:
        `sites` and `examples`, each where it is on: noise, clip, delta, the highest epsilon, and that by site.
    """
    asked = parse(PrivacyConfig, config.get("privacy", {}), "the configuration of a run")
    counts, told = (dict((kept or {}).get(key, {})) for key in (RELEASES, TOLD))
    found: dict[str, dict[str, Any]] = {}
    if asked.sites.noise is not None:
        by_site = {site: asked.sites.epsilon(count) or 0.0 for site, count in sorted(counts.items())}
        clip = (kept or {}).get(CLIP, asked.sites.clip)
        found["sites"] = {"noise": asked.sites.noise, "clip": clip, "delta": asked.sites.delta}
        found["sites"] |= {"epsilon": max(by_site.values(), default=0.0), "by_site": by_site}
    if asked.examples.noise is not None:
        found["examples"] = {"noise": asked.examples.noise, "clip": asked.examples.clip, "delta": asked.examples.delta}
        found["examples"] |= {"epsilon": max(told.values(), default=0.0), "by_site": dict(sorted(told.items()))}
    return found


def in_words(run: str, found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line for each kind."""
    whose = {"sites": "of a whole site", "examples": "of an image, as the sites say"}
    return [
        f"{run}: privacy {whose[kind]}: epsilon {one['epsilon']:.3g} at delta {one['delta']:g} (noise {one['noise']:g})"
        for kind, one in found.items()
    ]
