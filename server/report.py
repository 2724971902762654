"""What `status` and `sites` say, as plain values for JSON and as rows for people."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fedwon.common.certificates import read_certificate, read_certificates
from fedwon.common.errors import FedwonError
from fedwon.common.files import read_bytes
from fedwon.common.surveys import class_names, images_in
from fedwon.server.admission.suspension import suspended
from fedwon.server.drift import history as drift_history
from fedwon.server.rounds.availability import in_words
from fedwon.server.rounds.evaluation import Evaluation, Score, score_of
from fedwon.server.runs import privacy_spent
from fedwon.server.serving import Home
from fedwon.server.store import UNDER_WAY, MetricRow, RoundRow, RunRow, Site, Store, TaskRow, newest_runs, now

INTERRUPTED = "the server does not run; `fedwon-server start --resume` goes on with it"
SOON_DAYS, AUTHORITY_SOON_DAYS = 7.0, 90.0


def runs(store: Store, *, served: bool = True) -> list[dict[str, Any]]:
    """Return the runs, newest first: state, rounds, and the newest score of each site.

    Args:
        store: the server's database.
        served: a server runs with it; without one, what is stored as under way has been interrupted.
    """
    with store.session() as session:
        rows = session.scalars(newest_runs()).all()
        return [_run(session, row, served) for row in rows]


def _run(session: Session, row: RunRow, served: bool) -> dict[str, Any]:
    last = session.scalars(select(RoundRow).where(RoundRow.run == row.id).order_by(RoundRow.number.desc())).first()
    done = last.number if last else -1  # a crash leaves tasks of its round as they were
    asked = select(TaskRow).where(TaskRow.run == row.id, TaskRow.state == "sent", TaskRow.round > done)
    open_tasks = session.scalars(asked).all()
    under_way = row.state in UNDER_WAY
    return {
        "run": row.id,
        "state": row.state if served or not under_way else "interrupted",
        "reason": row.reason if served or not under_way else INTERRUPTED,
        "method": row.config["method"],
        "classes": row.classes,
        "rounds": row.config["rounds"],
        "committed": last.number if last else None,
        "model": f"runs/{row.id}/{last.path}" if last else None,
        "digest": last.digest if last else None,
        "made": _iso(row.made),
        "ended": _iso(row.ended),
        "wish": row.wish if under_way else "",
        "waiting_for": sorted(task.site for task in open_tasks) if under_way else [],
        "scores": _scores(session, row.id),
        "privacy": privacy_spent.spent(row.config, row.privacy),
        "drift": _drift(session, row) if under_way else {},
    }


def _drift(session: Session, row: RunRow) -> dict[str, str]:
    """Return the drift alarms that stand, in words, by site."""
    found = drift_history.of_run(session, row.id, row.config.get("drift", {}))
    return {site: standing.words for site, standing in sorted(found.items()) if standing.since is not None}


def _scores(session: Session, run: str) -> dict[str, dict[str, Any]]:
    """Return each site's score of the newest model that it has looked at."""
    measured = MetricRow.run == run, MetricRow.key.in_(["validation-examples", "test-examples"])
    newest = select(MetricRow.site, func.max(MetricRow.round).label("round")).where(*measured)
    newest_by_site = newest.group_by(MetricRow.site).subquery()
    at_it = (MetricRow.site == newest_by_site.c.site) & (MetricRow.round == newest_by_site.c.round)
    found: dict[tuple[str, int], dict[str, float]] = {}
    for row in session.scalars(select(MetricRow).where(MetricRow.run == run).join(newest_by_site, at_it)):
        found.setdefault((row.site, row.round), {})[row.key] = row.value
    return {
        site: {"round": number, **score_of(site, metrics).as_dict()}
        for (site, number), metrics in sorted(found.items())
    }


def last_evaluation(store: Store) -> Evaluation:
    """Return how the model of the newest run does at each site, by what is stored."""
    newest = next(iter(runs(store)), None)
    scores = newest["scores"] if newest else {}
    kept = ({name: row[name] for name in ("site", "part", "correct", "examples", "loss")} for row in scores.values())
    return Evaluation(tuple(Score(**row) for row in kept), {})


def run_row(run: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    """Return a run as a row of the table."""
    scores = run["scores"]
    rounds = f"{run['committed']} of {run['rounds']}"
    if not scores:
        return run["run"], run["state"], rounds, "-", "-", "-"
    worst = min(scores.values(), key=lambda score: score["accuracy"])
    mean = sum(score["accuracy"] for score in scores.values()) / len(scores)
    worst_text = f"{worst['site']} {100 * worst['accuracy']:.1f} %"
    return run["run"], run["state"], rounds, f"{100 * mean:.1f} %", worst_text, str(folder / run["model"])


def sites(store: Store, *, served: bool = True) -> list[dict[str, Any]]:
    """Return the sites by name.

    Args:
        store: the server's database.
        served: a server runs with it; without one, nobody is connected, whatever a server that was killed has left.
    """
    with store.session() as session:
        rows = session.scalars(select(Site).order_by(Site.name)).all()
    out = suspended(store)
    return [
        {
            "site": row.name,
            "connected": row.connected and served,
            "last_seen": _iso(row.last_seen),
            "version": row.version,
            "enrolled": _iso(row.enrolled),
            "certificate_days": _days(row.expires),
            "data": row.data,
            "revoked": _iso(row.revoked) if _revoked(row) else None,
            "reason": row.reason if _revoked(row) else "",
            "suspended": out.get(row.name, ""),
            "unavailable": row.unavailable if row.connected and served else "",
            "back": _iso(row.back) if row.connected and served and row.unavailable else None,
        }
        for row in rows
    ]


def site_row(site: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a site as a row of the table."""
    data: Mapping[str, Mapping[str, int]] = site["data"] or {}
    state = "connected" if site["connected"] else ("away" if site["last_seen"] else "never connected")
    state = (
        in_words(site["unavailable"], site["back"] and datetime.fromisoformat(site["back"]))
        if site["unavailable"]
        else state
    )
    state = f"{state}, suspended" if site["suspended"] else state
    state = "revoked" if site["revoked"] else state
    days = site["certificate_days"]
    return (
        site["site"],
        state,
        site["last_seen"] or "-",
        str(images_in(data)) if data else "-",
        str(len(class_names(data))) if data else "-",
        site["version"] or "-",
        _life(days),
    )


def _life(days: float) -> str:
    if days <= 0:
        return "expired"
    return f"{days:.0f} days" + (", ends soon" if days <= SOON_DAYS else "")


def expiring(home: Home) -> list[dict[str, Any]]:
    """Return the certificates that have ended or end soon.

    Soon is a week for sites and server, and ninety days for an authority: replacing one takes as long as the longest
    absence of a site.
    """
    pki, found = home.folder / "pki", []
    with home.store.session() as session:
        rows = session.scalars(select(Site).order_by(Site.name)).all()
    found += [_end("site", row.name, row.expires) for row in rows if not _revoked(row)]
    with suppress(FedwonError):  # `status` is what one looks at when something is wrong
        server = read_certificate(read_bytes(pki / "server.pem"), str(pki / "server.pem"))
        found.append(_end("server", home.config.names[0], server.not_valid_after_utc))
        for authority in read_certificates(read_bytes(pki / "ca.pem"), str(pki / "ca.pem")):
            mark = authority.fingerprint(hashes.SHA256()).hex()[:16]
            found.append(_end("authority", mark, authority.not_valid_after_utc))
    return [row for row in found if row["days"] <= (AUTHORITY_SOON_DAYS if row["kind"] == "authority" else SOON_DAYS)]


def _end(kind: str, name: str, ends: datetime) -> dict[str, Any]:
    return {"kind": kind, "name": name, "ends": _iso(ends), "days": _days(ends)}


def expiry_line(row: Mapping[str, Any], folder: Path) -> str:
    """Return a row of `expiring` in words, with what to do."""
    when = f"ended {-row['days']:.0f} days ago" if row["days"] <= 0 else f"ends in {row['days']:.0f} days"
    advice = {
        "site": "a site that is connected renews by itself; one whose certificate has ended must enrol again",
        "server": f"fedwon-server certificate renew --dir {folder}",
        "authority": f"fedwon-server authority roll --dir {folder}",
    }
    return f"the certificate of {row['kind']} {row['name']} {when}: {advice[row['kind']]}"


def _days(ends: datetime) -> float:
    return round((ends - now()).total_seconds() / 86400, 1)


def _revoked(row: Site) -> bool:
    return row.revoked is not None and row.enrolled <= row.revoked


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")
