"""What `status` and `sites` say, as plain values for JSON and as rows for people."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fedwon.server.evaluation import Evaluation, Score, score_of
from fedwon.server.store import MetricRow, RoundRow, RunRow, Site, Store, TaskRow, newest_runs, now


def runs(store: Store) -> list[dict[str, Any]]:
    """Return the runs, newest first: state, rounds, and the newest score of each site."""
    with store.session() as session:
        rows = session.scalars(newest_runs()).all()
        return [_run(session, row) for row in rows]


def _run(session: Session, row: RunRow) -> dict[str, Any]:
    last = session.scalars(select(RoundRow).where(RoundRow.run == row.id).order_by(RoundRow.number.desc())).first()
    done = last.number if last else -1  # a crash leaves tasks of its round as they were
    asked = select(TaskRow).where(TaskRow.run == row.id, TaskRow.state == "sent", TaskRow.round > done)
    open_tasks = session.scalars(asked).all()
    return {
        "run": row.id,
        "state": row.state,
        "reason": row.reason,
        "method": row.config["method"],
        "classes": row.classes,
        "rounds": row.config["rounds"],
        "committed": last.number if last else None,
        "model": f"runs/{row.id}/{last.path}" if last else None,
        "digest": last.digest if last else None,
        "made": _iso(row.made),
        "ended": _iso(row.ended),
        "waiting_for": sorted(task.site for task in open_tasks) if row.state in {"running", "paused"} else [],
        "scores": _scores(session, row.id),
    }


def _scores(session: Session, run: str) -> dict[str, dict[str, Any]]:
    found: dict[tuple[str, int], dict[str, float]] = {}
    for row in session.scalars(select(MetricRow).where(MetricRow.run == run)):
        found.setdefault((row.site, row.round), {})[row.key] = row.value
    scores: dict[str, dict[str, Any]] = {}
    for (site, number), metrics in sorted(found.items()):
        if "validation-examples" in metrics or "test-examples" in metrics:
            scores[site] = {"round": number, **score_of(site, metrics).as_dict()}
    return scores


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


def sites(store: Store) -> list[dict[str, Any]]:
    """Return the sites by name."""
    with store.session() as session:
        rows = session.scalars(select(Site).order_by(Site.name)).all()
    return [
        {
            "site": row.name,
            "connected": row.connected,
            "last_seen": _iso(row.last_seen),
            "version": row.version,
            "enrolled": _iso(row.enrolled),
            "certificate_days": round((row.expires - now()).total_seconds() / 86400, 1),
            "data": row.data,
        }
        for row in rows
    ]


def site_row(site: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a site as a row of the table."""
    data: Mapping[str, Mapping[str, int]] = site["data"] or {}
    images = sum(sum(parts.values()) for parts in data.values())
    state = "connected" if site["connected"] else ("away" if site["last_seen"] else "never connected")
    days = site["certificate_days"]
    return (
        site["site"],
        state,
        site["last_seen"] or "-",
        str(images) if data else "-",
        str(len(data)) if data else "-",
        site["version"] or "-",
        f"{days:.0f} days" if days > 0 else "expired",
    )


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")
