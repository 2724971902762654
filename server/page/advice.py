"""What to do next, in plain words: rules over what the page knows, the most pressing first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from fedwon.common.version import VERSION
from fedwon.server.page.overview import Overview, SiteView, Trouble
from fedwon.server.page.texts import Texts, percent

AWAY = timedelta(minutes=3)
"""Who is away for less is about to come back, as after a restart of the server."""
WEAK = 0.10
"""A site that is so far below the mean deserves a look."""
MOST_TROUBLES = 5


@dataclass(frozen=True)
class Advice:
    """One thing to do.

    Attributes:
        level: "act" (nothing goes on without it), "look" or "good".
        text: what and why.
        command: what to type, where there is something.
        site: whom it is about, where it is about one site.
    """

    level: str
    text: str
    command: str = ""
    site: str = ""


def advise(view: Overview, t: Texts, folder: Path, minimum: int, images: Mapping[str, str]) -> list[Advice]:
    """Return what to do next; one line that says so where there is nothing.

    Args:
        view: how everything is.
        t: the words.
        folder: the server's folder, for commands.
        minimum: sites that a run needs.
        images: what sites said about their images lately, by site.
    """
    found = [*_about_the_run(view, t, folder, minimum), *_about_troubles(view, t)]
    for site in view.taking_part:
        found += _about_a_site(view, site, t)
    found += [_about_a_certificate(row, t, folder) for row in view.expiring]
    found += [Advice("look", t.do_few_images.format(site=site, text=text), site=site) for site, text in images.items()]
    found.sort(key=lambda advice: ["act", "look", "good"].index(advice.level))
    return found or [Advice("good", t.nothing_to_do)]


def _about_the_run(view: Overview, t: Texts, folder: Path, minimum: int) -> Iterator[Advice]:
    run, resume = view.run, f"fedwon-server start --dir {folder} --resume"
    if len(view.taking_part) < minimum:
        yield Advice("act", t.do_invite, f"fedwon-server enroll SITE --dir {folder}")
    elif run is None and sum(site.state == "connected" for site in view.sites) < minimum:
        yield Advice("act", t.do_start.format(minimum=minimum))
    if run is None:
        return
    if run.held:
        yield Advice("act", t.do_held, f"fedwon-server resume --dir {folder}")
    elif run.state == "paused":
        yield Advice("act", t.do_waiting.format(reason=run.reason))
    elif run.state in {"stopped", "failed"}:
        yield Advice("act", t.do_resume.format(reason=run.reason), resume)
    elif run.state == "finished":
        path = folder / "runs" / run.id / "model.safetensors"
        yield Advice("good", t.do_use_model.format(path=path))


def _about_troubles(view: Overview, t: Texts) -> Iterator[Advice]:
    """Speak of each site's newest update that does not count, if it is of the newest rounds."""
    if view.run is None:
        return
    told: dict[str, Trouble] = {}
    for trouble in view.troubles:
        if trouble.round >= view.run.committed and len(told) < MOST_TROUBLES:
            told.setdefault(trouble.site, trouble)
    words = {"refused": t.do_refused, "failed": t.do_failed, "late": t.do_late}
    for trouble in told.values():
        text = words[trouble.state].format(site=trouble.site, round=trouble.round, reason=trouble.reason)
        yield Advice("look", text, site=trouble.site)


def _about_a_site(view: Overview, site: SiteView, t: Texts) -> Iterator[Advice]:
    if site.state == "away" and site.last_seen is not None and view.at - site.last_seen > AWAY:
        since = t.ago(site.last_seen, view.at)
        yield Advice("look", t.do_away.format(site=site.name, since=since), "fedwon-client check", site.name)
    if site.state == "never":
        yield Advice("look", t.do_never.format(site=site.name), "fedwon-client start", site.name)
    if site.suspended:
        yield Advice("look", t.do_suspended.format(site=site.name, reason=site.suspended), site=site.name)
    if site.version and site.version != VERSION:
        yield Advice("look", t.do_version.format(site=site.name, version=site.version, own=VERSION), site=site.name)
    mean = view.run.mean if view.run else None
    worst = view.run.worst if view.run else None
    if mean is not None and worst is not None and worst[0] == site.name and mean - worst[1] >= WEAK:
        text = t.do_weak.format(site=site.name, accuracy=percent(worst[1]), mean=percent(mean))
        yield Advice("look", text, site=site.name)


def _about_a_certificate(row: Mapping[str, Any], t: Texts, folder: Path) -> Advice:
    days = max(round(row["days"]), 0)
    if row["kind"] == "site":
        return Advice("look", t.do_certificate_site.format(site=row["name"], days=days), site=row["name"])
    if row["kind"] == "server":
        command = f"fedwon-server certificate renew --dir {folder}"
        return Advice("look", t.do_certificate_server.format(days=days), command)
    return Advice("look", t.do_certificate_authority.format(days=days), f"fedwon-server authority roll --dir {folder}")
