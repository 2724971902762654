"""The operator's page in a real browser: a server and sites behind it, and Chromium before it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedwon.server.page.password import set_password
from fedwon.server.releases.making import make_release
from fedwon.server.releases.orders import by_site
from fedwon.server.releases.promoting import promote
from fedwon.server.releases.wish import Wish
from fedwon.server.runs import wishes
from fedwon.server.serving import Home
from tests.e2e.fleet import Fleet, free_port, wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PASSWORD = "three odd words"
PATIENCE = 60_000
"""Milliseconds that a browser waits for what takes one or two seconds."""
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt-get install chromium")


@contextmanager
def browser() -> Iterator:
    """A Chromium that calls nobody by itself."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        try:
            yield opened
        finally:
            opened.close()


class Watched:
    """A browser's page that notes what went wrong in it, and whom it called."""

    def __init__(self, browser, base: str, **options) -> None:
        self.base = base
        self.context = browser.new_context(base_url=base, ignore_https_errors=True, **options)
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type in {"error", "warning"} else 0)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._asked)

    def _asked(self, request) -> None:
        if not request.url.startswith((self.base, "data:")):
            self.elsewhere.append(request.url)

    def close(self) -> None:
        self.context.close()


def watched(browser, base: str) -> Iterator:
    """Open pages; each must have said nothing on its console and called nobody else in the end."""
    made: list[Watched] = []

    def _open(**options) -> Watched:
        made.append(Watched(browser, base, **options))
        return made[-1]

    yield _open
    for seen in made:
        seen.close()
    assert [seen.errors for seen in made] == [[] for _ in made]
    assert [seen.elsewhere for seen in made] == [[] for _ in made]


def log_in(page) -> None:
    page.goto("/login")
    page.fill("#name", "Sato")
    page.fill("#password", PASSWORD)
    page.click("main button")
    page.wait_for_selector("form[action='/logout']")


def barriers(page) -> list[tuple[str, str]]:
    """What axe-core finds that keeps people out: serious and critical violations."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in {"serious", "critical"}]


def lines(path: Path, seed: int, *, shuffled: bool = False) -> str:
    """Images whose class can be learnt in a few rounds: brighter and darker halves; with wrong labels, never."""
    rng = np.random.default_rng(seed)
    labels = np.arange(120) % 3
    pixels = rng.integers(60, 120, (120, 16, 16, 3), dtype=np.uint8)
    for label, rows in enumerate((slice(0, 5), slice(5, 11), slice(11, 16))):
        pixels[labels == label, rows] += 25 + 8 * seed
    np.savez(path, images=pixels, labels=rng.permutation(labels) if shuffled else labels)
    return str(path)


def paged(folder: Path, changes: dict | None = None, **settings) -> Fleet:
    """A fleet whose server has a page."""
    return Fleet(folder, changes, page=f"127.0.0.1:{free_port()}", **settings)


def address(fleet: Fleet) -> str:
    return f"http://{fleet.config.page}"


def photographed(folder: Path, out: Path) -> Iterator[Path]:
    """Pictures of a federation in which something is the matter."""
    run = {
        "name": "surface",
        "rounds": 200,
        "training": {"batch_size": 8, "lr": 0.05, "clipping": 0.64},
        "images": {"channels": 1, "max_train": 60},
        "participation": {"minimum": 3, "away_seconds": 2},
    }
    fleet = paged(folder, run, heartbeat=2.0)
    set_password(fleet.dir / "pki", PASSWORD)
    try:
        for number, name in enumerate(["press-1", "press-2", "coating", "welding"]):
            fleet.site(name, lines(folder / f"{name}.npz", number, shuffled=name == "coating"))
        fleet.start_server()
        sites = {name: fleet.start_site(name) for name in ("press-1", "press-2", "coating", "welding")}
        sites["press-1"].wait_says("connected to")
        out.mkdir(exist_ok=True)
        with browser() as opened:
            yield from _pictures(fleet, opened, sites, out)
    finally:
        fleet.close()


def _pictures(fleet: Fleet, opened, sites, out: Path) -> Iterator[Path]:
    looks = {
        "page-en": {"locale": "en-GB", "viewport": {"width": 1180, "height": 900}},
        **(
            {"page-ja": {"locale": "ja-JP", "viewport": {"width": 1180, "height": 900}}}
            if japanese_is_legible()
            else {}
        ),
        "page-dark": {"locale": "en-GB", "viewport": {"width": 1180, "height": 900}, "color_scheme": "dark"},
        "page-phone": {"locale": "en-GB", "viewport": {"width": 390, "height": 844}},
    }
    first = Watched(opened, address(fleet))
    first.page.goto("/")
    wait_until(lambda: rounds_shown(first.page) >= 6, "six rounds")
    sites["press-2"].kill()
    wait_until(lambda: rounds_shown(first.page) >= 8, "eight rounds")
    first.close()
    for name, options in looks.items():
        seen = Watched(opened, address(fleet), **options)
        seen.page.goto("/")
        yield _kept(seen.page, out / f"{name}.png")
        if name == "page-en":
            seen.page.goto("/sites/coating")
            yield _kept(seen.page, out / "page-site.png")
            seen.page.goto("/")
            seen.page.click("table tbody th a[href^='/runs/']")
            seen.page.wait_for_selector("svg.chart")
            yield _kept(seen.page, out / "page-run.png")
        seen.close()
    _released(fleet)
    last = Watched(opened, address(fleet), **looks["page-en"])
    log_in(last.page)
    last.page.goto("/releases")
    yield _kept(last.page, out / "page-releases.png")
    last.close()


def _released(fleet: Fleet) -> None:
    """Make a release and promote it everywhere: the line with wrong labels refuses it, and one has left."""
    home = Home.open(fleet.dir)
    wishes.make(home.store, wishes.PAUSE, actor="Sato")
    make_release(home, Wish(name="surface-1"))
    promote(home, "surface-1", {"accuracy": 0.7}, [], everywhere=True)
    wait_until(lambda: sum(row["state"] != "open" for row in by_site(home.store)) == 3, "the lines' answers")
    home.store.close()


def japanese_is_legible() -> bool:
    """Tell whether this machine has a font for Japanese; without one a picture would show boxes."""
    found = subprocess.run(["fc-list", ":lang=ja"], capture_output=True, text=True) if shutil.which("fc-list") else None
    return found is not None and bool(found.stdout.strip())


def rounds_shown(page) -> int:
    """The rounds that the page says are done; the page's own policy forbids scripts in strings."""
    page.wait_for_timeout(100)
    return int(page.locator("progress").get_attribute("value") or 0) if page.locator("progress").count() else 0


def _kept(page, path: Path) -> Path:
    """Keep a picture, small: 128 colours do."""
    page.screenshot(path=path, full_page=True)
    with Image.open(path) as shot:
        shot.convert("RGB").quantize(128).save(path, optimize=True)
    return path
