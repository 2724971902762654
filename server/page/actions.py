"""What an operator can do on the page: log in, let the run pause, go on or stop; invite, suspend and revoke sites.

Every action needs a login, a token in its form that belongs to that login, and leaves a line in the audit trail. One
more action is one more method, its address in `add_to` and its form in a template; those about releases and refused
updates stand with their pages.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl, quote

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fedwon.common.errors import ConfigError, LinkError, ReleaseError, RunError
from fedwon.server.admission.suspension import resume, suspend
from fedwon.server.identity.invitations import invite
from fedwon.server.identity.standing import revoke
from fedwon.server.page.guarding import Login, visitor_of
from fedwon.server.page.logins import Logins, plain_name
from fedwon.server.page.password import is_set
from fedwon.server.page.rendering import Renderer, words
from fedwon.server.relays.joining import check_no_relay
from fedwon.server.runs import wishes
from fedwon.server.serving import Home

LARGEST_FORM, LARGEST_AFTER_LOGIN = 8192, 2**18
"""Bytes of a form; a form that names sites has a field for each."""
MOST_FIELDS = 5000
HOURS = 24.0
LONGEST_REASON = 200

Form = Mapping[str, str]
Act = Callable[[Request, Login, Form], Response]


class Actions:
    """What can be done.

    Args:
        home: the server, with a database connection of the page's own.
        renderer: makes HTML.
        logins: who may.
        hurry: called after each action.
    """

    def __init__(self, home: Home, renderer: Renderer, logins: Logins, hurry: Callable[[], None]) -> None:
        self._home, self._renderer, self._logins, self._hurry = home, renderer, logins, hurry

    def add_to(self, app: FastAPI, further: Mapping[str, Act]) -> None:
        """Add the addresses of the actions, with further ones by their addresses."""
        app.get("/login", response_model=None)(self.ask)
        app.post("/login", response_model=None)(self.log_in)
        for path, act in {
            "/logout": self._log_out,
            "/run/pause": self._wish(wishes.PAUSE, "pause"),
            "/run/resume": self._wish(wishes.NOTHING, "resume"),
            "/run/stop": self._wish(wishes.STOP, "stop"),
            "/invite": self._invite,
            "/sites/{name}/revoke": self._revoke,
            "/sites/{name}/suspend": self._suspend,
            "/sites/{name}/lift": self._lift,
            **further,
        }.items():
            app.post(path, response_model=None)(self._guarded(act))

    def ask(self, request: Request) -> Response:
        """Ask for the password."""
        return self._asked(request, "", 200)

    def _asked(self, request: Request, trouble: str, status: int) -> Response:
        pki, folder = self._home.folder / "pki", self._home.folder
        command = f"fedwon-server page password --dir {folder}"
        values = {"trouble": trouble, "has_password": is_set(pki), "command": command, "still": True}
        return self._renderer.page(request, "login", status=status, **values)

    async def log_in(self, request: Request) -> Response:
        """Take the password."""
        form = await _form(request, LARGEST_FORM)
        return await run_in_threadpool(self._logged_in, request, form)

    def _logged_in(self, request: Request, form: Form) -> Response:
        t, address = words(request), visitor_of(request).address
        found = self._logins.log_in(form.get("name", ""), form.get("password", ""), address)
        if isinstance(found, str):
            headers = {"Set-Cookie": self._logins.set_cookie(found)}
            who = f"{plain_name(form.get('name', ''))} (page, {address})"
            self._home.store.audit("page login", self._home.config.federation, actor=who)
            return RedirectResponse("/", 303, headers)
        if found is None:
            self._home.store.audit("refused: page login", address, "a wrong password")
            return self._asked(request, t.wrong_password, 403)
        return self._asked(request, t.too_many.format(seconds=round(found) + 1), 429)

    def _guarded(self, act: Act) -> Callable[[Request], object]:
        """Let an action be done only by who is logged in and has the form from this page."""

        async def _done(request: Request) -> Response:
            login, t = visitor_of(request).login, words(request)
            if login is None:
                return RedirectResponse("/login", 303)
            form = await _form(request, LARGEST_AFTER_LOGIN)
            if not hmac.compare_digest(form.get("csrf", "").encode(), login.csrf.encode()):
                return self._renderer.message(request, t.expired_form, "", 403)
            reply = await run_in_threadpool(self._done, act, request, login, form)
            self._hurry()
            return reply

        return _done

    def _done(self, act: Act, request: Request, login: Login, form: Form) -> Response:
        """Do it, or say why it cannot be done."""
        try:
            return act(request, login, form)
        except (ConfigError, LinkError, RunError, ReleaseError) as error:
            return self._renderer.message(request, error.message, error.hint, 409)

    def _log_out(self, request: Request, login: Login, form: Form) -> Response:
        del login, form
        self._logins.log_out(request.headers)
        return RedirectResponse("/", 303, {"Set-Cookie": self._logins.set_cookie("")})

    def _wish(self, wish: str, done: str) -> Act:
        def _act(request: Request, login: Login, form: Form) -> Response:
            del request, form
            check_no_relay(self._home.folder)
            wishes.make(self._home.store, wish, actor=login.name)
            return RedirectResponse(f"/?done={done}", 303)

        return _act

    def _invite(self, request: Request, login: Login, form: Form) -> Response:
        try:
            [invitation] = invite(self._home, [form.get("site", "").strip()], HOURS, actor=login.name)
        except ConfigError as error:
            return self._renderer.message(request, error.message, error.hint, 400)
        site, line = invitation.site, invitation.line
        return self._renderer.page(request, "invited", still=True, site=site, line=line, hours=f"{HOURS:g}")

    def _revoke(self, request: Request, login: Login, form: Form) -> Response:
        name = str(request.path_params["name"])
        try:
            revoke(self._home.store, name, reason_in(form), actor=login.name)
        except LinkError as error:
            return self._renderer.message(request, error.message, error.hint, 404)
        return RedirectResponse(f"/sites/{quote(name, safe='')}?done=revoke", 303)

    def _suspend(self, request: Request, login: Login, form: Form) -> Response:
        name = str(request.path_params["name"])
        suspend(self._home.store, name, reason_in(form), actor=login.name)
        return RedirectResponse(f"/sites/{quote(name, safe='')}?done=suspend", 303)

    def _lift(self, request: Request, login: Login, form: Form) -> Response:
        del form
        name = str(request.path_params["name"])
        resume(self._home.store, name, actor=login.name)
        return RedirectResponse(f"/sites/{quote(name, safe='')}?done=lift", 303)


def reason_in(form: Form) -> str:
    """Return the reason that a form gives, or nothing."""
    return form.get("reason", "").strip()[:LONGEST_REASON]


async def _form(request: Request, largest: int) -> Form:
    """Read a form; one that is longer than any of ours, or no form, is empty, and so has no token."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > largest:
            return {}
    try:
        return dict(parse_qsl(bytes(body).decode(), max_num_fields=MOST_FIELDS))
    except ValueError:
        return {}
