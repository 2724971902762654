"""What the page shows, read from the database: the run, its sites with the worst first, and what went wrong."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import select

from fedwon.common.surveys import images_in
from fedwon.server import report
from fedwon.server.runs.wishes import PAUSE
from fedwon.server.serving import Home
from fedwon.server.store import UNDER_WAY, MetricRow, RoundRow, Store, TaskRow, now

Course = tuple[tuple[int, float], ...]
"""A site's accuracy, 0 to 1, by round."""

MOST_ROUNDS = 500
"""Newest rounds of which a course is read."""
MOST_TROUBLES = 50
TROUBLES = ("refused", "failed", "late")
"""States of tasks that the operator should look at; docs/wire.md has them all."""


@dataclass(frozen=True)
class Trouble:
    """An update that does not count.

    Attributes:
        state: "refused", "failed" or "late".
        at: when it was asked for.
    """

    run: str
    round: int
    site: str
    state: str
    reason: str
    at: datetime


@dataclass(frozen=True)
class SiteView:
    """A site as the page shows it.

    Attributes:
        state: "connected", "resting", "away", "never" or "revoked".
        accuracy: of the newest model that it has measured in the newest run, 0 to 1.
        part: the images that this was measured on, "test" or "validation".
        course: its validation accuracy by round.
        task: what it does in the round in hand, as in the database; empty where it is not asked.
        data: images by class and part, as the site says.
        certificate_days: until its certificate ends.
        unavailable: why it may not work now, in its own words.
        reason: why it was revoked.
        suspended: why no round asks it; empty where rounds do.
        troubles: its updates of the newest run that do not count, newest first.
    """

    name: str
    state: str
    last_seen: datetime | None
    version: str
    certificate_days: float
    data: Mapping[str, Mapping[str, int]]
    unavailable: str
    back: datetime | None
    reason: str
    suspended: str = ""
    accuracy: float | None = None
    part: str = ""
    course: Course = ()
    task: str = ""
    troubles: tuple[Trouble, ...] = ()

    @property
    def images(self) -> int:
        """How many images it has."""
        return images_in(self.data)


@dataclass(frozen=True)
class RunView:
    """A run as the page shows it.

    Attributes:
        state: as `fedwon-server status` says it.
        committed: rounds on the disk.
        model: the newest model's file, from the server's folder.
        accuracies: the newest of each site that was not revoked, 0 to 1.
        wish: the operator's: "", "pause" or "stop".
        privacy: what it has cost, as `privacy_spent.spent` has it.
    """

    id: str
    state: str
    reason: str
    method: str
    rounds: int
    committed: int
    made: datetime
    ended: datetime | None
    model: str
    accuracies: Mapping[str, float]
    wish: str = ""
    privacy: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        """Whether it pauses because an operator wishes so."""
        return self.state == "paused" and self.wish == PAUSE

    @property
    def under_way(self) -> bool:
        """Whether it runs or pauses."""
        return self.state in UNDER_WAY

    @property
    def mean(self) -> float | None:
        """Mean accuracy over the sites."""
        return sum(self.accuracies.values()) / len(self.accuracies) if self.accuracies else None

    @property
    def worst(self) -> tuple[str, float] | None:
        """The site where the model does worst, and its accuracy."""
        return min(self.accuracies.items(), key=lambda item: (item[1], item[0])) if self.accuracies else None


@dataclass(frozen=True)
class Overview:
    """All that the page's pages are made of, of one moment.

    Attributes:
        runs: newest first.
        sites: those that may take part, the one where the model does worst first; then the others.
        asked: what each site does in the round in hand, by name.
        expiring: certificates, as `report.expiring` has them.
    """

    federation: str
    at: datetime
    runs: tuple[RunView, ...]
    sites: tuple[SiteView, ...]
    asked: Mapping[str, str]
    troubles: tuple[Trouble, ...]
    expiring: tuple[Mapping[str, Any], ...]

    @property
    def run(self) -> RunView | None:
        """The newest run."""
        return self.runs[0] if self.runs else None

    @property
    def taking_part(self) -> list[SiteView]:
        """The sites that were not revoked."""
        return [site for site in self.sites if site.state != "revoked"]

    def site(self, name: str) -> SiteView | None:
        """Return a site by name."""
        return next((site for site in self.sites if site.name == name), None)


def overview(home: Home) -> Overview:
    """Read everything once.

    Raises:
        StorageError: the database cannot be read.
    """
    rows = report.runs(home.store)
    known = report.sites(home.store)
    revoked = {row["site"] for row in known if row["revoked"]}
    runs = tuple(_run(row, revoked) for row in rows)
    newest, scores = (runs[0], rows[0]["scores"]) if runs else (None, {})
    courses = courses_of(home.store, newest.id) if newest else {}
    asked = _asked(home.store, newest) if newest else {}
    troubles = troubles_of(home.store, newest.id) if newest else ()
    views = []
    for row in known:
        name = row["site"]
        own = tuple(trouble for trouble in troubles if trouble.site == name)
        views.append(_site(row, scores.get(name), courses.get(name, ()), asked.get(name, ""), own))
    expiring = tuple(report.expiring(home))
    ordered = tuple(sorted(views, key=_worst_first))
    return Overview(home.config.federation, now(), runs, ordered, asked, troubles, expiring)


def _worst_first(site: SiteView) -> tuple[bool, bool, float, str]:
    return site.state == "revoked", site.accuracy is None, site.accuracy or 0.0, site.name


def _run(row: Mapping[str, Any], revoked: Collection[str]) -> RunView:
    scores = {site: score for site, score in row["scores"].items() if score["examples"] and site not in revoked}
    accuracies = {site: float(score["accuracy"]) for site, score in scores.items()}
    made, ended = _moment(row["made"]), _moment(row["ended"])
    return RunView(
        id=row["run"],
        state=row["state"],
        reason=row["reason"],
        method=row["method"],
        rounds=row["rounds"],
        committed=row["committed"] or 0,
        made=made or now(),
        ended=ended,
        model=row["model"] or "",
        accuracies=accuracies,
        wish=row["wish"],
        privacy=row["privacy"],
    )


def _site(
    row: Mapping[str, Any], score: Mapping[str, Any] | None, course: Course, task: str, troubles: tuple[Trouble, ...]
) -> SiteView:
    measured = score is not None and score["examples"]
    return SiteView(
        name=row["site"],
        state=_state(row),
        last_seen=_moment(row["last_seen"]),
        version=row["version"] or "",
        certificate_days=row["certificate_days"],
        data=row["data"] or {},
        unavailable=row["unavailable"],
        back=_moment(row["back"]),
        reason=row["reason"],
        suspended=row["suspended"] if not row["revoked"] else "",
        accuracy=float(score["accuracy"]) if score is not None and measured else None,
        part=score["part"] if score is not None and measured else "",
        course=course,
        task=task,
        troubles=troubles,
    )


def _state(row: Mapping[str, Any]) -> str:
    if row["revoked"]:
        return "revoked"
    if row["connected"]:
        return "resting" if row["unavailable"] else "connected"
    return "away" if row["last_seen"] else "never"


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def courses_of(store: Store, run: str) -> dict[str, Course]:
    """Return each site's validation accuracy by round, of the newest rounds of a run."""
    with store.session() as session:
        last = session.scalars(
            select(RoundRow.number).where(RoundRow.run == run).order_by(RoundRow.number.desc()).limit(1)
        ).first()
        keys = MetricRow.key.in_(["validation-correct", "validation-examples"])
        query = select(MetricRow).where(MetricRow.run == run, keys, MetricRow.round > (last or 0) - MOST_ROUNDS)
        rows = session.scalars(query).all()
    found: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        found.setdefault((row.site, row.round), {})[row.key] = row.value
    courses: dict[str, list[tuple[int, float]]] = {}
    for (site, number), values in sorted(found.items()):
        if values.get("validation-examples"):
            accuracy = values.get("validation-correct", 0.0) / values["validation-examples"]
            courses.setdefault(site, []).append((number, accuracy))
    return {site: tuple(points) for site, points in courses.items()}


def _asked(store: Store, run: RunView) -> dict[str, str]:
    """Return what the sites do that were asked in the round in hand."""
    if not run.under_way:
        return {}
    with store.session() as session:
        query = select(TaskRow.site, TaskRow.state).where(TaskRow.run == run.id, TaskRow.round == run.committed + 1)
        return {row.site: row.state for row in session.execute(query)}


def troubles_of(store: Store, run: str, limit: int = MOST_TROUBLES) -> tuple[Trouble, ...]:
    """Return the newest updates of a run that do not count."""
    with store.session() as session:
        query = select(TaskRow).where(TaskRow.run == run, TaskRow.state.in_(TROUBLES))
        rows = session.scalars(query.order_by(TaskRow.round.desc(), TaskRow.site).limit(limit)).all()
    return tuple(Trouble(row.run, row.round, row.site, row.state, row.reason, row.made) for row in rows)


def rounds_of(store: Store, run: str, limit: int = MOST_ROUNDS) -> Sequence[RoundRow]:
    """Return the newest committed rounds of a run, newest first."""
    with store.session() as session:
        query = select(RoundRow).where(RoundRow.run == run, RoundRow.number > 0)
        return session.scalars(query.order_by(RoundRow.number.desc()).limit(limit)).all()
