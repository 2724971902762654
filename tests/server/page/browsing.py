"""The page without a port: requests as a browser on this machine, or elsewhere, sends them."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from urllib.parse import urlencode

import httpx

from fedwon.server.identity import sites
from fedwon.server.page.application import make_application
from fedwon.server.page.password import set_password
from fedwon.server.store import now

HERE, ELSEWHERE = ("127.0.0.1", 50000), ("10.1.2.3", 50000)
PASSWORD = "three odd words"


class Browser:
    """Keeps its cookies."""

    def __init__(self, home, *, tls=False, client=HERE, host="127.0.0.1:8472") -> None:
        self.hurried = 0
        self.app = make_application(home, 8472, self._hurry, tls=tls).asgi
        self.host, self.client, self.scheme = host, client, "https" if tls else "http"
        self.cookies: dict[str, str] = {}

    def _hurry(self) -> None:
        self.hurried += 1

    def ask(self, method, path, *, content=None, headers=None, client=None) -> httpx.Response:
        sent = {"accept": "text/html", "cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items())}
        sent |= {"host": self.host, **(headers or {})}
        sent = {key: value for key, value in sent.items() if value}

        async def asked():
            transport = httpx.ASGITransport(self.app, client=client or self.client)
            async with httpx.AsyncClient(transport=transport, base_url=f"{self.scheme}://{self.host}") as opened:
                return await opened.request(method, path, content=content, headers=sent)

        reply = asyncio.run(asked())
        for name, value in reply.cookies.items():
            self.cookies[name] = value
        return reply

    def get(self, path="/", **more) -> httpx.Response:
        return self.ask("GET", path, **more)

    def post(self, path, *, headers=None, client=None, **fields) -> httpx.Response:
        kind = {"content-type": "application/x-www-form-urlencoded"}
        return self.ask("POST", path, content=urlencode(fields), headers=kind | (headers or {}), client=client)

    def log_in(self, home, name="Sato") -> str:
        """Set the password, log in with it, and return the token for forms."""
        set_password(home.folder / "pki", PASSWORD)
        assert self.post("/login", name=name, password=PASSWORD).status_code == 303
        return re.search(r'name="csrf" value="([^"]+)"', self.get().text)[1]


def enrol(home, name, data=None, *, days=30.0, version="0.1.0"):
    sites.enrolled(home.store, name, now() + timedelta(days=days))
    if data is not None:
        sites.connected(home.store, name, version, data)
