"""The page as one ASGI application: pages, static files, errors, and the guard before all of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from fedwon.common.errors import FedwonError
from fedwon.server.page.actions import Actions
from fedwon.server.page.guarding import Guard
from fedwon.server.page.live import Announcer, Cached, Changes
from fedwon.server.page.logins import Logins
from fedwon.server.page.overview import overview
from fedwon.server.page.pages import Pages
from fedwon.server.page.refused import RefusedPages
from fedwon.server.page.released import ReleasePages
from fedwon.server.page.rendering import HERE, Renderer, words
from fedwon.server.serving import Home

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Application:
    """The page.

    Attributes:
        asgi: what a web server calls.
        announcer: to be ended first when the server goes down.
        changes: to be closed last.
    """

    asgi: ASGIApp
    announcer: Announcer
    changes: Changes


def make_application(home: Home, port: int, hurry: Callable[[], None], *, tls: bool) -> Application:
    """Build the page.

    Args:
        home: the server, with a database connection of the page's own.
        port: where it is served.
        hurry: called after each action, so that the server looks at the database at once.
        tls: whether over TLS.
    """
    changes = Changes(home.store.path)
    view = Cached(lambda: overview(home), changes)
    announcer, renderer = Announcer(changes, lambda: view.seconds), Renderer(home.config.federation)
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    logins = Logins(home.folder / "pki", tls=tls)
    released, refused = ReleasePages(home, renderer), RefusedPages(home, renderer)
    for pages in (Pages(home, renderer, view, announcer), released, refused):
        pages.add_to(app)
    Actions(home, renderer, logins, hurry).add_to(app, {**released.acts(), **refused.acts()})
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    _explain_errors(app, renderer)
    guard = Guard(app, home.config.names, port, logins.login_of, tls=tls)
    return Application(guard, announcer, changes)


def _explain_errors(app: FastAPI, renderer: Renderer) -> None:
    def _failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, FedwonError)  # noqa: S101  # the only kind that it is registered for
        logger.warning("the page could not be made: %s", error.message)
        return renderer.message(request, words(request).trouble, f"{error.message} {error.hint}", 503)

    def _missing(request: Request, error: Exception) -> Response:
        del error
        return renderer.message(request, words(request).not_found, words(request).not_found_hint, 404)

    app.add_exception_handler(FedwonError, _failed)
    app.add_exception_handler(404, _missing)
