"""The page of releases: what there is, what each line uses and said, and the orders to promote, hold and go back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fedwon.common.errors import ConfigError
from fedwon.common.gates import Figures
from fedwon.common.release import Manifest
from fedwon.server import report
from fedwon.server.page.actions import Act, Form
from fedwon.server.page.guarding import Login
from fedwon.server.page.rendering import Renderer, words
from fedwon.server.page.texts import Texts
from fedwon.server.releases.orders import by_site
from fedwon.server.releases.promoting import order, promote
from fedwon.server.releases.shelves import list_releases
from fedwon.server.serving import Home
from fedwon.server.store import now

SITE, DEFECT = "site:", "defect:"
"""What the names of checkboxes begin with."""
PERCENTS = ("accuracy", "escape", "overkill")


class ReleasePages:
    """What can be read and done about releases.

    Args:
        home: the server, with a database connection of the page's own.
        renderer: makes HTML.
    """

    def __init__(self, home: Home, renderer: Renderer) -> None:
        self._home, self._renderer = home, renderer

    def add_to(self, app: FastAPI) -> None:
        """Add the address of this page."""
        app.get("/releases", response_model=None)(self.releases)

    def acts(self) -> Mapping[str, Act]:
        """Return the actions by their addresses."""
        return {"/releases/promote": self._promote, "/hold": self._order("hold"), "/rollback": self._order("rollback")}

    def releases(self, request: Request) -> Response:
        """Show the releases and the lines."""
        made, orders = list_releases(self._home)[::-1], {row["site"]: row for row in by_site(self._home.store)}
        names = [row["site"] for row in report.sites(self._home.store) if not row["revoked"]]
        done = str(request.query_params.get("done", ""))
        return self._renderer.page(
            request,
            "releases",
            releases=[(manifest, _worst(manifest), _used_at(manifest, orders)) for manifest in made],
            lines=[(name, _line(orders[name]) if name in orders else None) for name in names],
            classes=sorted({name for manifest in made for name in manifest.classes}),
            command=f"fedwon-server release --dir {self._home.folder}",
            done=_done(done, words(request)),
            now=now(),
        )

    def _promote(self, request: Request, login: Login, form: Form) -> Response:
        gates = _gates(form, words(request))
        everywhere = "everywhere" in form
        promote(self._home, form.get("release", ""), gates, _sites(form), everywhere=everywhere, actor=login.name)
        return RedirectResponse("/releases?done=promote", 303)

    def _order(self, kind: Literal["hold", "rollback"]) -> Act:
        def _act(request: Request, login: Login, form: Form) -> Response:
            del request
            order(self._home, kind, _sites(form), everywhere="everywhere" in form, actor=login.name)
            return RedirectResponse(f"/releases?done={kind}", 303)

        return _act


def _done(action: str, t: Texts) -> str:
    return {"promote": t.done_promote, "hold": t.done_hold, "rollback": t.done_rollback}.get(action, "")


def _sites(form: Form) -> list[str]:
    return [] if "everywhere" in form else [key.removeprefix(SITE) for key in form if key.startswith(SITE)]


def _gates(form: Form, t: Texts) -> dict[str, Any]:
    """Read the gates of a form, whose shares are percents.

    Raises:
        ConfigError: something else than a number.
    """
    shares = {name: None if (found := _number(form, name, t)) is None else found / 100 for name in PERCENTS}
    images = _number(form, "images", t)
    whole = int(images) if images is not None and images.is_integer() else images
    defects = tuple(key.removeprefix(DEFECT) for key in form if key.startswith(DEFECT))
    return {**shares, "images": whole, "defects": defects}


def _number(form: Form, name: str, t: Texts) -> float | None:
    text = form.get(name, "").strip()
    try:
        return float(text.replace(",", ".")) if text else None
    except ValueError:
        raise ConfigError(t.not_a_number.format(text=text[:40])) from None


def _worst(manifest: Manifest) -> tuple[str, float] | None:
    scores = {site: score.accuracy for site, score in manifest.metrics.items()}
    return min(scores.items(), key=lambda item: (item[1], item[0]), default=None)


def _used_at(manifest: Manifest, orders: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [site for site, row in orders.items() if row["in_use"] == manifest.name]


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a site's newest order with what it measured in words."""
    counts = row["figures"] and {key: row["figures"][key] for key in Figures.model_fields}
    return {**row, "figures": Figures.model_validate(counts).words() if counts else ""}
