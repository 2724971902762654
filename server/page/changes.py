"""What changed since yesterday: rounds, accuracy, who came and went, and what the audit trail has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

from sqlalchemy import func, or_, select

from fedwon.server.auditing import REFUSED
from fedwon.server.identity.naming import listed
from fedwon.server.page.overview import Course, Overview, courses_of
from fedwon.server.page.texts import Texts, percent
from fedwon.server.store import AuditRow, RoundRow, Site, Store

DAY = timedelta(days=1)
MOST_LINES = 12
SILENT = {"certificate issued", "images"}
"""Actions that another line or piece of advice speaks of."""


def changes(store: Store, view: Overview, t: Texts) -> list[str]:
    """Return a sentence for each thing that happened in the last 24 hours; the audit trail's newest first.

    Raises:
        StorageError: the database cannot be read.
    """
    since = view.at - DAY
    found = [*_rounds(store, view, t, since), *_sites(store, view, t, since)]
    return [*found, *_actions(store, t, since)][:MOST_LINES]


def image_notes(store: Store, since: datetime) -> dict[str, str]:
    """Return what each site said last about its images, since a moment."""
    with store.session() as session:
        query = select(AuditRow.subject, AuditRow.detail).where(AuditRow.action == "images", AuditRow.at >= since)
        return {row.subject: row.detail for row in session.execute(query.order_by(AuditRow.id))}


def _rounds(store: Store, view: Overview, t: Texts, since: datetime) -> Iterator[str]:
    with store.session() as session:
        recent = RoundRow.committed >= since, RoundRow.number > 0
        count = session.scalar(select(func.count()).select_from(RoundRow).where(*recent)) or 0
        before = None
        if view.run is not None:
            older = select(func.max(RoundRow.number)).where(RoundRow.run == view.run.id, RoundRow.committed < since)
            before = session.scalar(older)
    if count:
        yield t.change_rounds.format(count=count)
    if count and view.run is not None:
        means = _means(courses_of(store, view.run.id))
        first = max((number for number in means if number <= (before or 0)), default=min(means, default=0))
        last = max(means, default=0)
        if first < last:
            yield t.change_accuracy.format(before=percent(means[first]), after=percent(means[last]))


def _means(courses: Mapping[str, Course]) -> dict[int, float]:
    """Return the mean accuracy over the sites, of the rounds in which all measured that ever did."""
    by_round: dict[int, list[float]] = {}
    for course in courses.values():
        for number, accuracy in course:
            by_round.setdefault(number, []).append(accuracy)
    return {number: sum(found) / len(found) for number, found in by_round.items() if len(found) == len(courses)}


def _sites(store: Store, view: Overview, t: Texts, since: datetime) -> Iterator[str]:
    with store.session() as session:
        first = select(AuditRow.subject, func.min(AuditRow.at).label("at")).where(
            AuditRow.action == "certificate issued"
        )
        new = first.group_by(AuditRow.subject).subquery()
        query = select(Site.name).join(new, new.c.subject == Site.name).where(new.c.at >= since).order_by(Site.name)
        joined = list(session.scalars(query))
    gone = [site.name for site in view.sites if site.state == "away" and site.last_seen and site.last_seen >= since]
    troubles = Counter(trouble.site for trouble in view.troubles if trouble.at >= since)
    if joined:
        yield t.change_joined.format(sites=listed(joined))
    if gone:
        yield t.change_gone.format(sites=listed(gone))
    if troubles:
        told = [f"{site} ({count})" for site, count in troubles.most_common()]
        yield t.change_troubles.format(sites=listed(told))


def _actions(store: Store, t: Texts, since: datetime) -> Iterator[str]:
    with store.session() as session:
        recent = or_(AuditRow.at >= since, AuditRow.until >= since)
        rows = session.scalars(select(AuditRow).where(recent).order_by(AuditRow.id.desc()).limit(500)).all()
    refused: Counter[str] = Counter()
    told: dict[tuple[str, str], None] = {}
    for row in rows:
        if row.action.startswith(REFUSED):
            refused[row.action.removeprefix(REFUSED)] += row.times
        elif row.action not in SILENT and (row.action, row.subject) not in told:
            told[row.action, row.subject] = None
            text = t.change_action.format(what=action_in_words(t, row.action), about=row.subject)
            yield f"{text} ({t.by.format(who=row.actor)})" if row.actor else text
    for what, count in refused.most_common(3):
        yield t.change_refusals.format(what=what, count=count)


def action_in_words(t: Texts, action: str) -> str:
    """Return an action of the audit trail in the page's language, or as it stands there."""
    known = {
        "server made": t.action_made,
        "token made": t.action_token,
        "site revoked": t.action_revoked,
        "run started": t.action_run_started,
        "run resumed": t.action_run_resumed,
        "run paused": t.action_run_paused,
        "pause asked for": t.action_run_held,
        "pause ended": t.action_run_released,
        "stop asked for": t.action_run_stop,
        "server stopped": t.action_stopped,
        "images": t.action_images,
        "certificate issued": t.action_certificate,
        "server certificate renewed": t.action_server_certificate,
        "authority rolled": t.action_authority,
        "authority retired": t.action_authority,
        "evaluation": t.action_evaluation,
        "page login": t.action_login,
        "page password set": t.action_password,
        "site suspended": t.action_suspended,
        "site resumed": t.action_lifted,
        "update released": t.action_let_out,
        "released update not used": t.action_not_used,
        "update held back": t.action_held_back,
        "release made": t.action_release_made,
        "release promoted": t.action_promoted,
        "release held": t.action_release_held,
        "release rolled back": t.action_rolled_back,
        "release in use": t.action_release_in_use,
        "release refused": t.action_release_refused,
        "release failed": t.action_release_failed,
    }
    return known.get(action, action)
