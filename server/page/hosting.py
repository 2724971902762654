"""The page's web server, in a thread of its own: the sites' event loop never waits for a browser, nor the other way.

It reads the database through a connection pool of its own (docs/decisions/0027-operator-page.md).
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fedwon.common.errors import FedwonError, PortInUse
from fedwon.server.identity.authorities import stamp
from fedwon.server.link.hub import Hub
from fedwon.server.serving import CONFIG_NAME, Home
from fedwon.server.store import Store

if TYPE_CHECKING:
    import uvicorn

logger = logging.getLogger(__name__)

BACKLOG = 64
MOST_CONNECTIONS = 200
END_SECONDS = 3.0
CERTIFICATE_SECONDS = 10.0
"""How often a page over TLS looks whether the server's certificate was renewed."""


def is_local(address: str) -> bool:
    """Tell whether an address to listen on is reached from this machine only."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@asynccontextmanager
async def page_beside(home: Home, hub: Hub) -> AsyncIterator[None]:
    """Serve the page while the block runs, where the configuration has one.

    A run is worth more than its page: what keeps the page from being served is a warning, never an error.

    Args:
        home: the server.
        hub: hears at once of what the page changes in the database.
    """
    address = home.config.page
    loop = asyncio.get_running_loop()
    host = None if address is None else _host(home, address, lambda: _called(loop, hub.hurried.set))
    if host is None:
        yield
        return
    host.start()
    try:
        yield
    finally:
        await asyncio.to_thread(host.end)


def _host(home: Home, address: str, hurry: Callable[[], None]) -> PageHost | None:
    try:
        return PageHost(home, address, _bound(address), hurry)
    except PortInUse as error:
        hint = f"Set `page` in {home.folder / CONFIG_NAME} to another port, or `page: off`."
        logger.warning("%s The server runs without its page. %s See %s.", error.message, hint, error.page)
    except OSError as error:
        logger.warning("the page cannot be served on %s (`page` in %s): %s", address, CONFIG_NAME, error)
    return None


def _bound(address: str) -> socket.socket:
    """Take the port at once, so that the server knows it is there before it says that it is ready.

    Raises:
        PortInUse: another process listens there.
        OSError: the address is none of this machine's.
    """
    host, _, port = address.rpartition(":")
    family, *_, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"{address} (`page` in {CONFIG_NAME}) is in use by another process.") from None
        raise
    return listener


class PageHost:
    """The thread that serves the page.

    Args:
        home: the server.
        address: where, as in the configuration.
        listener: bound to it.
        hurry: called after each action, from any thread.
    """

    def __init__(self, home: Home, address: str, listener: socket.socket, hurry: Callable[[], None]) -> None:
        self._home, self._listener, self._hurry = home, listener, hurry
        self._address, self._tls = address, not is_local(address)
        self._thread = threading.Thread(target=self._run, name="page", daemon=True)
        self._end: Callable[[], None] = lambda: None
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin to serve; the page is loaded in its thread, which takes a second."""
        self._thread.start()
        scheme = "https" if self._tls else "http"
        logger.info("the page is at %s://%s/", scheme, self._address)

    def end(self) -> None:
        """End what is served, within three seconds."""
        self._ended.set()
        self._end()
        self._thread.join(END_SECONDS)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except FedwonError as error:
            logger.error("the page has ended: %s %s", error.message, error.hint)  # noqa: TRY400
        except Exception:
            logger.exception("the page has ended; the server goes on without it")
        finally:
            with suppress(OSError):
                self._listener.close()

    async def _serve(self) -> None:
        import uvicorn

        from fedwon.server.page.application import make_application

        home = replace(self._home, store=Store(self._home.store.path))
        made = make_application(home, self._listener.getsockname()[1], self._hurry, tls=self._tls)
        try:
            server = uvicorn.Server(_settings(made.asgi, self._tls_files()))
            loop = asyncio.get_running_loop()

            def _stop() -> None:
                made.announcer.ended = True
                server.should_exit = True

            self._end = lambda: _called(loop, _stop)
            if self._ended.is_set():
                return
            watching = asyncio.create_task(self._renewed(server))
            await server.serve(sockets=[self._listener])
            watching.cancel()
        finally:
            made.changes.close()
            home.store.close()

    def _tls_files(self) -> dict[str, str]:
        pki = self._home.folder / "pki"
        return {"ssl_certfile": str(pki / "server.pem"), "ssl_keyfile": str(pki / "server.key")} if self._tls else {}

    async def _renewed(self, server: uvicorn.Server) -> None:
        """Show new connections the server's certificate of the moment."""
        files = self._tls_files()
        seen = [stamp(self._home.folder / "pki" / name) for name in ("server.pem", "server.key")]
        while files:
            await asyncio.sleep(CERTIFICATE_SECONDS)
            found = [stamp(self._home.folder / "pki" / name) for name in ("server.pem", "server.key")]
            if found != seen and server.config.ssl is not None:
                with suppress(OSError, ssl.SSLError):  # another process may be in the middle of writing them
                    server.config.ssl.load_cert_chain(files["ssl_certfile"], files["ssl_keyfile"])
                    seen = found


def _called(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # it has ended by itself
        loop.call_soon_threadsafe(work)


def _settings(app: Any, files: dict[str, str]) -> uvicorn.Config:
    import uvicorn

    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
        **files,  # type: ignore[arg-type]  # two of them, both texts
    )
