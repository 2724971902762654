"""Logins: who has shown the password, for how long, and how often somebody may try."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers

from fedwon.server.identity.attempts import Attempts
from fedwon.server.identity.authorities import stamp
from fedwon.server.page.guarding import Login
from fedwon.server.page.password import NAME, verify

IDLE_SECONDS = 3600.0
"""A login ends after an hour without a request."""
LONGEST_SECONDS = 12 * 3600.0
MOST_LOGINS = 100
ATTEMPTS = (5, 30)
"""Wrong passwords a minute, from one address and in all."""
LONGEST_NAME = 40


@dataclass
class _Session:
    login: Login
    began: float
    used: float
    password: Any


class Logins:
    """The sessions of browsers, in memory: a server that starts anew knows none.

    Args:
        pki: where the password's file is.
        tls: whether cookies may only travel over TLS.
        clock: seconds.
    """

    def __init__(self, pki: Path, *, tls: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._pki, self._tls, self._clock = pki, tls, clock
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()
        self._attempts = Attempts(*ATTEMPTS, clock)
        self.cookie = "__Host-fedwon" if tls else "fedwon"

    def log_in(self, name: str, password: str, address: str) -> str | float | None:
        """Look at a password; one at a time, so that trying costs no more memory than once.

        Returns:
            The value of the session's cookie; None for a wrong password; or the seconds to wait, where there were too
            many attempts: then not even the right one is looked at.

        Raises:
            KeyExposed: others can read the password's file.
            StorageError: it cannot be read.
        """
        with self._lock:
            if (wait := self._attempts.wait(address)) > 0:
                return wait
            if not verify(self._pki, password):
                self._attempts.failed(address)
                return None
            token, now = secrets.token_urlsafe(32), self._clock()
            shown = f"{plain_name(name)} (page, {address})"
            if len(self._sessions) >= MOST_LOGINS:
                del self._sessions[min(self._sessions, key=lambda key: self._sessions[key].used)]
            session = _Session(Login(shown, secrets.token_urlsafe(24)), now, now, stamp(self._pki / NAME))
            self._sessions[_digest(token)] = session
            return token

    def login_of(self, headers: Headers) -> Login | None:
        """Return the login that a request's cookie is of; none if it is over, or the password is another by now."""
        token = self._token(headers)
        session = self._sessions.get(_digest(token)) if token else None
        if session is None:
            return None
        now = self._clock()
        over = now - session.used > IDLE_SECONDS or now - session.began > LONGEST_SECONDS
        if over or session.password != stamp(self._pki / NAME):
            self._sessions.pop(_digest(token), None)
            return None
        if "x-refresh" not in headers:  # a page that is left open renews itself, and is no sign of a person
            session.used = now
        return session.login

    def log_out(self, headers: Headers) -> None:
        """End the login of a request's cookie."""
        self._sessions.pop(_digest(self._token(headers)), None)

    def _token(self, headers: Headers) -> str:
        try:
            found = SimpleCookie(headers.get("cookie", "")[:4096]).get(self.cookie)
        except CookieError:
            return ""
        return found.value if found is not None else ""

    def set_cookie(self, token: str) -> str:
        """Return the header that gives a browser its cookie; an empty token takes it away."""
        age = f"; Max-Age={LONGEST_SECONDS:.0f}" if token else "; Max-Age=0"
        return f"{self.cookie}={token}; Path=/; HttpOnly; SameSite=Strict{age}" + ("; Secure" if self._tls else "")


def plain_name(name: str) -> str:
    """Return what a person calls himself, printable and short."""
    shown = "".join(letter for letter in name if letter.isprintable()).strip()[:LONGEST_NAME]
    return shown or "?"


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
