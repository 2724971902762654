"""`fedwon-server compare` as a person runs it, on tiny lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.server.comparison.lines_kit import make_lines

CHROMIUM = Path("/usr/bin/chromium")
BROWSER = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
BROWSER += ["--disable-component-update", "--disable-sync"]
LONG = 150
"""Seconds of patience; the budgets are far below it."""
COMMAND = [sys.executable, "-m", "fedwon.server.cli", "compare"]


def compare(data: Path, out: Path, *more: str, budget: str = "10s") -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "--data", str(data), "--out", str(out), "--budget", budget, *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=LONG)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison: its folder."""
    root = tmp_path_factory.mktemp("compare")
    data = make_lines(root / "lines", lines=3, count=20)
    (data / "line-1" / "good" / "broken.png").write_bytes(b"no image")
    done = compare(data, root / "out", "--lang", "ja")
    assert done.returncode == 0, done.stderr
    assert "report.ja.html" in done.stdout
    return root / "out"


def content(out: Path) -> dict:
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


def test_it_answers_and_says_what_was_left_out(compared: Path) -> None:
    report = content(compared)
    assert report["obstacle"] is None
    assert report["answer"]["code"]
    assert {row["code"] for row in report["cut"]} & {"cut_rounds", "cut_seeds", "cut_everything"}
    assert report["facts"]["lines"]["line-1"]["unreadable"] == 1
    assert not list((compared / "scratch").iterdir()), "models of runs are thrown away"


@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}")
@pytest.mark.parametrize("lang", ["en", "ja"])
def test_the_report_opens_without_a_network_and_without_a_complaint(compared: Path, lang: str) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    asked, said = [], []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=BROWSER)
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto((compared / f"report.{lang}.html").as_uri())
        assert page.locator("html").get_attribute("lang") == lang
        assert page.locator("section.answer h2").inner_text().strip()
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, "fits a phone"
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert said == []


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_leaves_a_report(tmp_path: Path) -> None:
    data, out = make_lines(tmp_path / "lines", lines=2, count=20), tmp_path / "out"
    command = [*COMMAND, "--data", str(data), "--out", str(out), "--budget", "10m"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "planned" in line)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=LONG)
    assert process.returncode == 130, (line, error)
    assert "Traceback" not in error
    assert "the same command goes on from here" in error
    assert content(out)["interrupted"]
    assert "report.en.html" in output


def test_a_folder_without_lines_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = compare(tmp_path / "empty", tmp_path / "out")
    assert done.returncode == 20, done.stderr
    assert "holds no domain" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
