"""Who may see what, ahead of every page: the Host header, where a visitor comes from, and a login.

Reading is open to a browser on the server's own machine, and to nobody else without a login. "On the machine" is more
than the peer's address: a reverse proxy calls from 127.0.0.1 for the whole world, and a web page of somebody else's may
let a name of its own point at 127.0.0.1 (DNS rebinding). So the Host header must be a loopback name too, and nothing
may say that the request was forwarded.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # without any, a browser hides the Origin of our own forms as well
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
STATIC, OK = "/static/", 200
OPEN = ("/login", STATIC)
"""What a visitor without a login may have."""
FOREVER = "max-age=31536000, immutable"
"""Pages name these files by their content (`rendering.py`), so a page works also when its server has just ended."""


@dataclass(frozen=True)
class Login:
    """A session of a browser that has shown the password.

    Attributes:
        name: how the audit trail names it.
        csrf: what each of its forms must bring.
    """

    name: str
    csrf: str


@dataclass(frozen=True)
class Visitor:
    """Who asks.

    Attributes:
        address: where from.
        local: from a browser on this machine.
        login: None without one.
    """

    address: str
    local: bool
    login: Login | None

    @property
    def may_read(self) -> bool:
        """Whether pages are shown to this visitor."""
        return self.local or self.login is not None


def visitor_of(request: Request) -> Visitor:
    """Return who asks, as the guard has found out."""
    found: Visitor = request.scope["state"]["visitor"]
    return found


class Guard:
    """Stands before the pages.

    Args:
        app: the pages.
        names: what the Host header may say besides loopback names: the server's own names and addresses.
        port: the page's.
        login_of: returns the session of a request's headers.
        tls: whether the page is served over TLS.
    """

    def __init__(
        self,
        app: ASGIApp,
        names: Collection[str],
        port: int,
        login_of: Callable[[Headers], Login | None],
        *,
        tls: bool,
    ) -> None:
        self._app, self._login_of, self._tls = app, login_of, tls
        bracketed = {f"[{name}]" if ":" in name else name for name in names}
        self._hosts = {form for name in bracketed | LOOPBACK_NAMES for form in (f"{name}:{port}".lower(), name.lower())}
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)

        async def _guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                reply = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    reply[name] = value
                if scope["path"].startswith(STATIC) and message["status"] == OK:
                    reply["Cache-Control"] = FOREVER
                if self._tls:
                    reply["Strict-Transport-Security"] = "max-age=31536000"
            await send(message)

        refusal = self._refusal(headers, scope["method"])
        if refusal is not None:
            await refusal(scope, receive, _guarded)
            return
        visitor = self._visitor(scope, headers)
        scope.setdefault("state", {})["visitor"] = visitor
        if not visitor.may_read and not scope["path"].startswith(OPEN):
            await _to_the_login(scope["method"], headers)(scope, receive, _guarded)
            return
        await self._app(scope, receive, _guarded)

    def _refusal(self, headers: Headers, method: str) -> PlainTextResponse | None:
        if headers.getlist("host") == [] or headers["host"].lower() not in self._hosts:
            known = "`names` in server.yaml lists the names by which this server may be asked."
            return PlainTextResponse(f"This server is not reached by that name. {known}\n", 421)
        if method not in {"GET", "HEAD", "POST"}:
            return PlainTextResponse("Method not allowed.\n", 405)
        if method == "POST" and not _same_origin(headers):
            return PlainTextResponse("This request comes from another site.\n", 403)
        return None

    def _visitor(self, scope: Scope, headers: Headers) -> Visitor:
        address = scope["client"][0] if scope.get("client") else ""
        local_name = headers["host"].lower() in {*LOOPBACK_NAMES, *(f"{name}:{self._port}" for name in LOOPBACK_NAMES)}
        local = _loopback(address) and local_name and not any(name in headers for name in FORWARDED)
        return Visitor(address, local, self._login_of(headers))


def _same_origin(headers: Headers) -> bool:
    """Tell whether a form was sent by this page, as far as the browser says; the token in the form decides."""
    if headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        return False
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2].lower() == headers["host"].lower()


def _to_the_login(method: str, headers: Headers) -> PlainTextResponse:
    if method == "POST" or "x-refresh" in headers or "text/html" not in headers.get("accept", ""):
        return PlainTextResponse("Log in first.\n", 401)
    return PlainTextResponse("Log in first.\n", 303, headers={"Location": "/login"})


def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
