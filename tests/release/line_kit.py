"""A server and a site's link in one process, with the real wire between them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import numpy as np

from fedwon.client.config import ClientConfig
from fedwon.client.link.site_link import Link
from fedwon.client.releases.adoption import Adoption
from fedwon.common.config import dump, parse
from fedwon.common.pki import Credentials, new_key, request, save_credentials, sign_request
from fedwon.server.identity import sites
from fedwon.server.releases.orders import by_site
from fedwon.server.serving import serving

PATIENCE = 60.0


def images(path: Path, count: int = 40) -> Path:
    """A line's images, as an .npz file of two classes."""
    pixels = np.random.default_rng(7).integers(0, 256, (count, 12, 10, 3), dtype=np.uint8)
    np.savez(path, images=pixels, labels=np.array(["bad", "good"])[np.arange(count) % 2])
    return path


def make_site(home, folder: Path, name: str = "left", **settings) -> ClientConfig:
    """Give a folder a certificate and a client.yaml."""
    key = new_key()
    certificate = sign_request(home.authority, request(name, key), name)
    sites.enrolled(home.store, name, sites.now())
    save_credentials(folder / "pki", "site", Credentials(home.authority.pem, certificate, key))
    data = {"path": str(images(folder / "images.npz"))}
    content = {"server": home.config.listen, "data": data, "threads": 1, **settings}
    config = parse(ClientConfig, content, "test")
    (folder / "client.yaml").write_text(dump(config))
    return config


@asynccontextmanager
async def linked(config: ClientConfig, folder: Path):
    """Let a site's link run while the block does."""
    adoption = Adoption(config, folder)
    link = Link(config, folder, dict, until_finished=False, patience=30.0, adoption=adoption)
    running = asyncio.create_task(link.run())
    try:
        yield adoption
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def standing(home, site: str = "left") -> dict:
    return next((row for row in by_site(home.store) if row["site"] == site), {"state": ""})


async def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.02)


async def answered(home, site: str = "left") -> dict:
    await until(lambda: standing(home, site)["state"] not in {"open", ""})
    return standing(home, site)


def with_server(home, script: Callable) -> None:
    """Run a coroutine function beside a server; it is given the hub."""

    async def inside() -> None:
        async with serving(home) as hub:
            await script(hub)

    asyncio.run(inside())
