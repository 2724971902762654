"""The pages to read: overview, a site, a run, the history, and the stream of changes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from fedwon.common.surveys import PARTS
from fedwon.server.auditing import trail
from fedwon.server.page.advice import advise
from fedwon.server.page.changes import DAY, action_in_words, changes, image_notes
from fedwon.server.page.curves import chart, floor_of, spark
from fedwon.server.page.headline import headline
from fedwon.server.page.live import Announcer, Cached
from fedwon.server.page.metrics import CONTENT_TYPE, exposition
from fedwon.server.page.overview import (
    Course,
    Overview,
    SiteView,
    courses_of,
    rounds_of,
    troubles_of,
)
from fedwon.server.page.rendering import Renderer, words
from fedwon.server.page.texts import Texts, percent
from fedwon.server.serving import Home
from fedwon.server.store import now

HISTORY = 200
"""Lines of the audit trail that are shown."""
MOST_COLUMNS = 20
"""Rounds in the table below a run's curves."""


class Pages:
    """What can be read.

    Args:
        home: the server, with a database connection of the page's own.
        renderer: makes HTML.
        view: everything, of the moment.
        announcer: tells browsers of changes.
    """

    def __init__(self, home: Home, renderer: Renderer, view: Cached[Overview], announcer: Announcer) -> None:
        self._home, self._renderer, self._view, self._announcer = home, renderer, view, announcer
        self._minimum = home.config.run.participation.minimum

    def add_to(self, app: FastAPI) -> None:
        """Add the addresses of these pages."""
        app.get("/", response_model=None)(self.overview)
        app.get("/sites/{name}", response_model=None)(self.site)
        app.get("/runs/{name}", response_model=None)(self.run)
        app.get("/history", response_model=None)(self.history)
        app.get("/live", response_model=None)(self.live)
        app.get("/metrics", response_model=None)(self.metrics)

    def overview(self, request: Request) -> Response:
        """Show how everything is."""
        view, t, folder = self._view.get(), words(request), self._home.folder
        floor = floor_of({site.name: site.course for site in view.sites})
        notes = image_notes(self._home.store, view.at - DAY)
        return self._renderer.page(
            request,
            "overview",
            view=view,
            run=view.run,
            headline=headline(view, t, folder, self._minimum),
            advices=advise(view, t, folder, self._minimum, notes),
            changes=changes(self._home.store, view, t),
            sparks={site.name: spark(site.course, _described(site, t), floor) for site in view.sites},
            connected=sum(site.state in {"connected", "resting"} for site in view.sites),
            done=_done(request, t),
        )

    def site(self, request: Request, name: str) -> Response:
        """Show one site."""
        view, t = self._view.get(), words(request)
        site = view.site(name)
        if site is None:
            return self._renderer.message(request, t.not_found, t.not_found_hint, 404)
        drawn = chart({name: site.course}, "", _described(site, t)) if site.course else ""
        held = [part for part in PARTS if any(counts.get(part) for counts in site.data.values())]
        run = view.run.id if view.run else ""
        kept = self._home.folder / "runs" / run / "quarantine"
        shown: dict[str, Any] = {"site": site, "view": view, "chart": drawn, "parts_shown": held, "quarantine": kept}
        return self._renderer.page(request, "site", place="overview", done=_done(request, t, name), **shown)

    def run(self, request: Request, name: str) -> Response:
        """Show one run."""
        view, t, store = self._view.get(), words(request), self._home.store
        run = next((run for run in view.runs if run.id == name), None)
        if run is None:
            return self._renderer.message(request, t.not_found, t.not_found_hint, 404)
        courses = courses_of(store, name)
        worst = min(courses, key=lambda site: courses[site][-1][1], default="")
        return self._renderer.page(
            request,
            "run",
            run=run,
            now=view.at,
            chart=chart(courses, worst, t.chart_label.format(worst=worst)) if courses else "",
            courses={site: dict(course) for site, course in sorted(courses.items())},
            numbers=_columns(courses),
            rounds=rounds_of(store, name),
            troubles=troubles_of(store, name),
            quarantine=self._home.folder / "runs" / name / "quarantine",
            model=self._home.folder / run.model,
            place="overview",
        )

    def history(self, request: Request) -> Response:
        """Show the audit trail, newest first."""
        t = words(request)
        lines = [_line(row, t) for row in reversed(trail(self._home.store, last=HISTORY))]
        return self._renderer.page(request, "history", lines=lines, now=now())

    def metrics(self) -> Response:
        """Tell Prometheus how everything is."""
        return Response(exposition(self._view.get, self._home.store), media_type=CONTENT_TYPE)

    async def live(self) -> Response:
        """Tell a browser of changes, as they come."""
        if self._announcer.full:
            return PlainTextResponse("Too many browsers listen.\n", 503)
        return StreamingResponse(self._announcer.events(), media_type="text/event-stream")


def _done(request: Request, t: Texts, site: str = "") -> str:
    """Say what the action did that led here."""
    said = {"revoke": t.done_revoke, "suspend": t.done_suspend, "lift": t.done_lift}
    if not site:
        said = {"pause": t.done_pause, "resume": t.done_resume, "stop": t.done_stop}
    return said.get(request.query_params.get("done", ""), "").format(site=site)


def _described(site: SiteView, t: Texts) -> str:
    if not site.course:
        return ""
    (first, before), (last, after) = site.course[0], site.course[-1]
    figures = {"before": percent(before), "after": percent(after)}
    return t.course_label.format(site=site.name, first=first, last=last, **figures)


def _columns(courses: dict[str, Course]) -> list[int]:
    """Return the rounds that the table has columns for: all, or so many of them at even distances, with the last."""
    numbers = sorted({number for course in courses.values() for number, _ in course})
    step = -(-len(numbers) // MOST_COLUMNS) or 1
    return numbers[::-1][::step][::-1]


def _line(row: dict[str, Any], t: Texts) -> dict[str, Any]:
    return {**row, "at": datetime.fromisoformat(row["at"]), "what": action_in_words(t, row["action"])}
