"""Templates into pages: everything is escaped unless this package made it (docs/security.md)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from fedwon.common.version import VERSION
from fedwon.server.page.guarding import visitor_of
from fedwon.server.page.texts import Texts, percent, texts_for

HERE = Path(__file__).resolve().parent


class Renderer:
    """Makes pages of templates.

    Args:
        federation: its name, in the head of every page.
    """

    def __init__(self, federation: str) -> None:
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        content = _digest(HERE / "static")
        self._templates.globals.update(federation=federation, version=VERSION, percent=percent, content=content)

    def page(self, request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        """Make a page in the browser's language.

        Args:
            request: what was asked.
            template: the template's name without its ending.
            status: the HTTP status.
            values: what the template shows.
        """
        visitor = visitor_of(request)
        frame = {"still": False, "place": template, "may_read": visitor.may_read, "login": visitor.login}
        text = self._templates.get_template(f"{template}.html").render(t=words(request), **{**frame, **values})
        return HTMLResponse(text, status, headers={"Vary": "Accept-Language"})

    def message(self, request: Request, heading: str, text: str, status: int) -> HTMLResponse:
        """Make a page that says one thing."""
        return self.page(request, "message", status=status, heading=heading, text=text, still=True)


def _digest(folder: Path) -> str:
    """Return what changes with any of a folder's files."""
    state = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        state.update(path.read_bytes())
    return state.hexdigest()[:12]


def words(request: Request) -> Texts:
    """Return the texts in the language that the browser asks for."""
    return texts_for(request.headers.get("accept-language", ""))
