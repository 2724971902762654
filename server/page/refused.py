"""The pages of refused updates: why each was refused, what is in it, and the order to let one count after all."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fedwon.common.errors import StaysRefused
from fedwon.server.admission.quarantine import NEVER, details, listing, release
from fedwon.server.admission.rows import HELD
from fedwon.server.page.actions import Act, Form, reason_in
from fedwon.server.page.guarding import Login
from fedwon.server.page.rendering import Renderer, words
from fedwon.server.serving import Home
from fedwon.server.store import now

MOST = 200
"""Refused updates that are shown, the newest."""


class RefusedPages:
    """What can be read and done about refused updates.

    Args:
        home: the server, with a database connection of the page's own.
        renderer: makes HTML.
    """

    def __init__(self, home: Home, renderer: Renderer) -> None:
        self._home, self._renderer = home, renderer

    def add_to(self, app: FastAPI) -> None:
        """Add the addresses of these pages."""
        app.get("/refused", response_model=None)(self.updates)
        app.get("/refused/{task}", response_model=None)(self.update)

    def acts(self) -> Mapping[str, Act]:
        """Return the actions by their addresses."""
        return {"/refused/{task}/release": self._release}

    def updates(self, request: Request) -> Response:
        """Show the refused updates, newest first."""
        found = [_timed(row) for row in reversed(listing(self._home.store, self._home.folder)[-MOST:])]
        return self._renderer.page(request, "refused", updates=found, now=now())

    def update(self, request: Request, task: str) -> Response:
        """Show one refused update; once, as its numbers are read out of files that may be large."""
        t = words(request)
        try:
            found = _timed(details(self._home.store, self._home.folder, task))
        except StaysRefused:
            return self._renderer.message(request, t.not_found, t.not_found_hint, 404)
        done = t.done_let_out if request.query_params.get("done") == "release" else ""
        open_ = found["state"] == HELD and found["rule"] not in NEVER and found["file"] is not None
        values: dict[str, Any] = {"update": found, "may_count": open_, "done": done, "still": True, "now": now()}
        return self._renderer.page(request, "update", place="refused", **values)

    def _release(self, request: Request, login: Login, form: Form) -> Response:
        task = str(request.path_params["task"])
        row = release(self._home.store, self._home.folder, task, reason_in(form), actor=login.name)
        return RedirectResponse(f"/refused/{quote(row.task, safe='')}?done=release", 303)


def _timed(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "at": datetime.fromisoformat(row["at"])}
